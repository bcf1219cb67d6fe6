package server

import (
	"cmp"
	"context"
	"fmt"
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
func (m *Manager) rescueBySnapshot(ctx context.Context, w *world, o RescueOptions) (*RescueResult, error) {
	setID, err := m.rescueSet(ctx, w)
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
		if w.instance, err = m.launchSet(ctx, w, set, image, machineFacts(f, o)); err != nil {
			return nil, err
		}
	}
	id := aws.ToString(w.instance.InstanceId)
	if err := m.takeOver(ctx, w.name, id, set, f); err != nil {
		return nil, err
	}
	s, err := m.comeBack(ctx, w.name, id, o.Wait)
	if err != nil {
		return nil, err
	}
	old, err := m.observe(ctx, w.name)
	if err != nil {
		return nil, err
	}
	r := &RescueResult{Server: s, By: RescueSnapshot, Image: aws.ToString(image.ImageId), Set: setID}
	for k := range old.superseded {
		r.Superseded = append(r.Superseded, diskOf(&old.superseded[k], nil))
	}
	slices.SortFunc(r.Superseded, func(a, b Disk) int { // root first
		return cmp.Or(cmp.Compare(b.Role, a.Role), cmp.Compare(a.Device, b.Device))
	})
	return r, nil
}

// rescueSet returns the set to come back from: that of the rescue under way,
// else one taken now of the detached disks, else the newest complete one. The
// ID of a new set follows from the disks, so that repeating the rescue finds
// it; they are detached and can't change meanwhile.
func (m *Manager) rescueSet(ctx context.Context, w *world) (string, error) {
	if w.instance != nil {
		return tagOf(w.instance.Tags, tagSet), nil
	}
	if w.root() == nil {
		return m.newestSet(ctx, w.name)
	}
	plan := setPlan{id: rescueSetPrefix + digest(append([]string{w.name}, w.lifeIDs()...)...)[:12], volumes: w.volumes}
	return plan.id, m.step("take snapshots", w.name, func() error {
		for k := range plan.volumes {
			if _, err := m.waitAvailable(ctx, aws.ToString(plan.volumes[k].VolumeId)); err != nil {
				return err
			}
		}
		taken, err := m.setSnapshots(ctx, w.name, plan.id)
		if err != nil {
			return err
		}
		root := w.root()
		for k := range plan.volumes {
			v := &plan.volumes[k]
			if slices.ContainsFunc(taken, func(s types.Snapshot) bool {
				return aws.ToString(s.VolumeId) == aws.ToString(v.VolumeId) && s.State != types.SnapshotStateError
			}) {
				continue
			}
			tags := plan.tags(v, true)
			if v == root {
				tags[tagRole] = RoleRoot // also where a create was cut short
			}
			if err := m.snapshotVolume(ctx, v, tags); err != nil {
				return err
			}
		}
		return nil
	})
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

func (m *Manager) newestSet(ctx context.Context, name string) (string, error) {
	set, err := m.setAt(ctx, name, time.Time{}, "")
	if KindOf(err) == KindNotFound {
		return "", &Error{Code: KindNotFound, Reason: "there is neither a root disk nor a complete snapshot set of it", Remedy: "stead snapshots " + name}
	}
	if err != nil {
		return "", err
	}
	return set.ID, nil
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
func (m *Manager) launchSet(ctx context.Context, w *world, set *SnapshotSet, image *types.Image, f facts) (*types.Instance, error) {
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
		tags.with(tagMap{tagStep: stepRescue, tagSet: set.ID}).spec(types.ResourceTypeInstance),
		tags.with(f.tags()).spec(types.ResourceTypeVolume),
	}
	var i *types.Instance
	err = m.step("launch instance", w.name, func() error {
		i, err = m.launch(ctx, stepRescue, w.name, append(w.lifeIDs(), set.ID, run.Image), in)
		return err
	})
	return i, err
}

// takeOver makes the new disks the server: it checks that each is what its
// snapshot was, tags them, and only then marks the old ones as superseded.
func (m *Manager) takeOver(ctx context.Context, name, instanceID string, set *SnapshotSet, f facts) error {
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
		if err := m.settle(ctx, name, instanceID, f); err != nil {
			return err
		}
		for _, s := range set.Snapshots {
			if err := m.supersede(ctx, name, s.VolumeID, successor[s.SnapshotID]); err != nil {
				return err
			}
		}
		return nil
	})
}

// supersede marks an old disk, if it is still there and still the server's.
func (m *Manager) supersede(ctx context.Context, name, old, successor string) error {
	v, err := m.volumeByID(ctx, old)
	if err != nil || v == nil || tagOf(v.Tags, tagServer) != name {
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
