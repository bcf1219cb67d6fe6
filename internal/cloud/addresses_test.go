package cloud

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func allocate(t *testing.T, client *ec2.Client) *ec2.AllocateAddressOutput {
	t.Helper()
	out, err := client.AllocateAddress(context.Background(), &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func addressByID(t *testing.T, client *ec2.Client, id string) types.Address {
	t.Helper()
	out, err := client.DescribeAddresses(context.Background(), &ec2.DescribeAddressesInput{AllocationIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Addresses[0]
}

func TestAddressLife(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	one, two := allocate(t, client), allocate(t, client)
	if *one.PublicIp == *two.PublicIp {
		t.Errorf("both addresses are %s", *one.PublicIp)
	}
	a := putInstance(t, c, state.Stopped, nil)
	b := putInstance(t, c, state.Running, func(i *state.Instance) { i.PrivateIP = "172.31.0.11" })

	first, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: one.AllocationId, InstanceId: &a.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got := addressByID(t, client, *one.AllocationId); *got.InstanceId != a.ID || *got.AssociationId != *first.AssociationId || *got.PrivateIpAddress != a.PrivateIP {
		t.Errorf("the address is %+v", got)
	}
	again, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: one.AllocationId, InstanceId: &a.ID, AllowReassociation: aws.Bool(false)})
	if err != nil || *again.AssociationId != *first.AssociationId {
		t.Errorf("the same again: %v, %v", again, err)
	}
	_, err = client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: one.AllocationId, InstanceId: &b.ID, AllowReassociation: aws.Bool(false)})
	wantCode(t, err, "Resource.AlreadyAssociated")
	_, err = client.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: one.AllocationId})
	wantCode(t, err, "InvalidIPAddress.InUse")

	// Taken over by b, through its interface; then b gets another one instead.
	if _, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{PublicIp: one.PublicIp, NetworkInterfaceId: &b.Interface}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: two.AllocationId, InstanceId: &b.ID}); err != nil {
		t.Fatal(err)
	}
	if got := addressByID(t, client, *one.AllocationId); got.InstanceId != nil || got.AssociationId != nil {
		t.Errorf("the replaced address is still with %s", *got.InstanceId)
	}
	second := addressByID(t, client, *two.AllocationId)
	nics, err := client.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filters("association.allocation-id", *two.AllocationId)})
	if err != nil {
		t.Fatal(err)
	}
	if len(nics.NetworkInterfaces) != 1 || *nics.NetworkInterfaces[0].Attachment.InstanceId != b.ID || *nics.NetworkInterfaces[0].Association.PublicIp != *two.PublicIp {
		t.Errorf("the interface with the address is %+v", nics.NetworkInterfaces)
	}
	if _, err := client.DisassociateAddress(ctx, &ec2.DisassociateAddressInput{AssociationId: second.AssociationId}); err != nil {
		t.Fatal(err)
	}
	_, err = client.DisassociateAddress(ctx, &ec2.DisassociateAddressInput{AssociationId: second.AssociationId})
	wantCode(t, err, "InvalidAssociationID.NotFound")
	for _, in := range []*ec2.ReleaseAddressInput{{AllocationId: one.AllocationId}, {PublicIp: two.PublicIp}} {
		if _, err := client.ReleaseAddress(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: one.AllocationId})
	wantCode(t, err, "InvalidAllocationID.NotFound")
}

func TestAssociateRefuses(t *testing.T) {
	c, client := newTestCloud(t)
	eip := allocate(t, client)
	live := putInstance(t, c, state.Running, nil)
	pending := putInstance(t, c, state.Pending, nil)
	gone := putInstance(t, c, state.Terminated, nil)
	absent := aws.String("i-0000000000000000f")
	for name, tt := range map[string]struct {
		in   ec2.AssociateAddressInput
		code string
	}{
		"no address":      {ec2.AssociateAddressInput{InstanceId: &live.ID}, "MissingParameter"},
		"no target":       {ec2.AssociateAddressInput{AllocationId: eip.AllocationId}, "MissingParameter"},
		"two targets":     {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &live.ID, NetworkInterfaceId: &live.Interface}, "InvalidParameterCombination"},
		"absent address":  {ec2.AssociateAddressInput{AllocationId: aws.String("eipalloc-0000000000000000f"), InstanceId: &live.ID}, "InvalidAllocationID.NotFound"},
		"absent IP":       {ec2.AssociateAddressInput{PublicIp: aws.String("203.0.113.1"), InstanceId: &live.ID}, "InvalidAddress.NotFound"},
		"absent instance": {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: absent}, "InvalidInstanceID.NotFound"},
		"absent nic":      {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, NetworkInterfaceId: aws.String("eni-0000000000000000f")}, "InvalidNetworkInterfaceID.NotFound"},
		"pending":         {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &pending.ID}, "InvalidInstanceID"},
		"terminated":      {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &gone.ID}, "InvalidInstanceID"},
		"private IP":      {ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &live.ID, PrivateIpAddress: aws.String("172.31.0.99")}, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.AssociateAddress(context.Background(), &tt.in)
			wantCode(t, err, tt.code)
		})
	}
}

func TestDisassociateOnTermination(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	eip := allocate(t, client)
	inst := putInstance(t, c, state.Stopped, nil)
	if _, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &inst.ID}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a worker may come back to it
		if err := c.db.Update(func(tx *state.Tx) error { return disassociate(tx, inst) }); err != nil {
			t.Fatal(err)
		}
	}
	if got := addressByID(t, client, *eip.AllocationId); got.InstanceId != nil {
		t.Errorf("the address is still with %s", *got.InstanceId)
	}
}

func TestDescribeAddresses(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	one, two := allocate(t, client), allocate(t, client)
	inst := putInstance(t, c, state.Running, nil)
	if _, err := client.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: two.AllocationId, InstanceId: &inst.ID}); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]*ec2.DescribeAddressesInput{
		"ip":      {PublicIps: []string{*two.PublicIp}},
		"filter":  {Filters: filters("public-ip", *two.PublicIp, "domain", "vpc")},
		"holder":  {Filters: filters("instance-id", inst.ID)},
		"nic":     {Filters: filters("network-interface-id", inst.Interface)},
		"private": {Filters: filters("private-ip-address", inst.PrivateIP)},
	} {
		out, err := client.DescribeAddresses(ctx, in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(out.Addresses) != 1 || *out.Addresses[0].AllocationId != *two.AllocationId {
			t.Errorf("%s: %d addresses", name, len(out.Addresses))
		}
	}
	_, err := client.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{PublicIps: []string{"203.0.113.1"}})
	wantCode(t, err, "InvalidAddress.NotFound")
	attr, err := client.DescribeAddressesAttribute(ctx, &ec2.DescribeAddressesAttributeInput{AllocationIds: []string{*one.AllocationId}, Attribute: types.AddressAttributeNameDomainName})
	if err != nil || len(attr.Addresses) != 0 {
		t.Errorf("attributes: %v, %v", attr, err)
	}
	_, err = client.AllocateAddress(ctx, &ec2.AllocateAddressInput{Address: aws.String("203.0.113.1")})
	wantCode(t, err, "UnsupportedOperation")
}
