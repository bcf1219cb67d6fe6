package cloud

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

const (
	defaultGroup = "default"
	anywhere     = "0.0.0.0/0"
)

// groupText is what a security group's name and description, and its rules'
// descriptions, are made of.
var groupText = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{0,255}$`) })

// CreateSecurityGroup makes a group that lets everything out and nothing in.
func (c *Cloud) CreateSecurityGroup(ctx context.Context, in *ec2.CreateSecurityGroupInput) (*ec2.CreateSecurityGroupOutput, error) {
	s := from(ctx).Scope
	if err := checkGroupText(in); err != nil {
		return nil, err
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSecurityGroup)
	if err != nil {
		return nil, err
	}
	g := &state.SecurityGroup{
		Meta: c.meta(s, groupIDs.prefix), Name: *in.GroupName, Description: *in.Description,
		Rules: []state.Rule{{ID: newID(ruleIDs.prefix), Egress: true, Protocol: allProtocols, From: -1, To: -1, CIDR: anywhere}},
	}
	g.Tags = tags
	err = c.db.Update(func(tx *state.Tx) error {
		vpc, err := vpcNamed(tx, s, in.VpcId)
		if err != nil {
			return err
		}
		g.VPCID = vpc.ID
		all, err := state.List[state.SecurityGroup](tx, s)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(o *state.SecurityGroup) bool { return o.Name == g.Name && o.VPCID == vpc.ID }) {
			return fail("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", g.Name, vpc.ID)
		}
		return state.Put(tx, g)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.CreateSecurityGroupOutput{
		GroupId: aws.String(g.ID), SecurityGroupArn: aws.String(arn(s, "security-group", g.ID)), Tags: tagList(g.Tags),
	}, nil
}

func checkGroupText(in *ec2.CreateSecurityGroupInput) error {
	name, text := aws.ToString(in.GroupName), aws.ToString(in.Description)
	switch {
	case name == "":
		return missing("GroupName")
	case text == "":
		return missing("GroupDescription")
	case strings.HasPrefix(name, "sg-"):
		return invalid(name, "groupName", "Group names may not be in the format sg-*.")
	case !groupText().MatchString(name):
		return invalid(name, "groupName", "Character sets beyond ASCII are not supported, and a name has up to 255 characters.")
	case !groupText().MatchString(text):
		return invalid(text, "GroupDescription", "Character sets beyond ASCII are not supported, and a description has up to 255 characters.")
	}
	return nil
}

// vpcNamed finds the VPC with the ID, or the default one where id is empty.
func vpcNamed(tx *state.Tx, s state.Scope, id *string) (*state.VPC, error) {
	if aws.ToString(id) != "" {
		return find[state.VPC](tx, s, vpcIDs, *id)
	}
	vpcs, err := state.List[state.VPC](tx, s)
	if err != nil {
		return nil, err
	}
	if len(vpcs) == 0 {
		return nil, fail("VPCIdNotSpecified", "No default VPC for this user. Name a VPC.")
	}
	return vpcs[0], nil
}

// groupNamed finds a group by its ID or, in the default VPC, by its name.
func groupNamed(tx *state.Tx, s state.Scope, id, name *string) (*state.SecurityGroup, error) {
	switch {
	case aws.ToString(id) != "":
		return find[state.SecurityGroup](tx, s, groupIDs, *id)
	case aws.ToString(name) == "":
		return nil, fail("MissingParameter", "The request must contain the parameter groupName or groupId")
	}
	vpc, err := vpcNamed(tx, s, nil)
	if err != nil {
		return nil, err
	}
	all, err := state.List[state.SecurityGroup](tx, s)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		if g.Name == *name && g.VPCID == vpc.ID {
			return g, nil
		}
	}
	return nil, noGroupNamed(*name, vpc.ID)
}

func noGroupNamed(name, vpcID string) *apiError {
	return fail("InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC '%s'", name, vpcID)
}

// DeleteSecurityGroup removes a group that no instance and no other group's
// rule uses.
func (c *Cloud) DeleteSecurityGroup(ctx context.Context, in *ec2.DeleteSecurityGroupInput) (*ec2.DeleteSecurityGroupOutput, error) {
	var g *state.SecurityGroup
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if g, err = groupNamed(tx, from(ctx).Scope, in.GroupId, in.GroupName); err != nil {
			return err
		}
		if g.Name == defaultGroup {
			return fail("CannotDelete", `the specified group: "%s" name: "%s" cannot be deleted by a user`, g.ID, g.Name)
		}
		if err := checkUnused(tx, g); err != nil {
			return err
		}
		return state.Delete(tx, g)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.DeleteSecurityGroupOutput{GroupId: aws.String(g.ID), Return: aws.Bool(true)}, nil
}

func checkUnused(tx *state.Tx, g *state.SecurityGroup) error {
	instances, err := state.List[state.Instance](tx, g.Scope())
	if err != nil {
		return err
	}
	for _, inst := range instances {
		if inst.State != state.Terminated && slices.Contains(inst.Groups, g.ID) {
			return fail("DependencyViolation", "resource %s has a dependent object: instance %s", g.ID, inst.ID)
		}
	}
	groups, err := state.List[state.SecurityGroup](tx, g.Scope())
	if err != nil {
		return err
	}
	for _, o := range groups {
		if o.ID != g.ID && slices.ContainsFunc(o.Rules, func(r state.Rule) bool { return r.Group == g.ID }) {
			return fail("DependencyViolation", "resource %s has a dependent object: a rule of security group %s", g.ID, o.ID)
		}
	}
	return nil
}

// groupView is a group with the names of all groups, which filters of its
// rules ask for.
type groupView struct {
	*state.SecurityGroup
	names map[string]string // group ID → name
}

var groupFilters = withRuleFilters(fields[*groupView]{
	"description": one(func(g *groupView) string { return g.Description }),
	"group-id":    one(func(g *groupView) string { return g.ID }),
	"group-name":  one(func(g *groupView) string { return g.Name }),
	"owner-id":    one(func(g *groupView) string { return g.Account }),
	"vpc-id":      one(func(g *groupView) string { return g.VPCID }),
})

// withRuleFilters adds the filters of rules, once for each direction. As in
// EC2, several of them need not be met by the same rule.
func withRuleFilters(f fields[*groupView]) fields[*groupView] {
	of := map[string]func(*groupView, state.Rule) string{
		"cidr":           func(_ *groupView, r state.Rule) string { return r.CIDR },
		"from-port":      func(_ *groupView, r state.Rule) string { return strconv.Itoa(int(r.From)) },
		"to-port":        func(_ *groupView, r state.Rule) string { return strconv.Itoa(int(r.To)) },
		"group-id":       func(_ *groupView, r state.Rule) string { return r.Group },
		"group-name":     func(g *groupView, r state.Rule) string { return g.names[r.Group] },
		"protocol":       func(_ *groupView, r state.Rule) string { return r.Protocol },
		"ipv6-cidr":      func(*groupView, state.Rule) string { return "" },
		"prefix-list-id": func(*groupView, state.Rule) string { return "" },
		"user-id": func(g *groupView, r state.Rule) string {
			if r.Group == "" {
				return ""
			}
			return g.Account
		},
	}
	for name, get := range of {
		f["ip-permission."+name] = ruleValues(false, get)
		f["egress.ip-permission."+name] = ruleValues(true, get)
	}
	return f
}

func ruleValues(egress bool, get func(*groupView, state.Rule) string) func(*groupView) []string {
	return func(g *groupView) []string {
		var values []string
		for _, r := range g.Rules {
			if v := get(g, r); r.Egress == egress && v != "" {
				values = append(values, v)
			}
		}
		return values
	}
}

// DescribeSecurityGroups lists groups with their rules.
func (c *Cloud) DescribeSecurityGroups(ctx context.Context, in *ec2.DescribeSecurityGroupsInput) (*ec2.DescribeSecurityGroupsOutput, error) {
	var groups []*groupView
	var vpc *state.VPC
	err := c.db.View(func(tx *state.Tx) (err error) {
		if vpc, err = vpcNamed(tx, from(ctx).Scope, nil); err != nil {
			return err
		}
		groups, err = groupViews(tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	if groups, err = selectByID(groups, in.GroupIds, groupIDs); err != nil {
		return nil, err
	}
	groups, err = selectByName(groups, in.GroupNames, func(g *groupView) string { return g.Name },
		func(name string) *apiError { return noGroupNamed(name, vpc.ID) })
	if err != nil {
		return nil, err
	}
	if groups, err = filter(groups, in.Filters, groupFilters); err != nil {
		return nil, err
	}
	page, next, err := paginate(groups, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSecurityGroupsOutput{NextToken: next}
	for _, g := range page {
		out.SecurityGroups = append(out.SecurityGroups, apiGroup(g.SecurityGroup))
	}
	return out, nil
}

func groupViews(tx *state.Tx, s state.Scope) ([]*groupView, error) {
	all, err := state.List[state.SecurityGroup](tx, s)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(all))
	views := make([]*groupView, len(all))
	for i, g := range all {
		names[g.ID] = g.Name
		views[i] = &groupView{g, names}
	}
	return views, nil
}

func apiGroup(g *state.SecurityGroup) types.SecurityGroup {
	return types.SecurityGroup{
		GroupId: aws.String(g.ID), GroupName: aws.String(g.Name), Description: aws.String(g.Description),
		OwnerId: aws.String(g.Account), VpcId: aws.String(g.VPCID), SecurityGroupArn: aws.String(arn(g.Scope(), "security-group", g.ID)),
		IpPermissions: apiPermissions(g, false), IpPermissionsEgress: apiPermissions(g, true), Tags: tagList(g.Tags),
	}
}

// apiPermissions puts the rules of one direction together as the API shows
// them: one permission a protocol and port range, with all its sources.
func apiPermissions(g *state.SecurityGroup, egress bool) []types.IpPermission {
	perms := []types.IpPermission{}
	at := map[portRange]int{}
	for _, r := range g.Rules {
		if r.Egress != egress {
			continue
		}
		key := portRange{r.Protocol, r.From, r.To}
		i, ok := at[key]
		if !ok {
			i = len(perms)
			at[key] = i
			perms = append(perms, key.permission())
		}
		addSource(&perms[i], g.Account, r)
	}
	return perms
}

type portRange struct {
	protocol string
	from, to int32
}

// permission begins a permission without sources. Its lists are not nil: EC2
// writes the empty ones.
func (p portRange) permission() types.IpPermission {
	perm := types.IpPermission{
		IpProtocol: aws.String(p.protocol), IpRanges: []types.IpRange{}, Ipv6Ranges: []types.Ipv6Range{},
		PrefixListIds: []types.PrefixListId{}, UserIdGroupPairs: []types.UserIdGroupPair{},
	}
	if hasPorts(p.protocol) {
		perm.FromPort, perm.ToPort = aws.Int32(p.from), aws.Int32(p.to)
	}
	return perm
}

func addSource(p *types.IpPermission, account string, r state.Rule) {
	if r.Group != "" {
		p.UserIdGroupPairs = append(p.UserIdGroupPairs, types.UserIdGroupPair{
			GroupId: aws.String(r.Group), UserId: aws.String(account), Description: optional(r.Description),
		})
		return
	}
	p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: aws.String(r.CIDR), Description: optional(r.Description)})
}
