package server

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Open opens ports of a server to networks; none means those that its other
// ports are open to. The facts on the root say so too, for the next rescue.
func (m *Manager) Open(ctx context.Context, name string, ports []Port, from []string) (*Server, error) {
	w, rules, err := m.ruled(ctx, "open ports of", name, ports)
	if err != nil {
		return nil, err
	}
	f := w.facts()
	if len(from) == 0 {
		from = splitList(f.From)
	}
	if len(from) == 0 {
		from = []string{anywhere}
	}
	for _, r := range crossRules(ports, from) {
		if !slices.Contains(rules, r) {
			rules = append(rules, r)
		}
	}
	f, err = withRules(f, rules)
	if err == nil {
		err = m.openNow(ctx, w, rules)
	}
	if err == nil {
		err = m.noteRules(ctx, w, f)
	}
	if err != nil {
		return nil, wrap("open ports of", "server "+name, err)
	}
	return m.Get(ctx, name)
}

// Close closes ports of a server to networks; none means to all. The facts go
// first: a rescue after an interruption must not open them again.
func (m *Manager) Close(ctx context.Context, name string, ports []Port, from []string) (*Server, error) {
	w, rules, err := m.ruled(ctx, "close ports of", name, ports)
	if err != nil {
		return nil, err
	}
	closes := func(r rule) bool {
		return slices.Contains(ports, r.Port) && (len(from) == 0 || slices.Contains(from, r.CIDR))
	}
	left := slices.DeleteFunc(slices.Clone(rules), closes)
	if err := insideRange(ports, left); err != nil {
		return nil, wrap("close ports of", "server "+name, err)
	}
	f, err := withRules(w.facts(), left)
	if err == nil {
		err = m.noteRules(ctx, w, f)
	}
	closed := len(left) < len(rules)
	if err == nil {
		var now bool
		now, err = m.closeNow(ctx, w, closes)
		closed = closed || now
	}
	if err != nil {
		return nil, wrap("close ports of", "server "+name, err)
	}
	if !closed {
		m.warn("close ports of", "server "+name, "none of them was open")
	}
	return m.Get(ctx, name)
}

// ruled observes a server that keeps facts, and the rules that they speak of.
func (m *Manager) ruled(ctx context.Context, op, name string, ports []Port) (*world, []rule, error) {
	if len(ports) == 0 {
		return nil, nil, &Error{Op: op, Resource: "server " + name, Code: KindUsage, Reason: "no ports", Remedy: "name them: 80,443"}
	}
	w, err := m.protectable(ctx, op, name)
	if err != nil {
		return nil, nil, err
	}
	rules, err := rulesOf(w.facts())
	return w, rules, wrap(op, "server "+name, err)
}

// insideRange refuses to close a port that stays open as part of a range.
func insideRange(ports []Port, left []rule) error {
	for _, p := range ports {
		for _, r := range left {
			if r.Port != p && r.Proto == p.Proto && r.From <= p.From && p.To <= r.To {
				return &Error{Code: KindUsage, Reason: "port " + p.String() + " is open as part of " + r.Port.String(), Remedy: "close " + r.Port.String() + ", and open what shall stay open"}
			}
		}
	}
	return nil
}

// withRules puts rules into facts: ports that are open to the server's usual
// networks by themselves, the others with theirs. A server whose usual
// networks all ports have lost keeps them for the next Open.
func withRules(f facts, rules []rule) (facts, error) {
	from := splitList(f.From)
	var open, more []string
	for _, r := range rules {
		usual := len(from) > 0
		for _, cidr := range from {
			usual = usual && slices.Contains(rules, rule{r.Port, cidr})
		}
		switch text := r.Port.String(); {
		case usual && slices.Contains(from, r.CIDR):
			if !slices.Contains(open, text) {
				open = append(open, text)
			}
		default:
			more = append(more, r.String())
		}
	}
	ports, err := ParsePorts(strings.Join(open, " "))
	if err != nil {
		return f, err
	}
	f.Open, f.Rules = (&CreateOptions{Open: ports}).open(), strings.Join(more, " ")
	for what, v := range map[string]string{"the list of open ports": f.Open, "the list of rules": f.Rules} {
		if len(v) > maxTagValue {
			return f, &Error{Code: KindUsage, Reason: what + " is longer than the 256 characters of a tag", Remedy: "use ranges of ports, or fewer networks"}
		}
	}
	return f, nil
}

// noteRules writes the rules' facts to the root, and takes away what is empty.
func (m *Manager) noteRules(ctx context.Context, w *world, f facts) error {
	root := w.root()
	want := tagMap{tagOpen: f.Open, tagRules: f.Rules}
	if f.From != "" {
		want[tagFrom] = f.From
	}
	var gone []string
	for key, v := range want {
		if v == "" {
			delete(want, key)
			if hasTag(root.Tags, key) {
				gone = append(gone, key)
			}
		}
	}
	if err := m.tag(ctx, aws.ToString(root.VolumeId), tagsOf(root.Tags).missing(want)); err != nil || len(gone) == 0 {
		return err
	}
	slices.Sort(gone)
	return m.untag(ctx, aws.ToString(root.VolumeId), gone...)
}

// openNow makes the server's own group have the rules, and the instance the
// group: one that was adopted has other ones, which stay.
func (m *Manager) openNow(ctx context.Context, w *world, rules []rule) error {
	if w.instance == nil {
		return nil // the rescue opens what the facts say
	}
	group, err := m.ensureGroupIn(ctx, w.name, aws.ToString(w.instance.VpcId), rules)
	if err != nil {
		return err
	}
	ids := groupIDs(w.instance)
	if slices.Contains(ids, group) {
		return nil
	}
	id := aws.ToString(w.instance.InstanceId)
	_, err = m.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, Groups: append(ids, group)})
	return wrap("give security group "+group+" to", "instance "+id, err)
}

func groupIDs(i *types.Instance) []string {
	var ids []string
	for _, g := range i.SecurityGroups {
		ids = append(ids, aws.ToString(g.GroupId))
	}
	return ids
}

// closeNow takes rules off the server's own group. Other groups of an adopted
// instance aren't its own: a port that they open too is told of.
func (m *Manager) closeNow(ctx context.Context, w *world, closes func(rule) bool) (bool, error) {
	own, err := m.findServerGroup(ctx, w.name, "")
	if err != nil {
		return false, err
	}
	groups := []types.SecurityGroup{}
	if own != nil {
		groups = append(groups, *own)
	}
	if w.instance != nil && len(groupIDs(w.instance)) > 0 {
		out, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: groupIDs(w.instance)})
		if err != nil {
			return false, wrap("describe", "security groups of "+w.name, err)
		}
		for _, g := range out.SecurityGroups {
			if own == nil || aws.ToString(g.GroupId) != aws.ToString(own.GroupId) {
				groups = append(groups, g)
			}
		}
	}
	closed := false
	for _, g := range groups {
		var doomed []types.IpPermission
		for _, r := range rulesIn(&g) {
			if closes(r) {
				doomed = append(doomed, r.permission())
			}
		}
		id := aws.ToString(g.GroupId)
		switch {
		case len(doomed) == 0:
			continue
		case own == nil || id != aws.ToString(own.GroupId):
			m.warn("close ports of", "server "+w.name, "security group "+id+" opens it too, and isn't the server's own: aws ec2 revoke-security-group-ingress --group-id "+id)
			continue
		}
		_, err := m.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &id, IpPermissions: doomed})
		if err != nil && KindOf(err) != KindNotFound {
			return closed, wrap("close ports of", "security group "+id, err)
		}
		closed = true
	}
	return closed, nil
}

// rulesIn are a group's rules for TCP and UDP ports from networks.
func rulesIn(g *types.SecurityGroup) []rule {
	var rules []rule
	for _, r := range g.IpPermissions {
		p := Port{From: int(aws.ToInt32(r.FromPort)), To: int(aws.ToInt32(r.ToPort)), Proto: aws.ToString(r.IpProtocol)}
		switch p.Proto {
		case "-1": // everything
			for _, proto := range []string{"tcp", "udp"} {
				rules = append(rules, cidrRules(Port{From: 1, To: 65535, Proto: proto}, r)...)
			}
		case "tcp", "udp":
			p.From = max(p.From, 1)
			rules = append(rules, cidrRules(p, r)...)
		}
	}
	return rules
}

func cidrRules(p Port, r types.IpPermission) []rule {
	var rules []rule
	for _, x := range r.IpRanges {
		rules = append(rules, rule{p, aws.ToString(x.CidrIp)})
	}
	for _, x := range r.Ipv6Ranges {
		rules = append(rules, rule{p, aws.ToString(x.CidrIpv6)})
	}
	return rules
}
