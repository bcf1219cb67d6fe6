package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rescueSetPrefix begins the IDs of the sets that a rescue takes on its way.
const rescueSetPrefix = "rescue-"

// rescueBySnapshot brings a server back as new disks: a snapshot of each of
// its disks (or its newest complete set, when they are gone), an image of the
// snapshots, an instance of the image. The old disks stay, as superseded.
func (m *Manager) rescueBySnapshot(ctx context.Context, w *world, p *RescuePlan, o RescueOptions) (*RescueResult, error) {
	setID, err := m.rescueSet(ctx, w, p.Set)
	if err != nil {
		return nil, err
	}
	set, err := m.waitSet(ctx, w.name, setID)
	if err != nil {
		return nil, err
	}
	f, err := m.setFacts(ctx, set)
	if err != nil {
		return nil, err
	}
	image, err := m.setImage(ctx, set, f, imagePlan{
		name: "stead-" + w.name + "-" + setID, about: "rescue image of server " + w.name,
		tags: serverTags(w.name).with(tagMap{tagSet: setID}),
	})
	if err != nil {
		return nil, err
	}
	f.Image = cmp.Or(f.Image, aws.ToString(image.ImageId))
	if w.instance == nil {
		if w.instance, err = m.launchSet(ctx, w, set, image, machineFacts(f, o), stepRescue, nil); err != nil {
			return nil, err
		}
	}
	id := aws.ToString(w.instance.InstanceId)
	if err := m.takeOver(ctx, w, id, set, f); err != nil {
		return nil, err
	}
	s, err := m.comeBack(ctx, w.name, id, o.Wait)
	if err != nil {
		return nil, err
	}
	return m.rescued(ctx, &RescueResult{Server: s, By: RescueSnapshot, Image: aws.ToString(image.ImageId)}, set)
}

// rescueSet returns the set to come back from: that of the rescue under way,
// else the planned one, else one taken now of the detached disks. The
// ID of a new set follows from the disks, so that repeating the rescue finds
// it; they are detached and can't change meanwhile.
func (m *Manager) rescueSet(ctx context.Context, w *world, planned *SnapshotSet) (string, error) {
	switch {
	case w.instance != nil:
		return tagOf(w.instance.Tags, tagSet), nil
	case planned != nil:
		return planned.ID, nil
	case w.root() == nil:
		return "", w.hopeless(nil)
	}
	return m.quietSet(ctx, w, setPlan{server: w.name, id: w.rescueSetID(), volumes: w.volumes})
}

// quietSet snapshots disks that nothing writes to: detached ones, or those of
// a stopped instance. What an earlier try took of the plan's set is found by
// tag, for CreateSnapshot takes no client token. It returns the set's ID, which
// isn't the plan's where the snapshots of that name may be older than the disks.
func (m *Manager) quietSet(ctx context.Context, w *world, plan setPlan) (string, error) {
	err := m.step("take snapshots", w.name, func() error {
		for k := range plan.volumes {
			if err := m.waitQuiet(ctx, aws.ToString(plan.volumes[k].VolumeId), w.instance); err != nil {
				return err
			}
		}
		var err error
		if plan.id, err = m.unspoiled(ctx, w, plan.id); err != nil {
			return err
		}
		return m.takeQuiet(ctx, w, plan)
	})
	return plan.id, err
}

// takeQuiet snapshots those of the plan's disks that its set lacks. What the
// set has of disks that are gone stays in it.
func (m *Manager) takeQuiet(ctx context.Context, w *world, plan setPlan) error {
	taken, err := m.setSnapshots(ctx, w.name, plan.id)
	if err != nil {
		return err
	}
	for _, s := range taken {
		if plan.volume(aws.ToString(s.VolumeId)) == nil {
			plan.gone++
		}
	}
	for _, s := range taken {
		if err := m.tag(ctx, aws.ToString(s.SnapshotId), tagsOf(s.Tags).missing(tagMap{tagSetSize: plan.size()})); err != nil {
			return err
		}
	}
	root := w.root()
	for k := range plan.volumes {
		v := &plan.volumes[k]
		if slices.ContainsFunc(taken, func(s types.Snapshot) bool { return aws.ToString(s.VolumeId) == aws.ToString(v.VolumeId) }) {
			continue
		}
		tags := plan.tags(v, plan.gone == 0)
		if w.instance != nil && attachedTo(v) != "" {
			tags[tagSetLaunched] = aws.ToTime(w.instance.LaunchTime).UTC().Format(time.RFC3339)
		}
		if root != nil && v.VolumeId == root.VolumeId {
			tags[tagRole] = RoleRoot // also where a create was cut short
		}
		if err := m.snapshotVolume(ctx, v, tags); err != nil {
			return err
		}
	}
	return m.retireTwins(ctx, w.name, plan.id)
}

// retireTwins leaves one snapshot of each disk in a set, the oldest. Two
// commands at once may both have taken one; who comes last sees that.
func (m *Manager) retireTwins(ctx context.Context, name, id string) error {
	taken, err := m.setSnapshots(ctx, name, id)
	if err != nil {
		return err
	}
	slices.SortFunc(taken, func(a, b types.Snapshot) int {
		return cmp.Or(aws.ToTime(a.StartTime).Compare(aws.ToTime(b.StartTime)), cmp.Compare(aws.ToString(a.SnapshotId), aws.ToString(b.SnapshotId)))
	})
	seen := map[string]bool{}
	return m.retire(ctx, id, slices.DeleteFunc(taken, func(s types.Snapshot) bool {
		twin := seen[aws.ToString(s.VolumeId)]
		seen[aws.ToString(s.VolumeId)] = true
		return !twin
	}))
}

// waitQuiet waits until a disk is plugged in nowhere but in a stopped instance.
func (m *Manager) waitQuiet(ctx context.Context, id string, stopped *types.Instance) error {
	_, err := m.waitVolume(ctx, id, "to be available", func(v *types.Volume) bool {
		return attachedTo(v) == "" && v.State == types.VolumeStateAvailable ||
			stateOf(stopped) == types.InstanceStateNameStopped && attachedTo(v) == aws.ToString(stopped.InstanceId)
	})
	return err
}

// rescueSetID names the set that a rescue takes of the disks as they are.
func (w *world) rescueSetID() string {
	return rescueSetPrefix + digest(append([]string{w.name}, w.lifeIDs()...)...)[:12]
}

// lifeIDs are the IDs that stay the same from a termination to the end of the
// rescue: the volumes, and the instance that they last ran in.
func (w *world) lifeIDs() []string {
	ids := []string{w.facts().Instance}
	for _, v := range w.volumes {
		ids = append(ids, aws.ToString(v.VolumeId))
	}
	slices.Sort(ids)
	return ids
}

// setFacts reads what the root's snapshot recorded.
func (m *Manager) setFacts(ctx context.Context, set *SnapshotSet) (facts, error) {
	found, err := m.setSnapshots(ctx, set.Server, set.ID)
	if err != nil {
		return facts{}, err
	}
	for _, s := range found {
		if tagOf(s.Tags, tagRole) == RoleRoot {
			return factsOf(s.Tags), nil
		}
	}
	return facts{}, &Error{Code: KindNotFound, Reason: "set " + set.ID + " has no root"}
}

// launchSet launches the image of a set. All mappings are repeated: endpoints
// differ in what a launch inherits.
func (m *Manager) launchSet(ctx context.Context, w *world, set *SnapshotSet, image *types.Image, f facts, step string, userData []byte) (*types.Instance, error) {
	group, err := m.rescueAccess(ctx, w.name, &f)
	if err != nil {
		return nil, err
	}
	run := f
	run.Image = aws.ToString(image.ImageId)
	in := runInput(run, group, f.Zone)
	for _, s := range set.Snapshots {
		device := s.Device
		if s.Role == RoleRoot {
			device = aws.ToString(image.RootDeviceName)
		}
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, keptMapping(device, s.SnapshotID, int32(s.SizeGiB)))
	}
	tags := serverTags(w.name)
	in.TagSpecifications = []types.TagSpecification{
		tags.with(tagMap{tagStep: step, tagSet: set.ID}).spec(types.ResourceTypeInstance),
		tags.with(f.tags()).spec(types.ResourceTypeVolume),
	}
	if len(userData) > 0 {
		in.UserData = aws.String(base64.StdEncoding.EncodeToString(userData))
	}
	var i *types.Instance
	err = m.step("launch instance", w.name, func() error {
		i, err = m.launchOnMarket(ctx, step, w.name, append(w.lifeIDs(), set.ID, run.Image), in, f)
		return err
	})
	return i, err
}

// takeOver makes the new disks the server: it checks that each is what its
// snapshot was, tags them, and only then marks the old ones as superseded.
func (m *Manager) takeOver(ctx context.Context, w *world, instanceID string, set *SnapshotSet, f facts) error {
	name := w.name
	i, volumes, err := m.disksOf(ctx, instanceID)
	if err != nil {
		return err
	}
	successor := map[string]string{} // snapshot → new volume
	for _, v := range volumes {
		successor[aws.ToString(v.SnapshotId)] = aws.ToString(v.VolumeId)
	}
	for _, s := range set.Snapshots {
		if successor[s.SnapshotID] == "" {
			return &Error{
				Op: "check the disks of", Resource: "instance " + instanceID, Code: KindPartial,
				Reason: fmt.Sprintf("no disk came of snapshot %s (%s)", s.SnapshotID, s.Device),
				Remedy: "the old disks are untouched; look at the instance with stead show " + name,
			}
		}
	}
	return m.step("make the new disks the server", aws.ToString(i.InstanceId), func() error {
		if err := m.inherit(ctx, name, set, volumes); err != nil {
			return err
		}
		if err := m.settle(ctx, name, instanceID, f); err != nil {
			return err
		}
		for _, s := range set.Snapshots {
			for _, old := range w.outdated(s, instanceID) {
				if err := m.supersede(ctx, name, old, successor[s.SnapshotID]); err != nil {
					return err
				}
			}
			if err := m.supersede(ctx, name, s.VolumeID, successor[s.SnapshotID]); err != nil {
				return err
			}
		}
		return nil
	})
}

// inherit passes on what a snapshot says of a data disk, such as where it is
// mounted: a launch tags all its disks alike.
func (m *Manager) inherit(ctx context.Context, name string, set *SnapshotSet, volumes []types.Volume) error {
	tapes, err := m.setSnapshots(ctx, set.Server, set.ID)
	if err != nil {
		return err
	}
	var server facts
	general := server.fields()
	for _, tape := range tapes {
		want := diskTags(tape.Tags).with(serverTags(name))
		maps.DeleteFunc(want, func(key, _ string) bool { return general[key] != nil || key == tagName })
		if want[tagRole] == RoleRoot {
			continue // its facts are the server's
		}
		for k := range volumes {
			if aws.ToString(volumes[k].SnapshotId) != aws.ToString(tape.SnapshotId) {
				continue
			}
			if err := m.tag(ctx, aws.ToString(volumes[k].VolumeId), tagsOf(volumes[k].Tags).missing(want)); err != nil {
				return err
			}
		}
	}
	return nil
}

// outdated lists the server's disks that a set's new one takes the place of:
// those that had its role or device and aren't in the new instance.
func (w *world) outdated(s Snapshot, instanceID string) []string {
	var ids []string
	for k := range w.volumes {
		v := &w.volumes[k]
		root := tagOf(v.Tags, tagRole) == RoleRoot
		if attachedTo(v) == instanceID || aws.ToString(v.SnapshotId) == s.SnapshotID {
			continue
		}
		if s.Role == RoleRoot && root || s.Role != RoleRoot && !root && sameSlot(deviceOf(v), s.Device) {
			ids = append(ids, aws.ToString(v.VolumeId))
		}
	}
	return ids
}

// supersede marks an old disk, if it is still there and still the server's.
func (m *Manager) supersede(ctx context.Context, name, old, successor string) error {
	v, err := m.volumeByID(ctx, old)
	if err != nil || v == nil || tagOf(v.Tags, tagServer) != name || hasTag(v.Tags, tagSupersededBy) {
		return err
	}
	return m.tag(ctx, old, tagsOf(v.Tags).missing(tagMap{tagSupersededBy: successor, tagName: name + " superseded"}))
}

// imagePlan is how an image is called.
type imagePlan struct {
	name, about string
	tags        tagMap
	data        []DataSpec // blank disks beside those of the set
}

// setImage registers an image of a set, unless it is there. RegisterImage
// takes no ClientToken, but a name that must be the account's only one: that
// is what repeating it finds.
func (m *Manager) setImage(ctx context.Context, set *SnapshotSet, f facts, p imagePlan) (*types.Image, error) {
	in := registerInput(f, p)
	var err error
	if in.UefiData, err = m.uefiData(ctx, f); err != nil {
		return nil, err
	}
	var used []string
	for _, s := range set.Snapshots {
		if s.Role == RoleRoot {
			in.RootDeviceName = aws.String(s.Device)
		}
		used = append(used, s.Device)
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, keptMapping(s.Device, s.SnapshotID, int32(s.SizeGiB)))
	}
	return m.register(ctx, in, used, p)
}

// registerInput is the image of a machine that f speaks of. RegisterImage's
// own defaults are of 2006: i386, and paravirtual.
func registerInput(f facts, p imagePlan) *ec2.RegisterImageInput {
	in := &ec2.RegisterImageInput{
		Name: aws.String(p.name), Description: aws.String(p.about),
		Architecture:       types.ArchitectureValues(cmp.Or(f.Arch, archX86)),
		VirtualizationType: aws.String(cmp.Or(f.Virt, string(types.VirtualizationTypeHvm))),
		TagSpecifications:  []types.TagSpecification{p.tags.spec(types.ResourceTypeImage)},
	}
	if f.Ena != yesNo(false) {
		in.EnaSupport = aws.Bool(true)
	}
	if f.BootMode != "" {
		in.BootMode = types.BootModeValues(f.BootMode)
	}
	if f.TPM == string(types.TpmSupportValuesV20) {
		in.TpmSupport = types.TpmSupportValuesV20
	}
	if f.IMDS == string(types.ImdsSupportValuesV20) {
		in.ImdsSupport = types.ImdsSupportValuesV20
	}
	if f.Kernel != "" {
		in.KernelId = aws.String(f.Kernel)
	}
	if f.Ramdisk != "" {
		in.RamdiskId = aws.String(f.Ramdisk)
	}
	return in
}

// register adds the plan's blank disks and registers, and returns the image
// once it is available.
func (m *Manager) register(ctx context.Context, in *ec2.RegisterImageInput, used []string, p imagePlan) (*types.Image, error) {
	for _, d := range p.data {
		device := d.Device
		if device == "" {
			var err error
			if device, err = nextDevice(used); err != nil {
				return nil, err
			}
		} else if slices.ContainsFunc(used, func(u string) bool { return slot(u) == slot(device) }) {
			return nil, &Error{Code: KindUsage, Reason: "two disks would be at " + device, Remedy: "choose another device"}
		}
		used = append(used, device)
		mapping := keptMapping(device, "", int32(d.SizeGiB))
		mapping.Ebs.VolumeType = cmp.Or(types.VolumeType(d.Type), mapping.Ebs.VolumeType)
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, mapping)
	}
	var image *types.Image
	err := m.step("register image", p.name, func() error {
		found, err := m.ownImage(ctx, p.name)
		if err != nil {
			return err
		}
		if found == nil {
			out, err := m.ec2.RegisterImage(ctx, in)
			if err != nil && apiCode(err) != "InvalidAMIName.Duplicate" {
				return wrap("register", "image "+p.name, err)
			}
			if err == nil {
				found = &types.Image{ImageId: out.ImageId}
			} else if found, err = m.ownImage(ctx, p.name); err != nil || found == nil {
				return cmp.Or(err, error(&Error{Op: "register", Resource: "image " + p.name, Code: KindExists, Reason: "an image of that name isn't listed"}))
			}
		}
		image, err = m.waitImage(ctx, aws.ToString(found.ImageId))
		if err != nil {
			return err
		}
		return m.tag(ctx, aws.ToString(image.ImageId), tagsOf(image.Tags).missing(p.tags))
	})
	return image, err
}

// ownImage finds the caller's image of a name, nil when there is none.
func (m *Manager) ownImage(ctx context.Context, name string) (*types.Image, error) {
	images, err := m.findImages(ctx, []string{"self"}, filter("name", name))
	if err != nil || len(images) == 0 {
		return nil, err
	}
	return &images[0], nil
}

// waitImage waits until an image is available. Only the context bounds it: a
// copy takes as long as its snapshots.
func (m *Manager) waitImage(ctx context.Context, id string) (*types.Image, error) {
	var image *types.Image
	began := m.now()
	err := m.poll(ctx, 0, "to be available", "image "+id, func(ctx context.Context) (bool, error) {
		i, err := m.imageByID(ctx, id)
		if KindOf(err) == KindNotFound && m.now().Sub(began) < settleTime {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		image = i
		switch i.State {
		case types.ImageStateFailed, types.ImageStateError, types.ImageStateInvalid:
			e := &Error{Op: "wait for", Resource: "image " + id, Reason: "it is " + string(i.State)}
			if i.StateReason != nil {
				e.Reason += ": " + aws.ToString(i.StateReason.Message)
			}
			return false, e
		default:
			return i.State == types.ImageStateAvailable, nil
		}
	})
	return image, err
}
