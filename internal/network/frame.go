package network

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	ethernetLen = header.EthernetMinimumSize

	protoICMP = uint8(header.ICMPv4ProtocolNumber)
	protoTCP  = uint8(header.TCPProtocolNumber)
	protoUDP  = uint8(header.UDPProtocolNumber)

	dhcpServerPort = 67
	dhcpClientPort = 68
)

// mac is an Ethernet address.
type mac [6]byte

// verdict is what becomes of a frame that a machine sends.
type verdict uint8

const (
	verdictARP       verdict = iota // an ARP packet about the machine's own addresses
	verdictDHCP                     // a DHCP client's packet
	verdictIPv4                     // an IPv4 packet from the machine's own address
	verdictSpoofed                  // claims an address that isn't the machine's
	verdictMalformed                // breaks off or contradicts itself
	verdictIgnored                  // sound, but nothing that a VPC carries (IPv6, multicast, …)
)

// packet is what the switch must know of an IPv4 packet.
type packet struct {
	src, dst         netip.Addr
	proto            uint8
	srcPort, dstPort uint16 // of tcp and udp
	tcpFlags         header.TCPFlags
	icmpType         uint8
	icmpCode         uint8
	icmpIdent        uint16 // of echo and time stamp messages
	id               uint16 // IPv4 identification, common to a datagram's fragments
	firstFragment    bool   // more fragments follow, without ports of their own
	laterFragment    bool   // no transport header in here
	payload          []byte // from the transport header on
}

// inspect judges a frame from a machine that owns hw and ip, and parses it as
// far as its verdict goes. The machine controls every byte of it.
func inspect(frame []byte, hw mac, ip netip.Addr) (packet, verdict) {
	if len(frame) < ethernetLen {
		return packet{}, verdictMalformed
	}
	if mac(frame[6:12]) != hw {
		return packet{}, verdictSpoofed
	}
	body := frame[ethernetLen:]
	switch tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:])) {
	case header.ARPProtocolNumber:
		return packet{}, inspectARP(body, hw, ip)
	case header.IPv4ProtocolNumber:
		return inspectIPv4(body, ip)
	}
	return packet{}, verdictIgnored
}

// inspectARP lets pass only what speaks about the sender's own addresses; a
// sender of 0.0.0.0 asks whether an address is free (RFC 5227).
func inspectARP(b []byte, hw mac, ip netip.Addr) verdict {
	a := header.ARP(b)
	if !a.IsValid() {
		return verdictMalformed
	}
	sender := netip.AddrFrom4([4]byte(a.ProtocolAddressSender()))
	if mac(a.HardwareAddressSender()) != hw || (sender != ip && !sender.IsUnspecified()) {
		return verdictSpoofed
	}
	return verdictARP
}

func inspectIPv4(b []byte, ip netip.Addr) (packet, verdict) {
	p, ok := parseIPv4(b)
	if !ok {
		return p, verdictMalformed
	}
	dhcp := p.proto == protoUDP && p.srcPort == dhcpClientPort && p.dstPort == dhcpServerPort && !p.laterFragment
	switch {
	case p.src == ip && dhcp:
		return p, verdictDHCP
	case p.src == ip && (p.dst.IsMulticast() || p.dst.IsLoopback() || p.dst.As4()[0] == 0 || p.dst == broadcastAddr):
		return p, verdictIgnored
	case p.src == ip:
		return p, verdictIPv4
	case p.src.IsUnspecified() && dhcp && p.dst == broadcastAddr:
		return p, verdictDHCP
	case p.src.IsUnspecified() && p.dst.IsMulticast():
		return p, verdictIgnored // IGMP before the address is known
	}
	return p, verdictSpoofed
}

// parseIPv4 reads the headers of a packet whose every length may lie.
func parseIPv4(b []byte) (packet, bool) {
	h := header.IPv4(b)
	if !h.IsValid(len(b)) {
		return packet{}, false
	}
	p := packet{
		src:   netip.AddrFrom4([4]byte(h.SourceAddressSlice())),
		dst:   netip.AddrFrom4([4]byte(h.DestinationAddressSlice())),
		proto: h.Protocol(),
		id:    h.ID(),
		// The frame may be padded: the packet ends where its header says.
		payload:       b[h.HeaderLength():h.TotalLength()],
		laterFragment: h.FragmentOffset() != 0,
	}
	p.firstFragment = h.More() && !p.laterFragment
	if p.laterFragment {
		return p, true
	}
	ok := p.parseTransport()
	return p, ok
}

// parseTransport needs the whole transport header: a first fragment too short
// to hold it hides what it is (RFC 1858), so it doesn't count as sound.
func (p *packet) parseTransport() bool {
	switch p.proto {
	case protoTCP:
		if len(p.payload) < header.TCPMinimumSize {
			return false
		}
		t := header.TCP(p.payload)
		p.srcPort, p.dstPort, p.tcpFlags = t.SourcePort(), t.DestinationPort(), t.Flags()
	case protoUDP:
		if len(p.payload) < header.UDPMinimumSize {
			return false
		}
		u := header.UDP(p.payload)
		p.srcPort, p.dstPort = u.SourcePort(), u.DestinationPort()
	case protoICMP:
		if len(p.payload) < header.ICMPv4MinimumSize {
			return false
		}
		i := header.ICMPv4(p.payload)
		p.icmpType, p.icmpCode, p.icmpIdent = uint8(i.Type()), uint8(i.Code()), i.Ident()
	}
	return true
}

// quoted parses the start of the packet that an ICMP error is about: its
// headers and at least eight bytes of what follows them.
func (p *packet) quoted() (packet, bool) {
	const quoteMin = 8
	if len(p.payload) < header.ICMPv4MinimumSize {
		return packet{}, false
	}
	b := p.payload[header.ICMPv4MinimumSize:]
	if len(b) < header.IPv4MinimumSize || b[0]>>4 != 4 {
		return packet{}, false
	}
	h := header.IPv4(b)
	n := int(h.HeaderLength())
	if n < header.IPv4MinimumSize || len(b) < n+quoteMin || h.FragmentOffset() != 0 {
		return packet{}, false
	}
	q := packet{
		src:   netip.AddrFrom4([4]byte(h.SourceAddressSlice())),
		dst:   netip.AddrFrom4([4]byte(h.DestinationAddressSlice())),
		proto: h.Protocol(),
	}
	switch t := b[n:]; q.proto {
	case protoTCP, protoUDP:
		q.srcPort, q.dstPort = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case protoICMP:
		q.icmpType, q.icmpCode, q.icmpIdent = t[0], t[1], binary.BigEndian.Uint16(t[4:])
	}
	return q, true
}
