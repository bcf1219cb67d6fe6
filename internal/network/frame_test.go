package network

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// FuzzInspect: whatever a machine sends, it is judged without a panic, and no
// frame passes that claims another's address.
func FuzzInspect(f *testing.F) {
	hw, ip := mac{6, 0, 172, 31, 0, 10}, netip.MustParseAddr("172.31.0.10")
	to := netip.MustParseAddrPort("172.31.0.11:53")
	whole := udpFrame(hw, gatewayMAC, netip.AddrPortFrom(ip, 9), to, []byte("data"))
	f.Add(whole)
	f.Add(whole[:20])
	f.Add(udpFrame(hw, gatewayMAC, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), nil))
	for _, proto := range []uint8{protoTCP, protoICMP} {
		other := append([]byte(nil), whole...)
		other[ethernetLen+9] = proto
		f.Add(append(other, whole[ethernetLen:]...))
	}
	a := make([]byte, ethernetLen+header.ARPSize)
	putEthernet(a, gatewayMAC, hw, header.ARPProtocolNumber)
	header.ARP(a[ethernetLen:]).SetIPv4OverEthernet()
	f.Add(a)
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, v := inspect(frame, hw, ip)
		if (v == verdictIPv4 || v == verdictARP || v == verdictDHCP) && mac(frame[6:12]) != hw {
			t.Fatalf("passed with source %x", frame[6:12])
		}
		if v == verdictIPv4 && netip.AddrFrom4([4]byte(frame[ethernetLen+12:])) != ip {
			t.Fatal("passed with another's address")
		}
		if v == verdictIPv4 && (p.dst.IsMulticast() || p.dst.IsLoopback()) {
			t.Fatalf("passed to %s", p.dst)
		}
		if q, ok := p.quoted(); ok && !q.src.Is4() {
			t.Fatal("quoted packet without an address")
		}
	})
}

func TestInspect(t *testing.T) {
	hw, ip := mac{6, 0, 172, 31, 0, 10}, "172.31.0.10"
	frame := func(src mac, from, to string) []byte {
		return udpFrame(src, gatewayMAC, netip.MustParseAddrPort(from), netip.MustParseAddrPort(to), []byte("x"))
	}
	change := func(b []byte, at int, to byte) []byte { b[at] = to; return b }
	good := func() []byte { return frame(hw, ip+":9", "172.31.0.11:53") }
	for name, tc := range map[string]struct {
		frame []byte
		want  verdict
	}{
		"in order":                          {good(), verdictIPv4},
		"padded":                            {append(good(), 0, 0, 0), verdictIPv4},
		"other mac":                         {frame(mac{6}, ip+":9", "172.31.0.11:53"), verdictSpoofed},
		"other address":                     {frame(hw, "172.31.0.12:9", "172.31.0.11:53"), verdictSpoofed},
		"no address":                        {frame(hw, "0.0.0.0:9", "172.31.0.11:53"), verdictSpoofed},
		"dhcp without address":              {frame(hw, "0.0.0.0:68", "255.255.255.255:67"), verdictDHCP},
		"dhcp from no address to a machine": {frame(hw, "0.0.0.0:68", "172.31.0.11:67"), verdictSpoofed},
		"dhcp renewal":                      {frame(hw, ip+":68", "172.31.0.1:67"), verdictDHCP},
		"multicast":                         {frame(hw, ip+":9", "224.0.0.251:5353"), verdictIgnored},
		"broadcast":                         {frame(hw, ip+":9", "255.255.255.255:9"), verdictIgnored},
		"loopback":                          {frame(hw, ip+":9", "127.0.0.1:9"), verdictIgnored},
		"ipv6":                              {change(change(good(), 12, 0x86), 13, 0xdd), verdictIgnored},
		"short":                             {good()[:13], verdictMalformed},
		"cut off":                           {good()[:ethernetLen+10], verdictMalformed},
		"header too long":                   {change(good(), ethernetLen, 0x4f), verdictMalformed},
		"total length too long":             {change(good(), ethernetLen+2, 0xff), verdictMalformed},
		"tcp in nine bytes":                 {change(good(), ethernetLen+9, protoTCP), verdictMalformed},
	} {
		if _, got := inspect(tc.frame, hw, netip.MustParseAddr(ip)); got != tc.want {
			t.Errorf("%s: verdict %d, want %d", name, got, tc.want)
		}
	}
}
