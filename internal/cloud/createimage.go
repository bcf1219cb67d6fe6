package cloud

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// CreateImage snapshots all disks of an instance at one instant and registers
// an image of them. Unless NoReboot is asked for, a running guest is shut down
// first, so that its file systems are at rest, and started again.
func (c *Cloud) CreateImage(ctx context.Context, in *ec2.CreateImageInput) (*ec2.CreateImageOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	s := from(ctx).Scope
	imageTags, err := tagsFor(in.TagSpecifications, types.ResourceTypeImage, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	snapTags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSnapshot, types.ResourceTypeImage)
	if err != nil {
		return nil, err
	}
	plan, err := c.planImage(s, in)
	if err != nil {
		return nil, err
	}
	plan.image.Tags = imageTags
	dress := func(_ *state.Volume, snap *state.Snapshot) {
		snap.Tags = snapTags
		snap.Description = fmt.Sprintf("Created by CreateImage(%s) for %s", plan.instance.ID, plan.image.ID)
	}
	if plan.instance.State == state.Running && !aws.ToBool(in.NoReboot) {
		err = c.createImageAtRest(plan, dress)
	} else {
		_, err = c.takeSnapshots(ctx, plan.disks, dress, func(tx *state.Tx, snaps []*state.Snapshot) error { return plan.commit(tx, snaps) })
	}
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(plan.image), jobOf(plan.instance))
	return &ec2.CreateImageOutput{ImageId: aws.String(plan.image.ID)}, nil
}

// imagePlan is an image about to be made of an instance.
type imagePlan struct {
	image    *state.Image
	instance *state.Instance
	disks    []*state.Volume
}

func (c *Cloud) planImage(s state.Scope, in *ec2.CreateImageInput) (*imagePlan, error) {
	p := &imagePlan{}
	return p, c.db.View(func(tx *state.Tx) (err error) {
		if err := checkImageName(tx, s, in.Name); err != nil {
			return err
		}
		if p.instance, err = find[state.Instance](tx, s, instanceIDs, *in.InstanceId); err != nil {
			return err
		}
		i := p.instance
		if i.State != state.Running && i.State != state.Stopped || i.Want == state.Terminated {
			return fail("IncorrectInstanceState", "Instance '%s' is '%s'; an image is made of a running or stopped one.", i.ID, i.State)
		}
		if i.ImagePending != "" {
			return fail("IncorrectInstanceState", "Instance '%s' is being made image %s of.", i.ID, i.ImagePending)
		}
		if i.ReplaceRoot != "" {
			return fail("IncorrectInstanceState", "The root volume of instance '%s' is being replaced by task %s.", i.ID, i.ReplaceRoot)
		}
		p.image = &state.Image{
			Meta: c.meta(s, "ami"), State: state.ImagePending, Name: *in.Name, Description: aws.ToString(in.Description), Owner: s.Account, Type: "machine",
			Architecture: i.Architecture, Virtualization: "hvm", BootMode: i.BootMode, KernelID: i.KernelID, RootDevice: i.RootDevice, ENA: true,
			SourceInstance: i.ID, IMDS: "v2.0",
		}
		all, err := disksOf(tx, i)
		if err != nil {
			return err
		}
		var base []state.BlockDevice
		for _, v := range all {
			base = append(base, state.BlockDevice{
				Device: v.Attachment.Device, Size: v.Size, Type: v.Type, DeleteOnTermination: v.Attachment.DeleteOnTermination,
				Encrypted: v.Encrypted,
			})
		}
		if p.image.BlockDevices, err = c.blockDevices(tx, s, base, in.BlockDeviceMappings); err != nil {
			return err
		}
		for _, v := range all {
			if slices.ContainsFunc(p.image.BlockDevices, func(b state.BlockDevice) bool { return sameDevice(b.Device, v.Attachment.Device) }) {
				p.disks = append(p.disks, v)
			}
		}
		if len(p.disks) == 0 || !sameDevice(p.disks[0].Attachment.Device, i.RootDevice) {
			return fail("IncorrectState", "Instance '%s' has no volume at its root device %s, so no image can be made of it.", i.ID, i.RootDevice)
		}
		return nil
	})
}

// commit writes the image with the snapshots that its devices come from.
func (p *imagePlan) commit(tx *state.Tx, snaps []*state.Snapshot) error {
	if err := checkImageName(tx, p.image.Scope(), &p.image.Name); err != nil {
		return err // another took it meanwhile
	}
	for i, v := range p.disks {
		at := slices.IndexFunc(p.image.BlockDevices, func(b state.BlockDevice) bool { return sameDevice(b.Device, v.Attachment.Device) })
		p.image.BlockDevices[at].SnapshotID = snaps[i].ID
	}
	return state.Put(tx, p.image)
}

// createImageAtRest commits what is wanted; the instance's worker shuts the
// guest down and lets the snapshots begin.
func (c *Cloud) createImageAtRest(p *imagePlan, dress func(*state.Volume, *state.Snapshot)) error {
	return c.db.Update(func(tx *state.Tx) error {
		inst, err := state.Get[state.Instance](tx, p.instance.Scope(), p.instance.ID)
		if err != nil {
			return err
		}
		if err := p.check(tx, inst); err != nil {
			return err
		}
		snaps := make([]*state.Snapshot, len(p.disks))
		for i, v := range p.disks {
			snaps[i] = &state.Snapshot{Meta: c.meta(v.Scope(), "snap"), State: state.SnapshotPending, VolumeID: v.ID, VolumeSize: v.Size, Encrypted: v.Encrypted, Lineage: volumeLineage(v)}
			dress(v, snaps[i])
			if err := state.Put(tx, snaps[i]); err != nil {
				return err
			}
		}
		inst.ImagePending = p.image.ID
		if err := state.Put(tx, inst); err != nil {
			return err
		}
		return p.commit(tx, snaps)
	})
}

// check refuses to go on with a plan that the instance has moved away from.
func (p *imagePlan) check(tx *state.Tx, inst *state.Instance) error {
	if inst.State != state.Running || inst.Want != state.Running || inst.ImagePending != "" || inst.ReplaceRoot != "" {
		return fail("IncorrectInstanceState", "Instance '%s' is being stopped, terminated, imaged or given another root.", inst.ID)
	}
	for _, v := range p.disks {
		now, err := find[state.Volume](tx, v.Scope(), volumeIDs, v.ID)
		if err != nil {
			return err
		}
		if now.Attachment == nil || now.Attachment.InstanceID != inst.ID || now.Attachment.State == state.Detaching {
			return fail("IncorrectState", "Volume '%s' is being detached from '%s'.", v.ID, inst.ID)
		}
	}
	return nil
}
