// Package nbd is a client of the Network Block Device protocol, as much of it as
// reading an export takes: fixed newstyle negotiation, READ, TRIM and DISC with
// simple replies, pipelined; and, on a connection of its own, BLOCK_STATUS with
// structured ones.
package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// The protocol's numbers, from its specification (doc/proto.md of
// NetworkBlockDevice/nbd).
const (
	magicServer  = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454f5054 // IHAVEOPT
	magicOptRep  = 0x0003e889045565a9
	magicRequest = 0x25609513
	magicReply   = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optGo         = 7
	optStructured = 8
	optSetMeta    = 10
	repAck        = 1
	repInfo       = 3
	repMeta       = 4
	repErrorBit   = 1 << 31
	infoExport    = 0

	cmdRead        = 0
	cmdDisc        = 2
	cmdTrim        = 4
	cmdBlockStatus = 7

	magicChunk    = 0x668e33ef
	chunkDone     = 1 << 0
	chunkNone     = 0
	chunkStatus   = 5
	chunkErrorBit = 1 << 15

	transSendTrim = 1 << 5

	// maxOptionReply bounds what a server may send as one option reply.
	maxOptionReply = 64 << 10
)

// maxInFlight is how many requests of one call are on their way at once: what
// QEMU's server works on for one connection.
const maxInFlight = 16

// ServerError is the server's refusal of a request.
type ServerError struct {
	Op     string // read, trim or block status
	Offset int64
	Errno  uint32 // as in errno.h for the usual ones: 5 EIO, 13 EACCES, 28 ENOSPC
}

// Error names the request and the number.
func (e *ServerError) Error() string {
	return fmt.Sprintf("NBD %s at %d: server error %d", e.Op, e.Offset, e.Errno)
}

// Conn is a connection to one export. Its methods may be called by several
// goroutines, one of which is served at a time.
type Conn struct {
	conn  net.Conn
	size  int64
	flags uint16

	mu     sync.Mutex
	cookie uint64
	err    error // set once the stream is out of step
}

// Dial connects to the export of the server at a unix socket.
func Dial(ctx context.Context, socket, export string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, export)
}

// New negotiates the export on conn, which it owns, also when it fails.
func New(ctx context.Context, conn net.Conn, export string) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	size, flags, err := negotiate(conn, export)
	if err != nil {
		_ = conn.Close()
		return nil, errors.Join(fmt.Errorf("NBD export %q: %w", export, err), ctx.Err())
	}
	return &Conn{conn: conn, size: size, flags: flags}, nil
}

// Size is the export's size in bytes.
func (c *Conn) Size() int64 { return c.size }

// Close ends the connection; a call under way fails.
func (c *Conn) Close() error {
	// Saying goodbye spares the server a warning, but must not wait for a call
	// that may never be answered.
	if c.mu.TryLock() {
		if c.err == nil {
			_, _ = c.conn.Write(request(cmdDisc, 0, 0, 0))
			c.err = fmt.Errorf("NBD connection: %w", net.ErrClosed)
		}
		c.mu.Unlock()
	}
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// ReadBlocks fills p from offset off by requests of at most block bytes each,
// all of which begin at a multiple of block when off does.
func (c *Conn) ReadBlocks(p []byte, off int64, block int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	for len(p) > 0 {
		n := min(len(p), block*maxInFlight)
		if err := c.readBatch(p[:n], off, block); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readBatch sends all requests for p, then takes the replies in whatever order
// they come. A refusal is returned after the last reply, so that the stream
// stays in step.
func (c *Conn) readBatch(p []byte, off int64, block int) error {
	first := c.cookie
	var out []byte
	count := 0
	for at := 0; at < len(p); at += block {
		n := min(block, len(p)-at)
		out = append(out, request(cmdRead, first+uint64(count), off+int64(at), uint32(n))...)
		count++
	}
	c.cookie += uint64(count)
	if _, err := c.conn.Write(out); err != nil {
		return c.fail(err)
	}
	answered := make([]bool, count)
	var refused error
	for range count {
		errno, cookie, err := readReply(c.conn)
		if err != nil {
			return c.fail(err)
		}
		i := cookie - first
		if i >= uint64(count) || answered[i] {
			return c.fail(fmt.Errorf("reply to an unknown request %d", cookie))
		}
		answered[i] = true
		at := int(i) * block
		if errno != 0 {
			refused = &ServerError{Op: "read", Offset: off + int64(at), Errno: errno}
			continue
		}
		if _, err := io.ReadFull(c.conn, p[at:min(at+block, len(p))]); err != nil {
			return c.fail(err)
		}
	}
	return refused
}

// Trim tells the server that the range isn't needed any more.
func (c *Conn) Trim(off, length int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.flags&transSendTrim == 0 {
		return nil
	}
	const step = 1 << 30 // a length is 32 bits wide
	for length > 0 {
		n := min(length, step)
		if err := c.trim(off, uint32(n)); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

func (c *Conn) trim(off int64, length uint32) error {
	id := c.cookie
	c.cookie++
	if _, err := c.conn.Write(request(cmdTrim, id, off, length)); err != nil {
		return c.fail(err)
	}
	errno, cookie, err := readReply(c.conn)
	switch {
	case err != nil:
		return c.fail(err)
	case cookie != id:
		return c.fail(fmt.Errorf("reply to an unknown request %d", cookie))
	case errno != 0:
		return &ServerError{Op: "trim", Offset: off, Errno: errno}
	}
	return nil
}

// fail closes a connection that is out of step for good.
func (c *Conn) fail(err error) error {
	c.err = fmt.Errorf("NBD connection: %w", err)
	_ = c.conn.Close()
	return c.err
}

func request(command uint16, cookie uint64, off int64, length uint32) []byte {
	b := make([]byte, 0, 28)
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0) // flags
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, length)
}

// readReply reads the header of a simple reply.
func readReply(r io.Reader) (errno uint32, cookie uint64, err error) {
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	if magic := binary.BigEndian.Uint32(b[:]); magic != magicReply {
		return 0, 0, fmt.Errorf("reply begins with %#x", magic)
	}
	return binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]), nil
}
