package cloud

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// changeGroup runs f on a group and keeps what f made of it; the rules of
// running machines follow.
func (c *Cloud) changeGroup(ctx context.Context, id, name *string, f func(*state.Tx, *state.SecurityGroup) error) error {
	s := from(ctx).Scope
	err := c.db.Update(func(tx *state.Tx) error {
		g, err := groupNamed(tx, s, id, name)
		if err != nil {
			return err
		}
		if err := f(tx, g); err != nil {
			return err
		}
		return state.Put(tx, g)
	})
	if err == nil {
		c.networkChanged(s)
	}
	return err
}

// AuthorizeSecurityGroupIngress adds rules for what may come in.
func (c *Cloud) AuthorizeSecurityGroupIngress(ctx context.Context, in *ec2.AuthorizeSecurityGroupIngressInput) (*ec2.AuthorizeSecurityGroupIngressOutput, error) {
	flat := flatRule{in.CidrIp, in.IpProtocol, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId, in.FromPort, in.ToPort}
	rules, err := c.authorize(ctx, in.GroupId, in.GroupName, false, flat, in.IpPermissions, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2.AuthorizeSecurityGroupIngressOutput{Return: aws.Bool(true), SecurityGroupRules: rules}, nil
}

// AuthorizeSecurityGroupEgress adds rules for what may go out.
func (c *Cloud) AuthorizeSecurityGroupEgress(ctx context.Context, in *ec2.AuthorizeSecurityGroupEgressInput) (*ec2.AuthorizeSecurityGroupEgressOutput, error) {
	flat := flatRule{in.CidrIp, in.IpProtocol, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId, in.FromPort, in.ToPort}
	rules, err := c.authorize(ctx, in.GroupId, nil, true, flat, in.IpPermissions, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2.AuthorizeSecurityGroupEgressOutput{Return: aws.Bool(true), SecurityGroupRules: rules}, nil
}

func (c *Cloud) authorize(ctx context.Context, id, name *string, egress bool, flat flatRule, perms []types.IpPermission, specs []types.TagSpecification) ([]types.SecurityGroupRule, error) {
	tags, err := tagsFor(specs, types.ResourceTypeSecurityGroupRule)
	if err != nil {
		return nil, err
	}
	if perms, err = flat.permissions(perms); err != nil {
		return nil, err
	}
	var added []types.SecurityGroupRule
	err = c.changeGroup(ctx, id, name, func(tx *state.Tx, g *state.SecurityGroup) error {
		rules, err := rulesOf(tx, g, egress, perms)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if slices.ContainsFunc(g.Rules, func(o state.Rule) bool { return keyOf(o) == keyOf(r) }) {
				return duplicateRule(r)
			}
		}
		for _, r := range rules {
			r.ID, r.Tags = newID(ruleIDs.prefix), tags
			g.Rules = append(g.Rules, r)
			added = append(added, apiRule(g, r))
		}
		return nil
	})
	return added, err
}

func duplicateRule(r state.Rule) *apiError {
	return fail("InvalidPermission.Duplicate", `the specified rule "%s" already exists`, describeRule(r))
}

// RevokeSecurityGroupIngress takes away rules for what may come in.
func (c *Cloud) RevokeSecurityGroupIngress(ctx context.Context, in *ec2.RevokeSecurityGroupIngressInput) (*ec2.RevokeSecurityGroupIngressOutput, error) {
	flat := flatRule{in.CidrIp, in.IpProtocol, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId, in.FromPort, in.ToPort}
	r, err := c.revoke(ctx, in.GroupId, in.GroupName, false, flat, in.IpPermissions, in.SecurityGroupRuleIds)
	if err != nil {
		return nil, err
	}
	return &ec2.RevokeSecurityGroupIngressOutput{
		Return: aws.Bool(true), RevokedSecurityGroupRules: r.rules, UnknownIpPermissions: r.unknown,
	}, nil
}

// RevokeSecurityGroupEgress takes away rules for what may go out.
func (c *Cloud) RevokeSecurityGroupEgress(ctx context.Context, in *ec2.RevokeSecurityGroupEgressInput) (*ec2.RevokeSecurityGroupEgressOutput, error) {
	flat := flatRule{in.CidrIp, in.IpProtocol, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId, in.FromPort, in.ToPort}
	r, err := c.revoke(ctx, in.GroupId, nil, true, flat, in.IpPermissions, in.SecurityGroupRuleIds)
	if err != nil {
		return nil, err
	}
	return &ec2.RevokeSecurityGroupEgressOutput{
		Return: aws.Bool(true), RevokedSecurityGroupRules: r.rules, UnknownIpPermissions: r.unknown,
	}, nil
}

type revoked struct {
	rules   []types.RevokedSecurityGroupRule
	unknown []types.IpPermission
}

// revoke takes rules away by their IDs, of which each must exist, or by what
// they say. The latter, in a default VPC, is EC2's one lenient call: what no
// rule says is told in the answer and is no error.
func (c *Cloud) revoke(ctx context.Context, id, name *string, egress bool, flat flatRule, perms []types.IpPermission, ruleIDs []string) (revoked, error) {
	perms, err := flat.permissions(perms)
	switch {
	case err != nil:
		return revoked{}, err
	case len(perms) > 0 && len(ruleIDs) > 0:
		return revoked{}, fail("InvalidParameterCombination", "The parameter 'ipPermissions' may not be used in combination with 'securityGroupRuleIds'")
	case len(perms) == 0 && len(ruleIDs) == 0:
		return revoked{}, fail("MissingParameter", "Either 'ipPermissions' or 'securityGroupRuleIds' should be provided.")
	}
	var out revoked
	err = c.changeGroup(ctx, id, name, func(tx *state.Tx, g *state.SecurityGroup) error {
		if len(ruleIDs) > 0 {
			return out.byID(g, egress, ruleIDs)
		}
		rules, err := rulesOf(tx, g, egress, perms)
		if err != nil {
			return err
		}
		out.byKey(g, rules)
		return nil
	})
	return out, err
}

func (v *revoked) byID(g *state.SecurityGroup, egress bool, ids []string) error {
	for _, id := range ids {
		i, err := ruleIndex(g, egress, id)
		if err != nil {
			return err
		}
		v.take(g, i)
	}
	return nil
}

func (v *revoked) byKey(g *state.SecurityGroup, rules []state.Rule) {
	for _, r := range rules {
		i := slices.IndexFunc(g.Rules, func(o state.Rule) bool { return keyOf(o) == keyOf(r) })
		if i >= 0 {
			v.take(g, i)
			continue
		}
		p := keyOf(r).permission()
		addSource(&p, g.Account, r)
		v.unknown = append(v.unknown, p)
	}
}

func (v *revoked) take(g *state.SecurityGroup, i int) {
	r := g.Rules[i]
	g.Rules = slices.Delete(g.Rules, i, i+1)
	v.rules = append(v.rules, types.RevokedSecurityGroupRule{
		SecurityGroupRuleId: aws.String(r.ID), GroupId: aws.String(g.ID), IsEgress: aws.Bool(r.Egress), IpProtocol: aws.String(r.Protocol),
		FromPort: aws.Int32(r.From), ToPort: aws.Int32(r.To), CidrIpv4: optional(r.CIDR), ReferencedGroupId: optional(r.Group),
		Description: optional(r.Description),
	})
}

// ruleIndex finds a group's rule of one direction by its ID.
func ruleIndex(g *state.SecurityGroup, egress bool, id string) (int, error) {
	if err := ruleIDs.check(id); err != nil {
		return 0, err
	}
	i := slices.IndexFunc(g.Rules, func(r state.Rule) bool { return r.ID == id && r.Egress == egress })
	if i < 0 {
		return 0, ruleIDs.missing(id)
	}
	return i, nil
}

// ModifySecurityGroupRules replaces what rules say; they keep their IDs, their
// directions and their tags.
func (c *Cloud) ModifySecurityGroupRules(ctx context.Context, in *ec2.ModifySecurityGroupRulesInput) (*ec2.ModifySecurityGroupRulesOutput, error) {
	if len(in.SecurityGroupRules) == 0 {
		return nil, missing("SecurityGroupRule")
	}
	err := c.changeGroup(ctx, in.GroupId, nil, func(tx *state.Tx, g *state.SecurityGroup) error {
		for _, u := range in.SecurityGroupRules {
			if err := replaceRule(tx, g, u); err != nil {
				return err
			}
		}
		seen := map[ruleKey]bool{}
		for _, r := range g.Rules {
			if seen[keyOf(r)] {
				return duplicateRule(r)
			}
			seen[keyOf(r)] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.ModifySecurityGroupRulesOutput{Return: aws.Bool(true)}, nil
}

func replaceRule(tx *state.Tx, g *state.SecurityGroup, u types.SecurityGroupRuleUpdate) error {
	id, to := aws.ToString(u.SecurityGroupRuleId), u.SecurityGroupRule
	if to == nil {
		return missing("SecurityGroupRule")
	}
	i, err := ruleIndex(g, false, id)
	if err != nil {
		if i, err = ruleIndex(g, true, id); err != nil {
			return err
		}
	}
	p := types.IpPermission{IpProtocol: to.IpProtocol, FromPort: to.FromPort, ToPort: to.ToPort}
	if to.CidrIpv4 != nil {
		p.IpRanges = []types.IpRange{{CidrIp: to.CidrIpv4, Description: to.Description}}
	}
	if to.CidrIpv6 != nil {
		p.Ipv6Ranges = []types.Ipv6Range{{CidrIpv6: to.CidrIpv6}}
	}
	if to.PrefixListId != nil {
		p.PrefixListIds = []types.PrefixListId{{PrefixListId: to.PrefixListId}}
	}
	if to.ReferencedGroupId != nil {
		p.UserIdGroupPairs = []types.UserIdGroupPair{{GroupId: to.ReferencedGroupId, Description: to.Description}}
	}
	rules, err := rulesOf(tx, g, g.Rules[i].Egress, []types.IpPermission{p})
	if err != nil {
		return err
	}
	if len(rules) != 1 {
		return fail("InvalidParameterCombination", "A rule has one source; security group rule '%s' would have %d.", id, len(rules))
	}
	rules[0].ID, rules[0].Tags = id, g.Rules[i].Tags
	g.Rules[i] = rules[0]
	return nil
}

// UpdateSecurityGroupRuleDescriptionsIngress describes rules anew.
func (c *Cloud) UpdateSecurityGroupRuleDescriptionsIngress(ctx context.Context, in *ec2.UpdateSecurityGroupRuleDescriptionsIngressInput) (*ec2.UpdateSecurityGroupRuleDescriptionsIngressOutput, error) {
	err := c.describeRules(ctx, in.GroupId, in.GroupName, false, in.IpPermissions, in.SecurityGroupRuleDescriptions)
	if err != nil {
		return nil, err
	}
	return &ec2.UpdateSecurityGroupRuleDescriptionsIngressOutput{Return: aws.Bool(true)}, nil
}

// UpdateSecurityGroupRuleDescriptionsEgress describes rules anew.
func (c *Cloud) UpdateSecurityGroupRuleDescriptionsEgress(ctx context.Context, in *ec2.UpdateSecurityGroupRuleDescriptionsEgressInput) (*ec2.UpdateSecurityGroupRuleDescriptionsEgressOutput, error) {
	err := c.describeRules(ctx, in.GroupId, in.GroupName, true, in.IpPermissions, in.SecurityGroupRuleDescriptions)
	if err != nil {
		return nil, err
	}
	return &ec2.UpdateSecurityGroupRuleDescriptionsEgressOutput{Return: aws.Bool(true)}, nil
}

func (c *Cloud) describeRules(ctx context.Context, id, name *string, egress bool, perms []types.IpPermission, texts []types.SecurityGroupRuleDescription) error {
	if (len(perms) == 0) == (len(texts) == 0) {
		return fail("InvalidParameterCombination", "Either 'ipPermissions' or 'securityGroupRuleDescriptions' should be provided.")
	}
	return c.changeGroup(ctx, id, name, func(tx *state.Tx, g *state.SecurityGroup) error {
		for _, t := range texts {
			i, err := ruleIndex(g, egress, aws.ToString(t.SecurityGroupRuleId))
			if err != nil {
				return err
			}
			if g.Rules[i].Description, err = ruleText(t.Description); err != nil {
				return err
			}
		}
		if len(perms) == 0 {
			return nil
		}
		rules, err := rulesOf(tx, g, egress, perms)
		if err != nil {
			return err
		}
		for _, r := range rules {
			i := slices.IndexFunc(g.Rules, func(o state.Rule) bool { return keyOf(o) == keyOf(r) })
			if i < 0 {
				return fail("InvalidPermission.NotFound", "The specified rule does not exist in this security group: %s", describeRule(r))
			}
			g.Rules[i].Description = r.Description
		}
		return nil
	})
}

// ruleView is one rule as an entry of a list.
type ruleView struct {
	listed
	group *state.SecurityGroup
	rule  state.Rule
}

func ruleViews(groups []*state.SecurityGroup) []*ruleView {
	var views []*ruleView
	for _, g := range groups {
		for _, r := range g.Rules {
			v := &ruleView{listedAs(r.ID), g, r}
			v.Tags = r.Tags
			views = append(views, v)
		}
	}
	slices.SortFunc(views, func(a, b *ruleView) int { return strings.Compare(a.ID, b.ID) })
	return views
}

var ruleFilters = fields[*ruleView]{
	"group-id":               one(func(v *ruleView) string { return v.group.ID }),
	"security-group-rule-id": one(func(v *ruleView) string { return v.ID }),
}

// DescribeSecurityGroupRules lists the rules of all groups.
func (c *Cloud) DescribeSecurityGroupRules(ctx context.Context, in *ec2.DescribeSecurityGroupRulesInput) (*ec2.DescribeSecurityGroupRulesOutput, error) {
	var groups []*state.SecurityGroup
	err := c.db.View(func(tx *state.Tx) (err error) {
		groups, err = state.List[state.SecurityGroup](tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	page, next, err := choose(ruleViews(groups), in.SecurityGroupRuleIds, ruleIDs, in.Filters, ruleFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSecurityGroupRulesOutput{NextToken: next}
	for _, v := range page {
		out.SecurityGroupRules = append(out.SecurityGroupRules, apiRule(v.group, v.rule))
	}
	return out, nil
}

func apiRule(g *state.SecurityGroup, r state.Rule) types.SecurityGroupRule {
	out := types.SecurityGroupRule{
		SecurityGroupRuleId: aws.String(r.ID), GroupId: aws.String(g.ID), GroupOwnerId: aws.String(g.Account), IsEgress: aws.Bool(r.Egress),
		IpProtocol: aws.String(r.Protocol), FromPort: aws.Int32(r.From), ToPort: aws.Int32(r.To), CidrIpv4: optional(r.CIDR),
		Description: optional(r.Description), Tags: tagList(r.Tags),
		SecurityGroupRuleArn: aws.String(arn(g.Scope(), "security-group-rule", r.ID)),
	}
	if r.Group != "" {
		out.ReferencedGroupInfo = &types.ReferencedSecurityGroup{GroupId: aws.String(r.Group), UserId: aws.String(g.Account), VpcId: aws.String(g.VPCID)}
	}
	return out
}
