package cloud

import (
	"net/http/httptest"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/steadcloud/stead/internal/state"
)

func snapshotState(t *testing.T, client *ec2.Client, id string) types.Snapshot {
	t.Helper()
	out, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Snapshots[0]
}

func waitCompleted(t *testing.T, client *ec2.Client, id string) types.Snapshot {
	t.Helper()
	var s types.Snapshot
	eventually(t, id+" is completed", func() bool {
		s = snapshotState(t, client, id)
		if s.State == types.SnapshotStateError {
			t.Fatalf("%s: %s", id, *s.StateMessage)
		}
		return s.State == types.SnapshotStateCompleted
	})
	return s
}

func headOf(t *testing.T, c *Cloud, vol string) string {
	t.Helper()
	f, err := os.Open(c.volumes.Path(vol))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return string(head)
}

// A copy in another region has the data and the tags that it was given, and
// lives on when its source is gone.
func TestCopySnapshotAcrossRegions(t *testing.T) {
	c, here := newTestCloud(t)
	there := testClient(t, c, "eu-west-1")
	snap := makeSnapshot(t, c, here, "data")
	out, err := there.CopySnapshot(t.Context(), &ec2.CopySnapshotInput{
		SourceRegion: aws.String("us-east-1"), SourceSnapshotId: &snap, Description: aws.String("moved"),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil {
		t.Fatal(err)
	}
	s := waitCompleted(t, there, *out.SnapshotId)
	if *s.Description != "moved" || *s.Progress != "100%" || *s.VolumeSize != 1 || len(s.Tags) != 1 || len(out.Tags) != 1 || aws.ToInt64(s.FullSnapshotSizeInBytes) == 0 {
		t.Errorf("the copy is %+v", s)
	}
	c.work.wait() // the source's data is collected by then
	if infos, err := c.snapshots.List(t.Context()); err != nil || len(infos) != 1 {
		t.Errorf("the store has %v (%v)", infos, err)
	}
	vol := makeVolume(t, there, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("eu-west-1b"), SnapshotId: out.SnapshotId})
	if got := headOf(t, c, vol); got != "data" {
		t.Errorf("a volume of the copy reads %q", got)
	}
}

func TestCopySnapshotRefuses(t *testing.T) {
	c, client := newTestCloud(t)
	snap := makeSnapshot(t, c, client, "data")
	region := aws.String("us-east-1")
	for name, tc := range map[string]struct {
		in   ec2.CopySnapshotInput
		code string
	}{
		"unknown":   {ec2.CopySnapshotInput{SourceRegion: region, SourceSnapshotId: aws.String("snap-0123456789abcdef0")}, "InvalidSnapshot.NotFound"},
		"elsewhere": {ec2.CopySnapshotInput{SourceRegion: aws.String("eu-west-1"), SourceSnapshotId: &snap}, "InvalidSnapshot.NotFound"},
		"region":    {ec2.CopySnapshotInput{SourceRegion: aws.String("moon-1"), SourceSnapshotId: &snap}, "InvalidParameterValue"},
		"encrypted": {ec2.CopySnapshotInput{SourceRegion: region, SourceSnapshotId: &snap, Encrypted: aws.Bool(true)}, "UnsupportedOperation"},
		"time":      {ec2.CopySnapshotInput{SourceRegion: region, SourceSnapshotId: &snap, CompletionDurationMinutes: aws.Int32(7)}, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.CopySnapshot(t.Context(), &tc.in)
			wantCode(t, err, tc.code)
		})
	}
}

// A copy that its daemon didn't live to make is made by the next one, though
// the source was deleted in between.
func TestCopySnapshotSurvivesItsDaemon(t *testing.T) {
	dir, m := Dir(t.TempDir()), &moody{}
	c, client, end := openMoody(t, dir, m)
	snap := makeSnapshot(t, c, client, "data")
	m.rest()
	c.work.wait()
	out, err := client.CopySnapshot(t.Context(), &ec2.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: &snap})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil {
		t.Fatal(err)
	}
	end()
	c, client, _ = openMoody(t, dir, m)
	waitCompleted(t, client, *out.SnapshotId)
	eventually(t, "the source is gone", func() bool {
		var left []*state.Snapshot
		err := c.db.View(func(tx *state.Tx) (err error) {
			left, err = state.All[state.Snapshot](tx)
			return err
		})
		return err == nil && len(left) == 1
	})
}

func TestCopyImageAcrossRegions(t *testing.T) {
	c, here := newTestCloud(t)
	there := testClient(t, c, "eu-west-1")
	root, data := makeSnapshot(t, c, here, "root"), makeSnapshot(t, c, here, "data")
	kernel := &state.Image{Meta: c.meta(testScope, "aki"), State: state.ImageAvailable, Type: "kernel", Owner: amazonOwner, Architecture: "x86_64"}
	if err := c.db.Update(func(tx *state.Tx) error { return state.Put(tx, kernel) }); err != nil {
		t.Fatal(err)
	}
	img, err := here.RegisterImage(t.Context(), &ec2.RegisterImageInput{
		Name: aws.String("web"), RootDeviceName: aws.String("/dev/sda1"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), KernelId: &kernel.ID,
		BlockDeviceMappings: []types.BlockDeviceMapping{
			ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &root, DeleteOnTermination: aws.Bool(false)}), ebs("/dev/sdf", types.EbsBlockDevice{SnapshotId: &data, VolumeSize: aws.Int32(3)}),
		},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := ec2.CopyImageInput{SourceRegion: aws.String("us-east-1"), SourceImageId: img.ImageId, Name: aws.String("web"), CopyImageTags: aws.Bool(true), ClientToken: aws.String("once")}
	out, err := there.CopyImage(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := there.CopyImage(t.Context(), &in); err != nil || *again.ImageId != *out.ImageId {
		t.Errorf("the token gives %v, %v", again, err)
	}
	_, err = there.CopyImage(t.Context(), &ec2.CopyImageInput{SourceRegion: aws.String("us-east-1"), SourceImageId: img.ImageId, Name: aws.String("web")})
	wantCode(t, err, "InvalidAMIName.Duplicate")
	var got types.Image
	eventually(t, "the copy is available", func() bool {
		list, err := there.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Filters: filters("source-image-id", *img.ImageId, "source-image-region", "us-east-1")})
		if err != nil || len(list.Images) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		got = list.Images[0]
		return got.State == types.ImageStateAvailable
	})
	if *got.ImageId != *out.ImageId || *got.SourceImageId != *img.ImageId || *got.KernelId != kernel.ID || len(got.Tags) != 1 || len(got.BlockDeviceMappings) != 2 || *got.BlockDeviceMappings[0].Ebs.DeleteOnTermination {
		t.Errorf("the copy is %+v", got)
	}
	if list, err := there.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{kernel.ID}}); err != nil || len(list.Images) != 1 {
		t.Errorf("its kernel is %v, %v", list, err)
	}
	id := launchOne(t, there, &ec2.RunInstancesInput{ImageId: out.ImageId})
	for i, want := range []string{"root", "data"} {
		if head := headOf(t, c, *describe(t, there, id).BlockDeviceMappings[i].Ebs.VolumeId); head != want {
			t.Errorf("disk %d reads %q", i, head)
		}
	}
}

// The alias of an image leads to it from every region, anew when the image is
// built again.
func TestAliasesLeadEverywhere(t *testing.T) {
	c, here := newTestCloud(t)
	snap := makeSnapshot(t, c, here, "root")
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	client := ssm.New(ssm.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String(srv.URL), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, testKeys.SecretAccessKey, ""),
	})
	there := testClient(t, c, "eu-west-1")
	var seen string
	for _, name := range []string{"tiny-1", "tiny-2"} {
		img := makeImage(t, here, name, ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
		if err := c.db.Update(func(tx *state.Tx) error { return c.setParameter(tx, testScope, TinyParameter, img) }); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			out, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(TinyParameter)})
			if err != nil {
				t.Fatal(err)
			}
			list, err := there.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{*out.Parameter.Value}})
			if err != nil || list.Images[0].State != types.ImageStateAvailable || *list.Images[0].SourceImageId != img || *list.Images[0].Name != name {
				t.Fatalf("the alias leads to %v, %v", list, err)
			}
			seen = *out.Parameter.Value
		}
	}
	launchOne(t, there, &ec2.RunInstancesInput{ImageId: &seen})
	if list, err := there.DescribeImages(t.Context(), &ec2.DescribeImagesInput{}); err != nil || len(list.Images) != 2 {
		t.Errorf("there are %d images, want 2 (%v)", len(list.Images), err)
	}
}

func TestCopyVolumes(t *testing.T) {
	c, client := newTestCloud(t)
	id, _ := rooted(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	loose := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1c"), Size: aws.Int32(1)})
	for source, want := range map[string]string{root: "root", loose: "\x00\x00\x00\x00"} {
		in := ec2.CopyVolumesInput{SourceVolumeId: &source, Size: aws.Int32(2), VolumeType: types.VolumeTypeGp3, ClientToken: aws.String("of " + source)}
		out, err := client.CopyVolumes(t.Context(), &in)
		if err != nil {
			t.Fatal(err)
		}
		v := out.Volumes[0]
		if again, err := client.CopyVolumes(t.Context(), &in); err != nil || *again.Volumes[0].VolumeId != *v.VolumeId {
			t.Errorf("the token gives %v, %v", again, err)
		}
		eventually(t, "available", func() bool { return volumeState(t, client, *v.VolumeId) == types.VolumeStateAvailable })
		if got := headOf(t, c, *v.VolumeId); got != want {
			t.Errorf("the copy reads %q", got)
		}
		if *v.Size != 2 || *v.SourceVolumeId != source || v.VolumeType != types.VolumeTypeGp3 || fileSize(t, c, *v.VolumeId) != 2*gib {
			t.Errorf("the copy is %+v", v)
		}
	}
	_, err := client.CopyVolumes(t.Context(), &ec2.CopyVolumesInput{SourceVolumeId: aws.String("vol-0123456789abcdef0")})
	wantCode(t, err, "InvalidVolume.NotFound")
	c.work.wait()
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	for v, use := range c.uses.uses {
		if use.readers > 0 {
			t.Errorf("%s is read still", v)
		}
	}
}

// A copy of a volume that lies still is made by the next daemon, even if the
// volume is deleted meanwhile; one that was read from a machine fails.
func TestCopyVolumesSurvivesItsDaemon(t *testing.T) {
	dir, m := Dir(t.TempDir()), &moody{}
	c, client, end := openMoody(t, dir, m)
	id, snap := rooted(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	loose := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1c"), SnapshotId: &snap})
	m.rest()
	c.work.wait()
	copies := map[string]string{}
	for _, source := range []string{root, loose} {
		out, err := client.CopyVolumes(t.Context(), &ec2.CopyVolumesInput{SourceVolumeId: &source})
		if err != nil {
			t.Fatal(err)
		}
		copies[source] = *out.Volumes[0].VolumeId
	}
	if _, err := client.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &loose}); err != nil {
		t.Fatal(err)
	}
	end()
	c, client, _ = openMoody(t, dir, m)
	eventually(t, "the copy is made", func() bool { return volumeState(t, client, copies[loose]) == types.VolumeStateAvailable })
	if got := headOf(t, c, copies[loose]); got != "root" {
		t.Errorf("the copy reads %q", got)
	}
	eventually(t, "the live copy fails", func() bool { return volumeState(t, client, copies[root]) == types.VolumeStateError })
	eventually(t, "the source goes", func() bool { return volumeState(t, client, loose) == "gone" })
}
