package network

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// short is long enough for an answer that must not come to have come.
const short = 300 * time.Millisecond

func TestDHCP(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.16.10")
	hw, _ := net.ParseMAC(m.Port.MAC)
	discover, err := dhcpv4.NewDiscovery(hw)
	if err != nil {
		t.Fatal(err)
	}
	offer := m.dhcp(discover, patience)
	if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
		t.Fatalf("discover answered by %v", offer)
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		t.Fatal(err)
	}
	ack := m.dhcp(request, patience)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("request answered by %v", ack)
	}
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options)
	got := []string{
		ack.YourIPAddr.String(), net.IP(ack.SubnetMask()).String(), ack.Router()[0].String(), ack.DNS()[0].String(),
		ack.DomainName(), ack.HostName(),
	}
	want := []string{"172.31.16.10", "255.255.240.0", "172.31.16.1", "172.31.0.2", "ec2.internal", "ip-172-31-16-10"}
	if !slices.Equal(got, want) || mtu != 9001 {
		t.Errorf("lease %v mtu %d, want %v mtu 9001", got, mtu, want)
	}
	request.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(172, 31, 16, 99)))
	if nak := m.dhcp(request, patience); nak == nil || nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("request of somebody else's address answered by %v", nak)
	}
	request.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	if r := m.dhcp(request, short); r != nil {
		t.Errorf("request for another's MAC answered by %v", r)
	}
}

func TestMachinesReachEachOther(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	a := newMachine(t, n, "172.31.0.10")
	open := []Rule{tcpRule(80, 80, "172.31.0.0/16"), {Protocol: "icmp", FromPort: 8, ToPort: -1, Sources: prefixes("172.31.0.10/32")}}
	same := newMachine(t, n, "172.31.0.11", open...)
	other := newMachine(t, n, "172.31.32.12", open...)
	for _, to := range []*fakeMachine{same, other} {
		to.serveTCP(80, echo)
		to.serveTCP(81, echo)
		ip := to.Port.IP.String()
		if !a.ping(ip, 56, patience) {
			t.Errorf("no ping from %s to %s", a.Port.IP, ip)
		}
		if !a.ping(ip, 8900, patience) {
			t.Errorf("no ping of a full-size frame to %s", ip)
		}
		if to.ping(a.Port.IP.String(), 56, short) {
			t.Errorf("%s pings a machine that has no rule for it", ip)
		}
		checkEcho(t, a, ip+":80")
		if c, err := a.dial(ip+":81", short); err == nil {
			_ = c.Close()
			t.Errorf("%s:81 is open without a rule", ip)
		}
	}
	if s, _ := n.Stats(same.Port.ID); s.Denied == 0 {
		t.Error("denied packets are not counted")
	}
}

// checkEcho sends more than a few frames through a connection and back.
func checkEcho(t *testing.T, m *fakeMachine, addr string) {
	t.Helper()
	c, err := m.dial(addr, patience)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	defer func() { _ = c.Close() }()
	checkStream(t, c)
}

func checkStream(t *testing.T, c stream) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d of %d bytes back: %v", len(got), len(data), err)
	}
}

func TestRuleChangeCutsFlows(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	a := newMachine(t, n, "172.31.0.10")
	b := newMachine(t, n, "172.31.0.11", tcpRule(80, 81, "172.31.0.10/32"))
	b.serveTCP(80, echo)
	b.serveTCP(81, echo)
	kept, err := a.dial("172.31.0.11:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	cut, err := a.dial("172.31.0.11:81", patience)
	if err != nil {
		t.Fatal(err)
	}
	b.Port.Rules = []Rule{tcpRule(80, 80, "172.31.0.10/32")}
	if err := n.Update(b.Port); err != nil {
		t.Fatal(err)
	}
	if !answers(kept, patience) {
		t.Error("a connection that is still allowed was cut")
	}
	if answers(cut, short) {
		t.Error("a connection that is no longer allowed goes on")
	}
	for _, c := range []net.Conn{kept, cut} {
		_ = c.Close()
	}
}

// answers tells whether an echo comes back in time.
func answers(c net.Conn, limit time.Duration) bool {
	_, _ = c.Write([]byte("x"))
	_ = c.SetReadDeadline(time.Now().Add(limit))
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

func TestGatewayAnswersPing(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.16.10")
	for _, to := range []string{"172.31.16.1", "172.31.0.1", "172.31.0.2", "169.254.169.254"} {
		if !m.ping(to, 56, patience) {
			t.Errorf("%s doesn't answer", to)
		}
	}
}

func TestMetadataListenerTellsWhoAsks(t *testing.T) {
	checkGoroutines(t)
	n := newNetwork(t, testConfig())
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	}), ReadHeaderTimeout: patience}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(n.MetadataListener()) }()
	for _, ip := range []string{"172.31.0.10", "172.31.16.10"} {
		m := newMachine(t, n, ip)
		c, err := m.dial("169.254.169.254:80", patience)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(got, []byte("\r\n\r\n"+ip)) {
			t.Errorf("machine %s is seen as %q, %v", ip, got, err)
		}
		_ = c.Close()
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("listener ends with %v", err)
		}
	case <-time.After(patience):
		t.Error("the listener doesn't end with the network")
	}
}

func TestDNS(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.0.10")
	web := bootMachine(t, "172.31.16.11")
	web.Port.Hostname = "web.ec2.internal"
	web.attach(n)
	for _, tc := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"ip-172-31-16-11.ec2.internal.", dns.TypeA, dns.RcodeSuccess, "172.31.16.11"},
		{"IP-172-31-0-10.EC2.internal.", dns.TypeA, dns.RcodeSuccess, "172.31.0.10"},
		{"web.ec2.internal.", dns.TypeA, dns.RcodeSuccess, "172.31.16.11"},
		{"web.ec2.internal.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"11.16.31.172.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "ip-172-31-16-11.ec2.internal."},
		{"12.16.31.172.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, ""},
		{"ip-172-31-0-99.ec2.internal.", dns.TypeA, dns.RcodeNameError, ""},
		{"debian.org.", dns.TypeA, dns.RcodeNameError, ""},
	} {
		for _, server := range []string{"172.31.0.2:53", "169.254.169.253:53"} {
			for _, proto := range []string{"udp", "tcp"} {
				got, rcode := m.resolve(proto, server, tc.name, tc.qtype)
				if got != tc.want || rcode != tc.rcode {
					t.Errorf("%s %s %s at %s: %q rcode %d, want %q rcode %d",
						proto, tc.name, dns.TypeToString[tc.qtype], server, got, rcode, tc.want, tc.rcode)
				}
			}
		}
	}
}

func (m *fakeMachine) resolve(proto, server, name string, qtype uint16) (string, int) {
	m.t.Helper()
	var c net.Conn
	var err error
	if proto == "tcp" {
		c, err = m.dial(server, patience)
	} else {
		to := fullAddress(netip.MustParseAddrPort(server))
		c, err = gonet.DialUDP(m.stack, nil, &to, ipv4.ProtocolNumber)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	q := new(dns.Msg).SetQuestion(name, qtype)
	r, err := exchange(c, q, proto)
	if err != nil {
		m.t.Fatalf("%s %s: %v", proto, name, err)
	}
	if len(r.Answer) == 0 {
		return "", r.Rcode
	}
	switch rr := r.Answer[0].(type) {
	case *dns.A:
		return rr.A.String(), r.Rcode
	case *dns.PTR:
		return rr.Ptr, r.Rcode
	}
	return r.Answer[0].String(), r.Rcode
}

// exchange does without dns.Conn for UDP, which takes only the host's sockets for it.
func exchange(c net.Conn, q *dns.Msg, proto string) (*dns.Msg, error) {
	if proto == "tcp" {
		dc := &dns.Conn{Conn: c}
		if err := dc.WriteMsg(q); err != nil {
			return nil, err
		}
		return dc.ReadMsg()
	}
	b, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	n, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf[:n]); err != nil {
		return nil, err
	}
	return r, nil
}

// Without egress a machine must learn at once that there is no outside.
func TestNoEgressFailsAtOnce(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.0.10")
	frames := m.tap()
	for _, to := range []struct {
		addr string
		code header.ICMPv4Code
	}{
		{"192.0.2.1:80", codeNetProhibited},   // outside
		{"172.31.16.99:80", codeHost},         // nobody in the VPC
		{"169.254.1.1:80", codeNetProhibited}, // link-local, but not the VPC's
	} {
		start := time.Now()
		if c, err := m.dial(to.addr, patience); err == nil {
			_ = c.Close()
			t.Errorf("%s answers", to.addr)
		}
		if code, ok := nextUnreachable(frames); !ok || code != to.code {
			t.Errorf("%s: no unreachable with code %d in answer (%d, %v) after %v", to.addr, to.code, code, ok, time.Since(start))
		}
	}
}

func nextUnreachable(frames <-chan []byte) (header.ICMPv4Code, bool) {
	for {
		select {
		case f := <-frames:
			p, ok := parseIPv4(f[ethernetLen:])
			if ok && p.proto == protoICMP && p.icmpType == icmpUnreachable {
				return header.ICMPv4Code(p.icmpCode), true
			}
		default:
			return 0, false
		}
	}
}

func TestSpoofedFramesAreDropped(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.0.10")
	victim := newMachine(t, n, "172.31.0.11", Rule{Protocol: "-1", Sources: prefixes("0.0.0.0/0")})
	frames := victim.tap()
	me, them := m.hw(), victim.hw()
	to := netip.MustParseAddrPort("172.31.0.11:9")
	sendARP := func(hw mac, ip string) {
		b := make([]byte, ethernetLen+header.ARPSize)
		putEthernet(b, them, me, header.ARPProtocolNumber)
		a := header.ARP(b[ethernetLen:])
		a.SetIPv4OverEthernet()
		a.SetOp(header.ARPReply)
		copy(a.HardwareAddressSender(), hw[:])
		copy(a.ProtocolAddressSender(), netip.MustParseAddr(ip).AsSlice())
		m.send(b)
	}
	m.send(udpFrame(mac{2, 0, 0, 0, 0, 9}, them, netip.MustParseAddrPort("172.31.0.10:9"), to, nil))
	m.send(udpFrame(me, them, netip.MustParseAddrPort("172.31.0.12:9"), to, nil))
	m.send(udpFrame(me, them, netip.MustParseAddrPort("0.0.0.0:9"), to, nil))
	sendARP(me, "172.31.0.1")
	sendARP(mac{2, 0, 0, 0, 0, 9}, "172.31.0.10")
	eventually(t, "spoofed frames to be counted", func() bool { s, _ := n.Stats(m.Port.ID); return s.Spoofed == 5 })
	// A frame that is in order comes through, so that an empty tap means something.
	m.send(udpFrame(me, them, netip.MustParseAddrPort("172.31.0.10:9"), to, []byte("honest")))
	select {
	case f := <-frames:
		if !bytes.HasSuffix(f, []byte("honest")) {
			t.Errorf("the victim got %x", f)
		}
	case <-time.After(patience):
		t.Error("an honest frame was dropped")
	}
}

// A new daemon attaches the same port, or QEMU comes back under the same socket.
func TestRedial(t *testing.T) {
	checkGoroutines(t)
	first := newNetwork(t, testConfig())
	a := newMachine(t, first, "172.31.0.10")
	b := newMachine(t, first, "172.31.0.11", tcpRule(80, 80, "172.31.0.10/32"))
	b.serveTCP(80, echo)
	c, err := a.dial("172.31.0.11:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := newNetwork(t, testConfig())
	start := time.Now()
	a.attach(second)
	b.attach(second)
	if took := time.Since(start); took > time.Second {
		t.Errorf("back after %v", took)
	}
	if !answers(c, patience) {
		t.Error("the machines' connection didn't survive a new network")
	}
	b.unplug()
	joined := b.nextJoin()
	b.listen()
	wait(t, joined, "the redial")
	if !answers(c, patience) {
		t.Error("the connection didn't survive a new socket")
	}
}

// A machine that stops reading holds up nobody.
func TestStuckMachine(t *testing.T) {
	n := newNetwork(t, testConfig())
	a := newMachine(t, n, "172.31.0.10")
	all := Rule{Protocol: "-1", Sources: prefixes("0.0.0.0/0")}
	b := newMachine(t, n, "172.31.0.11", all)
	b.serveTCP(80, echo)
	stuck := bootMachine(t, "172.31.0.12", all)
	_ = stuck.ln.Close()
	ln, err := net.Listen("unix", stuck.Port.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if err := n.Attach(stuck.Port); err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept() // and never read
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	frame := udpFrame(a.hw(), stuck.hw(), netip.MustParseAddrPort("172.31.0.10:9"), netip.MustParseAddrPort("172.31.0.12:9"), make([]byte, 8000))
	eventually(t, "the stuck machine's queue to overflow", func() bool {
		a.send(frame)
		s, _ := n.Stats(stuck.Port.ID)
		return s.Overflow > 100
	})
	checkEcho(t, a, "172.31.0.11:80")
	// Once it counts as stuck nobody waits for it: not 20 ms for each frame.
	s, _ := n.Stats(stuck.Port.ID)
	const more = 500
	start := time.Now()
	for range more {
		a.send(frame)
	}
	eventually(t, "more frames to be dropped", func() bool {
		now, _ := n.Stats(stuck.Port.ID)
		return now.Overflow >= s.Overflow+more
	})
	if took := time.Since(start); took > more*fullWait/4 {
		t.Errorf("%d frames to a stuck machine held their sender up for %v", more, took)
	}
}

// An address that changes hands doesn't bring the earlier machine's flows along.
func TestFlowsEndWithTheirMachine(t *testing.T) {
	n := newNetwork(t, testConfig())
	a := newMachine(t, n, "172.31.0.10")
	b := newMachine(t, n, "172.31.16.11", Rule{Protocol: "udp", FromPort: 9, ToPort: 9, Sources: prefixes("172.31.0.10/32")})
	frames := b.tap()
	frame := udpFrame(a.hw(), gatewayMAC, netip.MustParseAddrPort("172.31.0.10:9"), netip.MustParseAddrPort("172.31.16.11:9"), []byte("x"))
	a.send(frame)
	select {
	case f := <-frames:
		if mac(f[:6]) != b.hw() || mac(f[6:12]) != gatewayMAC {
			t.Errorf("a frame from another subnet comes from %x to %x, not from the gateway", f[6:12], f[:6])
		}
	case <-time.After(patience):
		t.Fatal("an allowed frame was dropped")
	}
	n.Detach(b.Port.ID)
	b.Port.ID, b.Port.Rules = "i-next", nil
	b.attach(n)
	a.send(frame)
	eventually(t, "the frame to be denied", func() bool { s, _ := n.Stats("i-next"); return s.Denied == 1 })
}

func TestAttachRefuses(t *testing.T) {
	n := newNetwork(t, testConfig())
	m := newMachine(t, n, "172.31.0.10")
	for name, tc := range map[string]struct {
		change func(*Port)
		want   error
	}{
		"address in use":    {func(p *Port) { p.IP = m.Port.IP }, ErrAddressInUse},
		"mac in use":        {func(p *Port) { p.MAC = m.Port.MAC }, ErrAddressInUse},
		"gateway's address": {func(p *Port) { p.IP = netip.MustParseAddr("172.31.0.1") }, ErrAddress},
		"dns address":       {func(p *Port) { p.IP = netip.MustParseAddr("172.31.0.2") }, ErrAddress},
		"broadcast":         {func(p *Port) { p.IP = netip.MustParseAddr("172.31.15.255") }, ErrAddress},
		"outside of all":    {func(p *Port) { p.IP = netip.MustParseAddr("172.31.99.9") }, ErrAddress},
		"multicast mac":     {func(p *Port) { p.MAC = "01:00:00:00:00:01" }, ErrAddress},
	} {
		p := Port{ID: "i-other", MAC: "06:00:00:00:00:01", IP: netip.MustParseAddr("172.31.0.20"), Socket: "/nonexistent"}
		tc.change(&p)
		if err := n.Attach(p); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if err := n.Attach(m.Port); err != nil {
		t.Errorf("attach the same again: %v", err)
	}
	if err := n.Update(Port{ID: "i-none"}); !errors.Is(err, ErrNotAttached) {
		t.Errorf("update of a port that isn't there: %v", err)
	}
	n.Detach("i-none")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Attach(m.Port); !errors.Is(err, ErrClosed) {
		t.Errorf("attach after close: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"vpc with host bits": func(c *Config) { c.VPC = netip.MustParsePrefix("172.31.0.1/16") },
		"subnet elsewhere":   func(c *Config) { c.Subnets[0].Prefix = netip.MustParsePrefix("10.0.0.0/20") },
		"overlap":            func(c *Config) { c.Subnets[0].Prefix = netip.MustParsePrefix("172.31.16.0/24") },
		"mtu":                func(c *Config) { c.MTU = 70000 },
	} {
		cfg := testConfig()
		change(&cfg)
		if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
