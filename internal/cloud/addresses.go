package cloud

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

var (
	associationIDs = idKind{"eipassoc", "InvalidAssociationID.NotFound", "InvalidParameterValue", "The association ID '%s' does not exist"}
	interfaceIDs   = idKind{"eni", "InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed", "The networkInterface ID '%s' does not exist"}
)

// AllocateAddress takes an elastic IP out of the pool.
func (c *Cloud) AllocateAddress(ctx context.Context, in *ec2.AllocateAddressInput) (*ec2.AllocateAddressOutput, error) {
	s := from(ctx).Scope
	if err := checkAllocate(s, in); err != nil {
		return nil, err
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeElasticIp)
	if err != nil {
		return nil, err
	}
	a := &state.Address{Meta: c.meta(s, "eipalloc")}
	a.Tags = tags
	err = c.db.Update(func(tx *state.Tx) error {
		if a.IP, err = c.newPublicIP(tx); err != nil {
			return err
		}
		return state.Put(tx, a)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.AllocateAddressOutput{
		AllocationId: aws.String(a.ID), PublicIp: aws.String(a.IP), Domain: types.DomainTypeVpc,
		NetworkBorderGroup: aws.String(s.Region), PublicIpv4Pool: aws.String("amazon"),
	}, nil
}

func checkAllocate(s state.Scope, in *ec2.AllocateAddressInput) error {
	switch {
	case in.Domain != "" && in.Domain != types.DomainTypeVpc:
		return invalid(in.Domain, "Domain", "EC2-Classic is no more; use vpc.")
	case aws.ToString(in.Address) != "":
		return unsupported("Choosing the address", "Leave Address out to get one from the pool.")
	case in.CustomerOwnedIpv4Pool != nil, in.IpamPoolId != nil, in.PublicIpv4Pool != nil && *in.PublicIpv4Pool != "amazon":
		return unsupported("An address pool of one's own", "Leave the pool out to get an address from the cloud's.")
	case in.NetworkBorderGroup != nil && *in.NetworkBorderGroup != s.Region:
		return invalid(*in.NetworkBorderGroup, "NetworkBorderGroup", "The only one here is "+s.Region+".")
	}
	return nil
}

// AssociateAddress gives an elastic IP to an instance. As on EC2 it is taken
// from another one without asking, unless AllowReassociation is false, and an
// address that the instance had before stays allocated.
func (c *Cloud) AssociateAddress(ctx context.Context, in *ec2.AssociateAddressInput) (*ec2.AssociateAddressOutput, error) {
	s := from(ctx).Scope
	var a *state.Address
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if a, err = addressNamed(tx, s, in.AllocationId, in.PublicIp); err != nil {
			return err
		}
		inst, err := targetOf(tx, s, in)
		if err != nil {
			return err
		}
		if a.InstanceID == inst.ID {
			return nil
		}
		if a.InstanceID != "" && in.AllowReassociation != nil && !*in.AllowReassociation {
			return fail("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", a.ID, a.AssociationID)
		}
		if err := disassociate(tx, inst); err != nil {
			return err
		}
		a.InstanceID, a.AssociationID = inst.ID, newID(associationIDs.prefix)
		return state.Put(tx, a)
	})
	if err != nil {
		return nil, err
	}
	c.networkChanged(s)
	return &ec2.AssociateAddressOutput{AssociationId: aws.String(a.AssociationID)}, nil
}

// targetOf finds the instance that an address is to be associated with.
func targetOf(tx *state.Tx, s state.Scope, in *ec2.AssociateAddressInput) (*state.Instance, error) {
	inst, err := instanceOrInterface(tx, s, in.InstanceId, in.NetworkInterfaceId)
	if err != nil {
		return nil, err
	}
	if inst.Want == state.Terminated || inst.State != state.Running && inst.State != state.Stopping && inst.State != state.Stopped {
		return nil, fail("InvalidInstanceID", "The %s instance '%s' is not in a valid state for this operation.", inst.State, inst.ID)
	}
	if ip := aws.ToString(in.PrivateIpAddress); ip != "" && ip != inst.PrivateIP {
		return nil, invalid(ip, "PrivateIpAddress", "The interface of "+inst.ID+" has "+inst.PrivateIP+".")
	}
	return inst, nil
}

func instanceOrInterface(tx *state.Tx, s state.Scope, instanceID, interfaceID *string) (*state.Instance, error) {
	switch i, n := aws.ToString(instanceID), aws.ToString(interfaceID); {
	case i != "" && n != "":
		return nil, fail("InvalidParameterCombination", "You may specify either an instance ID or a network interface ID, but not both.")
	case i != "":
		return find[state.Instance](tx, s, instanceIDs, i)
	case n == "":
		return nil, fail("MissingParameter", "Either 'InstanceId' or 'NetworkInterfaceId' should be provided.")
	}
	if err := interfaceIDs.check(*interfaceID); err != nil {
		return nil, err
	}
	all, err := state.List[state.Instance](tx, s)
	if err != nil {
		return nil, err
	}
	for _, inst := range all {
		if inst.Interface == *interfaceID && inst.State != state.Terminated {
			return inst, nil
		}
	}
	return nil, interfaceIDs.missing(*interfaceID)
}

// addressNamed finds an address by its allocation ID or by itself.
func addressNamed(tx *state.Tx, s state.Scope, id, ip *string) (*state.Address, error) {
	switch {
	case aws.ToString(id) != "" && aws.ToString(ip) != "":
		return nil, fail("InvalidParameterCombination", "You may specify either an allocation ID or a public IP, but not both.")
	case aws.ToString(id) != "":
		return find[state.Address](tx, s, addressIDs, *id)
	case aws.ToString(ip) == "":
		return nil, fail("MissingParameter", "Either public IP or allocation id must be specified")
	}
	return addressWhere(tx, s, func(a *state.Address) bool { return a.IP == *ip }, noAddress(*ip))
}

func noAddress(ip string) *apiError {
	return fail("InvalidAddress.NotFound", "Address '%s' not found.", ip)
}

func addressWhere(tx *state.Tx, s state.Scope, is func(*state.Address) bool, absent *apiError) (*state.Address, error) {
	all, err := state.List[state.Address](tx, s)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], nil
	}
	return nil, absent
}

// DisassociateAddress takes an elastic IP away from its instance.
func (c *Cloud) DisassociateAddress(ctx context.Context, in *ec2.DisassociateAddressInput) (*ec2.DisassociateAddressOutput, error) {
	s := from(ctx).Scope
	err := c.db.Update(func(tx *state.Tx) error {
		a, err := associationNamed(tx, s, in)
		if err != nil {
			return err
		}
		return unlink(tx, a)
	})
	if err != nil {
		return nil, err
	}
	c.networkChanged(s)
	return &ec2.DisassociateAddressOutput{}, nil
}

func associationNamed(tx *state.Tx, s state.Scope, in *ec2.DisassociateAddressInput) (*state.Address, error) {
	id := aws.ToString(in.AssociationId)
	if id == "" {
		return addressNamed(tx, s, nil, in.PublicIp)
	}
	if err := associationIDs.check(id); err != nil {
		return nil, err
	}
	return addressWhere(tx, s, func(a *state.Address) bool { return a.AssociationID == id }, associationIDs.missing(id))
}

// ReleaseAddress gives an elastic IP back. One in use stays.
func (c *Cloud) ReleaseAddress(ctx context.Context, in *ec2.ReleaseAddressInput) (*ec2.ReleaseAddressOutput, error) {
	err := c.db.Update(func(tx *state.Tx) error {
		a, err := addressNamed(tx, from(ctx).Scope, in.AllocationId, in.PublicIp)
		if err != nil {
			return err
		}
		if a.InstanceID != "" {
			return fail("InvalidIPAddress.InUse", "Address %s is in use: it is associated with %s.", a.ID, a.InstanceID)
		}
		return state.Delete(tx, a)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.ReleaseAddressOutput{}, nil
}

// addressView is an address with the instance that has it, or nil.
type addressView struct {
	*state.Address
	inst *state.Instance
}

var addressFilters = fields[addressView]{
	"allocation-id":              one(func(a addressView) string { return a.ID }),
	"association-id":             one(func(a addressView) string { return a.AssociationID }),
	"domain":                     always[addressView]("vpc"),
	"instance-id":                one(func(a addressView) string { return a.InstanceID }),
	"network-border-group":       one(func(a addressView) string { return a.Region }),
	"public-ip":                  one(func(a addressView) string { return a.IP }),
	"network-interface-id":       ofHolder(func(i *state.Instance) string { return i.Interface }),
	"network-interface-owner-id": ofHolder(func(i *state.Instance) string { return i.Account }),
	"private-ip-address":         ofHolder(func(i *state.Instance) string { return i.PrivateIP }),
}

func ofHolder(f func(*state.Instance) string) func(addressView) []string {
	return func(a addressView) []string {
		if a.inst == nil {
			return nil
		}
		return []string{f(a.inst)}
	}
}

// DescribeAddresses lists the elastic IPs.
func (c *Cloud) DescribeAddresses(ctx context.Context, in *ec2.DescribeAddressesInput) (*ec2.DescribeAddressesOutput, error) {
	var views []addressView
	err := c.db.View(func(tx *state.Tx) (err error) {
		views, err = addressViews(tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	if views, err = selectByID(views, in.AllocationIds, addressIDs); err != nil {
		return nil, err
	}
	if views, err = selectByName(views, in.PublicIps, func(a addressView) string { return a.IP }, noAddress); err != nil {
		return nil, err
	}
	if views, err = filter(views, in.Filters, addressFilters); err != nil {
		return nil, err
	}
	out := &ec2.DescribeAddressesOutput{}
	for _, a := range views {
		out.Addresses = append(out.Addresses, apiAddress(a))
	}
	return out, nil
}

func addressViews(tx *state.Tx, s state.Scope) ([]addressView, error) {
	all, err := state.List[state.Address](tx, s)
	if err != nil {
		return nil, err
	}
	views := make([]addressView, len(all))
	for i, a := range all {
		views[i] = addressView{Address: a}
		if a.InstanceID == "" {
			continue
		}
		if views[i].inst, err = state.Get[state.Instance](tx, s, a.InstanceID); err != nil {
			return nil, fmt.Errorf("address %s: %w", a.ID, err)
		}
	}
	return views, nil
}

func apiAddress(a addressView) types.Address {
	out := types.Address{
		AllocationId: aws.String(a.ID), PublicIp: aws.String(a.IP), Domain: types.DomainTypeVpc,
		NetworkBorderGroup: aws.String(a.Region), PublicIpv4Pool: aws.String("amazon"), AssociationId: optional(a.AssociationID),
	}
	if len(a.Tags) > 0 {
		out.Tags = tagList(a.Tags)
	}
	if i := a.inst; i != nil {
		out.InstanceId, out.NetworkInterfaceId = aws.String(i.ID), aws.String(i.Interface)
		out.NetworkInterfaceOwnerId, out.PrivateIpAddress = aws.String(i.Account), aws.String(i.PrivateIP)
		out.SubnetId = aws.String(i.SubnetID)
	}
	return out
}

// DescribeAddressesAttribute has nothing to tell: the only attribute is a
// reverse DNS name, and no address here has one.
func (c *Cloud) DescribeAddressesAttribute(ctx context.Context, in *ec2.DescribeAddressesAttributeInput) (*ec2.DescribeAddressesAttributeOutput, error) {
	err := c.db.View(func(tx *state.Tx) error {
		for _, id := range in.AllocationIds {
			if _, err := find[state.Address](tx, from(ctx).Scope, addressIDs, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeAddressesAttributeOutput{}, nil
}

// addressOf gives the elastic IP that is associated with an instance, or nil.
func addressOf(tx *state.Tx, inst *state.Instance) (*state.Address, error) {
	all, err := state.List[state.Address](tx, inst.Scope())
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.InstanceID == inst.ID {
			return a, nil
		}
	}
	return nil, nil
}

// disassociate takes the elastic IP away from an instance that has one. The
// address stays allocated.
func disassociate(tx *state.Tx, inst *state.Instance) error {
	a, err := addressOf(tx, inst)
	if err != nil || a == nil {
		return err
	}
	return unlink(tx, a)
}

func unlink(tx *state.Tx, a *state.Address) error {
	a.AssociationID, a.InstanceID = "", ""
	return state.Put(tx, a)
}
