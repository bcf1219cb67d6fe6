package cloud

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/rbin"
	rbintypes "github.com/aws/aws-sdk-go-v2/service/rbin/types"
)

// rbin is a client of the Recycle Bin's own service.
func (e *timed) rbin() *rbin.Client {
	o := e.dlm.Options()
	return rbin.New(rbin.Options{Region: o.Region, BaseEndpoint: o.BaseEndpoint, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, Credentials: o.Credentials, HTTPSignerV4: e.clock})
}

// rule keeps what is tagged app=web for some days.
func (e *timed) rule(of rbintypes.ResourceType, days int32) string {
	e.t.Helper()
	out, err := e.rbin().CreateRule(e.t.Context(), &rbin.CreateRuleInput{
		ResourceType: of, Description: aws.String("web"),
		ResourceTags:    []rbintypes.ResourceTag{{ResourceTagKey: aws.String("app"), ResourceTagValue: aws.String("web")}},
		RetentionPeriod: &rbintypes.RetentionPeriod{RetentionPeriodUnit: rbintypes.RetentionPeriodUnitDays, RetentionPeriodValue: &days},
		Tags:            []rbintypes.Tag{{Key: aws.String("who"), Value: aws.String("me")}},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return *out.Identifier
}

func TestTrap02RecycleBinRules(t *testing.T) {
	e := openTimed(t, Dir(t.TempDir()), &clock{at: noon})
	ctx, client := t.Context(), e.rbin()
	id := e.rule(rbintypes.ResourceTypeEbsSnapshot, 30)
	got, err := client.GetRule(ctx, &rbin.GetRuleInput{Identifier: &id})
	if err != nil || *got.RetentionPeriod.RetentionPeriodValue != 30 || *got.ResourceTags[0].ResourceTagValue != "web" || got.Status != rbintypes.RuleStatusAvailable || *got.Description != "web" {
		t.Fatalf("it is %+v, %v", got, err)
	}
	if _, err := client.UpdateRule(ctx, &rbin.UpdateRuleInput{Identifier: &id, RetentionPeriod: &rbintypes.RetentionPeriod{RetentionPeriodUnit: rbintypes.RetentionPeriodUnitDays, RetentionPeriodValue: aws.Int32(7)}}); err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]int{"web": 1, "db": 0} {
		list, err := client.ListRules(ctx, &rbin.ListRulesInput{
			ResourceType: rbintypes.ResourceTypeEbsSnapshot, ResourceTags: []rbintypes.ResourceTag{{ResourceTagKey: aws.String("app"), ResourceTagValue: &tag}},
		})
		if err != nil || len(list.Rules) != want {
			t.Errorf("listed for %s: %+v, %v", tag, list, err)
		}
	}
	var invalid *rbintypes.ValidationException
	_, err = client.CreateRule(ctx, &rbin.CreateRuleInput{
		ResourceType:    rbintypes.ResourceTypeEbsVolume,
		RetentionPeriod: &rbintypes.RetentionPeriod{RetentionPeriodUnit: rbintypes.RetentionPeriodUnitDays, RetentionPeriodValue: aws.Int32(8)},
	})
	if !errors.As(err, &invalid) {
		t.Errorf("volumes for eight days: %v", err)
	}
	if _, err := client.DeleteRule(ctx, &rbin.DeleteRuleInput{Identifier: &id}); err != nil {
		t.Fatal(err)
	}
	var gone *rbintypes.ResourceNotFoundException
	if _, err := client.GetRule(ctx, &rbin.GetRuleInput{Identifier: &id}); !errors.As(err, &gone) {
		t.Errorf("deleted: %v", err)
	}
}

// What a rule keeps is gone for everybody, comes back as it was, and goes for
// good when its time is over, whatever daemon runs then.
func TestTrap02RecycleBin(t *testing.T) {
	dir, k := Dir(t.TempDir()), &clock{at: noon}
	e := openTimed(t, dir, k)
	ctx := t.Context()
	vol, other := e.disk(), makeVolume(t, e.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	snap, err := e.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &vol, TagSpecifications: webTags(types.ResourceTypeSnapshot)})
	if err != nil {
		t.Fatal(err)
	}
	e.cloud.work.wait()
	image := makeImage(t, e.ec2, "web", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: snap.SnapshotId}))
	if _, err := e.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{image}, Tags: []types.Tag{{Key: aws.String("app"), Value: aws.String("web")}}}); err != nil {
		t.Fatal(err)
	}
	e.rule(rbintypes.ResourceTypeEbsSnapshot, 30)
	e.rule(rbintypes.ResourceTypeEc2Image, 30)
	e.rule(rbintypes.ResourceTypeEbsVolume, 7)
	e.throwAway(ctx, image, *snap.SnapshotId, vol, other)
	e.inBin(1, 1, 1)
	if out, err := e.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{}); err != nil || len(out.Volumes) != 0 {
		t.Errorf("there are still %+v, %v", out, err)
	}
	_, err = e.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: snap.SnapshotId})
	wantCode(t, err, "InvalidSnapshot.NotFound")
	_, err = e.ec2.RestoreVolumeFromRecycleBin(ctx, &ec2.RestoreVolumeFromRecycleBinInput{VolumeId: &other})
	wantCode(t, err, "InvalidVolume.NotFound")
	_, err = e.ec2.RestoreImageFromRecycleBin(ctx, &ec2.RestoreImageFromRecycleBinInput{ImageId: &image})
	wantCode(t, err, "InvalidSnapshot.NotFound") // that first

	e.end()
	k.set(noon.AddDate(0, 0, 6))
	e = openTimed(t, dir, k)
	for _, err := range []error{
		second(e.ec2.RestoreSnapshotFromRecycleBin(ctx, &ec2.RestoreSnapshotFromRecycleBinInput{SnapshotId: snap.SnapshotId})),
		second(e.ec2.RestoreImageFromRecycleBin(ctx, &ec2.RestoreImageFromRecycleBinInput{ImageId: &image})),
		second(e.ec2.RestoreVolumeFromRecycleBin(ctx, &ec2.RestoreVolumeFromRecycleBinInput{VolumeId: &vol})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e.inBin(0, 0, 0)
	again := makeVolume(t, e.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: snap.SnapshotId})
	if out, err := e.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{vol, again}}); err != nil || out.Volumes[0].State != types.VolumeStateAvailable {
		t.Errorf("back they are %+v, %v", out, err)
	}
	if !e.hasFile(vol) {
		t.Errorf("volume %s has no data", vol)
	}

	e.throwAway(ctx, image, *snap.SnapshotId, vol)
	e.end()
	k.set(noon.AddDate(0, 2, 0)) // long past its time
	e = openTimed(t, dir, k)
	eventually(t, "the bin is empty", func() bool { return e.counted() == [3]int{} })
	e.cloud.work.wait()
	if _, err := e.cloud.snapshots.Info(ctx, *snap.SnapshotId); err == nil || e.hasFile(vol) {
		t.Errorf("past its time there is data still: snapshot %v, volume %v", err == nil, e.hasFile(vol))
	}
}

func second[T any](_ T, err error) error { return err }

// throwAway deletes an image, its snapshot and volumes.
func (e *timed) throwAway(ctx context.Context, image, snap string, vols ...string) {
	e.t.Helper()
	err := second(e.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &image}))
	err = errors.Join(err, second(e.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snap})))
	for _, v := range vols {
		err = errors.Join(err, second(e.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &v})))
	}
	if err != nil {
		e.t.Fatal(err)
	}
	e.cloud.work.wait()
}

// counted is how many snapshots, images and volumes are in the bin.
func (e *timed) counted() [3]int {
	e.t.Helper()
	snaps, err1 := e.ec2.ListSnapshotsInRecycleBin(e.t.Context(), &ec2.ListSnapshotsInRecycleBinInput{})
	images, err2 := e.ec2.ListImagesInRecycleBin(e.t.Context(), &ec2.ListImagesInRecycleBinInput{})
	vols, err3 := e.ec2.ListVolumesInRecycleBin(e.t.Context(), &ec2.ListVolumesInRecycleBinInput{})
	if err := errors.Join(err1, err2, err3); err != nil {
		e.t.Fatal(err)
	}
	for _, s := range snaps.Snapshots {
		if s.RecycleBinExitTime.Sub(*s.RecycleBinEnterTime) != 30*24*time.Hour {
			e.t.Errorf("it stays from %v to %v", s.RecycleBinEnterTime, s.RecycleBinExitTime)
		}
	}
	return [3]int{len(snaps.Snapshots), len(images.Images), len(vols.Volumes)}
}

func (e *timed) inBin(snaps, images, vols int) {
	e.t.Helper()
	if got := e.counted(); got != [3]int{snaps, images, vols} {
		e.t.Errorf("in the bin there are %v, want %d snapshots, %d images, %d volumes", got, snaps, images, vols)
	}
}

// hasFile tells whether a volume's data is there.
func (e *timed) hasFile(vol string) bool {
	found, err := filepath.Glob(filepath.Join(e.cloud.dir.Volumes(), vol+"*"))
	return err == nil && len(found) > 0
}
