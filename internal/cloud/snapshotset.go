package cloud

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// CreateSnapshots takes an instance's disks at one instant.
func (c *Cloud) CreateSnapshots(ctx context.Context, in *ec2.CreateSnapshotsInput) (*ec2.CreateSnapshotsOutput, error) {
	spec := in.InstanceSpecification
	if spec == nil || spec.InstanceId == nil {
		return nil, missing("instanceSpecification.instanceId")
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	vols, err := c.disksToSnapshot(from(ctx).Scope, spec)
	if err != nil {
		return nil, err
	}
	var limit error
	snaps, err := c.takeSnapshots(ctx, vols, func(v *state.Volume, snap *state.Snapshot) {
		snap.Description, snap.Tags = aws.ToString(in.Description), cloneTags(tags)
		if in.CopyTagsFromSource == types.CopyTagsFromSourceVolume {
			all := ownTags(v.Tags)
			maps.Copy(all, tags)
			snap.Tags = all
		}
		if len(snap.Tags) > maxTags {
			limit = fail("TagLimitExceeded", "The snapshot of %s would have %d tags; %d are allowed.", v.ID, len(snap.Tags), maxTags)
		}
	}, func(*state.Tx, []*state.Snapshot) error { return limit })
	if err != nil {
		return nil, err
	}
	out := &ec2.CreateSnapshotsOutput{}
	for _, s := range snaps {
		a := apiSnapshot(s)
		out.Snapshots = append(out.Snapshots, types.SnapshotInfo{
			SnapshotId: a.SnapshotId, VolumeId: a.VolumeId, VolumeSize: a.VolumeSize, State: a.State, StartTime: a.StartTime, OwnerId: a.OwnerId,
			Progress: a.Progress, Encrypted: a.Encrypted, Description: a.Description, Tags: a.Tags,
		})
	}
	return out, nil
}

// disksToSnapshot reads the disks of an instance that a specification does not
// leave out.
func (c *Cloud) disksToSnapshot(s state.Scope, spec *types.InstanceSpecification) ([]*state.Volume, error) {
	var vols []*state.Volume
	err := c.db.View(func(tx *state.Tx) error {
		inst, err := find[state.Instance](tx, s, instanceIDs, *spec.InstanceId)
		if err != nil {
			return err
		}
		if vols, err = disksOf(tx, inst); err != nil {
			return err
		}
		for _, id := range spec.ExcludeDataVolumeIds {
			at := slices.IndexFunc(vols, func(v *state.Volume) bool { return v.ID == id })
			if at < 0 || sameDevice(vols[at].Attachment.Device, inst.RootDevice) {
				return invalid(id, "excludeDataVolumeId", "It is no data volume of "+inst.ID+".")
			}
		}
		vols = slices.DeleteFunc(vols, func(v *state.Volume) bool {
			return slices.Contains(spec.ExcludeDataVolumeIds, v.ID) ||
				aws.ToBool(spec.ExcludeBootVolume) && sameDevice(v.Attachment.Device, inst.RootDevice)
		})
		if len(vols) == 0 {
			return fail("InvalidParameterCombination", "Instance '%s' has no volumes that are not left out.", inst.ID)
		}
		return nil
	})
	return vols, err
}
