package network

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Codes of "destination unreachable". The first makes programs fail at once
// with "network is unreachable", whatever their protocol; the plain network
// code doesn't end a UDP request.
const (
	codeNetProhibited = header.ICMPv4Code(9)
	codeHost          = header.ICMPv4HostUnreachable
)

const defaultTTL = 64

// table is the set of ports by address, replaced as a whole on every change so
// that the frames' path takes no lock.
type table struct {
	byIP   map[netip.Addr]*port
	byName map[string]*port // first label of the host name, in lower case
}

// fromMachine switches one frame that p's machine sent. The frame is only
// valid during the call.
func (n *Network) fromMachine(p *port, frame []byte) {
	pkt, v := inspect(frame, p.hw, p.ip)
	switch v {
	case verdictARP:
		n.answerARP(p, header.ARP(frame[ethernetLen:]))
	case verdictDHCP:
		n.answerDHCP(p, &pkt)
	case verdictIPv4:
		n.routeIPv4(p, &pkt, frame)
	case verdictSpoofed:
		p.count.spoofed.Add(1)
	case verdictMalformed:
		p.count.malformed.Add(1)
	case verdictIgnored:
		p.count.ignored.Add(1)
	}
}

// routeIPv4 is the VPC's route table: its machines, its own addresses, and the
// rest of the world if there is egress.
func (n *Network) routeIPv4(p *port, pkt *packet, frame []byte) {
	if to, ok := n.table.Load().byIP[pkt.dst]; ok {
		if to != p {
			n.between(p, to, pkt, frame)
		}
		return
	}
	switch {
	case n.own[pkt.dst]:
		n.link.inject(frame[ethernetLen:])
	case n.cfg.VPC.Contains(pkt.dst):
		n.unreachable(p, pkt, codeHost, frame)
	case n.mayLeave(pkt):
		n.link.inject(frame[ethernetLen:])
	default:
		n.unreachable(p, pkt, codeNetProhibited, frame)
	}
}

// between passes a packet from machine to machine, if the receiver's security
// groups let it in. As in EC2 a denied packet gets no answer.
func (n *Network) between(from, to *port, pkt *packet, frame []byte) {
	if !n.track.admit(pkt, to.settings.Load().rules, time.Now()) {
		to.count.denied.Add(1)
		return
	}
	src := from.hw
	if from.subnet.Prefix != to.subnet.Prefix {
		src = gatewayMAC
	}
	b := getBuffer(len(frame))
	copy(b[lengthSize:], frame)
	putEthernet(b[lengthSize:], to.hw, src, header.IPv4ProtocolNumber)
	to.send(b)
}

// fromStack sends a packet of the VPC's own stack to the machine at dst.
func (n *Network) fromStack(dst netip.Addr, pkt *stack.PacketBuffer) {
	to, ok := n.table.Load().byIP[dst]
	if !ok {
		return
	}
	b := getBuffer(ethernetLen + pkt.Size())
	putEthernet(b[lengthSize:], to.hw, gatewayMAC, header.IPv4ProtocolNumber)
	rest := b[lengthSize+ethernetLen:]
	for _, s := range pkt.AsSlices() {
		rest = rest[copy(rest, s):]
	}
	to.send(b)
}

// answerARP answers for every address that exists. A machine in another subnet
// is behind the gateway, also for a sender that thinks otherwise.
func (n *Network) answerARP(p *port, req header.ARP) {
	target := netip.AddrFrom4([4]byte(req.ProtocolAddressTarget()))
	sender := [4]byte(req.ProtocolAddressSender())
	if req.Op() != header.ARPRequest || target == p.ip {
		return
	}
	hw := gatewayMAC
	if to, ok := n.table.Load().byIP[target]; ok {
		if to.subnet.Prefix == p.subnet.Prefix {
			hw = to.hw
		}
	} else if !n.own[target] {
		return
	}
	b := getBuffer(ethernetLen + header.ARPSize)
	putEthernet(b[lengthSize:], p.hw, hw, header.ARPProtocolNumber)
	reply := header.ARP(b[lengthSize+ethernetLen:])
	reply.SetIPv4OverEthernet()
	reply.SetOp(header.ARPReply)
	copy(reply.HardwareAddressSender(), hw[:])
	copy(reply.ProtocolAddressSender(), target.AsSlice())
	copy(reply.HardwareAddressTarget(), p.hw[:])
	copy(reply.ProtocolAddressTarget(), sender[:])
	p.send(b)
}

// unreachable tells a machine at once that a packet of its goes nowhere.
func (n *Network) unreachable(p *port, pkt *packet, code header.ICMPv4Code, frame []byte) {
	if pkt.laterFragment || (pkt.proto == protoICMP && pkt.icmpType != icmpEcho) {
		return // RFC 1122: no errors about errors
	}
	orig := header.IPv4(frame[ethernetLen:])
	quote := orig[:min(int(orig.HeaderLength())+8, int(orig.TotalLength()))]
	body := make([]byte, header.ICMPv4MinimumSize+len(quote))
	copy(body[header.ICMPv4MinimumSize:], quote)
	msg := header.ICMPv4(body)
	msg.SetType(header.ICMPv4DstUnreachable)
	msg.SetCode(code)
	msg.SetChecksum(^checksum.Checksum(body, 0))
	n.sendIPv4(p, gatewayOf(p.subnet.Prefix), p.ip, header.ICMPv4ProtocolNumber, body)
}

// sendUDP sends a datagram of the VPC's own to a machine.
func (n *Network) sendUDP(p *port, src, dst netip.AddrPort, data []byte) {
	body := make([]byte, header.UDPMinimumSize+len(data))
	copy(body[header.UDPMinimumSize:], data)
	u := header.UDP(body)
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(body))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpip.AddrFrom4(src.Addr().As4()),
		tcpip.AddrFrom4(dst.Addr().As4()), uint16(len(body)))
	u.SetChecksum(^checksum.Checksum(body, sum))
	n.sendIPv4(p, src.Addr(), dst.Addr(), header.UDPProtocolNumber, body)
}

// sendIPv4 frames a packet that the switch itself makes.
func (n *Network) sendIPv4(p *port, src, dst netip.Addr, proto tcpip.TransportProtocolNumber, body []byte) {
	b := getBuffer(ethernetLen + header.IPv4MinimumSize + len(body))
	putEthernet(b[lengthSize:], p.hw, gatewayMAC, header.IPv4ProtocolNumber)
	h := header.IPv4(b[lengthSize+ethernetLen:])
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(body)),
		TTL:         defaultTTL,
		Protocol:    uint8(proto),
		SrcAddr:     tcpip.AddrFrom4(src.As4()),
		DstAddr:     tcpip.AddrFrom4(dst.As4()),
	})
	h.SetChecksum(^h.CalculateChecksum())
	copy(h[header.IPv4MinimumSize:], body)
	p.send(b)
}
