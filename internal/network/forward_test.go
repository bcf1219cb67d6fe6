package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// publicAddr is one that no other test process uses at the same time.
func publicAddr() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, 40 + byte(pid>>16&3), byte(pid >> 8), byte(pid)&0xfe | 2})
}

const high = 18022 // a port that needs no privilege

func TestForward(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.16.10", tcpRule(high, high, "0.0.0.0/0"))
	m.serveTCP(high, echo)
	m.Port.Public = publicAddr()
	m.attach(n)
	want := Forward{Protocol: "tcp", Private: high, Public: netip.AddrPortFrom(m.Port.Public, high)}
	if got := n.Forwards(m.Port.ID); len(got) != 1 || got[0] != want {
		t.Fatalf("forwards %v, want %v", got, want)
	}
	c := dialHost(t, want.Public)
	checkStream(t, c)
	_ = c.Close()
}

func dialHost(t *testing.T, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr.String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// Each side may end its direction first, and the other goes on.
func TestForwardHalfClose(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "127.0.0.0/8"))
	m.Port.Public = publicAddr()
	read := make(chan struct{})
	m.serveTCP(high, func(c net.Conn) {
		defer close(read)
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "hello")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		got, _ := io.ReadAll(c)
		if string(got) != "question" {
			t.Errorf("machine read %q after its end", got)
		}
	})
	m.attach(n)
	c := dialHost(t, netip.AddrPortFrom(m.Port.Public, high))
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("client read %q, %v", got, err)
	}
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wait(t, read, "the machine to read the client's end")
}

func TestForwardMovesFromTakenPort(t *testing.T) {
	taken, err := net.Listen("tcp4", netip.AddrPortFrom(publicAddr(), high).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	n := newNetwork(t, testConfig())
	// The port that the first one moves to is asked for as well: it wins.
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "0.0.0.0/0"), tcpRule(high+1, high+1, "0.0.0.0/0"))
	m.Port.Public = publicAddr()
	m.attach(n)
	got := n.Forwards(m.Port.ID)
	want := []uint16{high + portOffset, high + 1}
	if len(got) != 2 || got[0].Public.Port() != want[0] || got[1].Public.Port() != want[1] || got[0].Err != nil {
		t.Fatalf("forwards %v, want ports %v", got, want)
	}
	m.Port.Rules = append(m.Port.Rules, tcpRule(high+portOffset, high+portOffset, "0.0.0.0/0"))
	n.Detach(m.Port.ID)
	m.attach(n)
	got = n.Forwards(m.Port.ID)
	if len(got) != 3 || got[0].Err == nil || got[2].Public.Port() != high+portOffset {
		t.Errorf("a port that moves took another's place: %v", got)
	}
}

func TestForwardClient(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "127.0.0.9/32"), tcpRule(high+1, high+1, "198.51.100.0/24"))
	m.serveTCP(high, echo)
	m.Port.Public = publicAddr()
	m.attach(n)
	if got := n.Forwards(m.Port.ID); len(got) != 1 || got[0].Private != high {
		t.Fatalf("forwards %v: want only the port that loopback can match", got)
	}
	addr := netip.AddrPortFrom(m.Port.Public, high)
	// The reset may come before the dial is done.
	if c, err := net.DialTimeout("tcp", addr.String(), patience); err == nil {
		if answers(c, patience) {
			t.Error("a client was let in whom no rule allows")
		}
		_ = c.Close()
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c, err := d.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if !answers(c, patience) {
		t.Fatal("a client whom a rule allows got no answer")
	}
	m.Port.Rules = []Rule{tcpRule(high, high, "127.0.0.8/32")}
	if err := n.Update(m.Port); err != nil {
		t.Fatal(err)
	}
	if answers(c, patience) {
		t.Error("a client goes on whom no rule allows any more")
	}
}

func TestForwardUpdateKeepsConnections(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "0.0.0.0/0"))
	m.serveTCP(high, echo)
	m.Port.Public = publicAddr()
	m.attach(n)
	c := dialHost(t, netip.AddrPortFrom(m.Port.Public, high))
	defer func() { _ = c.Close() }()
	m.Port.Rules = []Rule{tcpRule(high, high+1, "127.0.0.1/32")}
	if err := n.Update(m.Port); err != nil {
		t.Fatal(err)
	}
	if !answers(c, patience) {
		t.Error("an allowed connection was cut")
	}
	if got := n.Forwards(m.Port.ID); len(got) != 2 {
		t.Errorf("forwards %v, want two", got)
	}
	m.Port.Public = netip.Addr{}
	if err := n.Update(m.Port); err != nil {
		t.Fatal(err)
	}
	if answers(c, patience) || len(n.Forwards(m.Port.ID)) != 0 {
		t.Error("forwards outlive the public address")
	}
}

// A client must not hang while the machine isn't there, or doesn't listen.
func TestForwardWithoutMachine(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "0.0.0.0/0"))
	m.Port.Public = publicAddr()
	m.attach(n)
	for name, prepare := range map[string]func(){
		"nobody listens": func() {},
		"not connected": func() {
			m.unplug()
			p, _ := n.port(m.Port.ID)
			eventually(t, "the port to notice", func() bool { return !p.connected.Load() })
		},
	} {
		prepare()
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(m.Port.Public, high).String(), patience)
		if err != nil {
			continue // the reset came before the dial was done
		}
		_ = c.SetReadDeadline(time.Now().Add(machineDialTimeout / 2))
		_, err = c.Read(make([]byte, 1))
		var timeout net.Error
		if err == nil || (errors.As(err, &timeout) && timeout.Timeout()) {
			t.Errorf("%s: the client hangs: %v", name, err)
		}
		_ = c.Close()
	}
}

func TestDial(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.0.10") // no rules at all
	m.serveTCP(22, echo)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := n.Dial(ctx, netip.MustParseAddrPort("172.31.0.10:22"))
	if err != nil {
		t.Fatal(err)
	}
	checkStream(t, c.(stream))
	_ = c.Close()
	if _, err := n.Dial(ctx, netip.MustParseAddrPort("172.31.0.10:23")); err == nil {
		t.Error("a port where nobody listens answers")
	}
	if _, err := n.Dial(ctx, netip.MustParseAddrPort("172.31.0.11:22")); !errors.Is(err, ErrNotAttached) {
		t.Errorf("dial of nobody: %v", err)
	}
	n.Detach(m.Port.ID)
	if _, err := n.Dial(ctx, netip.MustParseAddrPort("172.31.0.10:22")); !errors.Is(err, ErrNotAttached) {
		t.Errorf("dial after detach: %v", err)
	}
}

func TestWantedPorts(t *testing.T) {
	public := netip.MustParseAddr("127.0.0.10")
	vpc := Rule{Protocol: "-1", Sources: prefixes("172.31.0.0/16")}
	for _, tc := range []struct {
		name  string
		rules []Rule
		count int
		has   []int
		errs  []error
	}{
		{"none", nil, 0, nil, nil},
		{"from the vpc alone", []Rule{vpc}, 0, nil, nil},
		{"one", []Rule{vpc, tcpRule(22, 22, "0.0.0.0/0")}, 1, []int{22}, nil},
		{"twice", []Rule{tcpRule(22, 22, "0.0.0.0/0"), tcpRule(22, 23, "127.0.0.1/32")}, 2, []int{22, 23}, nil},
		{"the limit", []Rule{tcpRule(2000, 2127, "0.0.0.0/0")}, 128, []int{2000, 2127}, nil},
		{
			"wide, and a narrow one after it",
			[]Rule{tcpRule(0, 65535, "0.0.0.0/0"), tcpRule(50000, 50001, "0.0.0.0/0")},
			128,
			[]int{22, 80, 443, 50000, 50001},
			[]error{ErrTooManyPorts},
		},
		{"all traffic", []Rule{{Protocol: "-1", FromPort: -1, ToPort: -1, Sources: prefixes("0.0.0.0/0")}}, 128, []int{22, 443}, []error{ErrTooManyPorts}},
		{"udp", []Rule{{Protocol: "udp", FromPort: 53, ToPort: 53, Sources: prefixes("0.0.0.0/0")}}, 0, nil, []error{errors.ErrUnsupported}},
		{"icmp", []Rule{{Protocol: "icmp", FromPort: -1, ToPort: -1, Sources: prefixes("0.0.0.0/0")}}, 0, nil, nil},
	} {
		in, err := compileRules(tc.rules)
		if err != nil {
			t.Fatal(err)
		}
		ports, failed := wantedPorts(in, public)
		have := map[int]bool{}
		for _, p := range ports {
			have[p] = true
		}
		if len(ports) != tc.count || len(have) != tc.count {
			t.Errorf("%s: %d ports, want %d", tc.name, len(ports), tc.count)
		}
		for _, p := range tc.has {
			if !have[p] {
				t.Errorf("%s: no port %d", tc.name, p)
			}
		}
		if fmt.Sprint(len(failed)) != fmt.Sprint(len(tc.errs)) {
			t.Fatalf("%s: failed %v, want %v", tc.name, failed, tc.errs)
		}
		for i, want := range tc.errs {
			if !errors.Is(failed[i].Err, want) {
				t.Errorf("%s: %v, want %v", tc.name, failed[i].Err, want)
			}
		}
	}
}

// A public address that passes from one machine to another takes its ports
// along, whichever is updated first.
func TestForwardAddressPasses(t *testing.T) {
	n := newNetwork(t, testConfig())
	a := bootMachine(t, "172.31.0.10", tcpRule(high, high, "0.0.0.0/0"))
	b := bootMachine(t, "172.31.0.11", tcpRule(high, high, "0.0.0.0/0"))
	a.attach(n)
	b.attach(n)
	holder, other := a, b
	for range 8 { // the order of updates is random
		holder.Port.Public, other.Port.Public = publicAddr(), netip.Addr{}
		if err := n.UpdateAll([]Port{holder.Port, other.Port}); err != nil {
			t.Fatal(err)
		}
		want := Forward{Protocol: "tcp", Private: high, Public: netip.AddrPortFrom(publicAddr(), high)}
		if got := n.Forwards(holder.Port.ID); len(got) != 1 || got[0] != want {
			t.Fatalf("forwards %v, want %v", got, want)
		}
		if got := n.Forwards(other.Port.ID); len(got) != 0 {
			t.Fatalf("a machine without a public address has forwards %v", got)
		}
		holder, other = other, holder
	}
}

// A port that moved comes back to its number once that is free and nobody is
// connected, and one that was refused is tried again.
func TestForwardComesBack(t *testing.T) {
	block := func(port uint16) net.Listener {
		l, err := net.Listen("tcp4", netip.AddrPortFrom(publicAddr(), port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	own, instead := block(high), block(high+portOffset)
	n := newNetwork(t, testConfig())
	m := bootMachine(t, "172.31.0.10", tcpRule(high, high, "0.0.0.0/0"))
	m.serveTCP(high, echo)
	m.Port.Public = publicAddr()
	m.attach(n)
	update := func() Forward {
		t.Helper()
		if err := n.Update(m.Port); err != nil {
			t.Fatal(err)
		}
		got := n.Forwards(m.Port.ID)
		if len(got) != 1 {
			t.Fatalf("forwards %v", got)
		}
		return got[0]
	}
	if f := update(); f.Err == nil {
		t.Fatalf("forward %v of a port that is taken", f)
	}
	_ = instead.Close()
	if f := update(); f.Public.Port() != high+portOffset {
		t.Fatalf("refused port not tried again: %v", f)
	}
	c := dialHost(t, netip.AddrPortFrom(publicAddr(), high+portOffset))
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hi"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
	if f := update(); f.Public.Port() != high+portOffset {
		t.Errorf("port moved under a client: %v", f)
	}
	checkStream(t, c)
	_ = c.Close()
	for deadline := time.Now().Add(patience); update().Public.Port() != high; {
		if time.Now().After(deadline) {
			t.Fatal("the port did not come back")
		}
	}
}
