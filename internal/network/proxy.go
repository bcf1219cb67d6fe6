package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// stream is a TCP connection of either kind, the stack's or the host's.
type stream interface {
	net.Conn
	CloseWrite() error
}

// splice carries bytes both ways until both sides have ended, one fails or ctx
// is done, and closes both. An end of data on one side is passed on while the
// other direction goes on.
func splice(ctx context.Context, a, b stream) {
	stop := context.AfterFunc(ctx, func() { abort(a, b) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(a, b) })
	both.Go(func() { pipe(b, a) })
	both.Wait()
	_ = a.Close()
	_ = b.Close()
}

// pipe copies from src to dst and passes on how src ended.
func pipe(dst, src stream) {
	_, err := io.Copy(dst, src)
	if err == nil {
		err = dst.CloseWrite()
	}
	// A peer that has closed already leaves nothing to be passed on to.
	if err != nil && !errors.Is(err, syscall.ENOTCONN) {
		abort(dst, src)
	}
}

// abort closes connections with a reset where the kind allows it.
func abort(conns ...stream) {
	for _, c := range conns {
		if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
			_ = l.SetLinger(0)
		}
		_ = c.SetDeadline(time.Now()) // closing alone doesn't wake the stack's readers
		_ = c.Close()
	}
}

// relayUDP carries datagrams both ways until a minute has passed without any,
// one side fails or ctx is done, and closes out.
func relayUDP(ctx context.Context, in, out net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
	defer stop()
	var both sync.WaitGroup
	copyDatagrams := func(dst, src net.Conn) {
		defer func() { _ = in.Close(); _ = out.Close() }()
		b := make([]byte, maxFrame)
		for {
			until := time.Now().Add(udpIdle)
			if in.SetReadDeadline(until) != nil || out.SetReadDeadline(until) != nil {
				return
			}
			k, err := src.Read(b)
			if err != nil {
				return
			}
			if _, err := dst.Write(b[:k]); err != nil {
				return
			}
		}
	}
	both.Go(func() { copyDatagrams(in, out) })
	both.Go(func() { copyDatagrams(out, in) })
	both.Wait()
}
