package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

const (
	// statusStep is how much of an export one request asks about: what QEMU
	// answers in one go, and within a length's 32 bits.
	statusStep = 1 << 30
	// maxStatusChunk bounds what a server may send as one chunk: QEMU's most is
	// 128 Ki extents of eight bytes, and their context.
	maxStatusChunk = 1<<20 + 4
)

// Extent is a stretch of an export and what a metadata context says of it.
type Extent struct {
	Offset, Length int64 // bytes
	Flags          uint32
}

// StatusDirty is the flag, in a context qemu:dirty-bitmap:NAME, of what the bitmap
// holds.
const StatusDirty = 1 << 0

// BlockStatus asks the export of the server at a unix socket for a metadata
// context of the whole export. each is called with the extents in order; together
// they cover the export without a gap, whose size in bytes is returned. An error
// means that what each was told is not to be relied upon.
func BlockStatus(ctx context.Context, socket, export, metaContext string, each func(Extent)) (size int64, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	return ReadBlockStatus(ctx, conn, export, metaContext, each)
}

// ReadBlockStatus is BlockStatus on conn, which it owns and closes.
func ReadBlockStatus(ctx context.Context, conn net.Conn, export, metaContext string, each func(Extent)) (size int64, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s := &statusReader{conn: conn, each: each}
	if size, err = s.run(export, metaContext); err != nil {
		return 0, errors.Join(fmt.Errorf("NBD export %q: %s: %w", export, metaContext, err), ctx.Err())
	}
	return size, nil
}

// statusReader is a connection that only asks for block status.
type statusReader struct {
	conn    net.Conn
	each    func(Extent)
	context uint32 // the number that the server gave to the context
	cookie  uint64
}

func (s *statusReader) run(export, metaContext string) (size int64, err error) {
	if err := s.prepare(export, metaContext); err != nil {
		return 0, err
	}
	if _, err := s.conn.Write(goOption(export)); err != nil {
		return 0, err
	}
	if size, _, err = readGoReplies(s.conn); err != nil {
		return 0, err
	}
	for off := int64(0); off < size; {
		n := min(size-off, statusStep)
		covered, err := s.ask(off, n)
		if err != nil {
			return 0, err
		}
		off += covered
	}
	_, _ = s.conn.Write(request(cmdDisc, 0, 0, 0)) // all is known by now
	return size, nil
}

// prepare greets the server and agrees on structured replies and the context.
func (s *statusReader) prepare(export, metaContext string) error {
	client, err := readHello(s.conn)
	if err != nil {
		return err
	}
	if _, err := s.conn.Write(append(client, option(optStructured, nil)...)); err != nil {
		return err
	}
	kind, data, err := readOptionReply(s.conn, optStructured)
	if err != nil {
		return err
	}
	if kind != repAck {
		return fmt.Errorf("server refuses structured replies (%#x): %.200q", kind, data)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(metaContext)))
	if _, err := s.conn.Write(option(optSetMeta, append(b, metaContext...))); err != nil {
		return err
	}
	return s.readMetaReplies(metaContext)
}

// readMetaReplies takes the number of the one context that was asked for.
func (s *statusReader) readMetaReplies(metaContext string) error {
	chosen := false
	for {
		kind, data, err := readOptionReply(s.conn, optSetMeta)
		switch {
		case err != nil:
			return err
		case kind&repErrorBit != 0:
			return fmt.Errorf("server refuses the context (%#x): %.200q", kind, data)
		case kind == repAck && !chosen:
			return errors.New("server doesn't know the context")
		case kind == repAck:
			return nil
		case kind != repMeta || len(data) < 4 || string(data[4:]) != metaContext || chosen:
			return fmt.Errorf("server names another context (%#x): %.200q", kind, data)
		}
		s.context, chosen = binary.BigEndian.Uint32(data), true
	}
}

// ask requests a range and returns how much of it the answer covers, which is
// more than nothing.
func (s *statusReader) ask(off, length int64) (covered int64, err error) {
	id := s.cookie
	s.cookie++
	if _, err := s.conn.Write(request(cmdBlockStatus, id, off, uint32(length))); err != nil {
		return 0, err
	}
	var refused error
	for {
		kind, done, data, err := s.readChunk(id)
		switch {
		case err != nil:
			return 0, err
		case kind == chunkNone && len(data) == 0:
		case kind&chunkErrorBit != 0 && len(data) >= 4:
			refused = &ServerError{Op: "block status", Offset: off, Errno: binary.BigEndian.Uint32(data)}
		case kind == chunkStatus && covered == 0 && refused == nil:
			if covered, err = s.extents(data, off, length); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("unexpected chunk %#x of %d bytes", kind, len(data))
		}
		if !done {
			continue
		}
		if refused == nil && covered == 0 {
			return 0, fmt.Errorf("block status at %d: no answer", off)
		}
		return covered, refused
	}
}

// extents hands on a chunk's extents; the last may reach beyond what was asked
// for, and is cut there.
func (s *statusReader) extents(data []byte, off, length int64) (covered int64, err error) {
	if len(data) < 4+8 || (len(data)-4)%8 != 0 || binary.BigEndian.Uint32(data) != s.context {
		return 0, fmt.Errorf("block status at %d: malformed chunk of %d bytes", off, len(data))
	}
	for rest := data[4:]; len(rest) > 0; rest = rest[8:] {
		n := int64(binary.BigEndian.Uint32(rest))
		if n == 0 || covered >= length {
			return 0, fmt.Errorf("block status at %d: extent of %d bytes after %d of %d", off, n, covered, length)
		}
		n = min(n, length-covered)
		s.each(Extent{Offset: off + covered, Length: n, Flags: binary.BigEndian.Uint32(rest[4:])})
		covered += n
	}
	return covered, nil
}

// readChunk reads one chunk of a structured reply.
func (s *statusReader) readChunk(id uint64) (kind uint16, done bool, data []byte, err error) {
	var b [20]byte
	if _, err := io.ReadFull(s.conn, b[:]); err != nil {
		return 0, false, nil, err
	}
	if magic := binary.BigEndian.Uint32(b[:]); magic != magicChunk {
		return 0, false, nil, fmt.Errorf("chunk begins with %#x", magic)
	}
	if cookie := binary.BigEndian.Uint64(b[8:]); cookie != id {
		return 0, false, nil, fmt.Errorf("reply to an unknown request %d", cookie)
	}
	length := binary.BigEndian.Uint32(b[16:])
	if length > maxStatusChunk {
		return 0, false, nil, fmt.Errorf("chunk of %d bytes", length)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(s.conn, data); err != nil {
		return 0, false, nil, err
	}
	return binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint16(b[4:])&chunkDone != 0, data, nil
}
