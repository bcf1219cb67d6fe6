package network

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkInspect is the cost of the checks for each frame that a machine sends.
func BenchmarkInspect(b *testing.B) {
	hw, ip := mac{6, 0, 172, 31, 0, 10}, netip.MustParseAddr("172.31.0.10")
	frame := udpFrame(hw, gatewayMAC, netip.AddrPortFrom(ip, 9), netip.MustParseAddrPort("172.31.0.11:53"), make([]byte, 8900))
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, v := inspect(frame, hw, ip); v != verdictIPv4 {
			b.Fatal(v)
		}
	}
}

// BenchmarkAdmit is the cost of connection tracking for each packet of a known flow.
func BenchmarkAdmit(b *testing.B) {
	in, _ := compileRules([]Rule{tcpRule(80, 80, "0.0.0.0/0")})
	c, now := newConntrack(), time.Now()
	p := tcpPacket(addrA, addrB, 4000, 80, syn)
	c.admit(&p, in, now)
	p.tcpFlags = ack
	for b.Loop() {
		if !c.admit(&p, in, now) {
			b.Fatal("denied")
		}
	}
}

// BenchmarkSwitch carries full frames from one machine's socket to another's,
// through every check: what the network itself can do, without a guest's stack.
func BenchmarkSwitch(b *testing.B) {
	n := newNetwork(b, testConfig())
	rules := []Rule{{Protocol: "udp", FromPort: 9, ToPort: 9, Sources: prefixes("0.0.0.0/0")}}
	from, to := plug(b, n, "172.31.0.10", nil), plug(b, n, "172.31.0.11", rules)
	frame := udpFrame(mac{6, 0, 172, 31, 0, 10}, gatewayMAC, netip.MustParseAddrPort("172.31.0.10:9"),
		netip.MustParseAddrPort("172.31.0.11:9"), make([]byte, 8900))
	wire := getBuffer(len(frame))
	copy(wire[lengthSize:], frame)
	received := make(chan int64)
	go func() {
		k, _ := io.Copy(io.Discard, to)
		received <- k
	}()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := from.Write(wire); err != nil {
			b.Fatal(err)
		}
	}
	_ = from.Close()
	_ = to.(*net.UnixConn).CloseRead()
	b.ReportMetric(float64(<-received)/float64(b.N*len(wire)), "delivered")
}

// plug attaches a bare socket in place of a machine.
func plug(b *testing.B, n *Network, ip string, rules []Rule) net.Conn {
	b.Helper()
	m := bootMachine(b, ip, rules...)
	_ = m.ln.Close()
	ln, err := net.Listen("unix", m.Port.Socket)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if err := n.Attach(m.Port); err != nil {
		b.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	p, _ := n.port(m.Port.ID)
	eventually(b, "port connected", p.connected.Load)
	return c
}
