package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxSwapSteps bounds the loop of a swap: each disk takes one step and the
// rest about ten, so more means that a step doesn't stick.
const maxSwapSteps = 64

// rescueBySwap plugs the server's own disks into a stand-in instance. It is a
// loop that looks at what there is, does the one next step, waits until
// anything has changed and looks again, so that it can begin anywhere and that
// several at once go on from each other's steps. The order:
//
//	launch a stand-in with a stub root → stop it → unplug the stub → plug in
//	the server's root, then its data disks → have each kept on termination →
//	start it → delete the stub → make the stand-in the server
//
// The stub and the server's root are never plugged in together: both may carry
// the same UUIDs. Data disks are there before the root first boots.
func (m *Manager) rescueBySwap(ctx context.Context, name string, by RescueBy, o RescueOptions) (*Server, error) {
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	for range maxSwapSteps {
		if w.back() {
			return m.comeBack(ctx, name, aws.ToString(w.instance.InstanceId), o.Wait)
		}
		before := w
		failed := m.swapStep(ctx, before, by, o)
		if ctx.Err() != nil && failed != nil {
			return nil, failed
		}
		if w, err = m.observe(ctx, name); err != nil {
			return nil, err
		}
		if failed != nil && !overtaken(failed, before, w) {
			return nil, failed
		}
		if err := w.failedToRun(before.standIn); err != nil {
			return nil, err
		}
	}
	return nil, &Error{Code: KindFailed, Reason: fmt.Sprintf("no end after %d steps", maxSwapSteps), Remedy: "stead show " + name}
}

// back tells that the swap itself is over: the server has its instance again,
// and that runs or is about to.
func (w *world) back() bool {
	state := stateOf(w.instance)
	return w.standIn == nil && w.instance != nil && state != types.InstanceStateNameStopped && state != types.InstanceStateNameStopping
}

// swapStep does the next step of a swap, and waits until that or anything else
// has changed what there is.
func (m *Manager) swapStep(ctx context.Context, w *world, by RescueBy, o RescueOptions) error {
	root := w.root()
	if root == nil {
		return &Error{Code: KindNotFound, Reason: "no root disk is tagged as this server's", Remedy: "stead rescue " + w.name + " --by snapshot"}
	}
	if w.standIn == nil {
		return m.beginSwap(ctx, w, root, by, o)
	}
	id := aws.ToString(w.standIn.InstanceId)
	switch stateOf(w.standIn) {
	case types.InstanceStateNameStopped:
		return m.fillStandIn(ctx, w, root)
	case types.InstanceStateNameRunning:
		if w.byTask() {
			return m.replaceRoot(ctx, w, root)
		}
		if attachedTo(root) == id {
			return m.becomeServer(ctx, w)
		}
		return m.stopStub(ctx, w, root)
	default:
		return m.step("wait for stand-in", id, func() error { return m.awaitChange(ctx, w) })
	}
}

// beginSwap launches a stand-in, unless the root is in use after all: then the
// server's instance was stopped, or isn't listed under its tags yet.
func (m *Manager) beginSwap(ctx context.Context, w *world, root *types.Volume, by RescueBy, o RescueOptions) error {
	if stateOf(w.instance) == types.InstanceStateNameStopped {
		return m.startAndSee(ctx, w, aws.ToString(w.instance.InstanceId))
	}
	if stateOf(w.instance) == types.InstanceStateNameStopping {
		return m.step("wait until stopped", w.name, func() error { return m.awaitChange(ctx, w) })
	}
	holder, err := m.holderOf(ctx, root)
	if err != nil {
		return err
	}
	switch {
	case holder == nil:
		return m.launchStandIn(ctx, w, root, by, o)
	case tagOf(holder.Tags, tagServer) == w.name || tagOf(holder.Tags, tagStandIn) == w.name:
		return m.awaitChange(ctx, w)
	}
	return &Error{
		Code: KindExists, Reason: "instance " + aws.ToString(holder.InstanceId) + " has its root disk and is " + string(stateOf(holder)),
		Remedy: "detach the disk there first",
	}
}

// holderOf returns the instance that a volume is plugged into, nil when there
// is none or it is on its way out.
func (m *Manager) holderOf(ctx context.Context, v *types.Volume) (*types.Instance, error) {
	id := attachedTo(v)
	if id == "" {
		return nil, nil
	}
	i, err := m.instanceByID(ctx, id)
	if err != nil || i == nil || !live(i) || stateOf(i) == types.InstanceStateNameShuttingDown {
		return nil, err
	}
	return i, nil
}

// launchStandIn launches the instance that gets the server's disks. Its own
// root, the stub, goes with it should it be terminated.
func (m *Manager) launchStandIn(ctx context.Context, w *world, root *types.Volume, by RescueBy, o RescueOptions) error {
	f := machineFacts(w.facts(), o)
	image, err := m.standInImage(ctx, f, o)
	if err != nil {
		return err
	}
	for _, v := range append(w.data(), root) {
		if zone := aws.ToString(v.AvailabilityZone); zone != f.Zone {
			return &Error{
				Code: KindExists, Reason: fmt.Sprintf("disk %s is in zone %s, the root in %s", aws.ToString(v.VolumeId), zone, f.Zone),
				Remedy: "stead rescue " + w.name + " --by snapshot",
			}
		}
	}
	group, err := m.rescueAccess(ctx, w.name, &f)
	if err != nil {
		return err
	}
	f.Image = aws.ToString(image.ImageId)
	in := runInput(f, group, f.Zone)
	in.BlockDeviceMappings = stubMappings(image)
	if f.Kernel != "" {
		in.KernelId = aws.String(f.Kernel)
		if f.Ramdisk != "" {
			in.RamdiskId = aws.String(f.Ramdisk)
		}
	}
	tags := tagMap{tagSchema: schemaVersion, tagStandIn: w.name, tagName: w.name + " stand-in"}
	marks := tags
	if by == RescueReplaceRoot {
		marks = tags.with(tagMap{tagStep: stepReplaceRoot})
		for k := range in.BlockDeviceMappings { // the new root inherits it
			if in.BlockDeviceMappings[k].Ebs != nil {
				in.BlockDeviceMappings[k].Ebs.DeleteOnTermination = aws.Bool(false)
			}
		}
	}
	in.TagSpecifications = []types.TagSpecification{marks.spec(types.ResourceTypeInstance), tags.spec(types.ResourceTypeVolume)}
	return m.step("launch stand-in", w.name, func() error {
		i, err := m.launchAt(ctx, stepRescue, w.name, w.ids(), in, f)
		if err != nil {
			return err
		}
		return m.waitTagged(ctx, w.name, aws.ToString(i.InstanceId))
	})
}

// waitTagged waits until a search by tag finds a launched stand-in: the loop
// looks by tag, and EC2's searches lag behind its answers.
func (m *Manager) waitTagged(ctx context.Context, name, id string) error {
	return m.poll(ctx, settleTime, "its tags to be listed", "instance "+id, func(ctx context.Context) (bool, error) {
		w, err := m.observe(ctx, name)
		if err != nil {
			return false, err
		}
		for k := range w.dead {
			if i := &w.dead[k]; isInstance(i, id) && diedByItself(i) {
				return false, diedWaiting(i, types.InstanceStateNameRunning)
			} else if isInstance(i, id) {
				return true, nil
			}
		}
		// A second rescue may have finished it meanwhile.
		return isInstance(w.standIn, id) || isInstance(w.instance, id), nil
	})
}

func isInstance(i *types.Instance, id string) bool {
	return i != nil && aws.ToString(i.InstanceId) == id
}

// standInImage finds an image that boots on the machine that the root needs:
// the one that the server was made from, else any alias.
func (m *Manager) standInImage(ctx context.Context, f facts, o RescueOptions) (*types.Image, error) {
	if o.Image != "" {
		i, _, err := m.resolveImage(ctx, o.Image, f.Arch)
		if err != nil {
			return nil, err
		}
		return i, fits(i, f)
	}
	refs := []string{f.Image}
	for _, a := range m.aliases() {
		refs = append(refs, a.name)
	}
	for _, ref := range refs {
		if ref == "" {
			continue
		}
		i, _, err := m.resolveImage(ctx, ref, f.Arch)
		if err == nil && fits(i, f) == nil {
			return i, nil
		}
		if kind := KindOf(err); err != nil && (kind == KindInterrupted || kind == KindTimeout || kind == KindAuth) {
			return nil, err
		}
	}
	return nil, &Error{Code: KindNotFound, Reason: "no image fits for the stand-in", Remedy: "name one with the same architecture and boot mode: --image ID"}
}

// fits tells whether an instance of an image can run the root that f speaks
// of: a machine's architecture, boot mode and kernel come from its image.
func fits(i *types.Image, f facts) error {
	bad := func(what, has, want string) error {
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("image %s has %s %q, the server needs %q", aws.ToString(i.ImageId), what, has, want), Remedy: "choose another --image"}
	}
	switch {
	case i.Architecture != "" && string(i.Architecture) != f.Arch:
		return bad("architecture", string(i.Architecture), f.Arch)
	case f.BootMode != "" && i.BootMode != "" && string(i.BootMode) != f.BootMode:
		return bad("boot mode", string(i.BootMode), f.BootMode)
	case f.Kernel == "" && aws.ToString(i.KernelId) != "":
		return bad("kernel", aws.ToString(i.KernelId), "")
	}
	return nil
}

// stubMappings leave the stand-in only the image's root, to be deleted.
func stubMappings(image *types.Image) []types.BlockDeviceMapping {
	var out []types.BlockDeviceMapping
	for _, bdm := range image.BlockDeviceMappings {
		switch {
		case aws.ToString(bdm.DeviceName) != aws.ToString(image.RootDeviceName):
			out = append(out, types.BlockDeviceMapping{DeviceName: bdm.DeviceName, NoDevice: aws.String("")})
		case bdm.Ebs != nil:
			root := keptMapping(aws.ToString(bdm.DeviceName), aws.ToString(bdm.Ebs.SnapshotId), aws.ToInt32(bdm.Ebs.VolumeSize))
			root.Ebs.DeleteOnTermination = aws.Bool(true)
			out = append(out, root)
		}
	}
	return out
}

// fillStandIn brings a stopped stand-in one step nearer to having the
// server's disks, and starts it when it has them all.
func (m *Manager) fillStandIn(ctx context.Context, w *world, root *types.Volume) error {
	id := aws.ToString(w.standIn.InstanceId)
	for k := range w.stubs {
		if attachedTo(&w.stubs[k]) == id {
			return m.unplugStub(ctx, w, &w.stubs[k])
		}
	}
	if !pluggedInto(root, id) {
		return m.plug(ctx, root, w.standIn, aws.ToString(w.standIn.RootDeviceName))
	}
	used := []string{attachedAs(root)}
	for _, v := range w.data() {
		if attachedTo(v) == id {
			used = append(used, attachedAs(v))
		}
	}
	for _, v := range w.data() {
		if pluggedInto(v, id) {
			continue
		}
		device := tagOf(v.Tags, tagDevice)
		if device == "" || slices.ContainsFunc(used, func(u string) bool { return slot(u) == slot(device) }) {
			var err error
			if device, err = nextDevice(used); err != nil {
				return err
			}
		}
		return m.plug(ctx, v, w.standIn, device)
	}
	if err := m.keepDisks(ctx, id); err != nil {
		return err
	}
	return m.startAndSee(ctx, w, id)
}

// pluggedInto tells a volume that is attached from one that is about to be.
func pluggedInto(v *types.Volume, instanceID string) bool {
	return slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool {
		return aws.ToString(a.InstanceId) == instanceID && a.State == types.VolumeAttachmentStateAttached
	})
}

// startAndSee starts a stopped instance and waits until something has become
// of it.
func (m *Manager) startAndSee(ctx context.Context, w *world, id string) error {
	return m.step("start", id, func() error {
		if _, err := m.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
			return wrap("start", "instance "+id, err)
		}
		return m.awaitChange(ctx, w)
	})
}

// stopStub switches a stand-in off that runs its stub. What the stub's guest
// has in memory is worth nothing, but what the server's has is: another rescue
// may have put the server's root in and started it since w was seen, so the
// instance is looked at once more, right before.
func (m *Manager) stopStub(ctx context.Context, w *world, root *types.Volume) error {
	id := aws.ToString(w.standIn.InstanceId)
	return m.step("stop", id, func() error {
		i, err := m.instanceByID(ctx, id)
		if err != nil {
			return err
		}
		if i == nil || !sameMoment(i, w.standIn) || !hasTag(i.Tags, tagStandIn) || deviceIn(i, aws.ToString(root.VolumeId)) != "" {
			return nil // look again
		}
		if _, err := m.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}, Force: aws.Bool(true)}); err != nil {
			return wrap("stop", "instance "+id, err)
		}
		return m.awaitChange(ctx, w)
	})
}

// unplugStub takes the stub off the stand-in. It is tagged first where the
// endpoint didn't: nothing else tells it from a disk that somebody wants.
func (m *Manager) unplugStub(ctx context.Context, w *world, v *types.Volume) error {
	id, instanceID := aws.ToString(v.VolumeId), aws.ToString(w.standIn.InstanceId)
	return m.step("unplug stub", id, func() error {
		want := tagMap{tagSchema: schemaVersion, tagStandIn: w.name}
		if err := m.tag(ctx, id, tagsOf(v.Tags).missing(want)); err != nil {
			return err
		}
		if err := m.detach(ctx, id, instanceID, attachedAs(v)); err != nil {
			return err
		}
		return m.awaitChange(ctx, w)
	})
}

// becomeServer makes a running stand-in that has the server's disks the server. The
// stand-in's tag goes last: as long as it is there, the rescue isn't finished.
func (m *Manager) becomeServer(ctx context.Context, w *world) error {
	id := aws.ToString(w.standIn.InstanceId)
	for k := range w.stubs {
		if err := m.deleteStub(ctx, &w.stubs[k]); err != nil {
			return err
		}
	}
	return m.step("make the stand-in the server", id, func() error {
		f := w.facts()
		if err := m.settle(ctx, w.name, id, f); err != nil {
			return err
		}
		if err := m.tag(ctx, id, serverTags(w.name).with(tagMap{tagStep: stepRescue})); err != nil {
			return err
		}
		if err := m.untag(ctx, id, tagStandIn); err != nil {
			return err
		}
		return m.awaitChange(ctx, w)
	})
}

// deleteStub deletes a stand-in's own disk, and nothing but that: it must be
// tagged so, be nobody's server, and be plugged in nowhere.
func (m *Manager) deleteStub(ctx context.Context, v *types.Volume) error {
	id := aws.ToString(v.VolumeId)
	if !hasTag(v.Tags, tagStandIn) || hasTag(v.Tags, tagServer) || attachedTo(v) != "" {
		m.warn("delete stub", id, "it doesn't look like a stub any more and is left alone")
		return nil
	}
	return m.step("delete stub", id, func() error {
		_, err := m.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		if KindOf(err) == KindNotFound {
			return nil
		}
		return wrap("delete", "volume "+id, err)
	})
}
