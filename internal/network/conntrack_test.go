package network

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	addrA = netip.MustParseAddr("172.31.0.10")
	addrB = netip.MustParseAddr("172.31.16.11")
)

const (
	syn    = header.TCPFlagSyn
	ack    = header.TCPFlagAck
	synAck = syn | ack
	finAck = header.TCPFlagFin | ack
	rst    = header.TCPFlagRst
)

func tcpPacket(from, to netip.Addr, sport, dport uint16, flags header.TCPFlags) packet {
	return packet{src: from, dst: to, proto: protoTCP, srcPort: sport, dstPort: dport, tcpFlags: flags}
}

func udpPacket(from, to netip.Addr, sport, dport uint16) packet {
	return packet{src: from, dst: to, proto: protoUDP, srcPort: sport, dstPort: dport}
}

func icmpPacket(from, to netip.Addr, kind, code uint8, ident uint16) packet {
	return packet{src: from, dst: to, proto: protoICMP, icmpType: kind, icmpCode: code, icmpIdent: ident}
}

// about is an ICMP error that quotes q.
func about(from, to netip.Addr, q packet) packet {
	f := udpFrame(mac{}, mac{}, netip.AddrPortFrom(q.src, q.srcPort), netip.AddrPortFrom(q.dst, q.dstPort), nil)
	f[ethernetLen+9] = q.proto
	p := icmpPacket(from, to, icmpUnreachable, 3, 0)
	p.payload = append(make([]byte, header.ICMPv4MinimumSize), f[ethernetLen:]...)
	return p
}

// TestAdmit plays packets in order against two machines' rules: B allows what
// each case says, A nothing at all.
func TestAdmit(t *testing.T) {
	type step struct {
		after time.Duration
		p     packet
		want  bool
	}
	web := []Rule{tcpRule(80, 80, "172.31.0.10/32")}
	dnsRule := []Rule{{Protocol: "udp", FromPort: 53, ToPort: 53, Sources: prefixes("172.31.0.0/16")}}
	pingRule := []Rule{{Protocol: "icmp", FromPort: 8, ToPort: -1, Sources: prefixes("0.0.0.0/0")}}
	first := udpPacket(addrA, addrB, 4000, 53)
	first.firstFragment, first.id = true, 7
	later := packet{src: addrA, dst: addrB, proto: protoUDP, id: 7, laterFragment: true}
	for _, tc := range []struct {
		name  string
		rules []Rule
		steps []step
	}{
		{"tcp and its reply", web, []step{
			{0, tcpPacket(addrB, addrA, 80, 4000, synAck), false},
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), true},
			{0, tcpPacket(addrB, addrA, 80, 4000, synAck), true},
			{time.Hour, tcpPacket(addrB, addrA, 80, 4000, ack), true},
		}},
		{"wrong port, wrong source", web, []step{
			{0, tcpPacket(addrA, addrB, 4000, 81, syn), false},
			{0, tcpPacket(netip.MustParseAddr("172.31.0.12"), addrB, 4000, 80, syn), false},
		}},
		{"a reply's ports don't open the way back", web, []step{
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), true},
			{0, tcpPacket(addrB, addrA, 80, 4001, ack), false},
			{0, tcpPacket(addrB, addrA, 80, 4000, syn), false},
		}},
		{"in the middle, as after a restart", web, []step{
			{0, tcpPacket(addrB, addrA, 80, 4000, ack), false},
			{0, tcpPacket(addrA, addrB, 4000, 80, ack), true},
			{0, tcpPacket(addrB, addrA, 80, 4000, ack), true},
		}},
		{"unanswered syn is forgotten", web, []step{
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), true},
			{2 * time.Minute, tcpPacket(addrB, addrA, 80, 4000, synAck), false},
		}},
		{"closed connection is forgotten", web, []step{
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), true},
			{0, tcpPacket(addrB, addrA, 80, 4000, synAck), true},
			{0, tcpPacket(addrA, addrB, 4000, 80, finAck), true},
			{time.Hour, tcpPacket(addrB, addrA, 80, 4000, ack), true}, // half closed
			{0, tcpPacket(addrB, addrA, 80, 4000, finAck), true},
			{2 * time.Minute, tcpPacket(addrB, addrA, 80, 4000, ack), false},
		}},
		{"reset connection is forgotten", web, []step{
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), true},
			{0, tcpPacket(addrB, addrA, 80, 4000, rst), true},
			{20 * time.Second, tcpPacket(addrB, addrA, 80, 4000, ack), false},
		}},
		{"udp and its reply", dnsRule, []step{
			{0, udpPacket(addrB, addrA, 53, 4000), false},
			{0, udpPacket(addrA, addrB, 4000, 53), true},
			{0, udpPacket(addrB, addrA, 53, 4000), true},
			{2 * time.Minute, udpPacket(addrB, addrA, 53, 4000), true},
			{4 * time.Minute, udpPacket(addrB, addrA, 53, 4000), false},
		}},
		{"ping", pingRule, []step{
			{0, icmpPacket(addrB, addrA, icmpEchoReply, 0, 1), false},
			{0, icmpPacket(addrA, addrB, icmpEcho, 0, 1), true},
			{0, icmpPacket(addrB, addrA, icmpEchoReply, 0, 1), true},
			{0, icmpPacket(addrB, addrA, icmpEchoReply, 0, 2), false},
			{0, icmpPacket(addrB, addrA, icmpEcho, 0, 1), false},
			{0, icmpPacket(addrA, addrB, icmpTimestamp, 0, 1), false},
			{0, tcpPacket(addrA, addrB, 4000, 80, syn), false},
		}},
		{"icmp error about a flow", dnsRule, []step{
			{0, about(addrB, addrA, udpPacket(addrA, addrB, 4000, 53)), false},
			{0, udpPacket(addrA, addrB, 4000, 53), true},
			{0, about(addrB, addrA, udpPacket(addrA, addrB, 4000, 53)), true},
			{0, about(addrB, addrA, udpPacket(addrA, addrB, 4000, 54)), false},
			{0, about(addrB, addrA, udpPacket(addrB, addrA, 53, 4000)), false}, // not what A sent
		}},
		{"fragments follow their first", dnsRule, []step{
			{0, later, false},
			{0, first, true},
			{0, later, true},
			{time.Minute, later, false},
		}},
		{"all protocols", []Rule{{Protocol: "-1", Sources: prefixes("172.31.0.10/32")}}, []step{
			{0, tcpPacket(addrA, addrB, 1, 2, syn), true},
			{0, packet{src: addrA, dst: addrB, proto: 50}, true},
			{0, packet{src: addrB, dst: addrA, proto: 50}, true},
			{0, packet{src: addrB, dst: addrA, proto: 51}, false},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, err := compileRules(tc.rules)
			if err != nil {
				t.Fatal(err)
			}
			c, now := newConntrack(), time.Unix(1e9, 0)
			for i, s := range tc.steps {
				now = now.Add(s.after)
				rules := in
				if s.p.dst == addrA {
					rules = nil
				}
				if got := c.admit(&s.p, rules, now); got != s.want {
					t.Errorf("step %d: %v, want %v", i+1, got, s.want)
				}
			}
		})
	}
}

func TestConntrackIsBounded(t *testing.T) {
	in, _ := compileRules([]Rule{{Protocol: "-1", Sources: prefixes("0.0.0.0/0")}})
	c, now := newConntrack(), time.Unix(1e9, 0)
	open := func(from netip.Addr, i int) bool {
		p := udpPacket(from, addrB, uint16(i), uint16(i>>16))
		return c.admit(&p, in, now)
	}
	for i := range maxFlows {
		if !open(addrA, i) {
			t.Fatalf("flow %d refused", i)
		}
	}
	if open(addrA, maxFlows) {
		t.Error("one machine opens flows without bound")
	}
	if !open(netip.MustParseAddr("172.31.0.12"), 1) {
		t.Error("one machine's flows take another's place")
	}
	now = now.Add(time.Hour)
	if !open(addrA, 1) || len(c.flows) != 1 || c.opened[addrA] != 1 {
		t.Errorf("%d flows, %d counted after all have expired", len(c.flows), c.opened[addrA])
	}
	c.forget(addrB)
	if len(c.flows) != 0 || len(c.opened) != 0 {
		t.Error("flows outlive their machine")
	}
}

func TestCompileRulesRefuses(t *testing.T) {
	for _, proto := range []string{"", "TCP/IP", "256", "-2"} {
		if _, err := compileRules([]Rule{{Protocol: proto}}); err == nil {
			t.Errorf("protocol %q accepted", proto)
		}
	}
}
