package cloud

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

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
