package network

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const patience = 10 * time.Second

// fakeMachine is a guest with a TCP/IP stack of its own behind a socket that
// speaks QEMU's framing: what the network sees of a real one.
type fakeMachine struct {
	t      testing.TB
	Port   Port
	stack  *stack.Stack
	ep     *channel.Endpoint
	cancel context.CancelFunc

	mu     sync.Mutex
	ln     net.Listener
	conn   net.Conn
	joined chan struct{} // closed at each connection of the network, then renewed
	taps   []chan []byte
}

func testConfig() Config {
	return Config{
		VPC: netip.MustParsePrefix("172.31.0.0/16"),
		Subnets: []Subnet{
			{ID: "subnet-a", Zone: "us-east-1a", Prefix: netip.MustParsePrefix("172.31.0.0/20")},
			{ID: "subnet-b", Zone: "us-east-1b", Prefix: netip.MustParsePrefix("172.31.16.0/20")},
			{ID: "subnet-c", Zone: "us-east-1c", Prefix: netip.MustParsePrefix("172.31.32.0/20")},
		},
	}
}

func newNetwork(t testing.TB, cfg Config) *Network {
	t.Helper()
	n, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// newMachine starts a fake machine and attaches it; rules apply to it.
func newMachine(t testing.TB, n *Network, ip string, rules ...Rule) *fakeMachine {
	t.Helper()
	m := bootMachine(t, ip, rules...)
	m.attach(n)
	return m
}

func bootMachine(t testing.TB, ip string, rules ...Rule) *fakeMachine {
	t.Helper()
	dir, err := os.MkdirTemp("", "net") // t.TempDir can be too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := netip.MustParseAddr(ip)
	b := a.As4()
	hw := net.HardwareAddr{0x06, 0, b[0], b[1], b[2], b[3]}
	m := &fakeMachine{
		t:      t,
		Port:   Port{ID: "i-" + strings.ReplaceAll(ip, ".", ""), MAC: hw.String(), IP: a, Socket: filepath.Join(dir, "s"), Rules: rules},
		joined: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.ep = channel.New(1024, defaultMTU+header.EthernetMinimumSize, tcpip.LinkAddress(hw))
	m.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if e := m.stack.CreateNIC(1, ethernet.New(m.ep)); e != nil {
		t.Fatal(e)
	}
	m.configure(a, netip.MustParsePrefix(ip+"/20").Masked())
	m.listen()
	var pump sync.WaitGroup
	pump.Go(func() { m.pump(ctx) })
	t.Cleanup(func() {
		m.unplug()
		cancel()
		pump.Wait()
		m.stack.Destroy()
	})
	return m
}

// configure sets what a guest's DHCP client would.
func (m *fakeMachine) configure(ip netip.Addr, subnet netip.Prefix) {
	m.t.Helper()
	gw := gatewayOf(subnet)
	if e := m.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(ip.As4()), PrefixLen: subnet.Bits()},
	}, stack.AddressProperties{}); e != nil {
		m.t.Fatal(e)
	}
	onLink, _ := tcpip.NewSubnet(tcpip.AddrFrom4(subnet.Addr().As4()), tcpip.MaskFromBytes(net.CIDRMask(subnet.Bits(), 32)))
	m.stack.SetRouteTable([]tcpip.Route{
		{Destination: onLink, NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gw.As4()), NIC: 1},
	})
}

// listen is QEMU's start, unplug its end.
func (m *fakeMachine) listen() {
	m.t.Helper()
	ln, err := net.Listen("unix", m.Port.Socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	m.ln = ln
	m.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conn = c
			close(m.joined)
			m.joined = make(chan struct{})
			m.mu.Unlock()
			m.receive(c)
		}
	}()
}

func (m *fakeMachine) unplug() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.ln.Close()
	if m.conn != nil {
		_ = m.conn.Close()
	}
}

// nextJoin is closed when the network connects the next time.
func (m *fakeMachine) nextJoin() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joined
}

func (m *fakeMachine) attach(n *Network) {
	m.t.Helper()
	joined := m.nextJoin()
	if err := n.Attach(m.Port); err != nil {
		m.t.Fatal(err)
	}
	wait(m.t, joined, "the network to connect")
	// The network's side counts as connected a moment after the socket's.
	p, _ := n.port(m.Port.ID)
	eventually(m.t, "port connected", p.connected.Load)
}

func (m *fakeMachine) receive(c net.Conn) {
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		m.mu.Lock()
		for _, tap := range m.taps {
			select {
			case tap <- frame:
			default:
			}
		}
		m.mu.Unlock()
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		m.ep.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func (m *fakeMachine) pump(ctx context.Context) {
	for {
		pkt := m.ep.ReadContext(ctx)
		if pkt == nil {
			return
		}
		v := pkt.ToView()
		m.send(v.AsSlice())
		v.Release()
		pkt.DecRef()
	}
}

// send puts a frame on the wire as it is.
func (m *fakeMachine) send(frame []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		return
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	_, _ = m.conn.Write(append(b, frame...))
}

// tap receives every frame from now on.
func (m *fakeMachine) tap() <-chan []byte {
	c := make(chan []byte, 1024)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taps = append(m.taps, c)
	return c
}

func (m *fakeMachine) hw() mac {
	hw, _ := net.ParseMAC(m.Port.MAC)
	return mac(hw)
}

// dial connects from inside of the machine.
func (m *fakeMachine) dial(addr string, limit time.Duration) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return gonet.DialContextTCP(ctx, m.stack, fullAddress(netip.MustParseAddrPort(addr)), ipv4.ProtocolNumber)
}

// serveTCP runs f for each connection to a port of the machine.
func (m *fakeMachine) serveTCP(port uint16, f func(net.Conn)) {
	m.t.Helper()
	l, err := gonet.ListenTCP(m.stack, fullAddress(netip.AddrPortFrom(m.Port.IP, port)), ipv4.ProtocolNumber)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Shutdown(); _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
}

func echo(c net.Conn) {
	defer func() { _ = c.Close() }()
	_, _ = io.Copy(c, c)
}

// ping sends one ICMP echo with size bytes and waits for the answer.
func (m *fakeMachine) ping(to string, size int, limit time.Duration) bool {
	m.t.Helper()
	var wq waiter.Queue
	ep, e := m.stack.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, &wq)
	if e != nil {
		m.t.Fatal(e)
	}
	c := gonet.NewUDPConn(&wq, ep)
	defer func() { _ = c.Close() }()
	if e := ep.Connect(fullAddress(netip.AddrPortFrom(netip.MustParseAddr(to), 0))); e != nil {
		m.t.Fatal(e)
	}
	msg := make([]byte, header.ICMPv4MinimumSize+size)
	header.ICMPv4(msg).SetType(header.ICMPv4Echo)
	if _, err := c.Write(msg); err != nil {
		m.t.Logf("ping: %v", err)
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
	reply := make([]byte, defaultMTU)
	n, err := c.Read(reply)
	return err == nil && n == len(msg)
}

// dhcp sends a request and returns the answer.
func (m *fakeMachine) dhcp(req *dhcpv4.DHCPv4, limit time.Duration) *dhcpv4.DHCPv4 {
	m.t.Helper()
	frames := m.tap()
	m.send(udpFrame(m.hw(), mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, netip.MustParseAddrPort("0.0.0.0:68"),
		netip.MustParseAddrPort("255.255.255.255:67"), req.ToBytes()))
	timeout := time.After(limit)
	for {
		select {
		case f := <-frames:
			p, ok := parseIPv4(f[ethernetLen:])
			if !ok || p.dstPort != dhcpClientPort {
				continue
			}
			if mac(f[:6]) != m.hw() {
				m.t.Fatalf("dhcp answer sent to %x", f[:6])
			}
			reply, err := dhcpv4.FromBytes(p.payload[header.UDPMinimumSize:])
			if err != nil {
				m.t.Fatal(err)
			}
			return reply
		case <-timeout:
			return nil
		}
	}
}

// udpFrame builds a whole frame by hand, so that tests can lie in it.
func udpFrame(src, dst mac, from, to netip.AddrPort, data []byte) []byte {
	b := make([]byte, ethernetLen+header.IPv4MinimumSize+header.UDPMinimumSize+len(data))
	putEthernet(b, dst, src, header.IPv4ProtocolNumber)
	ip := header.IPv4(b[ethernetLen:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: protoUDP,
		SrcAddr: tcpip.AddrFrom4(from.Addr().As4()), DstAddr: tcpip.AddrFrom4(to.Addr().As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(ip[header.IPv4MinimumSize:])
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(len(u))})
	copy(u[header.UDPMinimumSize:], data)
	return b
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("timed out waiting for %s", what)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkGoroutines fails if the test leaves more goroutines than it found.
func checkGoroutines(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func tcpRule(from, to int, sources ...string) Rule {
	return Rule{Protocol: "tcp", FromPort: from, ToPort: to, Sources: prefixes(sources...)}
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
