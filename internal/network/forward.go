package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// maxForwards bounds the ports that the host listens on for one machine.
	maxForwards = 128
	// portOffset leads from a port that the host refuses or has given away to
	// the one tried instead: 22 → 2222, 80 → 2280.
	portOffset = 2200
	// machineDialTimeout bounds how long a client of a forward waits for the
	// machine to answer.
	machineDialTimeout = 5 * time.Second
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// commonPorts come first where rules open more ports than maxForwards.
func commonPorts() []int {
	return []int{
		22, 80, 443, 8080, 8443, 8000, 3000, 5000, 9000, 25, 53, 110, 143, 465, 587, 993, 995, 21,
		3306, 5432, 6379, 27017, 9200, 11211, 5672, 1433, 3389, 5900, 2049, 6443, 9090, 9092, 2375, 2376,
	}
}

// forwards are the host's listeners for one machine.
type forwards struct {
	n *Network
	p *port

	mu        sync.Mutex
	public    netip.Addr
	listeners map[int]*listener // by private port
	failed    []Forward
	closed    bool
}

type listener struct {
	private int
	ln      *net.TCPListener
	conns   map[*net.TCPConn]context.CancelFunc // under forwards.mu
}

// public is the port that the host listens on.
func (l *listener) public() int { return l.ln.Addr().(*net.TCPAddr).Port }

func newForwards(n *Network, p *port) *forwards {
	return &forwards{n: n, p: p, listeners: map[int]*listener{}}
}

// letGo closes what s does not ask for, and keeps the rest with its connections
// where the new rules allow the client.
func (f *forwards) letGo(s *settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.public != s.public {
		f.closeAll()
	}
	wanted, _ := wantedPorts(s.rules, s.public)
	for private, l := range f.listeners {
		if !slices.Contains(wanted, private) {
			f.closeListener(l)
		} else {
			f.recheck(l, s.rules)
		}
	}
}

// take opens what s asks for and is not open, after letGo. A port that was
// refused before is tried again, and so is one that was moved and that nobody
// is connected to.
func (f *forwards) take(s *settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.public = s.public
	wanted, failed := wantedPorts(s.rules, s.public)
	f.failed = failed
	f.open(wanted)
}

// open tries every port as it is first, so that none takes another's place by
// moving.
func (f *forwards) open(wanted []int) {
	taken := map[int]error{}
	for _, private := range wanted {
		old := f.listeners[private]
		if old != nil && (old.public() == private || len(old.conns) > 0) {
			continue
		}
		err := f.listen(private, private)
		switch {
		case err != nil && old == nil:
			taken[private] = err
		case err == nil && old != nil:
			_ = old.ln.Close() // nobody is connected to it
		}
	}
	for _, private := range wanted {
		err := taken[private]
		if err == nil {
			continue
		}
		if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRINUSE) {
			err = f.listen(private, private+portOffset)
		}
		if err != nil {
			f.n.log.Warn("port not forwarded", "instance", f.p.id, "port", private, "err", err)
			f.failed = append(f.failed, Forward{Protocol: "tcp", Private: private, Err: err})
		}
	}
}

func (f *forwards) listen(private, public int) error {
	if public > 65535 {
		return fmt.Errorf("forward port %d: no port %d: %w", private, public, syscall.EADDRNOTAVAIL)
	}
	addr := net.JoinHostPort(f.public.String(), strconv.Itoa(public))
	ln, err := net.Listen("tcp4", addr)
	if err != nil {
		return fmt.Errorf("forward port %d: %w", private, err)
	}
	l := &listener{private: private, ln: ln.(*net.TCPListener), conns: map[*net.TCPConn]context.CancelFunc{}}
	if !f.n.start(func() { f.accept(l) }) {
		_ = ln.Close()
		return ErrClosed
	}
	f.listeners[private] = l
	if private != public {
		f.n.log.Info("port forwarded from another one", "instance", f.p.id, "port", private, "host", addr)
	}
	return nil
}

func (f *forwards) accept(l *listener) {
	for {
		c, err := l.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the client left: wait a little
			f.n.log.Warn("connection not accepted", "instance", f.p.id, "port", l.private, "err", err)
			select {
			case <-time.After(redialEvery):
				continue
			case <-f.n.ctx.Done():
				return
			}
		}
		if !f.admit(l, c) {
			abort(c)
		}
	}
}

// admit starts a client's connection, if the rules let it in and the machine is there.
func (f *forwards) admit(l *listener, c *net.TCPConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners[l.private] != l || !f.p.connected.Load() || !clientAllowed(c, f.p.settings.Load().rules, l.private) {
		return false
	}
	ctx, cancel := context.WithCancel(f.n.ctx)
	l.conns[c] = cancel
	started := f.n.start(func() {
		f.carry(ctx, l, c)
		cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(l.conns, c)
	})
	if !started {
		cancel()
	}
	return started
}

func (f *forwards) carry(ctx context.Context, l *listener, c *net.TCPConn) {
	dctx, cancel := context.WithTimeout(ctx, machineDialTimeout)
	defer cancel()
	m, err := f.n.dialPort(dctx, f.p, uint16(l.private))
	if err != nil {
		abort(c) // a reset rather than a silence
		return
	}
	splice(ctx, c, m)
}

func clientAllowed(c *net.TCPConn, in ingress, private int) bool {
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	return in.allows(peer, protoTCP, private, 0)
}

func (f *forwards) recheck(l *listener, in ingress) {
	for c, cancel := range l.conns {
		if !clientAllowed(c, in, l.private) {
			abort(c) // before Update returns; cancel alone ends it a little later
			cancel()
		}
	}
}

func (f *forwards) closeListener(l *listener) {
	_ = l.ln.Close()
	for c, cancel := range l.conns {
		abort(c)
		cancel()
	}
	delete(f.listeners, l.private)
}

func (f *forwards) closeAll() {
	for _, l := range f.listeners {
		f.closeListener(l)
	}
}

func (f *forwards) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.closeAll()
}

func (f *forwards) list() []Forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.failed)
	for _, l := range f.listeners {
		out = append(out, Forward{Protocol: "tcp", Private: l.private, Public: l.ln.Addr().(*net.TCPAddr).AddrPort()})
	}
	slices.SortFunc(out, func(a, b Forward) int {
		return cmp.Or(cmp.Compare(a.Private, b.Private), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// portRange is what one rule opens to clients of the host.
type portRange struct{ from, to int }

// wantedPorts lists the TCP ports that the rules open to clients of the public
// address, at most maxForwards, narrow rules before wide ones. What is left out
// comes back as failed.
func wantedPorts(in ingress, public netip.Addr) (ports []int, failed []Forward) {
	if !public.IsValid() {
		return nil, nil
	}
	ranges, failed := openRanges(in, public)
	have := map[int]bool{}
	add := func(port int) {
		if !have[port] && len(ports) < maxForwards {
			have[port] = true
			ports = append(ports, port)
		}
	}
	for _, r := range ranges {
		for _, port := range commonPorts() {
			if port >= r.from && port <= r.to {
				add(port)
			}
		}
		for port := r.from; port <= r.to && len(ports) < maxForwards; port++ {
			add(port)
		}
		for port := r.from; port <= r.to; port++ {
			if !have[port] {
				err := fmt.Errorf("forward ports %d to %d: %w: %d at most", port, r.to, ErrTooManyPorts, maxForwards)
				failed = append(failed, Forward{Protocol: "tcp", Private: port, Err: err})
				break
			}
		}
	}
	return ports, failed
}

// openRanges are the TCP ports of rules that a client of the public address can
// match, the narrowest first. UDP rules are reported: nothing forwards them.
func openRanges(in ingress, public netip.Addr) (ranges []portRange, failed []Forward) {
	for i := range in {
		r := &in[i]
		if !reachable(r, public) {
			continue
		}
		switch r.proto {
		case anyProtocol:
			ranges = append(ranges, portRange{1, 65535})
		case int(protoTCP):
			ranges = append(ranges, portRange{max(r.from, 1), min(r.to, 65535)})
		case int(protoUDP):
			failed = append(failed, Forward{
				Protocol: "udp", Private: r.from, Err: fmt.Errorf("forward udp port %d: %w", r.from, errors.ErrUnsupported),
			})
		}
	}
	slices.SortStableFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.to-a.from, b.to-b.from) })
	return ranges, failed
}

// reachable tells whether any client of the public address may match a rule: a
// loopback address is reached from loopback alone.
func reachable(r *rule, public netip.Addr) bool {
	return slices.ContainsFunc(r.sources, func(p netip.Prefix) bool {
		return !public.IsLoopback() || p.Overlaps(loopback)
	})
}
