package cloud

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (c *Cloud) registerSnapshots() {
	c.ec2Actions["CreateSnapshot"] = handle(c.CreateSnapshot)
	c.ec2Actions["CreateSnapshots"] = handle(c.CreateSnapshots)
	c.ec2Actions["DescribeSnapshots"] = handle(c.DescribeSnapshots)
	c.ec2Actions["DeleteSnapshot"] = handle(c.DeleteSnapshot)
	c.ec2Actions["DescribeSnapshotAttribute"] = handle(c.DescribeSnapshotAttribute)
	c.ec2Actions["ModifySnapshotAttribute"] = handle(c.ModifySnapshotAttribute)
	c.ec2Actions["ResetSnapshotAttribute"] = handle(c.ResetSnapshotAttribute)
	c.ec2Actions["DescribeSnapshotTierStatus"] = handle(c.DescribeSnapshotTierStatus)
	c.ec2Actions["CopySnapshot"] = handle(c.CopySnapshot)
}

// findSnapshot reads a snapshot that the API still shows.
func findSnapshot(tx *state.Tx, s state.Scope, id string) (*state.Snapshot, error) {
	snap, err := find[state.Snapshot](tx, s, snapshotIDs, id)
	if err != nil {
		return nil, err
	}
	if snap.Deleted {
		return nil, snapshotIDs.missing(id)
	}
	return snap, nil
}

// CreateSnapshot takes a volume as it is now. The instant is before the
// answer; the copying comes after it.
func (c *Cloud) CreateSnapshot(ctx context.Context, in *ec2.CreateSnapshotInput) (*ec2.CreateSnapshotOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	s := from(ctx).Scope
	var vol *state.Volume
	err = c.db.View(func(tx *state.Tx) (err error) {
		vol, err = find[state.Volume](tx, s, volumeIDs, *in.VolumeId)
		return err
	})
	if err != nil {
		return nil, err
	}
	snaps, err := c.takeSnapshots(ctx, []*state.Volume{vol}, func(_ *state.Volume, snap *state.Snapshot) {
		snap.Description, snap.Tags = aws.ToString(in.Description), tags
	}, nil)
	if err != nil {
		return nil, err
	}
	a := apiSnapshot(snaps[0])
	return &ec2.CreateSnapshotOutput{
		Description: a.Description, Encrypted: a.Encrypted, OwnerId: a.OwnerId, Progress: a.Progress, SnapshotId: a.SnapshotId,
		StartTime: a.StartTime, State: a.State, StateMessage: a.StateMessage, Tags: a.Tags, VolumeId: a.VolumeId, VolumeSize: a.VolumeSize,
		StorageTier: a.StorageTier,
	}, nil
}

// takeSnapshots begins snapshots of volumes at one instant, committing also
// what with writes in the same transaction. All volumes must be attached to
// one machine or lie still.
func (c *Cloud) takeSnapshots(ctx context.Context, vols []*state.Volume, dress func(*state.Volume, *state.Snapshot), with func(*state.Tx, []*state.Snapshot) error) ([]*state.Snapshot, error) {
	snaps := make([]*state.Snapshot, len(vols))
	for i, v := range vols {
		if !v.Ready || v.State == state.VolumeDeleting {
			return nil, fail("IncorrectState", "The volume '%s' is '%s'.", v.ID, v.State)
		}
		snaps[i] = &state.Snapshot{Meta: c.meta(v.Scope(), "snap"), State: state.SnapshotPending, VolumeID: v.ID, VolumeSize: v.Size, Encrypted: v.Encrypted, Lineage: volumeLineage(v)}
		dress(v, snaps[i])
	}
	hold, err := c.holdStill(ctx, vols, snaps, true)
	if err != nil {
		return nil, err
	}
	for _, snap := range snaps {
		c.instants.put(snap.ID, hold.share())
	}
	hold.release()
	err = c.db.Update(func(tx *state.Tx) error {
		for i, snap := range snaps {
			if err := stillThere(tx, vols[i]); err != nil {
				return err
			}
			if err := state.Put(tx, snap); err != nil {
				return err
			}
		}
		if with != nil {
			return with(tx, snaps)
		}
		return nil
	})
	if err != nil {
		for _, snap := range snaps {
			c.instants.end(snap.ID)
		}
		return nil, err
	}
	for _, snap := range snaps {
		c.work.kick(jobOf(snap))
	}
	return snaps, nil
}

// stillThere refuses a volume that was deleted since it was looked up.
func stillThere(tx *state.Tx, v *state.Volume) error {
	now, err := find[state.Volume](tx, v.Scope(), volumeIDs, v.ID)
	if err != nil {
		return err
	}
	if now.State == state.VolumeDeleting {
		return volumeIDs.missing(v.ID)
	}
	return nil
}

var snapshotFilters = fields[*state.Snapshot]{
	"snapshot-id":  func(s *state.Snapshot) []string { return []string{s.ID} },
	"status":       func(s *state.Snapshot) []string { return []string{s.State} },
	"volume-id":    func(s *state.Snapshot) []string { return []string{s.VolumeID} },
	"volume-size":  func(s *state.Snapshot) []string { return []string{strconv.Itoa(int(s.VolumeSize))} },
	"description":  func(s *state.Snapshot) []string { return []string{s.Description} },
	"owner-id":     func(s *state.Snapshot) []string { return []string{s.Account} },
	"owner-alias":  func(s *state.Snapshot) []string { return []string{s.Alias} },
	"progress":     func(s *state.Snapshot) []string { return []string{fmt.Sprintf("%d%%", s.Progress)} },
	"start-time":   func(s *state.Snapshot) []string { return []string{timestamp(s.Created)} },
	"encrypted":    func(s *state.Snapshot) []string { return []string{strconv.FormatBool(s.Encrypted)} },
	"storage-tier": func(*state.Snapshot) []string { return []string{"standard"} },
}

// DescribeSnapshots lists snapshots.
func (c *Cloud) DescribeSnapshots(ctx context.Context, in *ec2.DescribeSnapshotsInput) (*ec2.DescribeSnapshotsOutput, error) {
	s := from(ctx).Scope
	others := len(in.OwnerIds) > 0 && !slices.Contains(in.OwnerIds, "self") && !slices.Contains(in.OwnerIds, s.Account)
	see := func(some []*state.Snapshot) ([]*state.Snapshot, error) {
		some = slices.DeleteFunc(some, func(x *state.Snapshot) bool { return x.Deleted || others })
		return filter(some, in.Filters, snapshotFilters)
	}
	var snaps []*state.Snapshot
	var next *string
	err := c.db.View(func(tx *state.Tx) (err error) {
		if len(in.SnapshotIds) == 0 {
			snaps, next, err = readPage(tx, s, in.MaxResults, in.NextToken, in.Filters, see)
			return err
		}
		for _, id := range in.SnapshotIds {
			if _, err := findSnapshot(tx, s, id); err != nil {
				return err
			}
		}
		if snaps, err = listNamed[state.Snapshot](tx, s, snapshotIDs, in.SnapshotIds); err != nil {
			return err
		}
		snaps, err = see(snaps)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSnapshotsOutput{NextToken: next}
	for _, snap := range snaps {
		out.Snapshots = append(out.Snapshots, apiSnapshot(snap))
	}
	return out, nil
}

func apiSnapshot(s *state.Snapshot) types.Snapshot {
	out := types.Snapshot{
		SnapshotId: aws.String(s.ID), VolumeId: aws.String(s.VolumeID), VolumeSize: aws.Int32(s.VolumeSize), State: types.SnapshotState(s.State),
		StartTime: aws.Time(s.Created), Description: aws.String(s.Description), Encrypted: aws.Bool(s.Encrypted), OwnerId: aws.String(s.Account),
		Progress: aws.String(fmt.Sprintf("%d%%", s.Progress)), StorageTier: types.StorageTierStandard,
	}
	if s.Message != "" {
		out.StateMessage = aws.String(s.Message)
	}
	if s.Alias != "" {
		out.OwnerAlias = aws.String(s.Alias)
	}
	if s.State == state.SnapshotCompleted {
		out.CompletionTime = aws.Time(s.Completed)
		out.FullSnapshotSizeInBytes = aws.Int64(s.DataBytes)
	}
	if len(s.Tags) > 0 {
		out.Tags = tagList(s.Tags)
	}
	return out
}

// DeleteSnapshot removes a snapshot. Volumes made from it stay; an image that
// would be made of it must go first.
func (c *Cloud) DeleteSnapshot(ctx context.Context, in *ec2.DeleteSnapshotInput) (*ec2.DeleteSnapshotOutput, error) {
	if in.SnapshotId == nil {
		return nil, missing("snapshotId")
	}
	s := from(ctx).Scope
	var next job
	err := c.db.Update(func(tx *state.Tx) (err error) {
		next, err = c.dropSnapshot(tx, s, *in.SnapshotId)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(next)
	return &ec2.DeleteSnapshotOutput{}, nil
}

// dropSnapshot deletes a snapshot, unless an image would be made of it. The job
// is to be kicked.
func (c *Cloud) dropSnapshot(tx *state.Tx, s state.Scope, id string) (job, error) {
	snap, err := findSnapshot(tx, s, id)
	if err != nil {
		return job{}, err
	}
	images, err := state.List[state.Image](tx, s)
	if err != nil {
		return job{}, err
	}
	for _, img := range images {
		if usesSnapshot(img, snap.ID) {
			return job{}, fail("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s. Deregister the image first.", snap.ID, img.ID)
		}
	}
	return c.deleteSnapshot(tx, snap)
}

func usesSnapshot(img *state.Image, id string) bool {
	return slices.ContainsFunc(img.BlockDevices, func(b state.BlockDevice) bool { return b.SnapshotID == id })
}
