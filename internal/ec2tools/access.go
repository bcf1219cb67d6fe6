package ec2tools

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/pflag"
)

type createKey struct{}

func (*createKey) flags(*pflag.FlagSet) {}

func (*createKey) do(ctx context.Context, c *call) error {
	name, err := c.one("key pair's name")
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	k, err := client.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: &name})
	if err != nil {
		return fmt.Errorf("create key pair %s: %w", name, err)
	}
	c.out.row("KEYPAIR", "KeyName Fingerprint", k.KeyName, k.KeyFingerprint)
	// The key itself is no row: people redirect it into a file.
	c.out.print([]string{strings.TrimRight(aws.ToString(k.KeyMaterial), "\n")})
	return nil
}

type createGroup struct{ description, vpc string }

func (o *createGroup) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.description, "description", "d", "", "`TEXT` on what it is for")
	fs.StringVarP(&o.vpc, "vpc", "c", "", "the `VPC`; the default one if left out")
}

func (o *createGroup) do(ctx context.Context, c *call) error {
	name, err := c.one("group's name")
	if err != nil {
		return err
	}
	if o.description == "" {
		return usageError("a group needs a description: -d TEXT")
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	g, err := client.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: &o.description, VpcId: optional(o.vpc)})
	if err != nil {
		return fmt.Errorf("create security group %s: %w", name, err)
	}
	c.out.row("GROUP", "GroupID Name Description", g.GroupId, name, o.description)
	return nil
}

type authorize struct {
	protocol, ports, icmp string
	sources, groups       []string
	owner                 string
	egress                bool
}

func (o *authorize) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.protocol, "protocol", "P", "", "tcp, udp, icmp, all or a `NUMBER` (tcp)")
	fs.StringVarP(&o.ports, "port-range", "p", "", "a `PORT` or FIRST-LAST; -1 for all")
	fs.StringVarP(&o.icmp, "icmp-type-code", "t", "", "the ICMP `TYPE:CODE`; -1 for all")
	fs.StringArrayVarP(&o.sources, "cidr", "s", nil, "from the network `CIDR`; repeatable (0.0.0.0/0)")
	fs.StringArrayVarP(&o.groups, "source-or-dest-group", "o", nil, "from a security `GROUP`, by name or ID; repeatable")
	fs.StringVarP(&o.owner, "source-or-dest-group-user", "u", "", "the `ACCOUNT` of that group")
	fs.BoolVar(&o.egress, "egress", false, "allow what goes out, not what comes in")
}

func (o *authorize) do(ctx context.Context, c *call) error {
	group, err := c.one("group")
	if err != nil {
		return err
	}
	p, err := o.permission()
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	id, err := groupID(ctx, client, group)
	if err != nil {
		return err
	}
	list := []types.IpPermission{p}
	if o.egress {
		_, err = client.AuthorizeSecurityGroupEgress(ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &id, IpPermissions: list})
	} else {
		_, err = client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: list})
	}
	if err != nil {
		return fmt.Errorf("authorize traffic to group %s: %w", group, err)
	}
	o.print(c.out, group, p)
	return nil
}

// groupID finds a group by its name. Those of a VPC can be changed by ID alone.
func groupID(ctx context.Context, client EC2, name string) (string, error) {
	if strings.HasPrefix(name, "sg-") {
		return name, nil
	}
	out, err := client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{{Name: aws.String("group-name"), Values: []string{name}}},
	})
	if err != nil {
		return "", fmt.Errorf("find group %s: %w", name, err)
	}
	switch len(out.SecurityGroups) {
	case 0:
		return "", fmt.Errorf("%w: there is no security group %q: see aws ec2 describe-security-groups", ErrNotFound, name)
	case 1:
		return aws.ToString(out.SecurityGroups[0].GroupId), nil
	}
	return "", usageError("%d security groups are called %q: name one by its ID", len(out.SecurityGroups), name)
}

func (o *authorize) permission() (types.IpPermission, error) {
	p := types.IpPermission{IpProtocol: aws.String(o.protocol)}
	if o.protocol == "" {
		p.IpProtocol = aws.String("tcp")
		if o.icmp != "" {
			p.IpProtocol = aws.String("icmp")
		}
	}
	if *p.IpProtocol == "all" {
		p.IpProtocol = aws.String("-1")
	}
	var err error
	switch *p.IpProtocol {
	case "icmp":
		p.FromPort, p.ToPort, err = pair("ICMP type", o.icmp, ":", -1, 255)
	case "tcp", "udp", "6", "17":
		if o.ports == "" {
			return p, usageError("which ports: -p PORT or FIRST-LAST, -p -1 for all")
		}
		p.FromPort, p.ToPort, err = pair("port", o.ports, "-", 0, 65535)
	}
	if err != nil {
		return p, err
	}
	for _, g := range o.groups {
		pair := types.UserIdGroupPair{UserId: optional(o.owner)}
		if strings.HasPrefix(g, "sg-") {
			pair.GroupId = aws.String(g)
		} else {
			pair.GroupName = aws.String(g)
		}
		p.UserIdGroupPairs = append(p.UserIdGroupPairs, pair)
	}
	sources := o.sources
	if len(sources)+len(o.groups) == 0 {
		sources = []string{"0.0.0.0/0"}
	}
	for _, s := range sources {
		network, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return p, usageError("%q is no network like 203.0.113.0/24", s)
		case network.Addr().Is4():
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: aws.String(s)})
		default:
			p.Ipv6Ranges = append(p.Ipv6Ranges, types.Ipv6Range{CidrIpv6: aws.String(s)})
		}
	}
	return p, nil
}

// pair reads FIRST[SEPARATOR LAST]; -1 or nothing is all.
func pair(what, s, separator string, least, most int64) (first, last *int32, err error) {
	if s == "" || s == "-1" || s == "-1"+separator+"-1" {
		if least < 0 {
			return aws.Int32(-1), aws.Int32(-1), nil
		}
		return aws.Int32(int32(least)), aws.Int32(int32(most)), nil
	}
	a, b, ranged := strings.Cut(s, separator)
	if !ranged {
		b = a
		if separator == ":" {
			b = "-1"
		}
	}
	for _, n := range []struct {
		text string
		to   **int32
	}{{a, &first}, {b, &last}} {
		v, err := strconv.ParseInt(n.text, 10, 32)
		if err != nil || v < least || v > most {
			return nil, nil, usageError("%s %q is not between %d and %d", what, n.text, least, most)
		}
		*n.to = aws.Int32(int32(v))
	}
	if separator == "-" && *last < *first {
		return nil, nil, usageError("%s range %q ends before it begins", what, s)
	}
	return first, last, nil
}

func (o *authorize) print(out *rows, group string, p types.IpPermission) {
	direction, word := "ingress", "FROM"
	if o.egress {
		direction, word = "egress", "TO"
	}
	out.row("GROUP", "Name", group)
	const columns = "Name Allows Protocol FromPort ToPort Word Kind Peer Direction"
	line := func(kind string, peer any) {
		out.row("PERMISSION", columns, group, "ALLOWS", p.IpProtocol, p.FromPort, p.ToPort, word, kind, peer, direction)
	}
	for _, r := range p.IpRanges {
		line("CIDR", r.CidrIp)
	}
	for _, r := range p.Ipv6Ranges {
		line("CIDR", r.CidrIpv6)
	}
	for _, g := range o.groups {
		line("GRPNAME", g)
	}
}

type createTags struct{ tags []string }

func (o *createTags) flags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.tags, "tag", "t", nil, "`KEY[=VALUE]`; repeatable")
}

func (o *createTags) do(ctx context.Context, c *call) error {
	ids, err := c.some("resource")
	if err != nil {
		return err
	}
	var tags []types.Tag
	for _, t := range o.tags {
		key, value, _ := strings.Cut(t, "=")
		if key == "" {
			return usageError("tag %q is not KEY[=VALUE]", t)
		}
		tags = append(tags, types.Tag{Key: &key, Value: &value})
	}
	if len(tags) == 0 {
		return usageError("which tags: --tag KEY[=VALUE]")
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if _, err := client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: tags}); err != nil {
		return fmt.Errorf("tag %s: %w", strings.Join(ids, ", "), err)
	}
	for _, id := range ids {
		c.out.tags(kindOf(id), &id, tags)
	}
	return nil
}

// kindOf tells a resource's type by its ID, as EC2 calls it.
func kindOf(id string) string {
	prefix, _, _ := strings.Cut(id, "-")
	kinds := map[string]string{
		"i": "instance", "vol": "volume", "snap": "snapshot", "ami": "image", "aki": "image", "ari": "image", "sg": "security-group",
		"eipalloc": "elastic-ip", "key": "key-pair", "subnet": "subnet", "vpc": "vpc", "eni": "network-interface", "sir": "spot-instances-request",
		"r": "reservation", "igw": "internet-gateway", "rtb": "route-table",
	}
	return kinds[prefix]
}
