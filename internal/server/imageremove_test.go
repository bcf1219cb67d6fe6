package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// snapshotsLeft lists the caller's own snapshots.
func (b *bench) snapshotsLeft() []string {
	b.t.Helper()
	out, err := b.client.DescribeSnapshots(context.Background(), &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	b.check(err)
	var ids []string
	for _, s := range out.Snapshots {
		ids = append(ids, aws.ToString(s.SnapshotId))
	}
	return ids
}

// registered registers an image of a snapshot.
func (b *bench) registered(name, snapshot string) string {
	b.t.Helper()
	out, err := b.client.RegisterImage(context.Background(), &ec2.RegisterImageInput{
		Name: &name, Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), RootDeviceName: aws.String("/dev/xvda"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot}}},
	})
	b.check(err)
	return *out.ImageId
}

// TestImageRemoveKilledAtEveryCall copies an image and removes the copy, each
// time killed somewhere else, and looks for snapshots that nobody knows any more.
func TestImageRemoveKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	before := len(b.snapshotsLeft())
	var id string
	everyStep(t, k,
		func(int) {
			made, err := m.ImageCopy(t.Context(), server.ImageCopyOptions{ID: b.imageID, Name: "the copy"})
			b.check(err)
			again, err := m.ImageCopy(t.Context(), server.ImageCopyOptions{ID: b.imageID, Name: "the copy"})
			b.check(err)
			if again.ID != made.ID {
				t.Errorf("copied again: %s, then %s", made.ID, again.ID)
			}
			id = made.ID
		},
		func(ctx context.Context, _ int) error {
			plan, err := m.ImageRemovePlan(ctx, id)
			if errors.Is(err, server.ErrNotFound) { // the first run was through
				return nil
			}
			if err != nil {
				return err
			}
			return m.ImageRemove(ctx, plan, false)
		},
		func(int) {
			if left := b.snapshotsLeft(); len(left) != before {
				t.Errorf("there are %d snapshots, not %d: %v", len(left), before, left)
			}
			if _, err := m.ImageRemovePlan(t.Context(), id); !errors.Is(err, server.ErrNotFound) {
				t.Errorf("the image is there still: %v", err)
			}
		})
}

// TestImageRemoveKeepsWhatIsUsed names who uses an image and its snapshots.
func TestImageRemoveKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m, ctx := b.manager(b.client), t.Context()
	out, err := b.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{b.imageID}})
	b.check(err)
	snapshot := aws.ToString(out.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId)
	second := b.registered("second", snapshot)

	_, err = m.Create(ctx, server.CreateOptions{Name: "web", Image: second, Type: "t3.micro", Key: []byte(publicKey)})
	b.check(err)
	plan, err := m.ImageRemovePlan(ctx, "second")
	b.check(err)
	if plan.ID != second || len(plan.Servers) != 1 {
		t.Errorf("the plan is %+v", plan)
	}
	// moto gives every image a snapshot of its own.
	if !b.isMoto() && (len(plan.Snapshots) != 0 || len(plan.Kept) != 1 || !strings.Contains(plan.Kept[0].Reason, b.imageID)) {
		t.Errorf("the plan is %+v", plan)
	}
	if err := m.ImageRemove(ctx, plan, false); server.KindOf(err) != server.KindExists || !strings.Contains(err.Error(), "web") {
		t.Errorf("an image that a server was made from: %v", err)
	}
	b.check(m.ImageRemove(ctx, plan, true))
	if left := b.snapshotsLeft(); !b.isMoto() && (len(left) != 1 || left[0] != snapshot) {
		t.Errorf("snapshots %v, want %s alone", left, snapshot)
	}
	if _, err := m.ImageRemovePlan(ctx, "nonesuch"); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("no image: %v", err)
	}
}

// An image is needed by a server whose disks are gone, or aren't tagged, too.
func TestImageRemoveSeesServersWithoutDisks(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m, ctx := b.manager(b.client), t.Context()
	out, err := b.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{b.imageID}})
	b.check(err)
	image := b.registered("second", aws.ToString(out.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId))
	o := b.faultOptions()
	o.Image = image
	web, err := m.Create(ctx, o)
	b.check(err)
	needed := func(when string) {
		t.Helper()
		plan, err := m.ImageRemovePlan(ctx, image)
		b.check(err)
		if len(plan.Servers) != 1 || plan.Servers[0] != "web" {
			t.Errorf("%s, %v need the image", when, plan.Servers)
		}
	}
	_, err = b.client.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:image")}}})
	b.check(err)
	needed("without the tag on the root")
	_, err = m.Start(ctx, "web", server.WaitRunning)
	b.check(err)
	_, err = b.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:image"), Value: &image}}})
	b.check(err)
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	needed("with the set " + r.Set + " alone")
}
