package dryrun

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (c *Cloud) importKeyPair(ctx context.Context, in *ec2.ImportKeyPairInput) (any, error) {
	name := aws.ToString(in.KeyName)
	known, err := c.hasKey(ctx, name)
	if err != nil {
		return nil, err
	}
	if known {
		return nil, refuse("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", name)
	}
	c.keys.put(name, &types.KeyPairInfo{
		KeyName: &name, KeyPairId: aws.String(c.plan.id("key")), Tags: specTags(in.TagSpecifications, types.ResourceTypeKeyPair),
	})
	return &ec2.ImportKeyPairOutput{KeyName: &name}, nil
}

// groupsNamed are the security groups of a name, as they would be by now.
func (c *Cloud) groupsNamed(ctx context.Context, name string) ([]types.SecurityGroup, error) {
	out, err := c.real.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{{Name: aws.String("group-name"), Values: []string{name}}},
	})
	if err != nil {
		return nil, err
	}
	return c.groups.overlay(out.SecurityGroups, func(g *types.SecurityGroup) *string { return g.GroupId }, search[types.SecurityGroup]{
		first: true, match: func(g *types.SecurityGroup) (bool, error) { return aws.ToString(g.GroupName) == name, nil },
	})
}

func (c *Cloud) createGroup(ctx context.Context, in *ec2.CreateSecurityGroupInput) (any, error) {
	name := aws.ToString(in.GroupName)
	list, err := c.groupsNamed(ctx, name)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(list, func(g types.SecurityGroup) bool { return in.VpcId == nil || aws.ToString(g.VpcId) == *in.VpcId }) {
		return nil, refuse("InvalidGroup.Duplicate", "The security group '%s' already exists", name)
	}
	g := &types.SecurityGroup{
		GroupId: aws.String(c.plan.id("sg")), GroupName: &name, Description: in.Description, VpcId: in.VpcId,
		Tags: specTags(in.TagSpecifications, types.ResourceTypeSecurityGroup),
	}
	c.groups.put(*g.GroupId, g)
	return &ec2.CreateSecurityGroupOutput{GroupId: aws.String(*g.GroupId), Tags: clone(g.Tags)}, nil
}

func (c *Cloud) deleteGroup(ctx context.Context, in *ec2.DeleteSecurityGroupInput) (any, error) {
	if _, err := c.group(ctx, aws.ToString(in.GroupId)); err != nil {
		return nil, err
	}
	users, err := c.instancesWith(ctx, "instance.group-id", *in.GroupId)
	if err != nil {
		return nil, err
	}
	for k := range users {
		if !is(&users[k], types.InstanceStateNameTerminated) {
			return nil, refuse("DependencyViolation", "resource %s has a dependent object: instance %s", *in.GroupId, aws.ToString(users[k].InstanceId))
		}
	}
	c.groups.put(*in.GroupId, nil)
	return &ec2.DeleteSecurityGroupOutput{Return: aws.Bool(true)}, nil
}

// sources are the rules of a permission, with one source each.
func sources(rules []types.IpPermission) []types.IpPermission {
	var list []types.IpPermission
	add := func(r, source types.IpPermission) {
		source.IpProtocol, source.FromPort, source.ToPort = r.IpProtocol, r.FromPort, r.ToPort
		list = append(list, source)
	}
	for _, r := range rules {
		for _, x := range r.IpRanges {
			add(r, types.IpPermission{IpRanges: []types.IpRange{x}})
		}
		for _, x := range r.Ipv6Ranges {
			add(r, types.IpPermission{Ipv6Ranges: []types.Ipv6Range{x}})
		}
		for _, x := range r.UserIdGroupPairs {
			add(r, types.IpPermission{UserIdGroupPairs: []types.UserIdGroupPair{x}})
		}
		for _, x := range r.PrefixListIds {
			add(r, types.IpPermission{PrefixListIds: []types.PrefixListId{x}})
		}
	}
	return list
}

// sameRule compares two rules of one source each.
func sameRule(a, b types.IpPermission) bool {
	key := func(r types.IpPermission) [7]string {
		k := [7]string{aws.ToString(r.IpProtocol), fmt.Sprint(aws.ToInt32(r.FromPort)), fmt.Sprint(aws.ToInt32(r.ToPort))}
		if len(r.IpRanges) > 0 {
			k[3] = aws.ToString(r.IpRanges[0].CidrIp)
		}
		if len(r.Ipv6Ranges) > 0 {
			k[4] = aws.ToString(r.Ipv6Ranges[0].CidrIpv6)
		}
		if len(r.UserIdGroupPairs) > 0 {
			k[5] = aws.ToString(r.UserIdGroupPairs[0].GroupId)
		}
		if len(r.PrefixListIds) > 0 {
			k[6] = aws.ToString(r.PrefixListIds[0].PrefixListId)
		}
		return k
	}
	return key(a) == key(b)
}

func (c *Cloud) authorize(ctx context.Context, in *ec2.AuthorizeSecurityGroupIngressInput) (any, error) {
	g, err := c.group(ctx, aws.ToString(in.GroupId))
	if err != nil {
		return nil, err
	}
	have := sources(g.IpPermissions)
	for _, r := range sources(withShort(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp)) {
		if slices.ContainsFunc(have, func(h types.IpPermission) bool { return sameRule(h, r) }) {
			return nil, refuse("InvalidPermission.Duplicate", "the specified rule already exists")
		}
		have = append(have, clone(r))
	}
	g.IpPermissions = have
	return &ec2.AuthorizeSecurityGroupIngressOutput{Return: aws.Bool(true)}, nil
}

func (c *Cloud) revoke(ctx context.Context, in *ec2.RevokeSecurityGroupIngressInput) (any, error) {
	g, err := c.group(ctx, aws.ToString(in.GroupId))
	if err != nil {
		return nil, err
	}
	have := sources(g.IpPermissions)
	for _, r := range sources(withShort(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp)) {
		k := slices.IndexFunc(have, func(h types.IpPermission) bool { return sameRule(h, r) })
		if k < 0 {
			return nil, refuse("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
		}
		have = slices.Delete(have, k, k+1)
	}
	g.IpPermissions = have
	return &ec2.RevokeSecurityGroupIngressOutput{Return: aws.Bool(true)}, nil
}

// withShort adds the one rule that the calls also take in parameters of their
// own.
func withShort(rules []types.IpPermission, protocol *string, from, to *int32, cidr *string) []types.IpPermission {
	if cidr == nil {
		return rules
	}
	return append(slices.Clone(rules), types.IpPermission{
		IpProtocol: protocol, FromPort: from, ToPort: to, IpRanges: []types.IpRange{{CidrIp: cidr}},
	})
}

func (c *Cloud) allocateAddress(in *ec2.AllocateAddressInput) (any, error) {
	_, public := c.net()
	a := &types.Address{
		AllocationId: aws.String(c.plan.id("eipalloc")), PublicIp: &public, Domain: types.DomainTypeVpc,
		Tags: specTags(in.TagSpecifications, types.ResourceTypeElasticIp),
	}
	c.addresses.put(*a.AllocationId, a)
	return &ec2.AllocateAddressOutput{AllocationId: aws.String(*a.AllocationId), PublicIp: aws.String(public), Domain: a.Domain}, nil
}

// addressOf returns the address that an instance has, nil when none.
func (c *Cloud) addressOf(ctx context.Context, instanceID string) *types.Address {
	for _, a := range c.addresses.items {
		if a != nil && aws.ToString(a.InstanceId) == instanceID {
			return a
		}
	}
	if Placeholder(instanceID) {
		return nil
	}
	out, err := c.real.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{
		Filters: []types.Filter{{Name: aws.String("instance-id"), Values: []string{instanceID}}},
	})
	if err != nil {
		return nil // an endpoint without addresses has none to lose
	}
	for k := range out.Addresses {
		id := aws.ToString(out.Addresses[k].AllocationId)
		if _, known := c.addresses.items[id]; !known {
			c.addresses.put(id, &out.Addresses[k])
			return &out.Addresses[k]
		}
	}
	return nil
}

func (c *Cloud) associateAddress(ctx context.Context, in *ec2.AssociateAddressInput) (any, error) {
	a, err := c.address(ctx, aws.ToString(in.AllocationId))
	if err != nil {
		return nil, err
	}
	if a.AssociationId != nil && !aws.ToBool(in.AllowReassociation) && aws.ToString(a.InstanceId) != aws.ToString(in.InstanceId) {
		return nil, refuse("Resource.AlreadyAssociated", "resource %s is already associated", aws.ToString(a.AllocationId))
	}
	a.AssociationId = aws.String(c.plan.id("eipassoc"))
	a.InstanceId, a.NetworkInterfaceId = in.InstanceId, in.NetworkInterfaceId
	if in.InstanceId != nil {
		i, err := c.instance(ctx, *in.InstanceId)
		if err != nil {
			return nil, err
		}
		i.PublicIpAddress, a.PrivateIpAddress = a.PublicIp, i.PrivateIpAddress
	}
	return &ec2.AssociateAddressOutput{AssociationId: aws.String(*a.AssociationId)}, nil
}

func (c *Cloud) disassociateAddress(ctx context.Context, in *ec2.DisassociateAddressInput) (any, error) {
	id := aws.ToString(in.AssociationId)
	a, err := c.byAssociation(ctx, id)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, refuse("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", id)
	}
	if a.InstanceId != nil {
		if i, err := c.instance(ctx, *a.InstanceId); err == nil {
			_, public := c.net()
			i.PublicIpAddress = nil
			if running(i) {
				i.PublicIpAddress = &public
			}
		}
	}
	a.AssociationId, a.InstanceId, a.NetworkInterfaceId, a.PrivateIpAddress = nil, nil, nil, nil
	return &ec2.DisassociateAddressOutput{}, nil
}

func (c *Cloud) byAssociation(ctx context.Context, id string) (*types.Address, error) {
	for _, a := range c.addresses.items {
		if a != nil && aws.ToString(a.AssociationId) == id {
			return a, nil
		}
	}
	out, err := c.real.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
	if err != nil {
		return nil, err
	}
	for k := range out.Addresses {
		a := &out.Addresses[k]
		if _, known := c.addresses.items[aws.ToString(a.AllocationId)]; !known && aws.ToString(a.AssociationId) == id {
			c.addresses.put(aws.ToString(a.AllocationId), a)
			return a, nil
		}
	}
	return nil, nil
}

func (c *Cloud) releaseAddress(ctx context.Context, in *ec2.ReleaseAddressInput) (any, error) {
	a, err := c.address(ctx, aws.ToString(in.AllocationId))
	if err != nil {
		return nil, err
	}
	if a.AssociationId != nil {
		return nil, refuse("InvalidIPAddress.InUse", "Address %s is in use.", aws.ToString(a.PublicIp))
	}
	c.addresses.put(*in.AllocationId, nil)
	return &ec2.ReleaseAddressOutput{}, nil
}
