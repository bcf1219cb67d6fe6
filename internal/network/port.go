package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	redialEvery = 50 * time.Millisecond
	// queueFrames is how many frames wait for a machine that is slow to read.
	queueFrames = 256
	// fullWait is how long a sender waits for a place in a full queue: enough
	// for a busy machine to catch up, which spares TCP a loss.
	fullWait = 20 * time.Millisecond
	// socketBuffer is of the size at which copying starts to outweigh system calls.
	socketBuffer = 256 << 10
	// maxFrame is the longest frame that any device can send. More than that
	// in a length field means that the stream is out of step.
	maxFrame   = 1 << 16
	lengthSize = 4 // QEMU precedes each frame by its length, big-endian
)

// Stats counts the frames of a port since it was attached.
type Stats struct {
	Received  uint64 // from the machine, of every kind
	Sent      uint64 // to the machine
	Spoofed   uint64 // from addresses that aren't the machine's
	Malformed uint64 // not to be parsed, or longer than the MTU allows
	Ignored   uint64 // of kinds that a VPC doesn't carry
	Denied    uint64 // to the machine, without a rule that allows them
	Overflow  uint64 // to the machine, while it wasn't connected or didn't read
}

type counters struct {
	received, sent, spoofed, malformed, ignored, denied, overflow atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Received: c.received.Load(), Sent: c.sent.Load(), Spoofed: c.spoofed.Load(), Malformed: c.malformed.Load(),
		Ignored: c.ignored.Load(), Denied: c.denied.Load(), Overflow: c.overflow.Load(),
	}
}

// port is one attached machine. What identifies it never changes; what may is
// in settings.
type port struct {
	id     string
	hw     mac
	ip     netip.Addr
	subnet Subnet
	socket string
	mtu    int
	log    *slog.Logger

	settings  atomic.Pointer[settings]
	forwards  *forwards
	count     counters
	queue     chan []byte
	connected atomic.Bool
	stalled   atomic.Bool // its queue was full for longer than fullWait

	ctx    context.Context // done once detached
	cancel context.CancelFunc
	done   chan struct{}
}

// settings is the part of a port that Update changes, always as a whole.
type settings struct {
	hostname string
	public   netip.Addr
	rules    ingress
}

// run keeps the port connected until ctx ends.
func (p *port) run(ctx context.Context, handle func([]byte)) {
	defer close(p.done)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		}
		var d net.Dialer
		if conn, err := d.DialContext(ctx, "unix", p.socket); err == nil {
			p.log.Debug("machine connected to network", "instance", p.id)
			err := p.serve(ctx, conn, handle)
			p.log.Debug("machine disconnected from network", "instance", p.id, "reason", err)
		}
		retry.Reset(redialEvery)
	}
}

// serve carries frames over one connection until it breaks or ctx ends.
func (p *port) serve(ctx context.Context, conn net.Conn, handle func([]byte)) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	p.drain() // what waited for an earlier connection is stale
	quit := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { p.write(conn, quit) })
	p.stalled.Store(false)
	p.connected.Store(true)
	err := p.read(conn, handle)
	p.connected.Store(false)
	_ = conn.Close() // ends a write in progress
	close(quit)
	writer.Wait()
	return err
}

// read hands each frame to handle, in a buffer that the next one overwrites.
func (p *port) read(conn net.Conn, handle func([]byte)) error {
	r := bufio.NewReaderSize(conn, socketBuffer)
	limit := p.mtu + ethernetLen
	var size [lengthSize]byte
	frame := make([]byte, limit)
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return fmt.Errorf("read frame length: %w", err)
		}
		n := int(binary.BigEndian.Uint32(size[:]))
		if n > maxFrame {
			return fmt.Errorf("frame of %d bytes: stream out of step", n)
		}
		p.count.received.Add(1)
		if n > limit {
			p.count.malformed.Add(1)
			if _, err := r.Discard(n); err != nil {
				return fmt.Errorf("read frame: %w", err)
			}
			continue
		}
		if _, err := io.ReadFull(r, frame[:n]); err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		handle(frame[:n])
	}
}

// write sends what is queued, many frames in one system call when they come fast.
func (p *port) write(conn net.Conn, quit <-chan struct{}) {
	w := bufio.NewWriterSize(conn, socketBuffer)
	for {
		var frame []byte
		select {
		case frame = <-p.queue:
		default:
			if w.Flush() != nil {
				return
			}
			select {
			case frame = <-p.queue:
			case <-quit:
				return
			}
		}
		_, err := w.Write(frame)
		putBuffer(frame)
		if err != nil {
			return // the reader sees the broken connection as well
		}
		p.stalled.Store(false)
		p.count.sent.Add(1)
	}
}

// send queues a frame made by getBuffer and takes it over. It never waits for
// a machine that has stopped reading.
func (p *port) send(frame []byte) {
	if p.connected.Load() {
		select {
		case p.queue <- frame:
			return
		default:
		}
		if !p.stalled.Load() && p.sendWait(frame) {
			return
		}
	}
	p.count.overflow.Add(1)
	putBuffer(frame)
}

func (p *port) sendWait(frame []byte) bool {
	t := time.NewTimer(fullWait)
	defer t.Stop()
	select {
	case p.queue <- frame:
		return true
	case <-t.C:
		p.stalled.Store(true)
		return false
	}
}

func (p *port) drain() {
	for {
		select {
		case f := <-p.queue:
			putBuffer(f)
		default:
			return
		}
	}
}

// buffers holds frames with their length field, of any machine.
var buffers = sync.Pool{}

// bufferSize fits a frame of the usual MTU, so that any buffer serves any frame.
const bufferSize = 9216

// getBuffer returns room for a frame of n bytes behind its length field, which
// is filled in.
func getBuffer(n int) []byte {
	var b []byte
	if p, ok := buffers.Get().(*[]byte); ok && cap(*p) >= n+lengthSize {
		b = (*p)[:n+lengthSize]
	} else {
		b = make([]byte, n+lengthSize, max(n+lengthSize, bufferSize))
	}
	binary.BigEndian.PutUint32(b, uint32(n))
	return b
}

func putBuffer(b []byte) { buffers.Put(&b) }
