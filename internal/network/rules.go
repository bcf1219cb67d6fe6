package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

const anyProtocol = -1

// rule is a Rule in the form that packets are compared with.
type rule struct {
	proto    int // IP protocol number or anyProtocol
	from, to int // destination ports, or ICMP type and code
	sources  []netip.Prefix
}

// ingress is the sum of a port's rules: what none of them allows is denied.
type ingress []rule

func compileRules(rules []Rule) (ingress, error) {
	in := make(ingress, 0, len(rules))
	for _, r := range rules {
		proto, err := protocolNumber(r.Protocol)
		if err != nil {
			return nil, err
		}
		c := rule{proto: proto, from: r.FromPort, to: r.ToPort, sources: slices.Clone(r.Sources)}
		// As in EC2, tcp and udp from -1 mean every port.
		if c.hasPorts() && c.from == -1 {
			c.from, c.to = 0, 65535
		}
		in = append(in, c)
	}
	return in, nil
}

func protocolNumber(name string) (int, error) {
	switch name {
	case "tcp":
		return int(protoTCP), nil
	case "udp":
		return int(protoUDP), nil
	case "icmp":
		return int(protoICMP), nil
	case "icmpv6": // a VPC's default groups may name it; no such packet exists here
		return 58, nil
	case "-1", "all":
		return anyProtocol, nil
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("security group rule: protocol %q unknown", name)
	}
	return int(n), nil
}

func (r *rule) hasPorts() bool { return r.proto == int(protoTCP) || r.proto == int(protoUDP) }

func (r *rule) allowsSource(src netip.Addr) bool {
	return slices.ContainsFunc(r.sources, func(p netip.Prefix) bool { return p.Contains(src) })
}

// allows tells whether a new flow may come in from src. For ICMP, port is the
// message's type and code its code; for other protocols code is not used.
func (in ingress) allows(src netip.Addr, proto uint8, port, code int) bool {
	for i := range in {
		r := &in[i]
		if r.proto != anyProtocol && r.proto != int(proto) {
			continue
		}
		if r.hasPorts() && (port < r.from || port > r.to) {
			continue
		}
		if r.proto == int(protoICMP) && (!matches(r.from, port) || !matches(r.to, code)) {
			continue
		}
		if r.allowsSource(src) {
			return true
		}
	}
	return false
}

// matches compares an ICMP type or code with a rule's, where -1 is any.
func matches(want, got int) bool { return want == -1 || want == got }
