package dryrun

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// newVolume makes a volume, of a snapshot or blank.
func (c *Cloud) newVolume(ctx context.Context, snapshot *string, size *int32, kind types.VolumeType, zone *string) (*types.Volume, error) {
	if err := c.checkDisk(ctx, snapshot, size); err != nil {
		return nil, err
	}
	encrypted, key := aws.Bool(false), (*string)(nil)
	if snapshot != nil {
		s, err := c.snapshot(ctx, *snapshot)
		if err != nil {
			return nil, err
		}
		encrypted, key = aws.Bool(aws.ToBool(s.Encrypted)), s.KmsKeyId
		if size == nil {
			size = s.VolumeSize
		}
	}
	if kind == "" {
		kind = types.VolumeTypeGp2 // EC2's own default
	}
	v := &types.Volume{
		VolumeId: aws.String(c.plan.id("vol")), Size: size, SnapshotId: snapshot, VolumeType: kind, AvailabilityZone: zone,
		State: types.VolumeStateAvailable, CreateTime: aws.Time(time.Now()), Encrypted: encrypted, KmsKeyId: key,
	}
	c.volumes.put(*v.VolumeId, v)
	return v, nil
}

func (c *Cloud) createVolume(ctx context.Context, in *ec2.CreateVolumeInput) (any, error) {
	if made, again := c.tokens[aws.ToString(in.ClientToken)]; again && in.ClientToken != nil && c.volumes.items[made[0]] != nil {
		return created(c.volumes.items[made[0]]), nil
	}
	if err := c.checkZone(ctx, in.AvailabilityZone); err != nil {
		return nil, err
	}
	v, err := c.newVolume(ctx, in.SnapshotId, in.Size, in.VolumeType, in.AvailabilityZone)
	if err != nil {
		return nil, err
	}
	v.Tags, v.Iops, v.Throughput = specTags(in.TagSpecifications, types.ResourceTypeVolume), in.Iops, in.Throughput
	if in.Encrypted != nil {
		v.Encrypted, v.KmsKeyId = in.Encrypted, in.KmsKeyId
	}
	if in.ClientToken != nil {
		c.tokens[*in.ClientToken] = []string{*v.VolumeId}
	}
	return created(v), nil
}

func created(v *types.Volume) *ec2.CreateVolumeOutput {
	n := clone(*v)
	return &ec2.CreateVolumeOutput{
		VolumeId: n.VolumeId, Size: n.Size, SnapshotId: n.SnapshotId, VolumeType: n.VolumeType, AvailabilityZone: n.AvailabilityZone,
		State: n.State, CreateTime: n.CreateTime, Tags: n.Tags, Encrypted: n.Encrypted, Iops: n.Iops, Throughput: n.Throughput,
	}
}

// plug attaches a volume to an instance.
func plug(v *types.Volume, i *types.Instance, device string, gone bool) {
	now := aws.Time(time.Now())
	v.State = types.VolumeStateInUse
	v.Attachments = []types.VolumeAttachment{{
		VolumeId: v.VolumeId, InstanceId: i.InstanceId, Device: aws.String(device), State: types.VolumeAttachmentStateAttached,
		AttachTime: now, DeleteOnTermination: aws.Bool(gone),
	}}
	i.BlockDeviceMappings = append(i.BlockDeviceMappings, types.InstanceBlockDeviceMapping{
		DeviceName: aws.String(device),
		Ebs: &types.EbsInstanceBlockDevice{
			VolumeId: v.VolumeId, Status: types.AttachmentStatusAttached, AttachTime: now, DeleteOnTermination: aws.Bool(gone),
		},
	})
}

// mapped is what an instance has at a device, nil when nothing.
func mapped(i *types.Instance, device string) *types.EbsInstanceBlockDevice {
	for _, bdm := range i.BlockDeviceMappings {
		if aws.ToString(bdm.DeviceName) == device {
			return bdm.Ebs
		}
	}
	return nil
}

// unplug takes a volume off an instance.
func unplug(v *types.Volume, i *types.Instance) {
	v.Attachments, v.State = nil, types.VolumeStateAvailable
	i.BlockDeviceMappings = slices.DeleteFunc(i.BlockDeviceMappings, func(b types.InstanceBlockDeviceMapping) bool {
		return b.Ebs != nil && aws.ToString(b.Ebs.VolumeId) == aws.ToString(v.VolumeId)
	})
}

func attachment(v *types.Volume) *types.VolumeAttachment {
	for k := range v.Attachments {
		if v.Attachments[k].State != types.VolumeAttachmentStateDetached {
			return &v.Attachments[k]
		}
	}
	return nil
}

func (c *Cloud) attachVolume(ctx context.Context, in *ec2.AttachVolumeInput) (any, error) {
	v, err := c.volume(ctx, aws.ToString(in.VolumeId))
	if err != nil {
		return nil, err
	}
	i, err := c.instance(ctx, aws.ToString(in.InstanceId))
	if err != nil {
		return nil, err
	}
	device := aws.ToString(in.Device)
	switch {
	case attachment(v) != nil:
		return nil, refuse("VolumeInUse", "%s is already attached to an instance", aws.ToString(v.VolumeId))
	case !running(i) && !stopped(i):
		return nil, refuse("IncorrectState", "Instance '%s' is not 'running' or 'stopped'.", aws.ToString(i.InstanceId))
	case i.Placement != nil && aws.ToString(i.Placement.AvailabilityZone) != aws.ToString(v.AvailabilityZone):
		return nil, refuse("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", aws.ToString(v.VolumeId), aws.ToString(i.InstanceId))
	case mapped(i, device) != nil:
		return nil, refuse("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
	}
	plug(v, i, device, false)
	return &ec2.AttachVolumeOutput{
		VolumeId: in.VolumeId, InstanceId: in.InstanceId, Device: in.Device, State: types.VolumeAttachmentStateAttached,
	}, nil
}

func (c *Cloud) detachVolume(ctx context.Context, in *ec2.DetachVolumeInput) (any, error) {
	v, err := c.volume(ctx, aws.ToString(in.VolumeId))
	if err != nil {
		return nil, err
	}
	a := attachment(v)
	if a == nil {
		return nil, refuse("IncorrectState", "Volume '%s' is in the 'available' state.", aws.ToString(v.VolumeId))
	}
	i, err := c.instance(ctx, aws.ToString(a.InstanceId))
	if err != nil {
		return nil, err
	}
	if running(i) && aws.ToString(a.Device) == aws.ToString(i.RootDeviceName) {
		return nil, refuse("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", aws.ToString(v.VolumeId), aws.ToString(i.InstanceId))
	}
	unplug(v, i)
	return &ec2.DetachVolumeOutput{VolumeId: in.VolumeId, InstanceId: i.InstanceId, State: types.VolumeAttachmentStateDetached}, nil
}

func (c *Cloud) deleteVolume(ctx context.Context, in *ec2.DeleteVolumeInput) (any, error) {
	v, err := c.volume(ctx, aws.ToString(in.VolumeId))
	if err != nil {
		return nil, err
	}
	if a := attachment(v); a != nil {
		return nil, refuse("VolumeInUse", "Volume %s is currently attached to %s", aws.ToString(v.VolumeId), aws.ToString(a.InstanceId))
	}
	c.volumes.put(aws.ToString(v.VolumeId), nil)
	return &ec2.DeleteVolumeOutput{}, nil
}

func (c *Cloud) modifyVolume(ctx context.Context, in *ec2.ModifyVolumeInput) (any, error) {
	v, err := c.volume(ctx, aws.ToString(in.VolumeId))
	if err != nil {
		return nil, err
	}
	if in.Size != nil && *in.Size < aws.ToInt32(v.Size) {
		return nil, refuse("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	m := &types.VolumeModification{
		VolumeId: v.VolumeId, ModificationState: types.VolumeModificationStateCompleted, Progress: aws.Int64(100),
		OriginalSize: v.Size, OriginalVolumeType: v.VolumeType, StartTime: aws.Time(time.Now()), EndTime: aws.Time(time.Now()),
	}
	if in.Size != nil {
		v.Size = in.Size
	}
	if in.VolumeType != "" {
		v.VolumeType = in.VolumeType
	}
	if in.Iops != nil {
		v.Iops = in.Iops
	}
	if in.Throughput != nil {
		v.Throughput = in.Throughput
	}
	m.TargetSize, m.TargetVolumeType, m.TargetIops, m.TargetThroughput = v.Size, v.VolumeType, v.Iops, v.Throughput
	c.modifications.put(aws.ToString(v.VolumeId), m)
	n := clone(*m)
	return &ec2.ModifyVolumeOutput{VolumeModification: &n}, nil
}

// replaceRoot puts another root under an instance, which reboots.
func (c *Cloud) replaceRoot(ctx context.Context, in *ec2.CreateReplaceRootVolumeTaskInput) (any, error) {
	i, err := c.instance(ctx, aws.ToString(in.InstanceId))
	if err != nil {
		return nil, err
	}
	if !running(i) {
		return nil, refuse("IncorrectInstanceState", "Instance '%s' is not in the 'running' state", aws.ToString(i.InstanceId))
	}
	device := aws.ToString(i.RootDeviceName)
	had := mapped(i, device)
	if had == nil {
		return nil, refuse("IncorrectState", "Instance does not have a volume attached at root (%s)", device)
	}
	old, err := c.volume(ctx, aws.ToString(had.VolumeId))
	if err != nil {
		return nil, err
	}
	root, err := c.newRoot(ctx, in, i, old)
	if err != nil {
		return nil, err
	}
	gone := aws.ToBool(had.DeleteOnTermination)
	unplug(old, i)
	plug(root, i, device, gone)
	if aws.ToBool(in.DeleteReplacedRootVolume) {
		c.volumes.put(*old.VolumeId, nil)
	}
	task := &types.ReplaceRootVolumeTask{
		ReplaceRootVolumeTaskId: aws.String(c.plan.id("replacevol")), InstanceId: i.InstanceId, SnapshotId: root.SnapshotId,
		TaskState: types.ReplaceRootVolumeTaskStateSucceeded, DeleteReplacedRootVolume: in.DeleteReplacedRootVolume,
		Tags: specTags(in.TagSpecifications, types.ResourceTypeReplaceRootVolumeTask),
	}
	c.tasks.put(*task.ReplaceRootVolumeTaskId, task)
	n := clone(*task)
	return &ec2.CreateReplaceRootVolumeTaskOutput{ReplaceRootVolumeTask: &n}, nil
}

// newRoot is the volume that a replace-root task plugs in.
func (c *Cloud) newRoot(ctx context.Context, in *ec2.CreateReplaceRootVolumeTaskInput, i *types.Instance, old *types.Volume) (*types.Volume, error) {
	if in.VolumeId != nil {
		v, err := c.volume(ctx, *in.VolumeId)
		if err == nil && attachment(v) != nil {
			err = refuse("VolumeInUse", "%s is already attached to an instance", *in.VolumeId)
		}
		return v, err
	}
	snapshot := old.SnapshotId
	if in.SnapshotId != nil {
		snapshot = in.SnapshotId
	}
	if in.ImageId != nil {
		image, err := c.image(ctx, *in.ImageId)
		if err != nil {
			return nil, err
		}
		for _, bdm := range image.BlockDeviceMappings {
			if bdm.Ebs != nil && aws.ToString(bdm.DeviceName) == aws.ToString(image.RootDeviceName) {
				snapshot = bdm.Ebs.SnapshotId
			}
		}
	}
	v, err := c.newVolume(ctx, snapshot, old.Size, old.VolumeType, i.Placement.AvailabilityZone)
	if err == nil {
		v.Tags = specTags(in.TagSpecifications, types.ResourceTypeVolume)
	}
	return v, err
}
