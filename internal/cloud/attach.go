package cloud

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// deviceName is what EC2 takes for HVM instances, with the partition digits
// that the seed uses (/dev/sda1, /dev/sdf1).
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html
var deviceName = regexp.MustCompile(`^(/dev/)?(sd[a-z][0-9]{0,2}|xvd[a-z]{1,2}[0-9]{0,2}|hd[a-z][0-9]{0,2}|vd[a-z])$`)

// maxAttached is how many disks a machine has slots for.
const maxAttached = 16

// AttachVolume plugs a volume into an instance, running or stopped.
func (c *Cloud) AttachVolume(ctx context.Context, in *ec2.AttachVolumeInput) (*ec2.AttachVolumeOutput, error) {
	s := from(ctx).Scope
	for name, v := range map[string]*string{"device": in.Device, "instanceId": in.InstanceId, "volumeId": in.VolumeId} {
		if v == nil {
			return nil, missing(name)
		}
	}
	if !deviceName.MatchString(*in.Device) {
		return nil, invalid(*in.Device, "unixDevice", "Attachment point "+*in.Device+" is not a valid device name. Use /dev/sd[f-p].")
	}
	var vol *state.Volume
	var inst *state.Instance
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if vol, err = find[state.Volume](tx, s, volumeIDs, *in.VolumeId); err != nil {
			return err
		}
		if inst, err = find[state.Instance](tx, s, instanceIDs, *in.InstanceId); err != nil {
			return err
		}
		if err := c.checkAttach(tx, vol, inst, *in.Device); err != nil {
			return err
		}
		return c.attach(tx, vol, inst, *in.Device, false)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(inst))
	a := vol.Attachment
	return &ec2.AttachVolumeOutput{
		AttachTime: aws.Time(a.Time), DeleteOnTermination: aws.Bool(a.DeleteOnTermination), Device: aws.String(a.Device),
		InstanceId: aws.String(a.InstanceID), State: types.VolumeAttachmentState(a.State), VolumeId: aws.String(vol.ID),
	}, nil
}

func (c *Cloud) checkAttach(tx *state.Tx, vol *state.Volume, inst *state.Instance, device string) error {
	switch {
	case vol.Attachment != nil:
		return fail("VolumeInUse", "%s is already attached to an instance", vol.ID)
	case vol.ReservedFor != "":
		return refuseReserved(vol)
	case vol.State != state.VolumeAvailable:
		return fail("IncorrectState", "%s is not 'available': it is '%s'.", vol.ID, vol.State)
	case inst.Want == state.Terminated || inst.State != state.Running && inst.State != state.Stopped:
		return fail("IncorrectState", "Instance '%s' is not 'running' or 'stopped': it is '%s'.", inst.ID, inst.State)
	case vol.Zone != inst.Zone:
		return fail("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s': %s and %s.", vol.ID, inst.ID, vol.Zone, inst.Zone)
	case len(inst.Volumes) >= maxAttached:
		return fail("AttachmentLimitExceeded", "Instance '%s' has %d disks, the most that it takes.", inst.ID, maxAttached)
	}
	disks, err := disksOf(tx, inst)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if sameDevice(d.Attachment.Device, device) {
			return invalid(device, "unixDevice", "Attachment point "+device+" is already in use by "+d.ID+".")
		}
	}
	return nil
}

// attach records the plugging; on a stopped instance that is all there is.
func (c *Cloud) attach(tx *state.Tx, vol *state.Volume, inst *state.Instance, device string, deleteOnTermination bool) error {
	a := &state.Attachment{InstanceID: inst.ID, Device: device, State: state.Attaching, DeleteOnTermination: deleteOnTermination, Time: c.now().UTC()}
	if inst.State == state.Stopped && inst.Want == state.Stopped {
		a.State = state.Attached
	}
	vol.Attachment = a
	if vol.Ready {
		vol.State = state.VolumeInUse
	}
	inst.Volumes = append(inst.Volumes, vol.ID)
	if err := state.Put(tx, vol); err != nil {
		return err
	}
	return state.Put(tx, inst)
}

// detach takes the plug out of both records.
func detach(tx *state.Tx, vol *state.Volume, inst *state.Instance) error {
	vol.Attachment = nil
	if vol.State == state.VolumeInUse {
		vol.State = state.VolumeAvailable
	}
	inst.Volumes = slices.DeleteFunc(inst.Volumes, func(id string) bool { return id == vol.ID })
	if err := state.Put(tx, vol); err != nil {
		return err
	}
	return state.Put(tx, inst)
}

// disksOf reads an instance's volumes, the root first.
func disksOf(tx *state.Tx, inst *state.Instance) ([]*state.Volume, error) {
	var disks []*state.Volume
	for _, id := range inst.Volumes {
		vol, err := state.Get[state.Volume](tx, inst.Scope(), id)
		if err != nil {
			return nil, fmt.Errorf("disks of %s: %w", inst.ID, err)
		}
		if vol.Attachment == nil || vol.Attachment.InstanceID != inst.ID {
			return nil, fmt.Errorf("disks of %s: %s says that it is not attached", inst.ID, id)
		}
		disks = append(disks, vol)
	}
	slices.SortStableFunc(disks, func(a, b *state.Volume) int {
		return compareDevices(inst.RootDevice, a.Attachment.Device, b.Attachment.Device)
	})
	return disks, nil
}

func compareDevices(root, a, b string) int {
	switch ra, rb := sameDevice(a, root), sameDevice(b, root); {
	case ra == rb:
		return slices.Compare([]byte(a), []byte(b))
	case ra:
		return -1
	default:
		return 1
	}
}

// sameDevice compares device names with or without "/dev/", and by either of
// a disk's names: sdf and xvdf are one.
func sameDevice(a, b string) bool { return shortDevice(a) == shortDevice(b) }

func shortDevice(d string) string {
	d = strings.TrimPrefix(d, "/dev/")
	if x, ok := strings.CutPrefix(d, "xvd"); ok && len(strings.TrimRight(x, "0123456789")) == 1 {
		return "sd" + x
	}
	return d
}

// diskOf is an attached volume as a machine gets it.
func (c *Cloud) diskOf(vol *state.Volume) machine.Disk {
	return machine.Disk{Path: c.volumes.Path(vol.ID), VolumeID: vol.ID, Slot: slotOf(vol.Attachment.Device)}
}

// namedDevice are the device names by whose letter a disk has its slot, where
// the images of this program find it again: /dev/sdf, /dev/sdf1 and /dev/xvdf.
var namedDevice = regexp.MustCompile(`^sd([a-z])[0-9]*$`)

// slotOf is the place in a machine of a disk with a device name: 1 for a, and
// so on; 0 for names that have none.
func slotOf(device string) int {
	m := namedDevice.FindStringSubmatch(shortDevice(device))
	if len(m) < 2 || int(m[1][0]-'a') >= machine.Slots {
		return 0
	}
	return int(m[1][0]-'a') + 1
}

// DetachVolume unplugs a volume. From a running machine the guest lets go of
// it first; until then it is "detaching".
func (c *Cloud) DetachVolume(ctx context.Context, in *ec2.DetachVolumeInput) (*ec2.DetachVolumeOutput, error) {
	s := from(ctx).Scope
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	var was state.Attachment
	var inst *state.Instance
	err := c.db.Update(func(tx *state.Tx) error {
		vol, err := find[state.Volume](tx, s, volumeIDs, *in.VolumeId)
		if err != nil {
			return err
		}
		if inst, err = c.checkDetach(tx, vol, in); err != nil {
			return err
		}
		vol.Attachment.State, vol.Attachment.Force = state.Detaching, aws.ToBool(in.Force)
		was = *vol.Attachment
		if inst.State == state.Stopped && inst.Want == state.Stopped {
			return detach(tx, vol, inst)
		}
		return state.Put(tx, vol)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(inst))
	return &ec2.DetachVolumeOutput{
		AttachTime: aws.Time(was.Time), DeleteOnTermination: aws.Bool(was.DeleteOnTermination), Device: aws.String(was.Device),
		InstanceId: aws.String(was.InstanceID), State: types.VolumeAttachmentStateDetaching, VolumeId: in.VolumeId,
	}, nil
}

func (c *Cloud) checkDetach(tx *state.Tx, vol *state.Volume, in *ec2.DetachVolumeInput) (*state.Instance, error) {
	a := vol.Attachment
	if a == nil {
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state: it is not attached.", vol.ID, vol.State)
	}
	if id := aws.ToString(in.InstanceId); id != "" && id != a.InstanceID {
		return nil, fail("InvalidAttachment.NotFound", "Volume '%s' is not attached to instance '%s' but to '%s'.", vol.ID, id, a.InstanceID)
	}
	if d := aws.ToString(in.Device); d != "" && !sameDevice(d, a.Device) {
		return nil, fail("InvalidAttachment.NotFound", "Volume '%s' is attached as '%s', not as '%s'.", vol.ID, a.Device, d)
	}
	inst, err := find[state.Instance](tx, vol.Scope(), instanceIDs, a.InstanceID)
	if err != nil {
		return nil, err
	}
	if sameDevice(a.Device, inst.RootDevice) && inst.State != state.Stopped {
		return nil, fail("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s' while it is '%s'. Stop the instance first.", vol.ID, inst.ID, inst.State)
	}
	return inst, nil
}
