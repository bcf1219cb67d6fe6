package cloud

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// relatedID names what comes with a resource and has no record of its own,
// such as a VPC's main route table: another prefix on the same digits, so that
// it never changes.
func relatedID(prefix, id string) string {
	_, digits, _ := strings.Cut(id, "-")
	return prefix + "-" + digits
}

// vpcID tells to which VPC what relatedID named belongs.
func vpcID(id string) string { return relatedID(vpcIDs.prefix, id) }

const stateAvailable = "available"

// CreateDefaultVpc is refused: every region has its default VPC from the start.
func (c *Cloud) CreateDefaultVpc(context.Context, *ec2.CreateDefaultVpcInput) (*ec2.CreateDefaultVpcOutput, error) {
	return nil, fail("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
}

var vpcFilters = fields[*state.VPC]{
	"cidr":                                        one(func(v *state.VPC) string { return v.CIDR }),
	"cidr-block-association.association-id":       one(func(v *state.VPC) string { return relatedID("vpc-cidr-assoc", v.ID) }),
	"cidr-block-association.cidr-block":           one(func(v *state.VPC) string { return v.CIDR }),
	"cidr-block-association.state":                always[*state.VPC]("associated"),
	"dhcp-options-id":                             one(func(v *state.VPC) string { return relatedID(dhcpIDs.prefix, v.ID) }),
	"ipv6-cidr-block-association.state":           none[*state.VPC],
	"ipv6-cidr-block-association.ipv6-cidr-block": none[*state.VPC],
	"is-default":                                  always[*state.VPC]("true"),
	"isDefault":                                   always[*state.VPC]("true"),
	"owner-id":                                    one(func(v *state.VPC) string { return v.Account }),
	"state":                                       always[*state.VPC](stateAvailable),
	"vpc-id":                                      one(func(v *state.VPC) string { return v.ID }),
}

// DescribeVpcs lists the region's VPC.
func (c *Cloud) DescribeVpcs(ctx context.Context, in *ec2.DescribeVpcsInput) (*ec2.DescribeVpcsOutput, error) {
	vpcs, err := c.vpcs(ctx)
	if err != nil {
		return nil, err
	}
	page, next, err := choose(vpcs, in.VpcIds, vpcIDs, in.Filters, vpcFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcsOutput{NextToken: next}
	for _, v := range page {
		out.Vpcs = append(out.Vpcs, types.Vpc{
			VpcId: aws.String(v.ID), CidrBlock: aws.String(v.CIDR), DhcpOptionsId: aws.String(relatedID(dhcpIDs.prefix, v.ID)),
			InstanceTenancy: types.TenancyDefault, IsDefault: aws.Bool(true), OwnerId: aws.String(v.Account), State: types.VpcStateAvailable,
			CidrBlockAssociationSet: []types.VpcCidrBlockAssociation{{
				AssociationId: aws.String(relatedID("vpc-cidr-assoc", v.ID)), CidrBlock: aws.String(v.CIDR),
				CidrBlockState: &types.VpcCidrBlockState{State: types.VpcCidrBlockStateCodeAssociated},
			}},
			Tags: tagList(v.Tags),
		})
	}
	return out, nil
}

func (c *Cloud) vpcs(ctx context.Context) (vpcs []*state.VPC, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		vpcs, err = state.List[state.VPC](tx, from(ctx).Scope)
		return err
	})
	return vpcs, err
}

// DescribeVpcAttribute tells one attribute: names are resolved and given.
func (c *Cloud) DescribeVpcAttribute(ctx context.Context, in *ec2.DescribeVpcAttributeInput) (*ec2.DescribeVpcAttributeOutput, error) {
	if aws.ToString(in.VpcId) == "" {
		return nil, missing("vpcId")
	}
	err := c.db.View(func(tx *state.Tx) error {
		_, err := find[state.VPC](tx, from(ctx).Scope, vpcIDs, *in.VpcId)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcAttributeOutput{VpcId: in.VpcId}
	switch in.Attribute {
	case types.VpcAttributeNameEnableDnsSupport:
		out.EnableDnsSupport = &types.AttributeBooleanValue{Value: aws.Bool(true)}
	case types.VpcAttributeNameEnableDnsHostnames:
		out.EnableDnsHostnames = &types.AttributeBooleanValue{Value: aws.Bool(true)}
	case types.VpcAttributeNameEnableNetworkAddressUsageMetrics:
		out.EnableNetworkAddressUsageMetrics = &types.AttributeBooleanValue{Value: aws.Bool(false)}
	default:
		return nil, invalid(in.Attribute, "attribute", "There are enableDnsSupport, enableDnsHostnames and enableNetworkAddressUsageMetrics.")
	}
	return out, nil
}

// subnetView is a subnet with the number of its addresses that are free.
type subnetView struct {
	*state.Subnet
	free int32
}

var subnetFilters = fields[subnetView]{
	"availability-zone":          one(func(s subnetView) string { return s.Zone }),
	"availabilityZone":           one(func(s subnetView) string { return s.Zone }),
	"availability-zone-id":       one(func(s subnetView) string { return zoneID(s.Zone) }),
	"availabilityZoneId":         one(func(s subnetView) string { return zoneID(s.Zone) }),
	"available-ip-address-count": one(func(s subnetView) string { return strconv.Itoa(int(s.free)) }),
	"cidr":                       one(func(s subnetView) string { return s.CIDR }),
	"cidr-block":                 one(func(s subnetView) string { return s.CIDR }),
	"cidrBlock":                  one(func(s subnetView) string { return s.CIDR }),
	"default-for-az":             always[subnetView]("true"),
	"defaultForAz":               always[subnetView]("true"),
	"ipv6-native":                always[subnetView]("false"),
	"map-public-ip-on-launch":    always[subnetView]("true"),
	"outpost-arn":                none[subnetView],
	"owner-id":                   one(func(s subnetView) string { return s.Account }),
	"state":                      always[subnetView](stateAvailable),
	"subnet-arn":                 one(func(s subnetView) string { return arn(s.Scope(), "subnet", s.ID) }),
	"subnet-id":                  one(func(s subnetView) string { return s.ID }),
	"vpc-id":                     one(func(s subnetView) string { return s.VPCID }),
}

// DescribeSubnets lists the subnets, one a zone.
func (c *Cloud) DescribeSubnets(ctx context.Context, in *ec2.DescribeSubnetsInput) (*ec2.DescribeSubnetsOutput, error) {
	var views []subnetView
	err := c.db.View(func(tx *state.Tx) (err error) {
		views, err = subnetViews(tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	page, next, err := choose(views, in.SubnetIds, subnetIDs, in.Filters, subnetFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSubnetsOutput{NextToken: next}
	for _, s := range page {
		out.Subnets = append(out.Subnets, types.Subnet{
			SubnetId: aws.String(s.ID), SubnetArn: aws.String(arn(s.Scope(), "subnet", s.ID)), VpcId: aws.String(s.VPCID),
			AvailabilityZone: aws.String(s.Zone), AvailabilityZoneId: aws.String(zoneID(s.Zone)), CidrBlock: aws.String(s.CIDR),
			AvailableIpAddressCount: aws.Int32(s.free), DefaultForAz: aws.Bool(true), MapPublicIpOnLaunch: aws.Bool(true),
			AssignIpv6AddressOnCreation: aws.Bool(false), EnableDns64: aws.Bool(false), Ipv6Native: aws.Bool(false),
			MapCustomerOwnedIpOnLaunch: aws.Bool(false), OwnerId: aws.String(s.Account), State: types.SubnetStateAvailable,
			Ipv6CidrBlockAssociationSet: []types.SubnetIpv6CidrBlockAssociation{}, Tags: tagList(s.Tags),
			PrivateDnsNameOptionsOnLaunch: &types.PrivateDnsNameOptionsOnLaunch{
				HostnameType: types.HostnameTypeIpName, EnableResourceNameDnsARecord: aws.Bool(false), EnableResourceNameDnsAAAARecord: aws.Bool(false),
			},
		})
	}
	return out, nil
}

// reservedAddresses are a subnet's own: network, router, DNS, the one after
// it, and broadcast.
const reservedAddresses = 5

func subnetViews(tx *state.Tx, s state.Scope) ([]subnetView, error) {
	subnets, err := state.List[state.Subnet](tx, s)
	if err != nil {
		return nil, err
	}
	instances, err := state.List[state.Instance](tx, s)
	if err != nil {
		return nil, err
	}
	used := map[string]int32{}
	for _, inst := range instances {
		if inst.State != state.Terminated {
			used[inst.SubnetID]++
		}
	}
	views := make([]subnetView, len(subnets))
	for i, sub := range subnets {
		prefix, err := netip.ParsePrefix(sub.CIDR)
		if err != nil {
			return nil, fmt.Errorf("subnet %s: %w", sub.ID, err)
		}
		size := int32(1) << (prefix.Addr().BitLen() - prefix.Bits())
		views[i] = subnetView{sub, size - reservedAddresses - used[sub.ID]}
	}
	return views, nil
}
