package network

import (
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// How long a flow is remembered after its last packet. The five days are EC2's
// for an established TCP connection.
const (
	tcpOpening     = time.Minute
	tcpEstablished = 5 * 24 * time.Hour
	tcpClosing     = time.Minute
	tcpReset       = 10 * time.Second
	udpUnreplied   = 30 * time.Second
	udpReplied     = 3 * time.Minute
	otherFlow      = 30 * time.Second
	fragmentLife   = 30 * time.Second

	sweepEvery = 30 * time.Second
	// maxFlows bounds the memory that one machine can take by opening flows.
	maxFlows = 16384
	maxFrags = 4096
)

const (
	icmpEchoReply      = uint8(header.ICMPv4EchoReply)
	icmpUnreachable    = uint8(header.ICMPv4DstUnreachable)
	icmpEcho           = uint8(header.ICMPv4Echo)
	icmpTimeExceeded   = uint8(header.ICMPv4TimeExceeded)
	icmpParamProblem   = uint8(header.ICMPv4ParamProblem)
	icmpTimestamp      = uint8(header.ICMPv4Timestamp)
	icmpTimestampReply = uint8(header.ICMPv4TimestampReply)
)

// flowKey names a flow by who opened it.
type flowKey struct {
	from, to         netip.Addr
	fromPort, toPort uint16 // for ICMP the identifier, twice
	proto            uint8
	icmpType         uint8 // of the request
}

func (k flowKey) reverse() flowKey {
	k.from, k.to, k.fromPort, k.toPort = k.to, k.from, k.toPort, k.fromPort
	return k
}

type flow struct {
	expires       time.Time
	replied       bool
	finFrom, finT bool // each side has sent its FIN
	icmpCode      uint8
}

type fragKey struct {
	from, to netip.Addr
	proto    uint8
	id       uint16
}

// conntrack remembers flows between machines, so that replies pass without a
// rule of their own. Flows with the VPC's own stack need no memory: it sends
// nothing to a machine that wasn't asked for or checked before.
type conntrack struct {
	mu        sync.Mutex
	flows     map[flowKey]*flow
	opened    map[netip.Addr]int // live flows by who opened them
	frags     map[fragKey]time.Time
	nextSweep time.Time
}

func newConntrack() *conntrack {
	return &conntrack{flows: map[flowKey]*flow{}, opened: map[netip.Addr]int{}, frags: map[fragKey]time.Time{}}
}

// admit decides whether p may go to the machine that has the rules in.
//
// A TCP packet in the middle of a connection opens a flow as a SYN does if the
// rules allow it: after a restart of the daemon the machines' connections go
// on as soon as the side speaks that was allowed to open them.
func (c *conntrack) admit(p *packet, in ingress, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep(now)
	if p.laterFragment {
		return now.Before(c.frags[fragKey{p.src, p.dst, p.proto, p.id}])
	}
	ok := c.admitFlow(p, in, now)
	if ok && p.firstFragment && len(c.frags) < maxFrags {
		c.frags[fragKey{p.src, p.dst, p.proto, p.id}] = now.Add(fragmentLife)
	}
	return ok
}

func (c *conntrack) admitFlow(p *packet, in ingress, now time.Time) bool {
	if p.proto == protoICMP && isICMPError(p.icmpType) {
		return c.admitError(p, now)
	}
	key, reply := keyOf(p)
	if reply {
		f, ok := c.live(key.reverse(), now)
		if ok && !opensTCP(p) {
			f.replied = true
			f.touch(p, false, now)
			return true
		}
		if p.proto == protoICMP {
			return in.allows(p.src, p.proto, int(p.icmpType), int(p.icmpCode))
		}
	}
	if f, ok := c.live(key, now); ok {
		f.touch(p, true, now)
		return true
	}
	port, code := int(p.dstPort), 0
	if p.proto == protoICMP {
		port, code = int(p.icmpType), int(p.icmpCode)
	}
	if !in.allows(p.src, p.proto, port, code) || c.opened[p.src] >= maxFlows {
		return false
	}
	f := &flow{icmpCode: p.icmpCode}
	f.touch(p, true, now)
	if _, expired := c.flows[key]; expired {
		c.remove(key)
	}
	c.flows[key] = f
	c.opened[key.from]++
	return true
}

// admitError lets an ICMP error pass to whoever takes part in the flow it is about.
func (c *conntrack) admitError(p *packet, now time.Time) bool {
	q, ok := p.quoted()
	if !ok || q.src != p.dst {
		return false
	}
	key, _ := keyOf(&q)
	if _, ok := c.live(key, now); ok {
		return true
	}
	_, ok = c.live(key.reverse(), now)
	return ok
}

func (c *conntrack) live(k flowKey, now time.Time) (*flow, bool) {
	f, ok := c.flows[k]
	return f, ok && now.Before(f.expires)
}

// touch moves a flow on by a packet from its opener or from the other side.
func (f *flow) touch(p *packet, opener bool, now time.Time) {
	life := otherFlow
	switch p.proto {
	case protoTCP:
		life = f.touchTCP(p, opener)
	case protoUDP:
		life = udpUnreplied
		if f.replied {
			life = udpReplied
		}
	}
	f.expires = now.Add(life)
}

func (f *flow) touchTCP(p *packet, opener bool) time.Duration {
	if opener && opensTCP(p) { // the same ports again: a new connection
		f.replied, f.finFrom, f.finT = false, false, false
	}
	if p.tcpFlags&header.TCPFlagFin != 0 {
		f.finFrom, f.finT = f.finFrom || opener, f.finT || !opener
	}
	switch {
	case p.tcpFlags&header.TCPFlagRst != 0:
		return tcpReset
	case f.finFrom && f.finT:
		return tcpClosing
	case !f.replied:
		return tcpOpening
	}
	return tcpEstablished
}

// opensTCP is true for a SYN alone. From the side that didn't open the flow it
// asks for a new connection and must not pass as a reply.
func opensTCP(p *packet) bool {
	return p.proto == protoTCP && p.tcpFlags&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn
}

func isICMPError(t uint8) bool {
	return t == icmpUnreachable || t == icmpTimeExceeded || t == icmpParamProblem
}

// keyOf is the flow that p would open; reply says whether p may instead be the
// answer within the reverse one.
func keyOf(p *packet) (key flowKey, reply bool) {
	key = flowKey{from: p.src, to: p.dst, fromPort: p.srcPort, toPort: p.dstPort, proto: p.proto}
	if p.proto != protoICMP {
		return key, true
	}
	key.fromPort, key.toPort, key.icmpType = p.icmpIdent, p.icmpIdent, p.icmpType
	switch p.icmpType {
	case icmpEchoReply:
		key.icmpType, reply = icmpEcho, true
	case icmpTimestampReply:
		key.icmpType, reply = icmpTimestamp, true
	}
	return key, reply
}

// recheck forgets the flows to ip that its new rules no longer allow.
func (c *conntrack) recheck(ip netip.Addr, in ingress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, f := range c.flows {
		if k.to != ip {
			continue
		}
		port, code := int(k.toPort), 0
		if k.proto == protoICMP {
			port, code = int(k.icmpType), int(f.icmpCode)
		}
		if !in.allows(k.from, k.proto, port, code) {
			c.remove(k)
		}
	}
}

// forget drops all flows of an address: its next owner must not inherit them.
func (c *conntrack) forget(ip netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.flows {
		if k.from == ip || k.to == ip {
			c.remove(k)
		}
	}
	for k := range c.frags {
		if k.from == ip || k.to == ip {
			delete(c.frags, k)
		}
	}
}

func (c *conntrack) remove(k flowKey) {
	delete(c.flows, k)
	if c.opened[k.from]--; c.opened[k.from] <= 0 {
		delete(c.opened, k.from)
	}
}

func (c *conntrack) sweep(now time.Time) {
	if now.Before(c.nextSweep) {
		return
	}
	c.nextSweep = now.Add(sweepEvery)
	for k, f := range c.flows {
		if !now.Before(f.expires) {
			c.remove(k)
		}
	}
	for k, t := range c.frags {
		if !now.Before(t) {
			delete(c.frags, k)
		}
	}
}
