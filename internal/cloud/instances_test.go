package cloud

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// eventually waits for the workers to bring something about.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
	}
}

// makeSnapshot stores a disk with the text at its beginning.
func makeSnapshot(t *testing.T, c *Cloud, client *ec2.Client, text string) string {
	t.Helper()
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	f, err := os.OpenFile(c.volumes.Path(vol), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	snap, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
	if err != nil {
		t.Fatal(err)
	}
	if snap.State != types.SnapshotStatePending {
		t.Errorf("a new snapshot is %s", snap.State)
	}
	eventually(t, "snapshot completed", func() bool {
		out, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Snapshots[0].State == types.SnapshotStateCompleted && *out.Snapshots[0].Progress == "100%"
	})
	if _, err := client.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &vol}); err != nil {
		t.Fatal(err)
	}
	return *snap.SnapshotId
}

func ebs(device string, e types.EbsBlockDevice) types.BlockDeviceMapping {
	return types.BlockDeviceMapping{DeviceName: &device, Ebs: &e}
}

func makeImage(t *testing.T, client *ec2.Client, name string, maps ...types.BlockDeviceMapping) string {
	t.Helper()
	out, err := client.RegisterImage(t.Context(), &ec2.RegisterImageInput{
		Name: &name, RootDeviceName: aws.String("/dev/sda1"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		BlockDeviceMappings: maps,
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ImageId
}

func describe(t *testing.T, client *ec2.Client, id string) types.Instance {
	t.Helper()
	out, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

func waitInstance(t *testing.T, client *ec2.Client, id string, want types.InstanceStateName) types.Instance {
	t.Helper()
	var i types.Instance
	eventually(t, id+" becomes "+string(want), func() bool {
		i = describe(t, client, id)
		return i.State.Name == want
	})
	return i
}

func launchOne(t *testing.T, client *ec2.Client, in *ec2.RunInstancesInput) string {
	t.Helper()
	in.MinCount, in.MaxCount, in.InstanceType = aws.Int32(1), aws.Int32(1), types.InstanceTypeT3Nano
	out, err := client.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	id := *out.Instances[0].InstanceId
	waitInstance(t, client, id, types.InstanceStateNameRunning)
	return id
}

type diskWant struct {
	device string
	size   int32
	stays  bool
	head   string
}

func TestRunInstancesHonoursEveryMapping(t *testing.T) {
	c, client := newTestCloud(t)
	root, data := makeSnapshot(t, c, client, "root"), makeSnapshot(t, c, client, "data")
	image := makeImage(t, client, "all",
		ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &root, DeleteOnTermination: aws.Bool(false)}),
		ebs("/dev/sdf1", types.EbsBlockDevice{SnapshotId: &data, VolumeSize: aws.Int32(2)}),
		ebs("/dev/sdg", types.EbsBlockDevice{VolumeSize: aws.Int32(3), DeleteOnTermination: aws.Bool(false)}))
	for name, tc := range map[string]struct {
		maps []types.BlockDeviceMapping
		want []diskWant
	}{
		"as registered": {nil, []diskWant{{"/dev/sda1", 1, true, "root"}, {"/dev/sdf1", 2, false, "data"}, {"/dev/sdg", 3, true, ""}}},
		"root overridden by name alone": {
			[]types.BlockDeviceMapping{ebs("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(9), DeleteOnTermination: aws.Bool(true)})},
			[]diskWant{{"/dev/sda1", 9, false, "root"}, {"/dev/sdf1", 2, false, "data"}, {"/dev/sdg", 3, true, ""}},
		},
		"one left out, one added": {
			[]types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdf1"), NoDevice: aws.String("")}, ebs("/dev/sdh", types.EbsBlockDevice{VolumeSize: aws.Int32(1)})},
			[]diskWant{{"/dev/sda1", 1, true, "root"}, {"/dev/sdg", 3, true, ""}, {"/dev/sdh", 1, false, ""}},
		},
		"another snapshot": {
			[]types.BlockDeviceMapping{ebs("/dev/sdg", types.EbsBlockDevice{SnapshotId: &root})},
			[]diskWant{{"/dev/sda1", 1, true, "root"}, {"/dev/sdf1", 2, false, "data"}, {"/dev/sdg", 1, true, "root"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image, BlockDeviceMappings: tc.maps})
			var got []diskWant
			volumes := map[string]bool{}
			for _, m := range describe(t, client, id).BlockDeviceMappings {
				got = append(got, diskOf(t, c, client, m))
				volumes[*m.Ebs.VolumeId] = !*m.Ebs.DeleteOnTermination
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("disks are\n%+v\nwant\n%+v", got, tc.want)
			}
			if _, err := client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
				t.Fatal(err)
			}
			waitInstance(t, client, id, types.InstanceStateNameTerminated)
			for vol, stays := range volumes {
				eventually(t, "volume "+vol+" is as its flag says", func() bool {
					out, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{vol}})
					return stays == (err == nil) && (err != nil || out.Volumes[0].State == types.VolumeStateAvailable)
				})
				if _, err := os.Stat(c.volumes.Path(vol)); stays != (err == nil) {
					t.Errorf("file of %s: stays %v, but %v", vol, stays, err)
				}
			}
		})
	}
}

func diskOf(t *testing.T, c *Cloud, client *ec2.Client, m types.InstanceBlockDeviceMapping) diskWant {
	t.Helper()
	out, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{*m.Ebs.VolumeId}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(c.volumes.Path(*m.Ebs.VolumeId))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return diskWant{*m.DeviceName, *out.Volumes[0].Size, !*m.Ebs.DeleteOnTermination, string(bytes.TrimRight(head, "\x00"))}
}

func TestRunInstancesRefuses(t *testing.T) {
	c, client := newTestCloud(t)
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
	for name, tc := range map[string]struct {
		in   ec2.RunInstancesInput
		code string
	}{
		"no image":         {ec2.RunInstancesInput{}, "MissingParameter"},
		"unknown image":    {ec2.RunInstancesInput{ImageId: aws.String("ami-00000000000000000")}, "InvalidAMIID.NotFound"},
		"malformed image":  {ec2.RunInstancesInput{ImageId: aws.String("tiny")}, "InvalidAMIID.Malformed"},
		"unknown key":      {ec2.RunInstancesInput{ImageId: &image, KeyName: aws.String("nobody")}, "InvalidKeyPair.NotFound"},
		"unknown group":    {ec2.RunInstancesInput{ImageId: &image, SecurityGroupIds: []string{"sg-00000000000000000"}}, "InvalidGroup.NotFound"},
		"unknown subnet":   {ec2.RunInstancesInput{ImageId: &image, SubnetId: aws.String("subnet-00000000000000000")}, "InvalidSubnetID.NotFound"},
		"unknown zone":     {ec2.RunInstancesInput{ImageId: &image, Placement: &types.Placement{AvailabilityZone: aws.String("us-east-1z")}}, "InvalidZone.NotFound"},
		"foreign address":  {ec2.RunInstancesInput{ImageId: &image, PrivateIpAddress: aws.String("10.0.0.1")}, "InvalidParameterValue"},
		"reserved address": {ec2.RunInstancesInput{ImageId: &image, PrivateIpAddress: aws.String("172.31.0.1")}, "InvalidParameterValue"},
		"unknown type":     {ec2.RunInstancesInput{ImageId: &image, InstanceType: "z9.huge"}, "InvalidParameterValue"},
		"user data":        {ec2.RunInstancesInput{ImageId: &image, UserData: aws.String("not base64!")}, "InvalidUserData.Malformed"},
		"too much data":    {ec2.RunInstancesInput{ImageId: &image, UserData: aws.String(base64.StdEncoding.EncodeToString(make([]byte, maxUserData+1)))}, "InvalidParameterValue"},
		"too small": {ec2.RunInstancesInput{ImageId: &image, BlockDeviceMappings: []types.BlockDeviceMapping{
			ebs("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(0)}),
		}}, "InvalidBlockDeviceMapping"},
		"no root":    {ec2.RunInstancesInput{ImageId: &image, BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), NoDevice: aws.String("")}}}, "InvalidBlockDeviceMapping"},
		"bad device": {ec2.RunInstancesInput{ImageId: &image, BlockDeviceMappings: []types.BlockDeviceMapping{ebs("/dev/null", types.EbsBlockDevice{VolumeSize: aws.Int32(1)})}}, "InvalidBlockDeviceMapping"},
		"twice":      {ec2.RunInstancesInput{ImageId: &image, BlockDeviceMappings: []types.BlockDeviceMapping{ebs("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)}), ebs("sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)})}}, "InvalidBlockDeviceMapping"},
		"dry run":    {ec2.RunInstancesInput{ImageId: &image, DryRun: aws.Bool(true)}, "DryRunOperation"},
	} {
		t.Run(name, func(t *testing.T) {
			in := tc.in
			in.MinCount, in.MaxCount = aws.Int32(1), aws.Int32(1)
			_, err := client.RunInstances(t.Context(), &in)
			wantCode(t, err, tc.code)
		})
	}
	out, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	if err != nil || len(out.Reservations) != 0 {
		t.Errorf("refused calls left %d reservations (%v)", len(out.Reservations), err)
	}
	vols, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{Filters: []types.Filter{{Name: aws.String("status"), Values: []string{"available", "in-use", "creating"}}}})
	if err != nil || len(vols.Volumes) != 0 {
		t.Errorf("refused calls left volumes: %v %v", vols, err)
	}
}

func TestClientTokenGivesTheSameInstances(t *testing.T) {
	c, client := newTestCloud(t)
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
	in := ec2.RunInstancesInput{ImageId: &image, MinCount: aws.Int32(2), MaxCount: aws.Int32(2), ClientToken: aws.String("once")}
	first, err := client.RunInstances(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.RunInstances(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	if *first.ReservationId != *again.ReservationId || *first.Instances[1].InstanceId != *again.Instances[1].InstanceId {
		t.Errorf("the same token made %s and %s", *first.ReservationId, *again.ReservationId)
	}
	in.MaxCount = aws.Int32(3)
	_, err = client.RunInstances(t.Context(), &in)
	wantCode(t, err, "IdempotentParameterMismatch")
}

func TestSwapRootWhileStopped(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	_, err := client.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &root})
	wantCode(t, err, "OperationNotPermitted")
	if _, err := client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
	if _, err := client.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &root}); err != nil {
		t.Fatal(err)
	}
	_, err = client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "IncorrectInstanceState")
	other := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1b"), SnapshotId: &snap})
	_, err = client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &other, InstanceId: &id, Device: aws.String("/dev/sda1")})
	wantCode(t, err, "InvalidVolume.ZoneMismatch")
	mine := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snap})
	att, err := client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &mine, InstanceId: &id, Device: aws.String("/dev/sda1")})
	if err != nil || att.State != types.VolumeAttachmentStateAttached {
		t.Fatalf("attach to a stopped instance: %v %v", att, err)
	}
	_, err = client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &mine, InstanceId: &id, Device: aws.String("/dev/sdf")})
	wantCode(t, err, "VolumeInUse")
	if _, err := client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	i := waitInstance(t, client, id, types.InstanceStateNameRunning)
	if got := *i.BlockDeviceMappings[0].Ebs.VolumeId; got != mine {
		t.Errorf("the root is %s, want %s", got, mine)
	}
	if *i.BlockDeviceMappings[0].Ebs.DeleteOnTermination {
		t.Error("a volume attached later would go with the instance")
	}
}

// A cloud that is opened again goes on where the other was cut off.
func TestReopenedCloudGoesOn(t *testing.T) {
	dir := Dir(t.TempDir())
	var id, image, vol string
	t.Run("first", func(t *testing.T) {
		m := &moody{}
		c, client, _ := openMoody(t, dir, m)
		snap := makeSnapshot(t, c, client, "root")
		image = makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap, DeleteOnTermination: aws.Bool(false)}))
		id = launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
		m.rest()
		c.work.wait()
		if _, err := client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
			t.Fatal(err)
		}
		v, err := client.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snap})
		if err != nil {
			t.Fatal(err)
		}
		vol = *v.VolumeId
	})
	c := openTestCloud(t, dir)
	client := testClient(t, c, "us-east-1")
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	eventually(t, "volume made", func() bool {
		out, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{vol}})
		return err == nil && out.Volumes[0].State == types.VolumeStateAvailable
	})
	left, err := os.ReadDir(c.dir.Machines())
	if err != nil || len(left) != 0 {
		t.Errorf("machine folders are left over: %v %v", left, err)
	}
	if err := c.db.View(func(tx *state.Tx) error {
		all, err := state.All[state.Volume](tx)
		if len(all) != 2 {
			t.Errorf("%d volumes, want the root that was kept and the new one", len(all))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
