package cloud

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func makeGroup(t *testing.T, client *ec2.Client, name string) string {
	t.Helper()
	out, err := client.CreateSecurityGroup(context.Background(), &ec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("for " + name)})
	if err != nil {
		t.Fatal(err)
	}
	return *out.GroupId
}

// rulesText writes the permissions of one direction as "tcp 22-22 0.0.0.0/0,sg-…".
func rulesText(perms []types.IpPermission) string {
	var list []string
	for _, p := range perms {
		var sources []string
		for _, r := range p.IpRanges {
			sources = append(sources, *r.CidrIp)
		}
		for _, g := range p.UserIdGroupPairs {
			sources = append(sources, *g.GroupId)
		}
		ports := ""
		if p.FromPort != nil {
			ports = fmt.Sprintf(" %d-%d", *p.FromPort, *p.ToPort)
		}
		list = append(list, *p.IpProtocol+ports+" "+strings.Join(sources, ","))
	}
	return strings.Join(list, "; ")
}

func groupOf(t *testing.T, client *ec2.Client, id string) types.SecurityGroup {
	t.Helper()
	out, err := client.DescribeSecurityGroups(context.Background(), &ec2.DescribeSecurityGroupsInput{GroupIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.SecurityGroups[0]
}

func cidrPerm(protocol string, from, to int32, cidrs ...string) types.IpPermission {
	p := types.IpPermission{IpProtocol: &protocol, FromPort: &from, ToPort: &to}
	for _, c := range cidrs {
		p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: &c})
	}
	return p
}

func TestSecurityGroupLife(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	web := makeGroup(t, client, "web")
	if g := groupOf(t, client, web); rulesText(g.IpPermissionsEgress) != "-1 0.0.0.0/0" || len(g.IpPermissions) != 0 {
		t.Errorf("a new group lets out %q and in %q", rulesText(g.IpPermissionsEgress), rulesText(g.IpPermissions))
	}
	for code, in := range map[string]*ec2.CreateSecurityGroupInput{
		"InvalidGroup.Duplicate": {GroupName: aws.String("web"), Description: aws.String("again")},
		"InvalidParameterValue":  {GroupName: aws.String("sg-web"), Description: aws.String("x")},
		"InvalidVpcID.NotFound":  {GroupName: aws.String("x"), Description: aws.String("x"), VpcId: aws.String("vpc-0000000000000000f")},
		"MissingParameter":       {GroupName: aws.String("x"), Description: aws.String("")},
	} {
		_, err := client.CreateSecurityGroup(ctx, in)
		wantCode(t, err, code)
	}
	_, err := client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupName: aws.String("default")})
	wantCode(t, err, "CannotDelete")

	inst := putInstance(t, c, state.Stopped, func(i *state.Instance) { i.Groups = []string{web} })
	_, err = client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &web})
	wantCode(t, err, "DependencyViolation")
	inst.State = state.Terminated
	if err := c.db.Update(func(tx *state.Tx) error { return state.Put(tx, inst) }); err != nil {
		t.Fatal(err)
	}
	db := makeGroup(t, client, "db")
	if _, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &db, IpPermissions: []types.IpPermission{{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupName: aws.String("web")}}}},
	}); err != nil {
		t.Fatal(err)
	}
	_, err = client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &web})
	wantCode(t, err, "DependencyViolation")
	for _, in := range []*ec2.DeleteSecurityGroupInput{{GroupId: &db}, {GroupName: aws.String("web")}} {
		if _, err := client.DeleteSecurityGroup(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &web})
	wantCode(t, err, "InvalidGroup.NotFound")
	_, err = client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: aws.String("web")})
	wantCode(t, err, "InvalidGroupId.Malformed")
}

func TestAuthorize(t *testing.T) {
	_, client := newTestCloud(t)
	other := makeGroup(t, client, "other")
	pair := []types.UserIdGroupPair{{GroupId: &other}}
	for i, tt := range []struct {
		perms []types.IpPermission
		want  string // the rules, or the error's code
	}{
		{[]types.IpPermission{cidrPerm("tcp", 22, 22, "0.0.0.0/0", "10.1.2.3/8")}, "tcp 22-22 0.0.0.0/0,10.0.0.0/8"},
		{[]types.IpPermission{cidrPerm("6", 80, 81, "1.2.3.4/32")}, "tcp 80-81 1.2.3.4/32"},
		{[]types.IpPermission{cidrPerm("UDP", 0, 65535, "0.0.0.0/0")}, "udp 0-65535 0.0.0.0/0"},
		{[]types.IpPermission{cidrPerm("icmp", -1, -1, "0.0.0.0/0")}, "icmp -1--1 0.0.0.0/0"},
		{[]types.IpPermission{cidrPerm("-1", 1, 2, "0.0.0.0/0")}, "-1 0.0.0.0/0"},
		{[]types.IpPermission{cidrPerm("47", -1, -1, "0.0.0.0/0")}, "47 0.0.0.0/0"},
		{[]types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(2), UserIdGroupPairs: pair}}, "tcp 1-2 " + other},
		{[]types.IpPermission{cidrPerm("tcp", 1, 1, "0.0.0.0/0"), cidrPerm("udp", 1, 1, "0.0.0.0/0")}, "tcp 1-1 0.0.0.0/0; udp 1-1 0.0.0.0/0"},
		{[]types.IpPermission{cidrPerm("tcp", 22, 21, "0.0.0.0/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("tcp", -1, -1, "0.0.0.0/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("tcp", 1, 65536, "0.0.0.0/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{{IpProtocol: aws.String("tcp"), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("tcp", 1, 1, "0.0.0.0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("tcp", 1, 1, "::/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("300", 1, 1, "0.0.0.0/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("icmp", -1, 3, "0.0.0.0/0")}, "InvalidParameterValue"},
		{[]types.IpPermission{cidrPerm("tcp", 1, 1, "1.0.0.0/8", "1.2.0.0/8")}, "InvalidParameterValue"}, // the same twice
		{[]types.IpPermission{cidrPerm("tcp", 1, 1)}, "MissingParameter"},
		{[]types.IpPermission{{IpProtocol: aws.String("-1"), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}}, "UnsupportedOperation"},
		{[]types.IpPermission{{IpProtocol: aws.String("-1"), PrefixListIds: []types.PrefixListId{{PrefixListId: aws.String("pl-1")}}}}, "UnsupportedOperation"},
		{[]types.IpPermission{{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupName: aws.String("gone")}}}}, "InvalidGroup.NotFound"},
		{[]types.IpPermission{{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &other, UserId: aws.String("999999999999")}}}}, "InvalidGroup.NotFound"},
	} {
		id := makeGroup(t, client, fmt.Sprint("group-", i))
		in := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: tt.perms}
		out, err := client.AuthorizeSecurityGroupIngress(context.Background(), in)
		if !strings.Contains(tt.want, " ") {
			wantCode(t, err, tt.want)
			if got := rulesText(groupOf(t, client, id).IpPermissions); got != "" {
				t.Errorf("%s left %q behind", tt.want, got)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", tt.want, err)
		}
		if got := rulesText(groupOf(t, client, id).IpPermissions); got != tt.want {
			t.Errorf("rules are %q, want %q", got, tt.want)
		}
		if len(out.SecurityGroupRules) == 0 || *out.SecurityGroupRules[0].GroupId != id || *out.SecurityGroupRules[0].IsEgress {
			t.Errorf("%s: answer is %+v", tt.want, out.SecurityGroupRules)
		}
		_, err = client.AuthorizeSecurityGroupIngress(context.Background(), in)
		wantCode(t, err, "InvalidPermission.Duplicate")
	}
}

func TestFlatRules(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	id := makeGroup(t, client, "flat")
	ssh := &ec2.AuthorizeSecurityGroupIngressInput{
		GroupName: aws.String("flat"), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), CidrIp: aws.String("0.0.0.0/0"),
	}
	if _, err := client.AuthorizeSecurityGroupIngress(ctx, ssh); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &id, SourceSecurityGroupName: aws.String("default"),
	}); err != nil {
		t.Fatal(err)
	}
	all, err := client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	def := *all.SecurityGroups[0].GroupId
	want := "tcp 22-22 0.0.0.0/0; tcp 0-65535 " + def + "; udp 0-65535 " + def + "; icmp -1--1 " + def
	if got := rulesText(groupOf(t, client, id).IpPermissions); got != want {
		t.Errorf("rules are %q, want %q", got, want)
	}
	both := *ssh
	both.IpPermissions = []types.IpPermission{cidrPerm("tcp", 1, 1, "0.0.0.0/0")}
	_, err = client.AuthorizeSecurityGroupIngress(ctx, &both)
	wantCode(t, err, "InvalidParameterCombination")
	_, err = client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id})
	wantCode(t, err, "MissingParameter")
	if _, err := client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
		GroupId: &id, IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), CidrIp: aws.String("0.0.0.0/0"),
	}); err != nil {
		t.Fatal(err)
	}
	if got := rulesText(groupOf(t, client, id).IpPermissions); strings.Contains(got, "22-22") {
		t.Errorf("after its revocation the rule is still there: %q", got)
	}
}

func TestRevoke(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	id := makeGroup(t, client, "g")
	added, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &id, IpPermissions: []types.IpPermission{cidrPerm("tcp", 22, 22, "0.0.0.0/0"), cidrPerm("tcp", 80, 80, "0.0.0.0/0")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ssh := *added.SecurityGroupRules[0].SecurityGroupRuleId

	out, err := client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
		GroupId: &id, IpPermissions: []types.IpPermission{cidrPerm("tcp", 80, 80, "0.0.0.0/0"), cidrPerm("tcp", 443, 443, "0.0.0.0/0")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.RevokedSecurityGroupRules) != 1 || rulesText(out.UnknownIpPermissions) != "tcp 443-443 0.0.0.0/0" {
		t.Errorf("revoked %d, unknown %q", len(out.RevokedSecurityGroupRules), rulesText(out.UnknownIpPermissions))
	}
	_, err = client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &id, SecurityGroupRuleIds: []string{ssh, "sgr-0000000000000000f"}})
	wantCode(t, err, "InvalidSecurityGroupRuleId.NotFound")
	if got := rulesText(groupOf(t, client, id).IpPermissions); got != "tcp 22-22 0.0.0.0/0" {
		t.Errorf("a refused revocation left %q", got)
	}
	_, err = client.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: &id, SecurityGroupRuleIds: []string{ssh}})
	wantCode(t, err, "InvalidSecurityGroupRuleId.NotFound") // it is an ingress rule
	if _, err := client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &id, SecurityGroupRuleIds: []string{ssh}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{
		GroupId: &id, IpPermissions: []types.IpPermission{cidrPerm("-1", -1, -1, "0.0.0.0/0")},
	}); err != nil {
		t.Fatal(err)
	}
	if g := groupOf(t, client, id); len(g.IpPermissions)+len(g.IpPermissionsEgress) != 0 {
		t.Errorf("rules left: in %q, out %q", rulesText(g.IpPermissions), rulesText(g.IpPermissionsEgress))
	}
	_, err = client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &id})
	wantCode(t, err, "MissingParameter")
}

func TestModifyRules(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	id := makeGroup(t, client, "g")
	added, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &id, IpPermissions: []types.IpPermission{cidrPerm("tcp", 22, 22, "0.0.0.0/0"), cidrPerm("tcp", 80, 80, "0.0.0.0/0")},
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroupRule, Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	rule := *added.SecurityGroupRules[0].SecurityGroupRuleId
	modify := func(port int32) error {
		_, err := client.ModifySecurityGroupRules(ctx, &ec2.ModifySecurityGroupRulesInput{GroupId: &id, SecurityGroupRules: []types.SecurityGroupRuleUpdate{{
			SecurityGroupRuleId: &rule,
			SecurityGroupRule:   &types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, CidrIpv4: aws.String("0.0.0.0/0")},
		}}})
		return err
	}
	if err := modify(2222); err != nil {
		t.Fatal(err)
	}
	wantCode(t, modify(80), "InvalidPermission.Duplicate")
	if _, err := client.UpdateSecurityGroupRuleDescriptionsIngress(ctx, &ec2.UpdateSecurityGroupRuleDescriptionsIngressInput{
		GroupId: &id, SecurityGroupRuleDescriptions: []types.SecurityGroupRuleDescription{{SecurityGroupRuleId: &rule, Description: aws.String("a door")}},
	}); err != nil {
		t.Fatal(err)
	}
	list, err := client.DescribeSecurityGroupRules(ctx, &ec2.DescribeSecurityGroupRulesInput{Filters: filters("group-id", id, "tag:k", "v", "security-group-rule-id", rule)})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.SecurityGroupRules) != 1 {
		t.Fatalf("rules are %+v", list.SecurityGroupRules)
	}
	if r := list.SecurityGroupRules[0]; *r.FromPort != 2222 || aws.ToString(r.Description) != "a door" || *r.CidrIpv4 != "0.0.0.0/0" {
		t.Errorf("the rule is %d %q %s", *r.FromPort, aws.ToString(r.Description), *r.CidrIpv4)
	}
	door := cidrPerm("tcp", 80, 80, "0.0.0.0/0")
	door.IpRanges[0].Description = aws.String("web")
	if _, err := client.UpdateSecurityGroupRuleDescriptionsIngress(ctx, &ec2.UpdateSecurityGroupRuleDescriptionsIngressInput{GroupId: &id, IpPermissions: []types.IpPermission{door}}); err != nil {
		t.Fatal(err)
	}
	if g := groupOf(t, client, id); aws.ToString(g.IpPermissions[1].IpRanges[0].Description) != "web" {
		t.Errorf("permissions are %+v", g.IpPermissions)
	}
	_, err = client.UpdateSecurityGroupRuleDescriptionsIngress(ctx, &ec2.UpdateSecurityGroupRuleDescriptionsIngressInput{
		GroupId: &id, IpPermissions: []types.IpPermission{cidrPerm("tcp", 22, 22, "0.0.0.0/0")},
	})
	wantCode(t, err, "InvalidPermission.NotFound")
}

func TestDescribeSecurityGroups(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	web, db := makeGroup(t, client, "web"), makeGroup(t, client, "db")
	for id, p := range map[string]types.IpPermission{
		web: cidrPerm("tcp", 443, 443, "10.0.0.0/8"),
		db:  {IpProtocol: aws.String("tcp"), FromPort: aws.Int32(5432), ToPort: aws.Int32(5432), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &web}}},
	} {
		if _, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: []types.IpPermission{p}}); err != nil {
			t.Fatal(err)
		}
	}
	for want, f := range map[string][]types.Filter{
		"web": filters("ip-permission.cidr", "10.0.0.0/8"),
		"db":  filters("ip-permission.group-name", "web"),
	} {
		out, err := client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: f})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.SecurityGroups) != 1 || *out.SecurityGroups[0].GroupName != want {
			t.Errorf("%s: %d groups, want %s alone", *f[0].Name, len(out.SecurityGroups), want)
		}
	}
	var names []string
	for p := ec2.NewDescribeSecurityGroupsPaginator(client, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(1), Filters: filters("egress.ip-permission.cidr", "0.0.0.0/0")}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range page.SecurityGroups {
			names = append(names, *g.GroupName)
		}
	}
	if len(names) != 3 {
		t.Errorf("pages give %v", names)
	}
	_, err := client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"gone"}})
	wantCode(t, err, "InvalidGroup.NotFound")
}
