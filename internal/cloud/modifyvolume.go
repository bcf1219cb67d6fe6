package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// EC2 takes so many modifications of a volume within a rolling day.
// https://docs.aws.amazon.com/ebs/latest/userguide/modify-volume-requirements.html
const (
	modificationsADay = 4
	modificationDay   = 24 * time.Hour
)

// ModifyVolume changes a volume's size, which only grows, and what it is said
// to perform. The file of a running machine's disk grows under it.
func (c *Cloud) ModifyVolume(ctx context.Context, in *ec2.ModifyVolumeInput) (*ec2.ModifyVolumeOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	if aws.ToBool(in.MultiAttachEnabled) {
		return nil, unsupported("Multi-attach", "Attach the volume to one instance at a time.")
	}
	if in.Size == nil && in.Iops == nil && in.Throughput == nil && in.VolumeType == "" {
		return nil, missing("size, volumeType, iops or throughput")
	}
	var vol *state.Volume
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if vol, err = find[state.Volume](tx, from(ctx).Scope, volumeIDs, *in.VolumeId); err != nil {
			return err
		}
		if err := c.mayModify(vol); err != nil {
			return err
		}
		target, err := targetShape(vol, in)
		if err != nil {
			return err
		}
		now := c.now().UTC()
		vol.Modification = &state.Modification{State: state.ModificationModifying, Original: vol.Shape(), Target: target, Start: now}
		vol.Modified = append(vol.Modified, now)
		return state.Put(tx, vol)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(vol))
	m := apiModification(vol)
	return &ec2.ModifyVolumeOutput{VolumeModification: &m}, nil
}

// mayModify refuses a volume that is not there yet, one that is being modified,
// and one that was modified too often today.
func (c *Cloud) mayModify(vol *state.Volume) error {
	switch {
	case !vol.Ready || vol.State != state.VolumeAvailable && vol.State != state.VolumeInUse:
		return fail("IncorrectState", "The volume '%s' is '%s'; it must be 'available' or 'in-use' to be modified.", vol.ID, vol.State)
	case vol.Modification.Pending():
		return fail("IncorrectModificationState", "Volume %s is in modification state '%s'. Wait until that modification is completed.", vol.ID, vol.Modification.State)
	}
	now := c.now()
	vol.Modified = slices.DeleteFunc(vol.Modified, func(at time.Time) bool { return now.Sub(at) >= modificationDay })
	if len(vol.Modified) >= modificationsADay {
		return fail("VolumeModificationRateExceeded", "Volume %s was modified %d times within 24 hours, the most that is allowed. The next modification is possible at %s.",
			vol.ID, len(vol.Modified), timestamp(vol.Modified[len(vol.Modified)-modificationsADay].Add(modificationDay)))
	}
	return nil
}

// targetShape is what a request would make of a volume: what it doesn't name
// stays, unless the volume becomes of another type.
func targetShape(vol *state.Volume, in *ec2.ModifyVolumeInput) (state.VolumeShape, error) {
	to := vol.Shape()
	refuse := diskSpec{}.refuse
	if in.VolumeType != "" {
		to.Type = string(in.VolumeType)
	}
	t, ok := volumeTypes[to.Type]
	if !ok {
		return to, refuse("Volume type '%s' is unknown. There are %v.", to.Type, sortedKeys(volumeTypes))
	}
	if in.Size != nil {
		to.Size = *in.Size
	}
	switch {
	case to.Size < vol.Size:
		return to, refuse("New size cannot be smaller than existing size: %s has %d GiB, not %d.", vol.ID, vol.Size, to.Size)
	case to.Size < t.minSize || to.Size > t.maxSize:
		return to, refuse("Volume of %d GiB is invalid for type %s: it takes from %d to %d GiB.", to.Size, to.Type, t.minSize, t.maxSize)
	}
	if to.Type != vol.Type || t.maxIOPS == 0 {
		to.IOPS, to.Throughput = t.iops(to.Size), t.throughput
		if t.maxIOPS > 0 {
			to.IOPS = 3000 // whatever type of those that can be chosen
		}
	}
	if in.Iops != nil {
		if t.maxIOPS == 0 || *in.Iops < t.minIOPS || *in.Iops > t.maxIOPS {
			return to, refuse("Iops %d is invalid for type %s.", *in.Iops, to.Type)
		}
		to.IOPS = *in.Iops
	}
	if in.Throughput != nil {
		if t.throughput == 0 || *in.Throughput < 125 || *in.Throughput > 2000 {
			return to, refuse("Throughput %d is invalid for type %s.", *in.Throughput, to.Type)
		}
		to.Throughput = *in.Throughput
	}
	return to, nil
}

// modifyDisk brings a volume from its modification's original shape to its
// target. The record has the new size only once the file has it.
func (c *Cloud) modifyDisk(ctx context.Context, vol *state.Volume) error {
	m := vol.Modification
	var failed error
	if m.State == state.ModificationModifying && m.Target.Size > m.Original.Size {
		failed = c.growDisk(ctx, vol, int64(m.Target.Size)*gib)
		if failed != nil && (ctx.Err() != nil || !errors.Is(failed, volume.ErrNoSpace)) {
			return failed // it is tried again
		}
	}
	err := amend(c, jobOf(vol), func(_ *state.Tx, v *state.Volume) error {
		now := v.Modification
		switch {
		case !now.Pending() || !now.Start.Equal(m.Start):
		case failed != nil:
			now.State, now.Message, now.End = state.ModificationFailed, failed.Error(), c.now().UTC()
		case now.State == state.ModificationModifying:
			now.State = state.ModificationOptimizing
			v.Size, v.Type, v.IOPS, v.Throughput = now.Target.Size, now.Target.Type, now.Target.IOPS, now.Target.Throughput
		default:
			now.State, now.End = state.ModificationCompleted, c.now().UTC()
		}
		return nil
	})
	c.work.kick(jobOf(vol))
	return err
}

// growDisk makes a volume's file longer: through the machine that runs on it,
// else by itself, while no machine starts on it and no snapshot reads it.
func (c *Cloud) growDisk(ctx context.Context, vol *state.Volume, size int64) error {
	if c.uses.grow(vol.ID) {
		defer c.uses.grown(vol.ID)
		return c.volumes.Grow(ctx, vol.ID, size)
	}
	if vol.Attachment != nil {
		if h := c.running.get(vol.Attachment.InstanceID); h != nil {
			err := h.vm.Grow(ctx, vol.ID, size)
			if errors.Is(err, machine.ErrBusy) {
				return fmt.Errorf("a snapshot is being read: %w", err) // its end kicks this worker
			}
			return err
		}
	}
	return fmt.Errorf("grow %s: its machine is starting or stopping, or a snapshot is being read", vol.ID)
}

var modificationFilters = fields[*state.Volume]{
	"volume-id":                  one(func(v *state.Volume) string { return v.ID }),
	"modification-state":         one(func(v *state.Volume) string { return v.Modification.State }),
	"original-size":              ofShape(original, func(s state.VolumeShape) string { return number(s.Size) }),
	"original-iops":              ofShape(original, func(s state.VolumeShape) string { return number(s.IOPS) }),
	"original-volume-type":       ofShape(original, func(s state.VolumeShape) string { return s.Type }),
	"originalMultiAttachEnabled": always[*state.Volume]("false"),
	"start-time":                 one(func(v *state.Volume) string { return timestamp(v.Modification.Start) }),
	"target-size":                ofShape(target, func(s state.VolumeShape) string { return number(s.Size) }),
	"target-iops":                ofShape(target, func(s state.VolumeShape) string { return number(s.IOPS) }),
	"target-volume-type":         ofShape(target, func(s state.VolumeShape) string { return s.Type }),
	"targetMultiAttachEnabled":   always[*state.Volume]("false"),
}

func original(m *state.Modification) state.VolumeShape { return m.Original }
func target(m *state.Modification) state.VolumeShape   { return m.Target }
func number(n int32) string                            { return strconv.Itoa(int(n)) }

func ofShape(of func(*state.Modification) state.VolumeShape, f func(state.VolumeShape) string) func(*state.Volume) []string {
	return func(v *state.Volume) []string { return []string{f(of(v.Modification))} }
}

// DescribeVolumesModifications tells of each volume's latest modification.
func (c *Cloud) DescribeVolumesModifications(ctx context.Context, in *ec2.DescribeVolumesModificationsInput) (*ec2.DescribeVolumesModificationsOutput, error) {
	var vols []*state.Volume
	err := c.db.View(func(tx *state.Tx) (err error) {
		vols, err = listNamed[state.Volume](tx, from(ctx).Scope, volumeIDs, in.VolumeIds)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, v := range vols {
		if v.Modification == nil && len(in.VolumeIds) > 0 {
			return nil, fail("InvalidVolumeModification.NotFound", "Modification for volume '%s' does not exist.", v.ID)
		}
	}
	vols = slices.DeleteFunc(vols, func(v *state.Volume) bool { return v.Modification == nil })
	page, next, err := choose(vols, nil, volumeIDs, in.Filters, modificationFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumesModificationsOutput{NextToken: next}
	for _, v := range page {
		out.VolumesModifications = append(out.VolumesModifications, apiModification(v))
	}
	return out, nil
}

func apiModification(v *state.Volume) types.VolumeModification {
	m := v.Modification
	progress := map[string]int64{state.ModificationOptimizing: 50, state.ModificationCompleted: 100}
	out := types.VolumeModification{
		VolumeId: aws.String(v.ID), ModificationState: types.VolumeModificationState(m.State), StatusMessage: optional(m.Message),
		StartTime: aws.Time(m.Start), Progress: aws.Int64(progress[m.State]),
		OriginalSize: aws.Int32(m.Original.Size), OriginalVolumeType: types.VolumeType(m.Original.Type), OriginalMultiAttachEnabled: aws.Bool(false),
		TargetSize: aws.Int32(m.Target.Size), TargetVolumeType: types.VolumeType(m.Target.Type), TargetMultiAttachEnabled: aws.Bool(false),
	}
	for _, f := range []struct {
		to   **int32
		from int32
	}{
		{&out.OriginalIops, m.Original.IOPS},
		{&out.OriginalThroughput, m.Original.Throughput},
		{&out.TargetIops, m.Target.IOPS},
		{&out.TargetThroughput, m.Target.Throughput},
	} {
		if f.from > 0 {
			*f.to = aws.Int32(f.from)
		}
	}
	if !m.End.IsZero() {
		out.EndTime = aws.Time(m.End)
	}
	return out
}

// DescribeVolumeAttribute gives one attribute of a volume.
func (c *Cloud) DescribeVolumeAttribute(ctx context.Context, in *ec2.DescribeVolumeAttributeInput) (*ec2.DescribeVolumeAttributeOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	var vol *state.Volume
	err := c.db.View(func(tx *state.Tx) (err error) {
		vol, err = find[state.Volume](tx, from(ctx).Scope, volumeIDs, *in.VolumeId)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumeAttributeOutput{VolumeId: in.VolumeId}
	switch in.Attribute {
	case types.VolumeAttributeNameAutoEnableIO:
		out.AutoEnableIO = flag(vol.AutoIO)
	case types.VolumeAttributeNameProductCodes:
		out.ProductCodes = []types.ProductCode{}
	case "":
		return nil, missing("attribute")
	default:
		return nil, invalid(in.Attribute, "attribute", "Use autoEnableIO or productCodes.")
	}
	return out, nil
}

// ModifyVolumeAttribute sets whether input and output go on by themselves after
// damage was found; here they always do when they can.
func (c *Cloud) ModifyVolumeAttribute(ctx context.Context, in *ec2.ModifyVolumeAttributeInput) (*ec2.ModifyVolumeAttributeOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	if in.AutoEnableIO == nil || in.AutoEnableIO.Value == nil {
		return nil, missing("autoEnableIO")
	}
	err := c.db.Update(func(tx *state.Tx) error {
		vol, err := find[state.Volume](tx, from(ctx).Scope, volumeIDs, *in.VolumeId)
		if err != nil {
			return err
		}
		vol.AutoIO = *in.AutoEnableIO.Value
		return state.Put(tx, vol)
	})
	return &ec2.ModifyVolumeAttributeOutput{}, err
}
