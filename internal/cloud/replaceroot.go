package cloud

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (c *Cloud) registerReplaceRoot() {
	c.ec2Actions["CreateReplaceRootVolumeTask"] = handle(c.CreateReplaceRootVolumeTask)
	c.ec2Actions["DescribeReplaceRootVolumeTasks"] = handle(c.DescribeReplaceRootVolumeTasks)
}

// CreateReplaceRootVolumeTask exchanges the root volume of a running instance
// for a volume that is there, or for one made of a snapshot, of an image or of
// what the root was first made of. The instance's worker shuts the guest down,
// exchanges the volumes in one transaction and starts the machine again; the
// instance is "running" all the while, as on EC2.
func (c *Cloud) CreateReplaceRootVolumeTask(ctx context.Context, in *ec2.CreateReplaceRootVolumeTaskInput) (*ec2.CreateReplaceRootVolumeTaskOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	tags, err := checkReplaceRoot(in)
	if err != nil {
		return nil, err
	}
	if c.stopping.Load() {
		return nil, errStopping
	}
	s := from(ctx).Scope
	params := *in
	params.ClientToken = nil
	var task *state.ReplaceRootTask
	err = c.db.Update(func(tx *state.Tx) error {
		ids, err := c.once(tx, s, "CreateReplaceRootVolumeTask", in.ClientToken, params, func() ([]string, error) {
			t := &state.ReplaceRootTask{Meta: c.meta(s, taskIDs.prefix), State: state.TaskPending, InstanceID: *in.InstanceId, DeleteOld: aws.ToBool(in.DeleteReplacedRootVolume)}
			t.Tags = tags
			return []string{t.ID}, c.planReplaceRoot(tx, t, in)
		})
		if err != nil {
			return err
		}
		task, err = find[state.ReplaceRootTask](tx, s, taskIDs, ids[0])
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(job{(*state.Volume)(nil).Kind(), s, task.New}, job{(*state.Instance)(nil).Kind(), s, task.InstanceID})
	out := apiReplaceRootTask(task)
	return &ec2.CreateReplaceRootVolumeTaskOutput{ReplaceRootVolumeTask: &out}, nil
}

// checkReplaceRoot refuses what needs no look at the state, and gives the
// task's tags.
func checkReplaceRoot(in *ec2.CreateReplaceRootVolumeTaskInput) (map[string]string, error) {
	sources := 0
	for _, from := range []*string{in.VolumeId, in.SnapshotId, in.ImageId} {
		if from != nil {
			sources++
		}
	}
	if sources > 1 {
		return nil, fail("InvalidParameterCombination", "Only one of VolumeId, SnapshotId and ImageId may be specified.")
	}
	if r := in.VolumeInitializationRate; r != nil {
		if in.VolumeId != nil {
			return nil, fail("InvalidParameterCombination", "VolumeInitializationRate may not be used in combination with VolumeId.")
		}
		if *r < 100 || *r > 300 {
			return nil, invalid(*r, "VolumeInitializationRate", "Expecting a value from 100 to 300.")
		}
	}
	return tagsFor(in.TagSpecifications, types.ResourceTypeReplaceRootVolumeTask)
}

// planReplaceRoot writes a task with the volume that it brings, which is
// reserved from here on.
func (c *Cloud) planReplaceRoot(tx *state.Tx, t *state.ReplaceRootTask, in *ec2.CreateReplaceRootVolumeTaskInput) error {
	inst, err := find[state.Instance](tx, t.Scope(), instanceIDs, t.InstanceID)
	if err != nil {
		return err
	}
	switch {
	case inst.State != state.Running || inst.Want != state.Running:
		return fail("IncorrectInstanceState", "The instance '%s' is not in the 'running' state: it is '%s'.", inst.ID, inst.State)
	case inst.ReplaceRoot != "":
		return fail("IncorrectInstanceState", "The root volume of instance '%s' is being replaced by task %s.", inst.ID, inst.ReplaceRoot)
	case inst.ImagePending != "":
		return fail("IncorrectInstanceState", "Instance '%s' is being made image %s of.", inst.ID, inst.ImagePending)
	}
	root, err := rootOf(tx, inst)
	if err != nil {
		return err
	}
	fresh, err := c.replacement(tx, t, in, inst, root)
	if err != nil {
		return err
	}
	t.Old, t.New, inst.ReplaceRoot, fresh.ReservedFor = root.ID, fresh.ID, t.ID, inst.ID
	for _, rec := range []state.Record{t, inst, fresh} {
		if err := state.Put(tx, rec); err != nil {
			return err
		}
	}
	return nil
}

// rootOf reads an instance's root volume.
func rootOf(tx *state.Tx, inst *state.Instance) (*state.Volume, error) {
	disks, err := disksOf(tx, inst)
	if err != nil {
		return nil, err
	}
	if len(disks) == 0 || !sameDevice(disks[0].Attachment.Device, inst.RootDevice) {
		return nil, fail("IncorrectInstanceState", "Instance '%s' does not have a volume attached at root (%s)", inst.ID, inst.RootDevice)
	}
	return disks[0], nil
}

// replacement finds, or makes the record of, the volume that becomes the root.
func (c *Cloud) replacement(tx *state.Tx, t *state.ReplaceRootTask, in *ec2.CreateReplaceRootVolumeTaskInput, inst *state.Instance, root *state.Volume) (*state.Volume, error) {
	s := t.Scope()
	if in.VolumeId != nil {
		t.Given = true
		return givenRoot(tx, inst, *in.VolumeId)
	}
	from := root.SnapshotID
	switch {
	case in.SnapshotId != nil:
		if err := checkLineage(tx, root, *in.SnapshotId); err != nil {
			return nil, err
		}
		from, t.SnapshotID = *in.SnapshotId, *in.SnapshotId
	case in.ImageId != nil:
		device, err := rootOfImage(tx, inst, *in.ImageId)
		if err != nil {
			return nil, err
		}
		from, t.ImageID = device.SnapshotID, *in.ImageId
	case from == "":
		return nil, fail("InvalidParameterValue", "The root volume %s was made of no snapshot, so it has no launch state; give VolumeId, SnapshotId or ImageId.", root.ID)
	}
	snap, err := findSnapshot(tx, s, from)
	if err != nil {
		return nil, err
	}
	spec := diskSpec{kind: root.Type, snapshotID: from, size: aws.Int32(max(root.Size, snap.VolumeSize))}
	if volumeTypes[root.Type].maxIOPS > 0 {
		spec.iops = aws.Int32(root.IOPS)
	}
	if root.Throughput > 0 {
		spec.throughput = aws.Int32(root.Throughput)
	}
	return c.newVolume(tx, s, inst.Zone, spec)
}

// givenRoot reads a volume that is there and checks that it can be the root.
func givenRoot(tx *state.Tx, inst *state.Instance, id string) (*state.Volume, error) {
	vol, err := find[state.Volume](tx, inst.Scope(), volumeIDs, id)
	if err != nil {
		return nil, err
	}
	switch {
	case vol.Attachment != nil:
		return nil, fail("VolumeInUse", "%s is already attached to an instance", vol.ID)
	case vol.State != state.VolumeAvailable:
		return nil, fail("IncorrectState", "%s is not 'available': it is '%s'.", vol.ID, vol.State)
	case vol.Zone != inst.Zone:
		return nil, fail("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s': %s and %s.", vol.ID, inst.ID, vol.Zone, inst.Zone)
	}
	return vol, refuseReserved(vol)
}

// refuseReserved keeps others off a volume that is about to become a root.
func refuseReserved(vol *state.Volume) error {
	if vol.ReservedFor == "" {
		return nil
	}
	return fail("VolumeInUse", "%s is becoming the root volume of %s", vol.ID, vol.ReservedFor)
}

// checkLineage refuses a snapshot that was not taken of the root volume, or of
// one that it descends from. A copy of a snapshot belongs to no volume.
func checkLineage(tx *state.Tx, root *state.Volume, id string) error {
	if _, err := findSnapshot(tx, root.Scope(), id); err != nil {
		return err
	}
	seen := map[string]bool{}
	for vol, from := root.ID, root.SnapshotID; ; {
		if from == id {
			return nil
		}
		if snap, err := state.Get[state.Snapshot](tx, root.Scope(), id); err == nil && snap.VolumeID == vol {
			return nil
		}
		parent, err := state.Get[state.Snapshot](tx, root.Scope(), from)
		if err != nil || parent.VolumeID == noVolume || seen[parent.VolumeID] {
			break // the rest of the line isn't known any more
		}
		seen[parent.VolumeID] = true
		vol, from = parent.VolumeID, ""
		if v, err := state.Get[state.Volume](tx, root.Scope(), vol); err == nil {
			from = v.SnapshotID
		}
	}
	return fail("InvalidParameterValue", "The snapshot '%s' does not belong to the lineage of the root volume %s. Make a volume of it and give VolumeId.", id, root.ID)
}

func rootOfImage(tx *state.Tx, inst *state.Instance, id string) (*state.BlockDevice, error) {
	img, err := find[state.Image](tx, inst.Scope(), imageIDs, id)
	if err != nil {
		return nil, err
	}
	switch {
	case img.State != state.ImageAvailable:
		return nil, fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available: it is '%s'.", img.ID, img.State)
	case img.Architecture != inst.Architecture:
		return nil, fail("InvalidParameterValue", "The image '%s' is for %s, the instance '%s' for %s.", img.ID, img.Architecture, inst.ID, inst.Architecture)
	}
	at := slices.IndexFunc(img.BlockDevices, func(b state.BlockDevice) bool { return sameDevice(b.Device, img.RootDevice) })
	if at < 0 {
		return nil, fail("InvalidParameterValue", "The image '%s' has no root device.", img.ID)
	}
	return &img.BlockDevices[at], nil
}

var replaceRootFilters = fields[*state.ReplaceRootTask]{
	"instance-id": one(func(t *state.ReplaceRootTask) string { return t.InstanceID }),
}

// DescribeReplaceRootVolumeTasks lists the tasks of instances that are still
// described.
func (c *Cloud) DescribeReplaceRootVolumeTasks(ctx context.Context, in *ec2.DescribeReplaceRootVolumeTasksInput) (*ec2.DescribeReplaceRootVolumeTasksOutput, error) {
	var tasks []*state.ReplaceRootTask
	err := c.db.View(func(tx *state.Tx) (err error) {
		tasks, err = listNamed[state.ReplaceRootTask](tx, from(ctx).Scope, taskIDs, in.ReplaceRootVolumeTaskIds)
		return err
	})
	if err != nil {
		return nil, err
	}
	page, next, err := choose(tasks, in.ReplaceRootVolumeTaskIds, taskIDs, in.Filters, replaceRootFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeReplaceRootVolumeTasksOutput{NextToken: next}
	for _, t := range page {
		out.ReplaceRootVolumeTasks = append(out.ReplaceRootVolumeTasks, apiReplaceRootTask(t))
	}
	return out, nil
}

func apiReplaceRootTask(t *state.ReplaceRootTask) types.ReplaceRootVolumeTask {
	out := types.ReplaceRootVolumeTask{
		ReplaceRootVolumeTaskId: aws.String(t.ID), InstanceId: aws.String(t.InstanceID), TaskState: types.ReplaceRootVolumeTaskState(t.State),
		StartTime: aws.String(timestamp(t.Created)), DeleteReplacedRootVolume: aws.Bool(t.DeleteOld),
		SnapshotId: optional(t.SnapshotID), ImageId: optional(t.ImageID), Tags: tagList(t.Tags),
	}
	if t.Over() {
		out.CompleteTime = aws.String(timestamp(t.Completed))
	}
	return out
}
