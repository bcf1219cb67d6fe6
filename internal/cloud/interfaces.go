package cloud

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// interfaceView is an instance's only network interface: it comes and goes
// with the instance and has no record of its own.
type interfaceView struct {
	listed
	view view
}

func (n *interfaceView) publicOwner() string {
	if n.view.eip != nil {
		return n.view.Account
	}
	return "amazon" // owns the automatic addresses
}

// ofInstance makes a filter of what the interface's instance says.
func ofInstance(f func(*state.Instance) string) func(*interfaceView) []string {
	return func(n *interfaceView) []string { return []string{f(n.view.Instance)} }
}

// ofPublic makes a filter of what only an interface with a public address has.
func ofPublic(f func(*interfaceView) string) func(*interfaceView) []string {
	return func(n *interfaceView) []string {
		if n.view.public == "" {
			return nil
		}
		return []string{f(n)}
	}
}

func ofElastic(f func(*state.Address) string) func(*interfaceView) []string {
	return func(n *interfaceView) []string {
		if n.view.eip == nil {
			return nil
		}
		return []string{f(n.view.eip)}
	}
}

var interfaceFilters = fields[*interfaceView]{
	"addresses.association.owner-id":   ofPublic((*interfaceView).publicOwner),
	"addresses.association.public-ip":  ofPublic(func(n *interfaceView) string { return n.view.public }),
	"addresses.primary":                always[*interfaceView]("true"),
	"addresses.private-ip-address":     ofInstance(func(i *state.Instance) string { return i.PrivateIP }),
	"association.allocation-id":        ofElastic(func(a *state.Address) string { return a.ID }),
	"association.association-id":       ofElastic(func(a *state.Address) string { return a.AssociationID }),
	"association.ip-owner-id":          ofPublic((*interfaceView).publicOwner),
	"association.public-ip":            ofPublic(func(n *interfaceView) string { return n.view.public }),
	"association.public-dns-name":      ofPublic(func(n *interfaceView) string { return n.view.public }),
	"attachment.attach-time":           ofInstance(func(i *state.Instance) string { return timestamp(i.Created) }),
	"attachment.attachment-id":         ofInstance(func(i *state.Instance) string { return i.Attachment }),
	"attachment.delete-on-termination": always[*interfaceView]("true"),
	"attachment.device-index":          always[*interfaceView]("0"),
	"attachment.instance-id":           ofInstance(func(i *state.Instance) string { return i.ID }),
	"attachment.instance-owner-id":     ofInstance(func(i *state.Instance) string { return i.Account }),
	"attachment.status":                always[*interfaceView]("attached"),
	"availability-zone":                ofInstance(func(i *state.Instance) string { return i.Zone }),
	"availability-zone-id":             ofInstance(func(i *state.Instance) string { return zoneID(i.Zone) }),
	"description":                      always[*interfaceView](""),
	"group-id":                         func(n *interfaceView) []string { return n.view.Groups },
	"group-name":                       func(n *interfaceView) []string { return groupNames(n.view) },
	"interface-type":                   always[*interfaceView]("interface"),
	"ipv6-addresses.ipv6-address":      none[*interfaceView],
	"mac-address":                      ofInstance(func(i *state.Instance) string { return i.MAC }),
	"network-interface-id":             ofInstance(func(i *state.Instance) string { return i.Interface }),
	"owner-id":                         ofInstance(func(i *state.Instance) string { return i.Account }),
	"private-dns-name":                 ofInstance(func(i *state.Instance) string { return privateName(i.PrivateIP) }),
	"private-ip-address":               ofInstance(func(i *state.Instance) string { return i.PrivateIP }),
	"requester-id":                     none[*interfaceView],
	"requester-managed":                always[*interfaceView]("false"),
	"source-dest-check":                ofInstance(func(i *state.Instance) string { return strconv.FormatBool(!i.NoSourceDestCheck) }),
	"status":                           always[*interfaceView]("in-use"),
	"subnet-id":                        ofInstance(func(i *state.Instance) string { return i.SubnetID }),
	"vpc-id":                           ofInstance(func(i *state.Instance) string { return i.VPCID }),
}

// DescribeNetworkInterfaces lists the interfaces of the instances.
func (c *Cloud) DescribeNetworkInterfaces(ctx context.Context, in *ec2.DescribeNetworkInterfacesInput) (*ec2.DescribeNetworkInterfacesOutput, error) {
	s := from(ctx).Scope
	var all []*interfaceView
	err := c.db.View(func(tx *state.Tx) error {
		instances, err := state.List[state.Instance](tx, s)
		if err != nil {
			return err
		}
		views, err := c.views(tx, s, instances)
		if err != nil {
			return err
		}
		for _, v := range views {
			if v.State != state.Terminated {
				all = append(all, &interfaceView{listedAs(v.Interface), v})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *interfaceView) int { return strings.Compare(a.ID, b.ID) })
	page, next, err := choose(all, in.NetworkInterfaceIds, interfaceIDs, in.Filters, interfaceFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeNetworkInterfacesOutput{NextToken: next}
	for _, n := range page {
		out.NetworkInterfaces = append(out.NetworkInterfaces, apiNetworkInterface(n))
	}
	return out, nil
}

func apiNetworkInterface(n *interfaceView) types.NetworkInterface {
	v, i := n.view, n.view.Instance
	public := n.association()
	return types.NetworkInterface{
		NetworkInterfaceId: aws.String(i.Interface), OwnerId: aws.String(i.Account), Status: types.NetworkInterfaceStatusInUse,
		AvailabilityZone: aws.String(i.Zone), AvailabilityZoneId: aws.String(zoneID(i.Zone)), SubnetId: aws.String(i.SubnetID), VpcId: aws.String(i.VPCID),
		Description: aws.String(""), InterfaceType: types.NetworkInterfaceTypeInterface, MacAddress: aws.String(i.MAC),
		PrivateIpAddress: aws.String(i.PrivateIP), PrivateDnsName: aws.String(privateName(i.PrivateIP)), Association: public,
		RequesterManaged: aws.Bool(false), SourceDestCheck: aws.Bool(!i.NoSourceDestCheck), Groups: slices.Clone(v.groups),
		Ipv6Addresses: []types.NetworkInterfaceIpv6Address{}, TagSet: []types.Tag{},
		Attachment: &types.NetworkInterfaceAttachment{
			AttachmentId: aws.String(i.Attachment), AttachTime: aws.Time(i.Created), DeleteOnTermination: aws.Bool(true), DeviceIndex: aws.Int32(0),
			NetworkCardIndex: aws.Int32(0), InstanceId: aws.String(i.ID), InstanceOwnerId: aws.String(i.Account), Status: types.AttachmentStatusAttached,
		},
		PrivateIpAddresses: []types.NetworkInterfacePrivateIpAddress{{
			Primary: aws.Bool(true), PrivateIpAddress: aws.String(i.PrivateIP), PrivateDnsName: aws.String(privateName(i.PrivateIP)), Association: public,
		}},
	}
}

func (n *interfaceView) association() *types.NetworkInterfaceAssociation {
	v := n.view
	if v.public == "" {
		return nil
	}
	a := &types.NetworkInterfaceAssociation{
		PublicIp: aws.String(v.public), PublicDnsName: aws.String(v.public), IpOwnerId: aws.String(n.publicOwner()),
	}
	if v.eip != nil {
		a.AllocationId, a.AssociationId = aws.String(v.eip.ID), aws.String(v.eip.AssociationID)
	}
	return a
}
