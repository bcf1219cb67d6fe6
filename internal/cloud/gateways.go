package cloud

import (
	"context"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// What comes with every VPC and cannot be changed here: clients look at it to
// see that the VPC is usable. None of it has a record.
var (
	routeTableIDs = idKind{"rtb", "InvalidRouteTableID.NotFound", "InvalidRouteTableId.Malformed", "The routeTable ID '%s' does not exist"}
	gatewayIDs    = idKind{"igw", "InvalidInternetGatewayID.NotFound", "InvalidInternetGatewayId.Malformed", "The internetGateway ID '%s' does not exist"}
	aclIDs        = idKind{"acl", "InvalidNetworkAclID.NotFound", "InvalidNetworkAclId.Malformed", "The networkAcl ID '%s' does not exist"}
	dhcpIDs       = idKind{"dopt", "InvalidDhcpOptionID.NotFound", "InvalidDhcpOptionsId.Malformed", "The dhcpOption ID '%s' does not exist"}
)

// vpcPart is one such part of a VPC.
type vpcPart struct {
	listed
	subnets []*state.Subnet
}

// vpcParts gives the part of each VPC that the kind of ID names.
func (c *Cloud) vpcParts(ctx context.Context, k idKind) ([]*vpcPart, error) {
	var parts []*vpcPart
	err := c.db.View(func(tx *state.Tx) error {
		vpcs, err := state.List[state.VPC](tx, from(ctx).Scope)
		if err != nil {
			return err
		}
		subnets, err := state.List[state.Subnet](tx, from(ctx).Scope)
		if err != nil {
			return err
		}
		for _, v := range vpcs {
			p := &vpcPart{listed: listedAs(relatedID(k.prefix, v.ID))}
			p.Account, p.Region = v.Account, v.Region
			for _, s := range subnets {
				if s.VPCID == v.ID {
					p.subnets = append(p.subnets, s)
				}
			}
			parts = append(parts, p)
		}
		return nil
	})
	return parts, err
}

func partID(p *vpcPart) []string    { return []string{p.ID} }
func partOwner(p *vpcPart) []string { return []string{p.Account} }
func partVPC(p *vpcPart) []string   { return []string{vpcID(p.ID)} }

func (p *vpcPart) gateway() string     { return relatedID(gatewayIDs.prefix, p.ID) }
func (p *vpcPart) association() string { return relatedID("rtbassoc", p.ID) }

var routeTableFilters = fields[*vpcPart]{
	"association.main":                       always[*vpcPart]("true"),
	"association.route-table-association-id": one((*vpcPart).association),
	"association.route-table-id":             partID,
	"association.subnet-id":                  none[*vpcPart], // the main table has its subnets implicitly
	"association.gateway-id":                 none[*vpcPart],
	"owner-id":                               partOwner,
	"route-table-id":                         partID,
	"route.destination-cidr-block":           func(*vpcPart) []string { return []string{vpcCIDR, anywhere} },
	"route.gateway-id":                       func(p *vpcPart) []string { return []string{"local", p.gateway()} },
	"route.instance-id":                      none[*vpcPart],
	"route.nat-gateway-id":                   none[*vpcPart],
	"route.transit-gateway-id":               none[*vpcPart],
	"route.vpc-peering-connection-id":        none[*vpcPart],
	"route.origin":                           func(*vpcPart) []string { return []string{"CreateRouteTable", "CreateRoute"} },
	"route.state":                            always[*vpcPart]("active"),
	"vpc-id":                                 partVPC,
}

// DescribeRouteTables lists each VPC's main route table.
func (c *Cloud) DescribeRouteTables(ctx context.Context, in *ec2.DescribeRouteTablesInput) (*ec2.DescribeRouteTablesOutput, error) {
	parts, err := c.vpcParts(ctx, routeTableIDs)
	if err != nil {
		return nil, err
	}
	page, next, err := choose(parts, in.RouteTableIds, routeTableIDs, in.Filters, routeTableFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeRouteTablesOutput{NextToken: next}
	for _, p := range page {
		out.RouteTables = append(out.RouteTables, types.RouteTable{
			RouteTableId: aws.String(p.ID), VpcId: aws.String(vpcID(p.ID)), OwnerId: aws.String(p.Account),
			Associations: []types.RouteTableAssociation{{
				Main: aws.Bool(true), RouteTableId: aws.String(p.ID), RouteTableAssociationId: aws.String(p.association()),
				AssociationState: &types.RouteTableAssociationState{State: types.RouteTableAssociationStateCodeAssociated},
			}},
			Routes: []types.Route{
				{DestinationCidrBlock: aws.String(vpcCIDR), GatewayId: aws.String("local"), Origin: types.RouteOriginCreateRouteTable, State: types.RouteStateActive},
				{DestinationCidrBlock: aws.String(anywhere), GatewayId: aws.String(p.gateway()), Origin: types.RouteOriginCreateRoute, State: types.RouteStateActive},
			},
			PropagatingVgws: []types.PropagatingVgw{}, Tags: []types.Tag{},
		})
	}
	return out, nil
}

var gatewayFilters = fields[*vpcPart]{
	"attachment.state":    always[*vpcPart](stateAvailable),
	"attachment.vpc-id":   partVPC,
	"internet-gateway-id": partID,
	"owner-id":            partOwner,
}

// DescribeInternetGateways lists each VPC's internet gateway.
func (c *Cloud) DescribeInternetGateways(ctx context.Context, in *ec2.DescribeInternetGatewaysInput) (*ec2.DescribeInternetGatewaysOutput, error) {
	parts, err := c.vpcParts(ctx, gatewayIDs)
	if err != nil {
		return nil, err
	}
	page, next, err := choose(parts, in.InternetGatewayIds, gatewayIDs, in.Filters, gatewayFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInternetGatewaysOutput{NextToken: next}
	for _, p := range page {
		out.InternetGateways = append(out.InternetGateways, types.InternetGateway{
			InternetGatewayId: aws.String(p.ID), OwnerId: aws.String(p.Account), Tags: []types.Tag{},
			Attachments: []types.InternetGatewayAttachment{{VpcId: aws.String(vpcID(p.ID)), State: stateAvailable}},
		})
	}
	return out, nil
}

// aclLast is the number of the rule that refuses what no other rule took.
const aclLast = 32767

func aclEntries() []types.NetworkAclEntry {
	var entries []types.NetworkAclEntry
	for _, egress := range []bool{true, false} {
		entries = append(entries, aclEntry(100, egress, types.RuleActionAllow), aclEntry(aclLast, egress, types.RuleActionDeny))
	}
	return entries
}

func aclEntry(number int32, egress bool, do types.RuleAction) types.NetworkAclEntry {
	return types.NetworkAclEntry{
		RuleNumber: aws.Int32(number), Egress: aws.Bool(egress), RuleAction: do, Protocol: aws.String(allProtocols), CidrBlock: aws.String(anywhere),
	}
}

var aclFilters = fields[*vpcPart]{
	"association.association-id": func(p *vpcPart) (ids []string) {
		for _, s := range p.subnets {
			ids = append(ids, relatedID("aclassoc", s.ID))
		}
		return ids
	},
	"association.network-acl-id": partID,
	"association.subnet-id": func(p *vpcPart) (ids []string) {
		for _, s := range p.subnets {
			ids = append(ids, s.ID)
		}
		return ids
	},
	"default":           always[*vpcPart]("true"),
	"entry.cidr":        always[*vpcPart](anywhere),
	"entry.egress":      func(*vpcPart) []string { return []string{"true", "false"} },
	"entry.protocol":    always[*vpcPart](allProtocols),
	"entry.rule-action": func(*vpcPart) []string { return []string{"allow", "deny"} },
	"entry.rule-number": func(*vpcPart) []string { return []string{"100", strconv.Itoa(aclLast)} },
	"network-acl-id":    partID,
	"owner-id":          partOwner,
	"vpc-id":            partVPC,
}

// DescribeNetworkAcls lists each VPC's network ACL, which lets everything pass.
func (c *Cloud) DescribeNetworkAcls(ctx context.Context, in *ec2.DescribeNetworkAclsInput) (*ec2.DescribeNetworkAclsOutput, error) {
	parts, err := c.vpcParts(ctx, aclIDs)
	if err != nil {
		return nil, err
	}
	page, next, err := choose(parts, in.NetworkAclIds, aclIDs, in.Filters, aclFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeNetworkAclsOutput{NextToken: next}
	for _, p := range page {
		acl := types.NetworkAcl{
			NetworkAclId: aws.String(p.ID), VpcId: aws.String(vpcID(p.ID)), OwnerId: aws.String(p.Account), IsDefault: aws.Bool(true),
			Entries: aclEntries(), Associations: []types.NetworkAclAssociation{}, Tags: []types.Tag{},
		}
		for _, s := range p.subnets {
			acl.Associations = append(acl.Associations, types.NetworkAclAssociation{
				NetworkAclAssociationId: aws.String(relatedID("aclassoc", s.ID)), NetworkAclId: aws.String(p.ID), SubnetId: aws.String(s.ID),
			})
		}
		out.NetworkAcls = append(out.NetworkAcls, acl)
	}
	return out, nil
}

// dhcpConfiguration is what machines are told by DHCP, in EC2's words.
var dhcpConfiguration = []struct{ key, value string }{
	{"domain-name", "ec2.internal"},
	{"domain-name-servers", "AmazonProvidedDNS"},
}

var dhcpFilters = fields[*vpcPart]{
	"dhcp-options-id": partID,
	"key": func(*vpcPart) (keys []string) {
		for _, c := range dhcpConfiguration {
			keys = append(keys, c.key)
		}
		return keys
	},
	"value": func(*vpcPart) (values []string) {
		for _, c := range dhcpConfiguration {
			values = append(values, c.value)
		}
		return values
	},
	"owner-id": partOwner,
}

// DescribeDhcpOptions lists each VPC's DHCP options.
func (c *Cloud) DescribeDhcpOptions(ctx context.Context, in *ec2.DescribeDhcpOptionsInput) (*ec2.DescribeDhcpOptionsOutput, error) {
	parts, err := c.vpcParts(ctx, dhcpIDs)
	if err != nil {
		return nil, err
	}
	page, next, err := choose(parts, in.DhcpOptionsIds, dhcpIDs, in.Filters, dhcpFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeDhcpOptionsOutput{NextToken: next}
	for _, p := range page {
		options := types.DhcpOptions{DhcpOptionsId: aws.String(p.ID), OwnerId: aws.String(p.Account), Tags: []types.Tag{}}
		for _, c := range dhcpConfiguration {
			options.DhcpConfigurations = append(options.DhcpConfigurations, types.DhcpConfiguration{
				Key: aws.String(c.key), Values: []types.AttributeValue{{Value: aws.String(c.value)}},
			})
		}
		out.DhcpOptions = append(out.DhcpOptions, options)
	}
	return out, nil
}
