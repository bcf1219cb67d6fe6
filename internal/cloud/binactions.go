package cloud

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (c *Cloud) registerBin() {
	c.ec2Actions["ListSnapshotsInRecycleBin"] = handle(c.ListSnapshotsInRecycleBin)
	c.ec2Actions["RestoreSnapshotFromRecycleBin"] = handle(c.RestoreSnapshotFromRecycleBin)
	c.ec2Actions["ListImagesInRecycleBin"] = handle(c.ListImagesInRecycleBin)
	c.ec2Actions["RestoreImageFromRecycleBin"] = handle(c.RestoreImageFromRecycleBin)
	c.ec2Actions["ListVolumesInRecycleBin"] = handle(c.ListVolumesInRecycleBin)
	c.ec2Actions["RestoreVolumeFromRecycleBin"] = handle(c.RestoreVolumeFromRecycleBin)
}

func isSnapshot(b *state.Binned) bool { return b.Snapshot != nil }
func isImage(b *state.Binned) bool    { return b.Image != nil }
func isVolume(b *state.Binned) bool   { return b.Volume != nil }

// inBin lists one kind of what is in the bin.
func (c *Cloud) inBin(ctx context.Context, ids []string, has func(*state.Binned) bool) (list []*state.Binned, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		list, err = binned(tx, from(ctx).Scope, ids, has)
		return err
	})
	return list, err
}

// ListSnapshotsInRecycleBin lists the snapshots that were deleted and are kept.
func (c *Cloud) ListSnapshotsInRecycleBin(ctx context.Context, in *ec2.ListSnapshotsInRecycleBinInput) (*ec2.ListSnapshotsInRecycleBinOutput, error) {
	list, err := c.inBin(ctx, in.SnapshotIds, isSnapshot)
	if err != nil {
		return nil, err
	}
	out := &ec2.ListSnapshotsInRecycleBinOutput{Snapshots: []types.SnapshotRecycleBinInfo{}}
	for _, b := range list {
		out.Snapshots = append(out.Snapshots, types.SnapshotRecycleBinInfo{
			SnapshotId: aws.String(b.ID), VolumeId: aws.String(b.Snapshot.VolumeID), Description: aws.String(b.Snapshot.Description),
			RecycleBinEnterTime: aws.Time(b.Entered), RecycleBinExitTime: aws.Time(b.Exit),
		})
	}
	return out, nil
}

// RestoreSnapshotFromRecycleBin takes a snapshot out of the bin.
func (c *Cloud) RestoreSnapshotFromRecycleBin(ctx context.Context, in *ec2.RestoreSnapshotFromRecycleBinInput) (*ec2.RestoreSnapshotFromRecycleBinOutput, error) {
	if in.SnapshotId == nil {
		return nil, missing("snapshotId")
	}
	var snap *state.Snapshot
	err := c.db.Update(func(tx *state.Tx) error {
		return c.takeOut(tx, from(ctx).Scope, snapshotIDs, *in.SnapshotId, isSnapshot, func(b *state.Binned) error {
			snap = b.Snapshot
			return state.Put(tx, snap)
		})
	})
	if err != nil {
		return nil, err
	}
	a := apiSnapshot(snap)
	return &ec2.RestoreSnapshotFromRecycleBinOutput{
		SnapshotId: a.SnapshotId, VolumeId: a.VolumeId, VolumeSize: a.VolumeSize, State: a.State, StartTime: a.StartTime, OwnerId: a.OwnerId,
		Progress: a.Progress, Encrypted: a.Encrypted, Description: a.Description,
	}, nil
}

// ListImagesInRecycleBin lists the images that were deregistered and are kept.
func (c *Cloud) ListImagesInRecycleBin(ctx context.Context, in *ec2.ListImagesInRecycleBinInput) (*ec2.ListImagesInRecycleBinOutput, error) {
	list, err := c.inBin(ctx, in.ImageIds, isImage)
	if err != nil {
		return nil, err
	}
	out := &ec2.ListImagesInRecycleBinOutput{Images: []types.ImageRecycleBinInfo{}}
	for _, b := range list {
		out.Images = append(out.Images, types.ImageRecycleBinInfo{
			ImageId: aws.String(b.ID), Name: aws.String(b.Image.Name), Description: aws.String(b.Image.Description),
			RecycleBinEnterTime: aws.Time(b.Entered), RecycleBinExitTime: aws.Time(b.Exit),
		})
	}
	return out, nil
}

// RestoreImageFromRecycleBin takes an image out of the bin, if its snapshots are
// there and its name is free still.
func (c *Cloud) RestoreImageFromRecycleBin(ctx context.Context, in *ec2.RestoreImageFromRecycleBinInput) (*ec2.RestoreImageFromRecycleBinOutput, error) {
	if in.ImageId == nil {
		return nil, missing("imageId")
	}
	s := from(ctx).Scope
	err := c.db.Update(func(tx *state.Tx) error {
		return c.takeOut(tx, s, imageIDs, *in.ImageId, isImage, func(b *state.Binned) error {
			if err := checkImageName(tx, s, &b.Image.Name); err != nil {
				return err
			}
			for _, d := range b.Image.BlockDevices {
				if d.SnapshotID == "" {
					continue
				}
				if _, err := findSnapshot(tx, s, d.SnapshotID); err != nil {
					return err
				}
			}
			return state.Put(tx, b.Image)
		})
	})
	if err != nil {
		return nil, err
	}
	return &ec2.RestoreImageFromRecycleBinOutput{Return: aws.Bool(true)}, nil
}

// ListVolumesInRecycleBin lists the volumes that were deleted and are kept.
func (c *Cloud) ListVolumesInRecycleBin(ctx context.Context, in *ec2.ListVolumesInRecycleBinInput) (*ec2.ListVolumesInRecycleBinOutput, error) {
	list, err := c.inBin(ctx, in.VolumeIds, isVolume)
	if err != nil {
		return nil, err
	}
	out := &ec2.ListVolumesInRecycleBinOutput{Volumes: []types.VolumeRecycleBinInfo{}}
	for _, b := range list {
		v := apiVolume(b.Volume)
		out.Volumes = append(out.Volumes, types.VolumeRecycleBinInfo{
			VolumeId: v.VolumeId, Size: v.Size, VolumeType: v.VolumeType, AvailabilityZone: v.AvailabilityZone, CreateTime: v.CreateTime,
			Iops: v.Iops, Throughput: v.Throughput, SnapshotId: v.SnapshotId, State: v.State,
			RecycleBinEnterTime: aws.Time(b.Entered), RecycleBinExitTime: aws.Time(b.Exit),
		})
	}
	return out, nil
}

// RestoreVolumeFromRecycleBin takes a volume out of the bin.
func (c *Cloud) RestoreVolumeFromRecycleBin(ctx context.Context, in *ec2.RestoreVolumeFromRecycleBinInput) (*ec2.RestoreVolumeFromRecycleBinOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	err := c.db.Update(func(tx *state.Tx) error {
		return c.takeOut(tx, from(ctx).Scope, volumeIDs, *in.VolumeId, isVolume, func(b *state.Binned) error { return state.Put(tx, b.Volume) })
	})
	if err != nil {
		return nil, err
	}
	return &ec2.RestoreVolumeFromRecycleBinOutput{Return: aws.Bool(true)}, nil
}

// copiedFromBin is the source of a copy that was deleted into the bin.
func copiedFromBin(tx *state.Tx, s state.Scope, id string) (*state.Binned, error) {
	b, err := state.Get[state.Binned](tx, s, id)
	if errors.Is(err, state.ErrNotFound) || err == nil && b.Snapshot == nil {
		return nil, nil
	}
	return b, err
}
