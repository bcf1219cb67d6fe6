package network

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// leaseTime is EC2's. A lease never really ends: the address is the machine's.
const leaseTime = time.Hour

// answerDHCP gives a machine the address that was chosen for it. The switch
// answers by itself, since it knows who asks before any address is set.
func (n *Network) answerDHCP(p *port, pkt *packet) {
	req, err := dhcpv4.FromBytes(pkt.payload[header.UDPMinimumSize:])
	if err != nil || pkt.firstFragment {
		p.count.malformed.Add(1)
		return
	}
	gateway := gatewayOf(p.subnet.Prefix)
	reply, err := n.dhcpReply(p, req, gateway)
	if err != nil {
		n.log.Debug("dhcp request not answered", "instance", p.id, "err", err)
		return
	}
	if reply == nil {
		return
	}
	n.log.Debug("dhcp", "instance", p.id, "request", req.MessageType(), "reply", reply.MessageType(), "address", p.ip)
	// A client without an address hears the broadcast, whichever way it listens.
	to := broadcastAddr
	if req.ClientIPAddr.Equal(p.ip.AsSlice()) && reply.MessageType() == dhcpv4.MessageTypeAck {
		to = p.ip
	}
	n.sendUDP(p, netip.AddrPortFrom(gateway, dhcpServerPort), netip.AddrPortFrom(to, dhcpClientPort), reply.ToBytes())
}

// dhcpReply is nil for what needs no answer.
func (n *Network) dhcpReply(p *port, req *dhcpv4.DHCPv4, gateway netip.Addr) (*dhcpv4.DHCPv4, error) {
	if req.OpCode != dhcpv4.OpcodeBootRequest || req.ClientHWAddr.String() != net.HardwareAddr(p.hw[:]).String() {
		return nil, nil
	}
	if id := req.ServerIdentifier(); id != nil && !id.Equal(gateway.AsSlice()) {
		return nil, nil // the client chose somebody else's offer
	}
	server := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway.AsSlice()))
	var kind dhcpv4.MessageType
	mods := []dhcpv4.Modifier{dhcpv4.WithYourIP(p.ip.AsSlice()), dhcpv4.WithLeaseTime(uint32(leaseTime / time.Second))}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if !wants(req).Equal(p.ip.AsSlice()) {
			return dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), server)
		}
		kind = dhcpv4.MessageTypeAck
	case dhcpv4.MessageTypeInform:
		kind, mods = dhcpv4.MessageTypeAck, nil // no lease
	default:
		return nil, nil
	}
	mods = append(mods, server,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithNetmask(net.CIDRMask(p.subnet.Prefix.Bits(), 32)),
		dhcpv4.WithRouter(gateway.AsSlice()),
		dhcpv4.WithDNS(n.dnsAddr.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptDomainName(n.cfg.Domain)),
		dhcpv4.WithOption(dhcpv4.OptHostName(hostLabel(p.settings.Load().hostname))),
		dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(n.cfg.MTU)}),
	)
	return dhcpv4.NewReplyFromRequest(req, mods...)
}

// wants is the address that a REQUEST asks for: in an option when selecting or
// rebooting, in ciaddr when renewing.
func wants(req *dhcpv4.DHCPv4) net.IP {
	if ip := req.RequestedIPAddress(); ip != nil {
		return ip
	}
	return req.ClientIPAddr
}
