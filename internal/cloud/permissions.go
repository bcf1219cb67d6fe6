package cloud

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

const allProtocols = "-1"

var ruleIDs = idKind{"sgr", "InvalidSecurityGroupRuleId.NotFound", "InvalidSecurityGroupRuleId.Malformed", "The security group rule ID '%s' does not exist"}

// flatRule is the older way to say one permission: plain parameters.
type flatRule struct {
	cidr, protocol, sourceGroup, sourceOwner *string
	from, to                                 *int32
}

// permissions gives what a request asks for in either way; only one may be
// used.
func (f flatRule) permissions(perms []types.IpPermission) ([]types.IpPermission, error) {
	if f == (flatRule{}) {
		return perms, nil
	}
	if len(perms) > 0 {
		return nil, fail("InvalidParameterCombination", "The parameter 'ipPermissions' may not be used in combination with 'ipProtocol', 'cidrIp' or 'sourceSecurityGroupName'")
	}
	if f.sourceGroup != nil {
		return f.fromGroup()
	}
	if f.cidr == nil {
		return nil, missing("cidrIp")
	}
	return []types.IpPermission{{
		IpProtocol: f.protocol, FromPort: f.from, ToPort: f.to, IpRanges: []types.IpRange{{CidrIp: f.cidr}},
	}}, nil
}

// fromGroup opens every port of TCP and UDP, and ICMP, to a group: a protocol
// of its own needs a permission.
func (f flatRule) fromGroup() ([]types.IpPermission, error) {
	if f.cidr != nil || f.protocol != nil || f.from != nil || f.to != nil {
		return nil, fail("InvalidParameterCombination", "The parameter 'sourceSecurityGroupName' opens all ports; use 'ipPermissions' for a protocol or a port.")
	}
	pair := []types.UserIdGroupPair{{GroupName: f.sourceGroup, UserId: f.sourceOwner}}
	var perms []types.IpPermission
	for _, r := range []portRange{{"tcp", 0, maxPort}, {"udp", 0, maxPort}, {"icmp", -1, -1}} {
		perms = append(perms, types.IpPermission{
			IpProtocol: aws.String(r.protocol), FromPort: aws.Int32(r.from), ToPort: aws.Int32(r.to), UserIdGroupPairs: pair,
		})
	}
	return perms, nil
}

// ruleKey is what makes two rules of a group the same.
type ruleKey struct {
	portRange
	egress      bool
	cidr, group string
}

func keyOf(r state.Rule) ruleKey {
	return ruleKey{portRange{r.Protocol, r.From, r.To}, r.Egress, r.CIDR, r.Group}
}

// rulesOf turns permissions into rules of the group, one a source, without
// IDs yet.
func rulesOf(tx *state.Tx, g *state.SecurityGroup, egress bool, perms []types.IpPermission) ([]state.Rule, error) {
	if len(perms) == 0 {
		return nil, missing("ipPermissions")
	}
	var rules []state.Rule
	for _, p := range perms {
		ports, err := portRangeOf(p.IpProtocol, p.FromPort, p.ToPort)
		if err != nil {
			return nil, err
		}
		base := state.Rule{Egress: egress, Protocol: ports.protocol, From: ports.from, To: ports.to}
		some, err := sourcesOf(tx, g, base, p)
		if err != nil {
			return nil, err
		}
		rules = append(rules, some...)
	}
	seen := map[ruleKey]bool{}
	for _, r := range rules {
		if seen[keyOf(r)] {
			return nil, fail("InvalidParameterValue", "The same permission must not appear multiple times: %s", describeRule(r))
		}
		seen[keyOf(r)] = true
	}
	return rules, nil
}

func sourcesOf(tx *state.Tx, g *state.SecurityGroup, base state.Rule, p types.IpPermission) ([]state.Rule, error) {
	if len(p.Ipv6Ranges) > 0 {
		return nil, unsupported("IPv6", "The network has IPv4 alone; use IpRanges.")
	}
	if len(p.PrefixListIds) > 0 {
		return nil, unsupported("A prefix list", "Name its ranges in IpRanges.")
	}
	var rules []state.Rule
	for _, r := range p.IpRanges {
		rule := base
		var err error
		if rule.CIDR, err = cidrOf(r.CidrIp); err != nil {
			return nil, err
		}
		if rule.Description, err = ruleText(r.Description); err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	for _, pair := range p.UserIdGroupPairs {
		rule := base
		var err error
		if rule.Group, err = sourceGroup(tx, g, pair); err != nil {
			return nil, err
		}
		if rule.Description, err = ruleText(pair.Description); err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	if len(rules) == 0 {
		return nil, fail("MissingParameter", "The request must contain a source: ipRanges or groups")
	}
	return rules, nil
}

func sourceGroup(tx *state.Tx, g *state.SecurityGroup, pair types.UserIdGroupPair) (string, error) {
	if owner := aws.ToString(pair.UserId); owner != "" && owner != g.Account {
		return "", fail("InvalidGroup.NotFound", "You have specified two resources that belong to different networks: account '%s' has no group here.", owner)
	}
	src, err := groupNamed(tx, g.Scope(), pair.GroupId, pair.GroupName)
	if err != nil {
		return "", err
	}
	return src.ID, nil
}

func ruleText(text *string) (string, error) {
	if t := aws.ToString(text); !groupText().MatchString(t) {
		return "", fail("InvalidParameterValue", "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*")
	}
	return aws.ToString(text), nil
}

// cidrOf checks a range and gives it in its canonical form, without host bits.
func cidrOf(text *string) (string, error) {
	p, err := netip.ParsePrefix(aws.ToString(text))
	if err != nil || !p.Addr().Is4() {
		return "", fail("InvalidParameterValue", "CIDR block %s is malformed", aws.ToString(text))
	}
	return p.Masked().String(), nil
}

const (
	maxPort     = 65535
	maxProtocol = 255
)

// protocolNames are the numbers that EC2 shows by name.
var protocolNames = map[string]string{"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "all": allProtocols}

func hasPorts(protocol string) bool {
	switch protocol {
	case "tcp", "udp", "icmp", "icmpv6":
		return true
	}
	return false
}

// portRangeOf checks a permission's protocol with its ports, which for icmp are
// type and code. Protocols without ports have -1 for both, whatever was given.
func portRangeOf(protocol *string, from, to *int32) (portRange, error) {
	name := strings.ToLower(aws.ToString(protocol))
	if name == "" {
		return portRange{}, missing("ipProtocol")
	}
	if n, ok := protocolNames[name]; ok {
		name = n
	}
	switch name {
	case "tcp", "udp":
		return portsOf(name, from, to)
	case "icmp":
		return icmpOf(from, to)
	case "icmpv6":
		return portRange{}, unsupported("IPv6", "The network has IPv4 alone; use icmp.")
	case allProtocols:
		return portRange{name, -1, -1}, nil
	}
	if n, err := strconv.Atoi(name); err != nil || n < 0 || n > maxProtocol || strconv.Itoa(n) != name {
		return portRange{}, fail("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", aws.ToString(protocol))
	}
	return portRange{name, -1, -1}, nil
}

func portsOf(name string, from, to *int32) (portRange, error) {
	if from == nil || to == nil {
		return portRange{}, fail("InvalidParameterValue", "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
	}
	for _, p := range []int32{*from, *to} {
		if p < 0 || p > maxPort {
			return portRange{}, fail("InvalidParameterValue", "TCP/UDP port (%d) out of range", p)
		}
	}
	if *from > *to {
		return portRange{}, fail("InvalidParameterValue", "Invalid TCP/UDP port range (%d, %d)", *from, *to)
	}
	return portRange{name, *from, *to}, nil
}

func icmpOf(from, to *int32) (portRange, error) {
	r := portRange{"icmp", -1, -1}
	if from != nil {
		r.from = *from
	}
	if to != nil {
		r.to = *to
	}
	for _, n := range []int32{r.from, r.to} {
		if n < -1 || n > 255 {
			return portRange{}, fail("InvalidParameterValue", "ICMP type or code (%d) out of range", n)
		}
	}
	if r.from == -1 && r.to != -1 {
		return portRange{}, fail("InvalidParameterValue", "ICMP code (%d) needs an ICMP type", r.to)
	}
	return r, nil
}

// describeRule writes a rule as EC2's messages do.
func describeRule(r state.Rule) string {
	peer := r.CIDR + r.Group
	switch {
	case r.Protocol == allProtocols:
		return fmt.Sprintf("peer: %s, ALL, ALLOW", peer)
	case r.Protocol == "icmp":
		return fmt.Sprintf("peer: %s, ICMP, type: %d, code: %d, ALLOW", peer, r.From, r.To)
	case hasPorts(r.Protocol):
		return fmt.Sprintf("peer: %s, %s, from port: %d, to port: %d, ALLOW", peer, strings.ToUpper(r.Protocol), r.From, r.To)
	}
	return fmt.Sprintf("peer: %s, protocol: %s, ALLOW", peer, r.Protocol)
}
