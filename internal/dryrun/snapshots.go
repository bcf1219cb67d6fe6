package dryrun

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// ofVolume makes a snapshot of a volume, encrypted as that is.
func (c *Cloud) ofVolume(v *types.Volume, description *string, tags []types.Tag) *types.Snapshot {
	s := c.newSnapshot(v.VolumeId, v.Size, description, tags)
	s.Encrypted, s.KmsKeyId = aws.Bool(aws.ToBool(v.Encrypted)), v.KmsKeyId
	return s
}

func (c *Cloud) newSnapshot(volume *string, size *int32, description *string, tags []types.Tag) *types.Snapshot {
	s := &types.Snapshot{
		SnapshotId: aws.String(c.plan.id("snap")), VolumeId: volume, VolumeSize: size, Description: description, Tags: tags,
		State: types.SnapshotStateCompleted, Progress: aws.String("100%"), StartTime: aws.Time(time.Now()), Encrypted: aws.Bool(false),
	}
	c.snapshots.put(*s.SnapshotId, s)
	return s
}

func (c *Cloud) createSnapshot(ctx context.Context, in *ec2.CreateSnapshotInput) (any, error) {
	v, err := c.volume(ctx, aws.ToString(in.VolumeId))
	if err != nil {
		return nil, err
	}
	n := clone(*c.ofVolume(v, in.Description, specTags(in.TagSpecifications, types.ResourceTypeSnapshot)))
	return &ec2.CreateSnapshotOutput{
		SnapshotId: n.SnapshotId, VolumeId: n.VolumeId, VolumeSize: n.VolumeSize, State: n.State, StartTime: n.StartTime,
		Progress: n.Progress, Description: n.Description, Tags: n.Tags,
	}, nil
}

func (c *Cloud) createSnapshots(ctx context.Context, in *ec2.CreateSnapshotsInput) (any, error) {
	if in.InstanceSpecification == nil {
		return nil, refuse("MissingParameter", "The request must contain the parameter InstanceSpecification")
	}
	i, err := c.instance(ctx, aws.ToString(in.InstanceSpecification.InstanceId))
	if err != nil {
		return nil, err
	}
	out := &ec2.CreateSnapshotsOutput{}
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs == nil || slices.Contains(in.InstanceSpecification.ExcludeDataVolumeIds, aws.ToString(bdm.Ebs.VolumeId)) ||
			aws.ToBool(in.InstanceSpecification.ExcludeBootVolume) && aws.ToString(bdm.DeviceName) == aws.ToString(i.RootDeviceName) {
			continue
		}
		v, err := c.volume(ctx, aws.ToString(bdm.Ebs.VolumeId))
		if err != nil {
			return nil, err
		}
		var tags []types.Tag
		if in.CopyTagsFromSource == types.CopyTagsFromSourceVolume {
			tags = slices.DeleteFunc(clone(v.Tags), func(t types.Tag) bool { return strings.HasPrefix(aws.ToString(t.Key), "aws:") })
		}
		for _, t := range specTags(in.TagSpecifications, types.ResourceTypeSnapshot) {
			setTag(&tags, t)
		}
		n := clone(*c.ofVolume(v, in.Description, tags))
		out.Snapshots = append(out.Snapshots, types.SnapshotInfo{
			SnapshotId: n.SnapshotId, VolumeId: n.VolumeId, VolumeSize: n.VolumeSize, State: n.State, StartTime: n.StartTime,
			Progress: n.Progress, Description: n.Description, Tags: n.Tags,
		})
	}
	return out, nil
}

// copySnapshot copies from another region, or within this one.
func (c *Cloud) copySnapshot(ctx context.Context, in *ec2.CopySnapshotInput) (any, error) {
	id := aws.ToString(in.SourceSnapshotId)
	source, err := c.elsewhere(ctx, aws.ToString(in.SourceRegion), id)
	if err != nil {
		return nil, err
	}
	s := c.newSnapshot(source.VolumeId, source.VolumeSize, in.Description, specTags(in.TagSpecifications, types.ResourceTypeSnapshot))
	s.Encrypted, s.KmsKeyId = aws.Bool(aws.ToBool(source.Encrypted) || aws.ToBool(in.Encrypted)), in.KmsKeyId
	return &ec2.CopySnapshotOutput{SnapshotId: aws.String(*s.SnapshotId), Tags: clone(s.Tags)}, nil
}

// elsewhere finds a snapshot in the region of that name. Where a region can't be
// asked the copy's size isn't known.
func (c *Cloud) elsewhere(ctx context.Context, region, id string) (*types.Snapshot, error) {
	if region == "" || region == c.region {
		return c.snapshot(ctx, id)
	}
	other := c.of(region)
	if other == nil {
		return &types.Snapshot{SnapshotId: &id}, nil
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	return other.snapshot(ctx, id)
}

func (c *Cloud) deleteSnapshot(ctx context.Context, in *ec2.DeleteSnapshotInput) (any, error) {
	id := aws.ToString(in.SnapshotId)
	if _, err := c.snapshot(ctx, id); err != nil {
		return nil, err
	}
	user, err := c.imageUsing(ctx, id)
	if err != nil {
		return nil, err
	}
	if user != "" {
		return nil, refuse("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", id, user)
	}
	c.snapshots.put(id, nil)
	return &ec2.DeleteSnapshotOutput{}, nil
}

// imageUsing returns an image that needs a snapshot, "" when none does.
func (c *Cloud) imageUsing(ctx context.Context, snapshot string) (string, error) {
	uses := func(i *types.Image) bool {
		return slices.Contains(imageFields(i)["block-device-mapping.snapshot-id"], snapshot)
	}
	for id, i := range c.images.items {
		if i != nil && uses(i) {
			return id, nil
		}
	}
	if Placeholder(snapshot) {
		return "", nil
	}
	out, err := c.real.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}})
	if err != nil {
		return "", err
	}
	for k := range out.Images {
		id := aws.ToString(out.Images[k].ImageId)
		if _, known := c.images.items[id]; !known && uses(&out.Images[k]) {
			return id, nil
		}
	}
	return "", nil
}
