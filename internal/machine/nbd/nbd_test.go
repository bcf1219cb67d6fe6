package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// export is a small NBD server of the test's own, after the specification.
type export struct {
	t       *testing.T
	name    string
	data    []byte
	flags   uint16
	reverse bool  // answer batches of four the last one first
	badAt   int64 // a read that covers this fails; -1 for none
	trimmed [][2]int64
	said    chan string // "disc" when the client took leave
}

func (e *export) serve(conn net.Conn) {
	defer conn.Close()
	hello := binary.BigEndian.AppendUint64(nil, 0x4e42444d41474943)
	hello = binary.BigEndian.AppendUint64(hello, 0x49484156454f5054)
	_, _ = conn.Write(binary.BigEndian.AppendUint16(hello, 3))
	option := make([]byte, 4+16+4)
	if _, err := io.ReadFull(conn, option); err != nil {
		return
	}
	name := make([]byte, binary.BigEndian.Uint32(option[20:])+2)
	_, _ = io.ReadFull(conn, name)
	if string(name[:len(name)-2]) != e.name {
		_, _ = conn.Write(optionReply(1<<31|6, []byte("no such export")))
		return
	}
	info := binary.BigEndian.AppendUint64([]byte{0, 0}, uint64(len(e.data)))
	info = binary.BigEndian.AppendUint16(info, e.flags)
	_, _ = conn.Write(append(optionReply(3, info), optionReply(1, nil)...))
	e.transmit(conn)
}

func optionReply(kind uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, 0x0003e889045565a9)
	b = binary.BigEndian.AppendUint32(b, 7)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func (e *export) transmit(conn net.Conn) {
	var held [][]byte
	for {
		var h [28]byte
		if _, err := io.ReadFull(conn, h[:]); err != nil {
			return
		}
		kind, off, n := binary.BigEndian.Uint16(h[6:]), int64(binary.BigEndian.Uint64(h[16:])), int64(binary.BigEndian.Uint32(h[24:]))
		if kind == 2 {
			e.said <- "disc"
			return
		}
		held = append(held, e.answer(kind, h[8:16], off, n))
		if e.reverse && kind == 0 && len(held) < 4 {
			continue
		}
		for i := len(held) - 1; i >= 0; i-- {
			_, _ = conn.Write(held[i])
		}
		held = nil
	}
}

func (e *export) answer(kind uint16, cookie []byte, off, n int64) []byte {
	errno := uint32(0)
	if kind == 0 && off <= e.badAt && e.badAt < off+n {
		errno = 5
	}
	b := binary.BigEndian.AppendUint32(nil, 0x67446698)
	b = append(binary.BigEndian.AppendUint32(b, errno), cookie...)
	switch {
	case kind == 4:
		e.trimmed = append(e.trimmed, [2]int64{off, n})
	case errno == 0:
		b = append(b, e.data[off:off+n]...)
	}
	return b
}

// dial serves an export over a socket pair and connects to it.
func dial(t *testing.T, e *export) *Conn {
	t.Helper()
	e.t, e.name, e.said = t, "disk", make(chan string, 1)
	l, err := net.Listen("unix", "@")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			e.serve(conn)
		}
	}()
	c, err := Dial(t.Context(), l.Addr().String(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return b
}

func TestReadInAnyOrderOfReplies(t *testing.T) {
	data := pattern(64 << 10)
	for _, reverse := range []bool{false, true} {
		c := dial(t, &export{data: data, reverse: reverse, badAt: -1})
		if c.Size() != int64(len(data)) {
			t.Errorf("size %d, want %d", c.Size(), len(data))
		}
		got := make([]byte, 16<<10) // four blocks a batch
		for off := 0; off < len(data); off += len(got) {
			if err := c.ReadBlocks(got, int64(off), 4<<10); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data[off:off+len(got)]) {
				t.Errorf("wrong data at %d", off)
			}
		}
	}
}

func TestRefusedReadLeavesTheStreamInStep(t *testing.T) {
	data := pattern(32 << 10)
	c := dial(t, &export{data: data, badAt: 9 << 10})
	got := make([]byte, len(data))
	err := c.ReadBlocks(got, 0, 4<<10)
	var refused *ServerError
	if !errors.As(err, &refused) || refused.Offset != 8<<10 || refused.Errno != 5 {
		t.Fatalf("error %v, want error 5 at 8192", err)
	}
	if err := c.ReadBlocks(got[:4<<10], 16<<10, 4<<10); err != nil || !bytes.Equal(got[:4<<10], data[16<<10:20<<10]) {
		t.Errorf("next read: %v, or wrong data", err)
	}
}

func TestTrimAndLeave(t *testing.T) {
	e := &export{data: pattern(8 << 10), flags: 1 << 5, badAt: -1}
	c := dial(t, e)
	if err := c.Trim(4096, 4096); err != nil {
		t.Fatal(err)
	}
	if len(e.trimmed) != 1 || e.trimmed[0] != [2]int64{4096, 4096} {
		t.Errorf("trimmed %v", e.trimmed)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-e.said; got != "disc" {
		t.Error(got)
	}
	if err := c.ReadBlocks(make([]byte, 1), 0, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v, want net.ErrClosed", err)
	}
}

// A server that doesn't answer can't keep Close from ending a read.
func TestCloseEndsARead(t *testing.T) {
	c := dial(t, &export{data: pattern(8 << 10), reverse: true, badAt: -1}) // waits for four
	failed := make(chan error)
	go func() { failed <- c.ReadBlocks(make([]byte, 4<<10), 0, 4<<10) }()
	for c.mu.TryLock() { // until the read has begun
		c.mu.Unlock()
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the read succeeded")
		}
	case <-time.After(5 * time.Second):
		t.Error("the read goes on")
	}
}

func TestUnknownExport(t *testing.T) {
	near, far := net.Pipe()
	go (&export{t: t, name: "other"}).serve(far)
	if _, err := New(t.Context(), near, "disk"); err == nil || !bytes.Contains([]byte(err.Error()), []byte("no such export")) {
		t.Errorf("error %v", err)
	}
}

// FuzzServer lets a server say anything: the client neither panics, hangs nor
// takes memory without bound.
func FuzzServer(f *testing.F) {
	good := binary.BigEndian.AppendUint64(nil, magicServer)
	good = binary.BigEndian.AppendUint64(good, magicOption)
	good = binary.BigEndian.AppendUint16(good, 3)
	info := binary.BigEndian.AppendUint64([]byte{0, 0}, 8192)
	good = append(good, optionReply(3, append(info, 0, 0))...)
	good = append(good, optionReply(1, nil)...)
	f.Add(good)
	reply := binary.BigEndian.AppendUint32(nil, magicReply)
	reply = append(binary.BigEndian.AppendUint32(reply, 0), make([]byte, 8)...)
	f.Add(append(append([]byte(nil), good...), append(reply, make([]byte, 512)...)...))
	f.Add(append(append([]byte(nil), good[:18]...), optionReply(1, nil)...))
	f.Add(append(append([]byte(nil), good[:18]...), optionReply(1<<31|6, []byte("no"))...))
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		go func() {
			_, _ = far.Write(said)
			_ = far.Close()
		}()
		c, err := New(t.Context(), near, "disk")
		if err != nil {
			return
		}
		_ = c.ReadBlocks(make([]byte, 512), 0, 512)
		_ = c.Trim(0, 512)
		_ = c.Close()
	})
}
