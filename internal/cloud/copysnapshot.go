package cloud

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// CopySnapshot copies a snapshot of any region into the caller's. Both share
// their blocks, and each lives on when the other is deleted.
func (c *Cloud) CopySnapshot(ctx context.Context, in *ec2.CopySnapshotInput) (*ec2.CopySnapshotOutput, error) {
	switch {
	case in.SourceRegion == nil:
		return nil, missing("sourceRegion")
	case in.SourceSnapshotId == nil:
		return nil, missing("sourceSnapshotId")
	case aws.ToBool(in.Encrypted) || in.KmsKeyId != nil:
		return nil, unsupported("An encrypted snapshot", "Leave Encrypted and KmsKeyId out, and encrypt the disk that the data folder is on.")
	case in.DestinationOutpostArn != nil || in.DestinationAvailabilityZone != nil:
		return nil, unsupported("A destination other than the region", "Call the region that the copy is to be in.")
	}
	if err := checkCopyTime(in.CompletionDurationMinutes); err != nil {
		return nil, err
	}
	source, err := sourceScope(from(ctx).Scope, *in.SourceRegion)
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	var snap *state.Snapshot
	err = c.db.Update(func(tx *state.Tx) (err error) {
		snap, err = c.copyOf(tx, source, *in.SourceSnapshotId, from(ctx).Scope)
		if err != nil {
			return err
		}
		snap.Description, snap.Tags = aws.ToString(in.Description), tags
		return state.Put(tx, snap)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(snap))
	return &ec2.CopySnapshotOutput{SnapshotId: aws.String(snap.ID), Tags: tagList(tags)}, nil
}

// checkCopyTime checks how long a copy may take; none takes long here.
func checkCopyTime(minutes *int32) error {
	if m := aws.ToInt32(minutes); minutes != nil && (m < 15 || m > 2880 || m%15 != 0) {
		return invalid(m, "completionDurationMinutes", "Expecting a multiple of 15 from 15 to 2880.")
	}
	return nil
}

// sourceScope is where in the account a copy comes from.
func sourceScope(s state.Scope, region string) (state.Scope, error) {
	if !isRegion(region) {
		return s, invalid(region, "sourceRegion", "No such region.")
	}
	return state.Scope{Account: s.Account, Region: region}, nil
}

// copyOf begins the copy of a snapshot, for the caller to dress and write. From
// here on the source's data stays until the copy has it.
func (c *Cloud) copyOf(tx *state.Tx, source state.Scope, id string, to state.Scope) (*state.Snapshot, error) {
	src, err := findSnapshot(tx, source, id)
	if err != nil {
		return nil, err
	}
	if src.State != state.SnapshotCompleted {
		return nil, fail("IncorrectState", "The snapshot '%s' is %s, not completed.", src.ID, src.State)
	}
	snap := &state.Snapshot{
		Meta: c.meta(to, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: src.VolumeSize, Encrypted: src.Encrypted,
		CopyOf: &state.Origin{Region: source.Region, ID: src.ID}, Lineage: snapshotLineage(src),
	}
	src.Copying = append(src.Copying, copyName(snap))
	return snap, state.Put(tx, src)
}

func copyName(snap *state.Snapshot) string { return snap.Region + "/" + snap.ID }

// origin is the snapshot whose data another needs until it is complete: what it
// is a copy of, or an upload's parent.
func origin(snap *state.Snapshot) *state.Origin {
	if u := snap.Upload; u != nil && u.Parent != "" {
		return &state.Origin{Region: snap.Region, ID: u.Parent}
	}
	return snap.CopyOf
}

// endCopying tells the source of a copy that its data isn't needed for that
// any more.
func endCopying(tx *state.Tx, snap *state.Snapshot) error {
	o := origin(snap)
	if o == nil {
		return nil
	}
	src, err := state.Get[state.Snapshot](tx, state.Scope{Account: snap.Account, Region: o.Region}, o.ID)
	if errors.Is(err, state.ErrNotFound) {
		b, err := copiedFromBin(tx, state.Scope{Account: snap.Account, Region: o.Region}, o.ID)
		if b == nil {
			return err // it was told before, and deleted since
		}
		b.Snapshot.Copying = slices.DeleteFunc(b.Snapshot.Copying, func(name string) bool { return name == copyName(snap) })
		return state.Put(tx, b)
	}
	if err != nil || !slices.Contains(src.Copying, copyName(snap)) {
		return err
	}
	src.Copying = slices.DeleteFunc(src.Copying, func(name string) bool { return name == copyName(snap) })
	return state.Put(tx, src)
}

// kickOrigin has the source of a copy looked at: it may wait to be removed.
func (c *Cloud) kickOrigin(snap *state.Snapshot) {
	if o := origin(snap); o != nil {
		c.work.kick(job{snap.Kind(), state.Scope{Account: snap.Account, Region: o.Region}, o.ID})
	}
}
