package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"
)

// anywhere is what a security group's rules allow when nothing narrower is
// asked for.
const anywhere = "0.0.0.0/0"

// keyNameFor names a public key by its fingerprint, so that the same key is
// imported once however many servers use it.
func keyNameFor(publicKey []byte) (string, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey(publicKey)
	if err != nil {
		return "", &Error{Code: KindUsage, Reason: "the key is no OpenSSH public key", Remedy: "name a .pub file", Err: err}
	}
	sum := sha256.Sum256(key.Marshal())
	return "stead-" + hex.EncodeToString(sum[:8]), nil
}

// ensureKey imports a public key under its fingerprint unless it is there.
func (m *Manager) ensureKey(ctx context.Context, publicKey []byte) (string, error) {
	name, err := keyNameFor(publicKey)
	if err != nil {
		return "", err
	}
	found, err := m.hasKey(ctx, name)
	if err != nil || found {
		return name, err
	}
	_, err = m.ec2.ImportKeyPair(ctx, &ec2.ImportKeyPairInput{
		KeyName: &name, PublicKeyMaterial: publicKey,
		TagSpecifications: []types.TagSpecification{tagMap{tagSchema: schemaVersion}.spec(types.ResourceTypeKeyPair)},
	})
	if apiCode(err) == "InvalidKeyPair.Duplicate" {
		err = nil // another process was quicker
	}
	return name, wrap("import", "key pair "+name, err)
}

func (m *Manager) hasKey(ctx context.Context, name string) (bool, error) {
	out, err := m.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{Filters: []types.Filter{filter("key-name", name)}})
	if err != nil {
		return false, wrap("describe", "key pair "+name, err)
	}
	return len(out.KeyPairs) > 0, nil
}

// ensureGroup makes the server's own security group in the default VPC, with
// rules for the ports; rules that are there already stay.
func (m *Manager) ensureGroup(ctx context.Context, name string, open []Port, from []string) (string, error) {
	return m.ensureGroupIn(ctx, name, "", crossRules(open, from))
}

// ensureGroupIn is ensureGroup in a VPC, "" being the default one, with rules
// of any kind.
func (m *Manager) ensureGroupIn(ctx context.Context, name, vpc string, rules []rule) (string, error) {
	g, err := m.findServerGroup(ctx, name, vpc)
	if err != nil {
		return "", err
	}
	if g == nil {
		if g, err = m.makeGroup(ctx, name, vpc); err != nil {
			return "", err
		}
	}
	return aws.ToString(g.GroupId), m.openRules(ctx, g, rules)
}

// maxGroupNames bounds the names that are tried for a group.
const maxGroupNames = 10

// makeGroup makes the group of a server. Its usual name may be that of another
// server's, which had this one's name before it was renamed.
func (m *Manager) makeGroup(ctx context.Context, name, vpc string) (*types.SecurityGroup, error) {
	for n := range maxGroupNames {
		group := "stead-" + name
		if n > 0 {
			group += fmt.Sprint("-", n+1)
		}
		in := &ec2.CreateSecurityGroupInput{
			GroupName: &group, Description: aws.String("ports of server " + name),
			TagSpecifications: []types.TagSpecification{serverTags(name).spec(types.ResourceTypeSecurityGroup)},
		}
		if vpc != "" {
			in.VpcId = &vpc
		}
		out, err := m.ec2.CreateSecurityGroup(ctx, in)
		if err == nil {
			return &types.SecurityGroup{GroupId: out.GroupId}, nil
		}
		if apiCode(err) != "InvalidGroup.Duplicate" {
			return nil, wrap("create", "security group "+group, err)
		}
		// Another command was quicker, or the name is another server's.
		if g, err := m.findServerGroup(ctx, name, vpc); g != nil || err != nil {
			return g, err
		}
	}
	return nil, &Error{Op: "create", Resource: "security group stead-" + name, Code: KindExists, Reason: "the name and the next ones are taken", Remedy: "delete those groups, or choose another name"}
}

// findServerGroup returns the group of a server: the one whose tags say so, else the
// one of its name that no tag gives to another server. nil: there is none.
func (m *Manager) findServerGroup(ctx context.Context, name, vpc string) (*types.SecurityGroup, error) {
	for _, f := range []types.Filter{filter("tag:"+tagServer, name), filter("group-name", "stead-"+name)} {
		filters := []types.Filter{f}
		if vpc != "" {
			filters = append(filters, filter("vpc-id", vpc))
		}
		out, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: filters})
		if err != nil {
			return nil, wrap("describe", "security group of "+name, err)
		}
		slices.SortFunc(out.SecurityGroups, func(a, b types.SecurityGroup) int {
			return cmp.Compare(aws.ToString(a.GroupId), aws.ToString(b.GroupId))
		})
		for k := range out.SecurityGroups {
			g := &out.SecurityGroups[k]
			if owner := tagOf(g.Tags, tagServer); owner == name || owner == "" && !hasTag(g.Tags, tagSchema) {
				return g, nil
			}
		}
	}
	return nil, nil
}

// findGroup returns nil when there is none of that name.
func (m *Manager) findGroup(ctx context.Context, group string) (*types.SecurityGroup, error) {
	out, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{filter("group-name", group)}})
	if err != nil {
		return nil, wrap("describe", "security group "+group, err)
	}
	if len(out.SecurityGroups) == 0 {
		return nil, nil
	}
	return &out.SecurityGroups[0], nil
}

// rule is a port that is open to a network.
type rule struct {
	Port
	CIDR string
}

// String is the form of the rules' tag.
func (r rule) String() string { return r.Port.String() + "@" + r.CIDR }

// crossRules opens each port to each network.
func crossRules(open []Port, from []string) []rule {
	var rules []rule
	for _, p := range open {
		for _, cidr := range from {
			rules = append(rules, rule{p, cidr})
		}
	}
	return rules
}

// rulesOf are all rules that a server's facts speak of.
func rulesOf(f facts) ([]rule, error) {
	open, err := ParsePorts(f.Open)
	if err != nil {
		return nil, err
	}
	more, err := parseRules(f.Rules)
	return append(crossRules(open, splitList(f.From)), more...), err
}

// parseRules reads the rules' tag.
func parseRules(list string) ([]rule, error) {
	var rules []rule
	for _, s := range splitList(list) {
		port, cidr, ok := strings.Cut(s, "@")
		if !ok {
			return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("rule %q is not PORT@CIDR", s)}
		}
		p, err := parsePort(port)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule{p, cidr})
	}
	return rules, nil
}

// openPorts opens ports of a group to networks.
func (m *Manager) openPorts(ctx context.Context, g *types.SecurityGroup, open []Port, from []string) error {
	return m.openRules(ctx, g, crossRules(open, from))
}

// openRules adds the rules that a group lacks, one call for all.
func (m *Manager) openRules(ctx context.Context, g *types.SecurityGroup, rules []rule) error {
	var lacking []types.IpPermission
	for _, r := range rules {
		if !allows(g, r.Port, r.CIDR) {
			lacking = append(lacking, r.permission())
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	_, err := m.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: lacking})
	if apiCode(err) == "InvalidPermission.Duplicate" && len(lacking) > 1 {
		// Another command has opened some of them, and all were refused.
		for _, p := range lacking {
			_, err = m.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: []types.IpPermission{p}})
			if err != nil && apiCode(err) != "InvalidPermission.Duplicate" {
				break
			}
		}
	}
	if apiCode(err) == "InvalidPermission.Duplicate" {
		err = nil
	}
	return wrap("open ports of", "security group "+aws.ToString(g.GroupId), err)
}

// permission is the rule as EC2 has it.
func (r rule) permission() types.IpPermission {
	p := types.IpPermission{IpProtocol: aws.String(r.Proto), FromPort: aws.Int32(int32(r.From)), ToPort: aws.Int32(int32(r.To))}
	if strings.Contains(r.CIDR, ":") {
		p.Ipv6Ranges = []types.Ipv6Range{{CidrIpv6: aws.String(r.CIDR)}}
	} else {
		p.IpRanges = []types.IpRange{{CidrIp: aws.String(r.CIDR)}}
	}
	return p
}

// closePorts removes the rules of a group that nobody asked for: one left of
// an earlier server of the same name must not open a new one wider.
func (m *Manager) closePorts(ctx context.Context, groupID string, open []Port, from []string) error {
	out, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{groupID}})
	if err != nil {
		return wrap("describe", "security group "+groupID, err)
	}
	for _, g := range out.SecurityGroups {
		extra := unwanted(g.IpPermissions, open, from)
		if len(extra) == 0 {
			continue
		}
		_, err := m.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &groupID, IpPermissions: extra})
		if err != nil && KindOf(err) != KindNotFound {
			return wrap("close ports of", "security group "+groupID, err)
		}
	}
	return nil
}

// unwanted returns the rules, with one source each, that aren't in open × from.
func unwanted(rules []types.IpPermission, open []Port, from []string) []types.IpPermission {
	wanted := func(r types.IpPermission, cidr *string) bool {
		return slices.Contains(from, aws.ToString(cidr)) && slices.ContainsFunc(open, func(p Port) bool {
			return p.Proto == aws.ToString(r.IpProtocol) && int32(p.From) == aws.ToInt32(r.FromPort) && int32(p.To) == aws.ToInt32(r.ToPort)
		})
	}
	var extra []types.IpPermission
	add := func(r types.IpPermission, source types.IpPermission) {
		source.IpProtocol, source.FromPort, source.ToPort = r.IpProtocol, r.FromPort, r.ToPort
		extra = append(extra, source)
	}
	for _, r := range rules {
		for _, x := range r.IpRanges {
			if !wanted(r, x.CidrIp) {
				add(r, types.IpPermission{IpRanges: []types.IpRange{{CidrIp: x.CidrIp}}})
			}
		}
		for _, x := range r.Ipv6Ranges {
			if !wanted(r, x.CidrIpv6) {
				add(r, types.IpPermission{Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: x.CidrIpv6}}})
			}
		}
	}
	return extra
}

// allows tells whether a group has exactly this rule.
func allows(g *types.SecurityGroup, p Port, cidr string) bool {
	return slices.ContainsFunc(g.IpPermissions, func(r types.IpPermission) bool {
		if aws.ToString(r.IpProtocol) != p.Proto || aws.ToInt32(r.FromPort) != int32(p.From) || aws.ToInt32(r.ToPort) != int32(p.To) {
			return false
		}
		return slices.ContainsFunc(r.IpRanges, func(x types.IpRange) bool { return aws.ToString(x.CidrIp) == cidr }) ||
			slices.ContainsFunc(r.Ipv6Ranges, func(x types.Ipv6Range) bool { return aws.ToString(x.CidrIpv6) == cidr })
	})
}

// ensureAddress gives a running instance the server's elastic IP and returns
// its allocation ID. allocate says whether to get one where there is none. An
// endpoint that has none to give costs a warning, not the server.
func (m *Manager) ensureAddress(ctx context.Context, name, instanceID string, allocate bool) (string, error) {
	a, err := m.findAddress(ctx, name)
	if err != nil {
		return "", err
	}
	if a == nil {
		if !allocate {
			return "", nil
		}
		if a, err = m.allocateAddress(ctx, name); a == nil || err != nil {
			return "", err
		}
	}
	id := aws.ToString(a.AllocationId)
	if aws.ToString(a.InstanceId) == instanceID {
		return id, nil
	}
	return id, m.step("assign address", cmp.Or(aws.ToString(a.PublicIp), id), func() error {
		return m.associate(ctx, a, instanceID)
	})
}

// findAddress returns the server's address, nil when it has none.
func (m *Manager) findAddress(ctx context.Context, name string) (*types.Address, error) {
	out, err := m.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: []types.Filter{filter("tag:"+tagServer, name)}})
	if unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("describe", "addresses", err)
	}
	if len(out.Addresses) == 0 {
		return nil, nil
	}
	// Two can only come of two commands at once; both then take the same.
	slices.SortFunc(out.Addresses, func(a, b types.Address) int {
		return cmp.Compare(aws.ToString(a.AllocationId), aws.ToString(b.AllocationId))
	})
	return &out.Addresses[0], nil
}

func (m *Manager) allocateAddress(ctx context.Context, name string) (*types.Address, error) {
	out, err := m.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{
		Domain:            types.DomainTypeVpc,
		TagSpecifications: []types.TagSpecification{serverTags(name).spec(types.ResourceTypeElasticIp)},
	})
	switch kind := KindOf(err); {
	case err == nil:
		return &types.Address{AllocationId: out.AllocationId, PublicIp: out.PublicIp}, nil
	case kind == KindInterrupted || kind == KindTimeout || apiCode(err) == "" && kind == KindFailed:
		return nil, wrap("allocate", "an address", err)
	}
	m.warn("assign address", name, "no fixed address, so it may change at each start: "+err.Error())
	return nil, nil
}

// associate moves an address from a dead instance if need be. It never takes
// it away from a live one.
func (m *Manager) associate(ctx context.Context, a *types.Address, instanceID string) error {
	id := aws.ToString(a.AllocationId)
	if other := aws.ToString(a.InstanceId); other != "" {
		i, err := m.instanceByID(ctx, other)
		if err != nil {
			return err
		}
		if i != nil && live(i) {
			return &Error{
				Op: "assign", Resource: "address " + id, Code: KindExists,
				Reason: "instance " + other + " has it", Remedy: "take it off that instance first",
			}
		}
		_, err = m.ec2.DisassociateAddress(ctx, &ec2.DisassociateAddressInput{AssociationId: a.AssociationId})
		if err != nil && KindOf(err) != KindNotFound {
			return wrap("free", "address "+id, err)
		}
	}
	_, err := m.ec2.AssociateAddress(ctx, &ec2.AssociateAddressInput{
		AllocationId: &id, InstanceId: &instanceID, AllowReassociation: aws.Bool(false),
	})
	if apiCode(err) == "Resource.AlreadyAssociated" {
		// Another command at once was quicker: fine, if it meant the same.
		out, lookErr := m.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{AllocationIds: []string{id}})
		if lookErr == nil && len(out.Addresses) == 1 && aws.ToString(out.Addresses[0].InstanceId) == instanceID {
			return nil
		}
	}
	return wrap("assign", "address "+id, err)
}
