package cloud

import (
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func waitModified(t *testing.T, client *ec2.Client, vol string) types.VolumeModification {
	t.Helper()
	var m types.VolumeModification
	eventually(t, vol+" is modified", func() bool {
		out, err := client.DescribeVolumesModifications(t.Context(), &ec2.DescribeVolumesModificationsInput{VolumeIds: []string{vol}})
		if err != nil {
			t.Fatal(err)
		}
		m = out.VolumesModifications[0]
		return m.ModificationState == types.VolumeModificationStateCompleted || m.ModificationState == types.VolumeModificationStateFailed
	})
	return m
}

func fileSize(t *testing.T, c *Cloud, vol string) int64 {
	t.Helper()
	st, err := os.Stat(c.volumes.Path(vol))
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func TestModifyVolumeGrowsTheFile(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	id, _ := rooted(t, c, client)
	attached := *describe(t, client, id).BlockDeviceMappings[1].Ebs.VolumeId
	loose := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(2)})
	for _, vol := range []string{attached, loose} {
		out, err := client.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(5), VolumeType: types.VolumeTypeGp3, Throughput: aws.Int32(250)})
		if err != nil {
			t.Fatal(err)
		}
		if m := out.VolumeModification; m.ModificationState != types.VolumeModificationStateModifying || *m.OriginalSize != 2 || *m.TargetSize != 5 {
			t.Errorf("%s: the answer is %+v", vol, m)
		}
		if m := waitModified(t, client, vol); m.ModificationState != types.VolumeModificationStateCompleted || *m.Progress != 100 || m.EndTime == nil {
			t.Errorf("%s: in the end it is %+v", vol, m)
		}
		v, err := client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{vol}})
		if err != nil {
			t.Fatal(err)
		}
		if g := v.Volumes[0]; *g.Size != 5 || g.VolumeType != types.VolumeTypeGp3 || *g.Iops != 3000 || *g.Throughput != 250 {
			t.Errorf("%s is %+v", vol, g)
		}
		if n := fileSize(t, c, vol); n != 5*gib {
			t.Errorf("the file of %s has %d bytes", vol, n)
		}
	}
	list, err := client.DescribeVolumesModifications(ctx, &ec2.DescribeVolumesModificationsInput{Filters: filters("target-size", "5", "original-volume-type", "gp2")})
	if err != nil || len(list.VolumesModifications) != 2 {
		t.Errorf("listed are %v, %v", list, err)
	}
}

func TestModifyVolumeRefuses(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(4)})
	for name, tc := range map[string]struct {
		in   ec2.ModifyVolumeInput
		code string
	}{
		"nothing":    {ec2.ModifyVolumeInput{}, "MissingParameter"},
		"smaller":    {ec2.ModifyVolumeInput{Size: aws.Int32(3)}, "InvalidParameterValue"},
		"too large":  {ec2.ModifyVolumeInput{Size: aws.Int32(20000)}, "InvalidParameterValue"},
		"type":       {ec2.ModifyVolumeInput{VolumeType: "gp9"}, "InvalidParameterValue"},
		"iops":       {ec2.ModifyVolumeInput{Iops: aws.Int32(5000)}, "InvalidParameterValue"},
		"throughput": {ec2.ModifyVolumeInput{Throughput: aws.Int32(500)}, "InvalidParameterValue"},
		"unknown":    {ec2.ModifyVolumeInput{VolumeId: aws.String("vol-0123456789abcdef0"), Size: aws.Int32(9)}, "InvalidVolume.NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.in.VolumeId == nil {
				tc.in.VolumeId = &vol
			}
			_, err := client.ModifyVolume(ctx, &tc.in)
			wantCode(t, err, tc.code)
		})
	}
	_, err := client.DescribeVolumesModifications(ctx, &ec2.DescribeVolumesModificationsInput{VolumeIds: []string{vol}})
	wantCode(t, err, "InvalidVolumeModification.NotFound")
	c.work.wait()
	for n := range int32(modificationsADay) {
		if _, err := client.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(5 + n)}); err != nil {
			t.Fatal(err)
		}
		waitModified(t, client, vol)
	}
	_, err = client.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(9)})
	wantCode(t, err, "VolumeModificationRateExceeded")
	err = amend(c, job{"volume", testScope, vol}, func(_ *state.Tx, v *state.Volume) error {
		for i := range v.Modified {
			v.Modified[i] = v.Modified[i].Add(-modificationDay)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if vol, err := client.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(9)}); err != nil {
		t.Errorf("a day later: %v, %v", vol, err)
	}
}

// A modification that its daemon didn't live to see through is finished by the
// next one, and meanwhile no other is taken.
func TestModifyVolumeSurvivesItsDaemon(t *testing.T) {
	dir, m := Dir(t.TempDir()), &moody{}
	c, client, end := openMoody(t, dir, m)
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	m.rest()
	c.work.wait()
	if _, err := client.ModifyVolume(t.Context(), &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	_, err := client.ModifyVolume(t.Context(), &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(3)})
	wantCode(t, err, "IncorrectModificationState")
	if n := fileSize(t, c, vol); n != gib {
		t.Errorf("the file has %d bytes already", n)
	}
	end()
	c, client, _ = openMoody(t, dir, m)
	if got := waitModified(t, client, vol); got.ModificationState != types.VolumeModificationStateCompleted {
		t.Errorf("it is %+v", got)
	}
	if n := fileSize(t, c, vol); n != 2*gib {
		t.Errorf("the file has %d bytes", n)
	}
}

// A volume that a snapshot is being read from grows after that, and the
// snapshot has the size that the volume had.
func TestModifyVolumeWaitsForASnapshot(t *testing.T) {
	c, client := newTestCloud(t)
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	if !c.uses.read([]string{vol}) {
		t.Fatal("the volume is in use")
	}
	if _, err := client.ModifyVolume(t.Context(), &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // for the worker to find it in use
	if n := fileSize(t, c, vol); n != gib {
		t.Errorf("it grew to %d bytes while it was read", n)
	}
	c.uses.doneReading([]string{vol})
	waitModified(t, client, vol)
	if n := fileSize(t, c, vol); n != 2*gib {
		t.Errorf("the file has %d bytes", n)
	}
}

// A volume that is being grown is neither read nor run on; who would run on it
// is woken.
func TestGrowingVolumeIsAlone(t *testing.T) {
	u := newDiskUses()
	if !u.grow("a") || u.grow("a") || u.read([]string{"a"}) {
		t.Error("somebody else has a volume that is being grown")
	}
	woken := false
	if u.run("i", []string{"a"}, func() { woken = true }) {
		t.Error("a machine starts on it")
	}
	u.grown("a")
	if !woken || !u.run("i", []string{"a"}, func() {}) || u.grow("a") {
		t.Errorf("afterwards: woken %v", woken)
	}
	u.stopped("i")
	if len(u.uses) != 0 {
		t.Errorf("left over are %v", u.uses)
	}
}

func TestVolumeAttributes(t *testing.T) {
	_, client := newTestCloud(t)
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	for _, want := range []bool{false, true} {
		if want {
			_, err := client.ModifyVolumeAttribute(t.Context(), &ec2.ModifyVolumeAttributeInput{VolumeId: &vol, AutoEnableIO: &types.AttributeBooleanValue{Value: &want}})
			if err != nil {
				t.Fatal(err)
			}
		}
		out, err := client.DescribeVolumeAttribute(t.Context(), &ec2.DescribeVolumeAttributeInput{VolumeId: &vol, Attribute: types.VolumeAttributeNameAutoEnableIO})
		if err != nil || *out.AutoEnableIO.Value != want {
			t.Errorf("autoEnableIO is %v, %v; want %v", out, err, want)
		}
	}
	_, err := client.DescribeVolumeAttribute(t.Context(), &ec2.DescribeVolumeAttributeInput{VolumeId: &vol, Attribute: "colour"})
	wantCode(t, err, "InvalidParameterValue")
}
