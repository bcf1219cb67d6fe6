package network

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	outsideDialTimeout = 20 * time.Second
	// outsideTCP bounds the connections to the outside being opened at once.
	outsideTCP = 512
	// outsideUDP bounds the UDP flows to the outside.
	outsideUDP = 1024
	udpIdle    = time.Minute
)

// mayLeave tells whether a packet may go to the outside: TCP and UDP alone,
// as an unprivileged process can't send anything else, and never to the host
// itself, whose services trust those who can reach them.
func (n *Network) mayLeave(pkt *packet) bool {
	if !n.cfg.Egress || (pkt.proto != protoTCP && pkt.proto != protoUDP) {
		return false
	}
	return pkt.dst.IsGlobalUnicast() && !n.cfg.VPC.Contains(pkt.dst)
}

// hostOwns tells whether an address is one of the host's own interfaces. It is
// asked once for each flow, since interfaces come and go.
func hostOwns(addr netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok && ipnet.IP.Equal(addr.AsSlice()) {
			return true
		}
	}
	return false
}

// startEgress makes the stack open a host socket for each flow to the outside.
func (n *Network) startEgress() {
	t := tcp.NewForwarder(n.stack, 0, outsideTCP, n.outsideTCP)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, t.HandlePacket)
	sessions := make(chan struct{}, outsideUDP)
	u := udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) { n.outsideUDP(r, sessions) })
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, u.HandlePacket)
}

// outsideTCP answers a machine's SYN only after the far side has: a refused
// connection is refused for the machine too. The stack calls it in a goroutine.
func (n *Network) outsideTCP(r *tcp.ForwarderRequest) {
	dst := destination(r.ID())
	p, ok := n.sender(r.ID())
	if !ok || n.own[dst.Addr()] || hostOwns(dst.Addr()) {
		r.Complete(true)
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, outsideDialTimeout)
	defer cancel()
	out, err := n.outside(ctx, "tcp4", dst.String())
	if err != nil {
		r.Complete(true)
		return
	}
	// The handshake may wait for a machine that has just gone.
	defer context.AfterFunc(p.ctx, func() { _ = out.Close() })()
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		_ = out.Close()
		return
	}
	in := gonet.NewTCPConn(&wq, ep)
	if !n.start(func() { splice(p.ctx, in, out.(stream)) }) {
		_ = in.Close()
		_ = out.Close()
	}
}

// outsideUDP is called on the frames' path and must not wait.
func (n *Network) outsideUDP(r *udp.ForwarderRequest, sessions chan struct{}) {
	dst := destination(r.ID())
	p, ok := n.sender(r.ID())
	if !ok || n.own[dst.Addr()] {
		return
	}
	select {
	case sessions <- struct{}{}:
	default:
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		<-sessions
		return
	}
	in := gonet.NewUDPConn(&wq, ep)
	started := n.start(func() {
		defer func() { <-sessions }()
		defer func() { _ = in.Close() }()
		if hostOwns(dst.Addr()) {
			return
		}
		out, err := n.outside(p.ctx, "udp4", dst.String())
		if err != nil {
			return
		}
		relayUDP(p.ctx, in, out)
	})
	if !started {
		<-sessions
		_ = in.Close()
	}
}

// destination is where the machine's flow goes: to the stack it is local.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
}

// sender is the machine that opened a flow to the outside.
func (n *Network) sender(id stack.TransportEndpointID) (*port, bool) {
	p, ok := n.table.Load().byIP[netip.AddrFrom4(id.RemoteAddress.As4())]
	return p, ok
}
