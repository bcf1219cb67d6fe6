package cloud

import (
	"encoding/base64"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// A private address is one that is free in the subnet, and is free again when
// its instance is terminated.
func TestPrivateAddressIsAsAsked(t *testing.T) {
	c, client := newTestCloud(t)
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
	const wanted = "172.31.0.77"
	flat := func() *ec2.RunInstancesInput {
		return &ec2.RunInstancesInput{ImageId: &image, PrivateIpAddress: aws.String(wanted)}
	}
	ofInterface := func() *ec2.RunInstancesInput {
		subnet := describe(t, client, launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})).SubnetId
		return &ec2.RunInstancesInput{ImageId: &image, NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), SubnetId: subnet, PrivateIpAddress: aws.String(wanted), AssociatePublicIpAddress: aws.Bool(false),
		}}}
	}
	for name, in := range map[string]*ec2.RunInstancesInput{"flat": flat(), "of the interface": ofInterface()} {
		id := launchOne(t, client, in)
		i := describe(t, client, id)
		if *i.PrivateIpAddress != wanted || (i.PublicIpAddress == nil) != (name != "flat") {
			t.Errorf("%s: addresses are %s and %v", name, *i.PrivateIpAddress, i.PublicIpAddress)
		}
		again := flat()
		again.MinCount, again.MaxCount = aws.Int32(1), aws.Int32(1)
		_, err := client.RunInstances(t.Context(), again)
		wantCode(t, err, "InvalidIPAddress.InUse")
		terminated(t, client, id)
	}
	two := flat()
	two.MinCount, two.MaxCount = aws.Int32(2), aws.Int32(2)
	_, err := client.RunInstances(t.Context(), two)
	wantCode(t, err, "InvalidParameterCombination")
	kept := ofInterface()
	kept.MinCount, kept.MaxCount, kept.NetworkInterfaces[0].DeleteOnTermination = aws.Int32(1), aws.Int32(1), aws.Bool(false)
	_, err = client.RunInstances(t.Context(), kept)
	wantCode(t, err, "UnsupportedOperation")
}

func TestInstanceAttributesChange(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	id, _ := rooted(t, c, client)
	type attr = types.AttributeBooleanValue
	on, off := &attr{Value: aws.Bool(true)}, &attr{Value: aws.Bool(false)}
	modify := func(in ec2.ModifyInstanceAttributeInput) error {
		in.InstanceId = &id
		_, err := client.ModifyInstanceAttribute(ctx, &in)
		return err
	}
	read := func(name types.InstanceAttributeName) *ec2.DescribeInstanceAttributeOutput {
		t.Helper()
		out, err := client.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: name})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, in := range []ec2.ModifyInstanceAttributeInput{{DisableApiStop: on}, {DisableApiTermination: on}, {SourceDestCheck: off}, {EbsOptimized: on}} {
		if err := modify(in); err != nil {
			t.Error(err)
		}
	}
	if !*read(types.InstanceAttributeNameDisableApiStop).DisableApiStop.Value || !*read(types.InstanceAttributeNameDisableApiTermination).DisableApiTermination.Value ||
		*read(types.InstanceAttributeNameSourceDestCheck).SourceDestCheck.Value || !*read(types.InstanceAttributeNameEbsOptimized).EbsOptimized.Value {
		t.Error("an attribute is not as it was set")
	}
	_, err := client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "OperationNotPermitted")
	_, err = client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "OperationNotPermitted")
	wantCode(t, modify(ec2.ModifyInstanceAttributeInput{InstanceType: &types.AttributeValue{Value: aws.String("t3.large")}}), "IncorrectInstanceState")
	if err := modify(ec2.ModifyInstanceAttributeInput{Attribute: types.InstanceAttributeNameDisableApiStop, Value: aws.String("false")}); err != nil {
		t.Fatal(err)
	}
	stopped(t, client, id)
	for _, in := range []ec2.ModifyInstanceAttributeInput{
		{InstanceType: &types.AttributeValue{Value: aws.String("t3.large")}}, {UserData: &types.SecureBlobAttributeValue{Value: []byte("echo")}}, {EnaSupport: on},
	} {
		if err := modify(in); err != nil {
			t.Error(err)
		}
	}
	wantCode(t, modify(ec2.ModifyInstanceAttributeInput{EnaSupport: off}), "UnsupportedOperation")
	data, _ := base64.StdEncoding.DecodeString(*read(types.InstanceAttributeNameUserData).UserData.Value)
	if *read(types.InstanceAttributeNameInstanceType).InstanceType.Value != "t3.large" || string(data) != "echo" {
		t.Errorf("type or user data %q did not change", data)
	}
}

// What is named is not paged through.
func TestNamedIsNotPaged(t *testing.T) {
	c, client := newTestCloud(t)
	id, _ := rooted(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	_, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}, MaxResults: aws.Int32(5)})
	wantCode(t, err, "InvalidParameterCombination")
	_, err = client.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}, MaxResults: aws.Int32(5)})
	wantCode(t, err, "InvalidParameterCombination")
	_, err = client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{root}, MaxResults: aws.Int32(5)})
	wantCode(t, err, "InvalidParameterCombination")
}

func TestVolumesByStatus(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id, _ := rooted(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	m.set(func() { m.state, m.ioErr = machine.Paused, &machine.IOError{VolumeID: root, Reason: "gone"} })
	c.work.kick(job{"instance", testScope, id})
	for status, want := range map[string]int{"impaired": 1, "ok": 1} {
		eventually(t, status, func() bool {
			out, err := client.DescribeVolumeStatus(t.Context(), &ec2.DescribeVolumeStatusInput{Filters: filters("volume-status.status", status)})
			if err != nil {
				t.Fatal(err)
			}
			return len(out.VolumeStatuses) == want && (status == "ok") == (*out.VolumeStatuses[0].VolumeId != root)
		})
	}
	m.set(func() { m.state, m.ioErr = 0, nil })
}

func TestSnapshotSharing(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	snap := makeSnapshot(t, c, client, "data")
	shared := func() []types.CreateVolumePermission {
		t.Helper()
		out, err := client.DescribeSnapshotAttribute(ctx, &ec2.DescribeSnapshotAttributeInput{SnapshotId: &snap, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
		if err != nil {
			t.Fatal(err)
		}
		return out.CreateVolumePermissions
	}
	for _, in := range []ec2.ModifySnapshotAttributeInput{
		{OperationType: types.OperationTypeAdd, UserIds: []string{"123456789012"}, GroupNames: []string{"all"}},
		{CreateVolumePermission: &types.CreateVolumePermissionModifications{Remove: []types.CreateVolumePermission{{Group: types.PermissionGroupAll}}}},
	} {
		in.SnapshotId = &snap
		if _, err := client.ModifySnapshotAttribute(ctx, &in); err != nil {
			t.Fatal(err)
		}
	}
	if got := shared(); len(got) != 1 || *got[0].UserId != "123456789012" {
		t.Errorf("shared with %v", got)
	}
	_, err := client.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{SnapshotId: &snap, OperationType: types.OperationTypeAdd, UserIds: []string{"me"}})
	wantCode(t, err, "InvalidParameterValue")
	if _, err := client.ResetSnapshotAttribute(ctx, &ec2.ResetSnapshotAttributeInput{SnapshotId: &snap, Attribute: types.SnapshotAttributeNameCreateVolumePermission}); err != nil {
		t.Fatal(err)
	}
	if got := shared(); len(got) != 0 {
		t.Errorf("after the reset it is shared with %v", got)
	}
	tiers, err := client.DescribeSnapshotTierStatus(ctx, &ec2.DescribeSnapshotTierStatusInput{Filters: filters("snapshot-id", snap)})
	if err != nil || len(tiers.SnapshotTierStatuses) != 1 || tiers.SnapshotTierStatuses[0].StorageTier != types.StorageTierStandard {
		t.Errorf("tiers are %v, %v", tiers, err)
	}
}

// What this cloud hasn't got it neither makes up nor passes over.
func TestWhatThereIsNot(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	offers, err := client.DescribeReservedInstancesOfferings(ctx, &ec2.DescribeReservedInstancesOfferingsInput{
		InstanceType: "t3.micro", OfferingType: types.OfferingTypeValuesNoUpfront, MaxDuration: aws.Int64(31536000), Filters: filters("scope", "Region"),
	})
	if err != nil || len(offers.ReservedInstancesOfferings) != 0 {
		t.Errorf("offered are %v, %v", offers, err)
	}
	_, err = client.DescribeReservedInstancesOfferings(ctx, &ec2.DescribeReservedInstancesOfferingsInput{OfferingType: "For Free"})
	wantCode(t, err, "InvalidParameterValue")
	_, err = client.DescribeReservedInstancesOfferings(ctx, &ec2.DescribeReservedInstancesOfferingsInput{Filters: filters("colour", "red")})
	wantCode(t, err, "InvalidParameterValue")
	if held, err := client.DescribeReservedInstances(ctx, &ec2.DescribeReservedInstancesInput{}); err != nil || len(held.ReservedInstances) != 0 {
		t.Errorf("reserved are %v, %v", held, err)
	}
	inst := putInstance(t, c, state.Stopped, nil)
	_, err = client.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &inst.ID})
	wantCode(t, err, "UnsupportedOperation")
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
	_, err = client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: &image, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), IamInstanceProfile: &types.IamInstanceProfileSpecification{Name: aws.String("web")},
	})
	wantCode(t, err, "UnsupportedOperation")
}
