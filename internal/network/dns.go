package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

const (
	dnsTTL = 60 // seconds; EC2's for private names
	// upstreamTimeout bounds one question to one of the host's resolvers.
	upstreamTimeout = 2 * time.Second
	// upstreamLimit bounds the questions of all machines under way at once.
	upstreamLimit = 64
	resolvConf    = "/etc/resolv.conf"
	maxUDPAnswer  = dns.DefaultMsgSize
)

// resolver answers the machines' DNS questions: private names from the port
// table, all others through the host's resolvers when there is egress.
type resolver struct {
	n       *Network
	domain  string // with dots at both ends: .ec2.internal.
	egress  bool
	limit   chan struct{}
	servers []*dns.Server
}

// startDNS serves on each of addrs by UDP and TCP.
func (n *Network) startDNS(addrs ...netip.Addr) (*resolver, error) {
	r := &resolver{
		n: n, domain: "." + dns.CanonicalName(n.cfg.Domain), egress: n.cfg.Egress,
		limit: make(chan struct{}, upstreamLimit),
	}
	for _, a := range addrs {
		full := fullAddress(netip.AddrPortFrom(a, 53))
		pc, err := gonet.DialUDP(n.stack, &full, nil, ipv4.ProtocolNumber)
		if err != nil {
			return nil, fmt.Errorf("listen for dns on udp %s: %w", a, err)
		}
		l, err := gonet.ListenTCP(n.stack, full, ipv4.ProtocolNumber)
		if err != nil {
			_ = pc.Close()
			return nil, fmt.Errorf("listen for dns on tcp %s: %w", a, err)
		}
		r.serve(&dns.Server{PacketConn: pc, Handler: r}, pc)
		r.serve(&dns.Server{Listener: l, Handler: r}, l)
	}
	return r, nil
}

func (r *resolver) serve(s *dns.Server, c interface{ Close() error }) {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	r.servers = append(r.servers, s)
	r.n.wg.Go(func() {
		if err := s.ActivateAndServe(); err != nil && r.n.ctx.Err() == nil {
			r.n.log.Error("dns server ended", "err", err)
			_ = c.Close()
		}
	})
	<-started
}

func (r *resolver) close() {
	ctx, cancel := context.WithTimeout(context.Background(), upstreamTimeout)
	defer cancel()
	for _, s := range r.servers {
		if err := s.ShutdownContext(ctx); err != nil {
			r.n.log.Debug("dns server not shut down cleanly", "err", err)
		}
	}
}

// ServeDNS implements dns.Handler.
func (r *resolver) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	m := r.answer(req)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = min(int(opt.UDPSize()), maxUDPAnswer)
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(size)
	}
	if err := w.WriteMsg(m); err != nil {
		r.n.log.Debug("dns answer not sent", "to", w.RemoteAddr(), "err", err)
	}
}

func (r *resolver) answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	if req.Opcode != dns.OpcodeQuery || len(req.Question) != 1 || req.Question[0].Qclass != dns.ClassINET {
		return m.SetRcode(req, dns.RcodeNotImplemented)
	}
	q := req.Question[0]
	name := dns.CanonicalName(q.Name)
	if addr, ok := reverseAddr(name); ok && r.n.cfg.VPC.Contains(addr) {
		return r.answerReverse(m, q, addr)
	}
	if strings.HasSuffix(name, r.domain) {
		return r.answerPrivate(m, q, strings.TrimSuffix(name, r.domain))
	}
	if !r.egress {
		m.Rcode = dns.RcodeNameError
		return m
	}
	return r.forward(req)
}

// answerPrivate knows each machine by its address and by its host name.
func (r *resolver) answerPrivate(m *dns.Msg, q dns.Question, label string) *dns.Msg {
	p, ok := r.n.portByLabel(label)
	switch {
	case !ok:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{r.soa()}
	case q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY:
		m.Answer = []dns.RR{&dns.A{Hdr: rrHeader(q.Name, dns.TypeA), A: p.ip.AsSlice()}}
	default:
		m.Ns = []dns.RR{r.soa()}
	}
	m.Authoritative = true
	return m
}

func (r *resolver) answerReverse(m *dns.Msg, q dns.Question, addr netip.Addr) *dns.Msg {
	_, ok := r.n.table.Load().byIP[addr]
	switch {
	case !ok:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{r.soa()}
	case q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY:
		m.Answer = []dns.RR{&dns.PTR{Hdr: rrHeader(q.Name, dns.TypePTR), Ptr: ipLabel(addr) + r.domain}}
	default:
		m.Ns = []dns.RR{r.soa()}
	}
	m.Authoritative = true
	return m
}

// soa lets resolvers remember for a short time that a name doesn't exist.
func (r *resolver) soa() dns.RR {
	zone := r.domain[1:]
	return &dns.SOA{
		Hdr: rrHeader(zone, dns.TypeSOA), Ns: "ns0." + zone, Mbox: "hostmaster." + zone,
		Serial: 1, Refresh: 3600, Retry: 3600, Expire: 3600, Minttl: dnsTTL,
	}
}

func rrHeader(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: dnsTTL}
}

// forward asks the host's resolvers in turn.
func (r *resolver) forward(req *dns.Msg) *dns.Msg {
	select {
	case r.limit <- struct{}{}:
		defer func() { <-r.limit }()
	case <-r.n.ctx.Done():
		return new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
	}
	m, err := r.exchange(req)
	if err != nil {
		r.n.log.Debug("dns question not forwarded", "name", req.Question[0].Name, "err", err)
		return new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
	}
	return m
}

func (r *resolver) exchange(req *dns.Msg) (*dns.Msg, error) {
	// Read each time: a laptop changes networks while its machines run.
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("read the host's resolvers: %w", err)
	}
	var errs []error
	for _, server := range conf.Servers {
		addr := net.JoinHostPort(server, conf.Port)
		c := &dns.Client{Timeout: upstreamTimeout, UDPSize: maxUDPAnswer}
		m, _, err := c.ExchangeContext(r.n.ctx, req, addr)
		if err == nil && m.Truncated {
			c.Net = "tcp"
			m, _, err = c.ExchangeContext(r.n.ctx, req, addr)
		}
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no resolver answered: %w", errors.Join(errs...))
}

// portByLabel finds a machine by ip-a-b-c-d or by the first label of its host name.
func (n *Network) portByLabel(label string) (*port, bool) {
	t := n.table.Load()
	if addr, ok := labelAddr(label); ok {
		p, ok := t.byIP[addr]
		return p, ok
	}
	p, ok := t.byName[label]
	return p, ok
}

func ipLabel(a netip.Addr) string { return "ip-" + strings.ReplaceAll(a.String(), ".", "-") }

func labelAddr(label string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(label, "ip-")
	if !ok || strings.Contains(rest, ".") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(rest, "-", "."))
	return a, err == nil
}

// hostLabel is the first label of a host name, as DNS compares it.
func hostLabel(name string) string {
	label, _, _ := strings.Cut(strings.ToLower(name), ".")
	return label
}

// reverseAddr reads a name below in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(rest)
	if err != nil || !a.Is4() {
		return netip.Addr{}, false
	}
	b := a.As4()
	var back [4]byte
	binary.LittleEndian.PutUint32(back[:], binary.BigEndian.Uint32(b[:]))
	return netip.AddrFrom4(back), true
}
