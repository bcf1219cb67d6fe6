package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// outsideWorld stands for the Internet: it notes where the network dials and
// leads it to servers on loopback.
type outsideWorld struct {
	tcp, udp string
	mu       sync.Mutex
	dialed   []string
}

func (o *outsideWorld) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	o.mu.Lock()
	o.dialed = append(o.dialed, network+" "+addr)
	o.mu.Unlock()
	to := map[string]string{"tcp4": o.tcp, "udp4": o.udp}[network]
	if to == "" {
		return nil, errors.New("refused")
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to)
}

func newOutside(t *testing.T) *outsideWorld {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		b := make([]byte, maxFrame)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	return &outsideWorld{tcp: l.Addr().String(), udp: pc.LocalAddr().String()}
}

func egressNetwork(t *testing.T, o *outsideWorld) *Network {
	t.Helper()
	cfg := testConfig()
	cfg.Egress = true
	n := newNetwork(t, cfg)
	n.outside = o.dial
	return n
}

func TestEgress(t *testing.T) {
	checkGoroutines(t)
	o := newOutside(t)
	n := egressNetwork(t, o)
	m := newMachine(t, n, "172.31.0.10")
	checkEcho(t, m, "198.51.100.7:443")
	to := fullAddress(netip.MustParseAddrPort("198.51.100.8:123"))
	c, err := gonet.DialUDP(m.stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range 2 {
		if !answers(c, patience) {
			t.Error("no UDP answer from outside")
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	want := []string{"tcp4 198.51.100.7:443", "udp4 198.51.100.8:123"}
	if len(o.dialed) != 2 || o.dialed[0] != want[0] || o.dialed[1] != want[1] {
		t.Errorf("dialed %q, want %q", o.dialed, want)
	}
}

func TestEgressEndsWithThePort(t *testing.T) {
	checkGoroutines(t)
	closed := make(chan struct{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		close(closed)
	}()
	n := egressNetwork(t, &outsideWorld{tcp: l.Addr().String()})
	m := newMachine(t, n, "172.31.0.10")
	c, err := m.dial("198.51.100.7:443", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	n.Detach(m.Port.ID)
	wait(t, closed, "the connection to the outside to end")
}

// The host and what lies on its links are not the outside.
func TestEgressNeverToTheHost(t *testing.T) {
	o := newOutside(t)
	n := egressNetwork(t, o)
	m := newMachine(t, n, "172.31.0.10")
	forbidden := []string{"127.0.0.1:22", "169.254.1.1:80", "172.31.0.99:80", "172.31.99.9:80", "172.31.0.1:22", "0.0.0.1:80"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			forbidden = append(forbidden, net.JoinHostPort(ip.IP.String(), "22"))
		}
	}
	for _, addr := range forbidden {
		if c, err := m.dial(addr, short); err == nil {
			_ = c.Close()
			t.Errorf("%s answers", addr)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dialed) != 0 {
		t.Errorf("the host dialed %q", o.dialed)
	}
}

func TestEgressRefusalIsPassedOn(t *testing.T) {
	n := egressNetwork(t, &outsideWorld{})
	m := newMachine(t, n, "172.31.0.10")
	start := time.Now()
	if c, err := m.dial("198.51.100.7:443", patience); err == nil {
		_ = c.Close()
		t.Error("a refused connection answers")
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("refused only after %v", took)
	}
}
