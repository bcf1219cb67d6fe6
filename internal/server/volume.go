package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepAttach marks a data disk that is made and not yet plugged in.
const stepAttach = "attach"

// spentTokens bounds how many disks that had a device before are gone past: an
// endpoint that always answers with another's would never end it.
const spentTokens = 64

// VolumeList returns the disks of the server, with those that were superseded,
// or with server "" every volume
// in the region, superseded and unowned ones too.
func (m *Manager) VolumeList(ctx context.Context, server string) ([]Disk, error) {
	list := []Disk{}
	if server != "" {
		w, err := m.world(ctx, "list the volumes of", server)
		if err != nil {
			return nil, err
		}
		s := m.view(w)
		if s.Root.VolumeID != "" {
			list = append(list, s.Root)
		}
		list = append(list, s.Data...)
		for k := range w.superseded {
			list = append(list, diskOf(&w.superseded[k], nil))
		}
		return list, nil
	}
	volumes, err := m.findVolumes(ctx)
	if err != nil {
		return nil, err
	}
	for k := range volumes {
		list = append(list, diskOf(&volumes[k], nil))
	}
	slices.SortFunc(list, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), -cmp.Compare(a.Role, b.Role), cmp.Compare(a.Device, b.Device), cmp.Compare(a.VolumeID, b.VolumeID))
	})
	return list, nil
}

// VolumeCreate makes a blank data disk of a server in its zone, and plugs it
// in when the server has an instance. Interrupted and repeated, it goes on
// with the disk that it made.
func (m *Manager) VolumeCreate(ctx context.Context, o VolumeOptions) (*Disk, error) {
	d, err := m.volumeCreate(ctx, o)
	return d, wrap("create volume of", "server "+o.Server, err)
}

func (m *Manager) volumeCreate(ctx context.Context, o VolumeOptions) (*Disk, error) {
	if o.SizeGiB < 1 {
		return nil, &Error{Code: KindUsage, Reason: "a disk needs at least 1 GiB"}
	}
	w, err := m.pluggable(ctx, o.Server)
	if err != nil {
		return nil, err
	}
	if err := m.mayMount(w, &o); err != nil {
		return nil, err
	}
	v := w.begun(o)
	if v == nil {
		if v, err = m.makeVolume(ctx, w, o); err != nil {
			return nil, err
		}
	}
	if err := m.plugInto(ctx, w, v, deviceOf(v)); err != nil {
		return nil, err
	}
	if o.Mount != "" {
		if _, err := m.mountVolume(ctx, w.name, v, o.Mount, o.FS); err != nil {
			return nil, err
		}
	}
	return m.settled(ctx, v)
}

// pluggable observes a server that can take or give a disk now.
func (m *Manager) pluggable(ctx context.Context, name string) (*world, error) {
	w, err := m.world(ctx, "find", name)
	if err != nil {
		return nil, err
	}
	switch {
	case w.standIn != nil:
		return nil, &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + name}
	case w.root() == nil:
		return nil, &Error{Code: KindNotFound, Reason: "it has no root disk", Remedy: "stead show " + name}
	}
	if err := w.underRepair(); err != nil {
		return nil, err
	}
	return w, nil
}

// begun finds the disk that an interrupted VolumeCreate of the same options
// left. One of any other option was meant for something else.
func (w *world) begun(o VolumeOptions) *types.Volume {
	for _, v := range w.data() {
		if tagOf(v.Tags, tagStep) == stepAttach && int(aws.ToInt32(v.Size)) == o.SizeGiB &&
			(o.Device == "" || slot(o.Device) == slot(deviceOf(v))) &&
			v.VolumeType == o.volumeType() && tagOf(v.Tags, tagMount) == o.Mount && tagOf(v.Tags, tagFS) == o.FS {
			return v
		}
	}
	return nil
}

func (o *VolumeOptions) volumeType() types.VolumeType {
	return types.VolumeType(cmp.Or(o.Type, string(defaultVolumeType)))
}

func (m *Manager) makeVolume(ctx context.Context, w *world, o VolumeOptions) (*types.Volume, error) {
	device, err := w.freeDevice(o.Device)
	if err != nil {
		return nil, err
	}
	tags := serverTags(w.name).with(tagMap{tagName: w.name + " data " + device, tagRole: RoleData, tagDevice: device, tagStep: stepAttach})
	if o.Mount != "" {
		tags = tags.with(tagMap{tagMount: o.Mount, tagFS: o.FS})
	}
	ids := w.lifeIDs()
	var v *types.Volume
	err = m.step("create volume", device, func() error {
		for range spentTokens {
			out, err := m.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{
				AvailabilityZone: aws.String(w.facts().Zone), Size: aws.Int32(int32(o.SizeGiB)),
				VolumeType:        o.volumeType(),
				ClientToken:       aws.String(clientToken("volume "+device, w.name, ids)),
				TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeVolume)},
			})
			if apiCode(err) == "IdempotentParameterMismatch" {
				// The token was spent on a disk of other options that was there
				// before, unless that is being made right now.
				if err := m.stillFree(ctx, w.name, device); err != nil {
					return err
				}
				ids = append(ids, clientToken("volume "+device, w.name, ids))
				continue
			}
			if err != nil {
				return wrap("create", "volume", err)
			}
			id := aws.ToString(out.VolumeId)
			v, err = m.waitVolume(ctx, id, "to be made", func(v *types.Volume) bool { return v.State != types.VolumeStateCreating })
			if err != nil && KindOf(err) != KindNotFound {
				return err
			}
			if err == nil && tagOf(v.Tags, tagServer) == w.name {
				return nil
			}
			// The token was spent on a disk that has left the server since.
			ids = append(ids, id)
		}
		return &Error{Op: "create", Resource: "volume", Reason: "the endpoint answers with volumes that aren't this server's"}
	})
	return v, err
}

// stillFree looks again whether no disk of a server is at a device.
func (m *Manager) stillFree(ctx context.Context, name, device string) error {
	w, err := m.observe(ctx, name)
	if err != nil {
		return err
	}
	_, err = w.freeDevice(device)
	return err
}

// freeDevice returns the wanted device if no disk of the server has its slot,
// the next free one for "".
func (w *world) freeDevice(want string) (string, error) {
	var used []string
	for k := range w.volumes {
		used = append(used, deviceOf(&w.volumes[k]))
	}
	if want == "" {
		return nextDevice(used)
	}
	if err := checkDevice(want); err != nil {
		return "", err
	}
	for _, u := range used {
		if slot(u) == slot(want) {
			return "", &Error{Code: KindExists, Reason: "a disk is at " + u + " already", Remedy: "choose another --device"}
		}
	}
	return want, nil
}

// VolumeAttach makes an available volume a data disk of the server and plugs
// it in. device "" means the recorded one, else the next free.
func (m *Manager) VolumeAttach(ctx context.Context, volumeID, server, device string) (*Disk, error) {
	d, err := m.volumeAttach(ctx, volumeID, server, device)
	return d, wrap("attach", "volume "+volumeID, err)
}

func (m *Manager) volumeAttach(ctx context.Context, volumeID, server, device string) (*Disk, error) {
	if err := checkVolumeID(volumeID); err != nil {
		return nil, err
	}
	w, err := m.pluggable(ctx, server)
	if err != nil {
		return nil, err
	}
	v, err := m.volumeByID(ctx, volumeID)
	if err != nil {
		return nil, err
	}
	if err := w.mayTake(v, volumeID); err != nil {
		return nil, err
	}
	ours := tagOf(v.Tags, tagServer) == server
	switch {
	case ours && deviceOf(v) != "" && (device == "" || slot(device) == slot(deviceOf(v))):
		device = deviceOf(v)
	case attachedTo(v) != "":
		return nil, &Error{Code: KindExists, Reason: "it is at " + attachedAs(v) + " already", Remedy: "stead volume detach " + volumeID}
	default:
		want := device
		if want == "" {
			if recorded := tagOf(v.Tags, tagDevice); recorded != "" {
				if _, err := w.freeDevice(recorded); err == nil {
					want = recorded
				}
			}
		}
		if device, err = w.freeDevice(want); err != nil {
			return nil, err
		}
	}
	tags := serverTags(server).with(tagMap{tagName: server + " data " + device, tagRole: RoleData, tagDevice: device})
	if err := m.tag(ctx, volumeID, tagsOf(v.Tags).missing(tags)); err != nil {
		return nil, err
	}
	v.Tags = tagsOf(v.Tags).with(tags).list()
	if err := m.plugInto(ctx, w, v, device); err != nil {
		return nil, err
	}
	return m.settled(ctx, v)
}

// mayTake tells whether a volume can become a data disk of this server.
func (w *world) mayTake(v *types.Volume, id string) error {
	if v == nil {
		return &Error{Code: KindNotFound, Reason: "there is no such volume", Remedy: "stead volume ls"}
	}
	t := tagsOf(v.Tags)
	holder, own := attachedTo(v), w.instance != nil && attachedTo(v) == aws.ToString(w.instance.InstanceId)
	switch {
	case t[tagServer] != "" && t[tagServer] != w.name && t[tagSupersededBy] == "":
		return &Error{Code: KindExists, Reason: "it is a disk of server " + t[tagServer], Remedy: "stead volume detach " + id}
	case t[tagSupersededBy] != "" || t[tagStandIn] != "" || t[tagServer] == w.name && t[tagRole] == RoleRoot:
		return &Error{Code: KindProtected, Reason: "it is a root disk, or was replaced in a rescue; plugged in beside the other it could be booted in its place"}
	case holder != "" && !own:
		return &Error{Code: KindExists, Reason: "instance " + holder + " has it", Remedy: "detach it there first"}
	case aws.ToString(v.AvailabilityZone) != w.facts().Zone:
		return &Error{Code: KindUsage, Reason: "it is in zone " + aws.ToString(v.AvailabilityZone) + ", the server in " + w.facts().Zone, Remedy: "a snapshot of it can become a volume there"}
	}
	return nil
}

// plugInto plugs a tagged disk into the server's instance, if there is one, and
// lists it among the server's disks.
func (m *Manager) plugInto(ctx context.Context, w *world, v *types.Volume, device string) error {
	if w.instance != nil {
		if err := m.plug(ctx, v, w.instance, device); err != nil {
			return err
		}
		if err := m.keepDisks(ctx, aws.ToString(w.instance.InstanceId)); err != nil {
			return err
		}
	}
	return m.noteDisks(ctx, w.name, v, nil)
}

// settled takes the mark of an unfinished step off a disk and shows it.
func (m *Manager) settled(ctx context.Context, v *types.Volume) (*Disk, error) {
	id := aws.ToString(v.VolumeId)
	if hasTag(v.Tags, tagStep) {
		if err := m.untag(ctx, id, tagStep); err != nil {
			return nil, err
		}
	}
	return m.disk(ctx, id)
}

// disk shows one volume as it is now.
func (m *Manager) disk(ctx context.Context, id string) (*Disk, error) {
	v, err := m.volumeByID(ctx, id)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, &Error{Code: KindNotFound, Reason: "there is no such volume", Remedy: "stead volume ls"}
	}
	d := diskOf(v, nil)
	return &d, nil
}

// plug attaches a volume and waits until it is attached. One that is still
// leaving another instance is waited for.
func (m *Manager) plug(ctx context.Context, v *types.Volume, i *types.Instance, device string) error {
	id, instanceID := aws.ToString(v.VolumeId), aws.ToString(i.InstanceId)
	return m.step("plug in", id+" at "+device, func() error {
		if other := attachedTo(v); other != "" && other != instanceID {
			if err := m.waitReleased(ctx, id, other); err != nil {
				return err
			}
		}
		if attachedTo(v) != instanceID {
			_, err := m.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &instanceID, Device: &device})
			if err != nil && apiCode(err) != "VolumeInUse" {
				return wrap("attach", "volume "+id, err)
			}
		}
		return m.waitAttached(ctx, id, instanceID)
	})
}

// waitReleased waits for a volume that a dying instance still holds. A live
// one is asked for nothing: its disk is in use.
func (m *Manager) waitReleased(ctx context.Context, id, holder string) error {
	i, err := m.instanceByID(ctx, holder)
	if err != nil {
		return err
	}
	if i != nil && live(i) && stateOf(i) != types.InstanceStateNameShuttingDown {
		return &Error{
			Op: "attach", Resource: "volume " + id, Code: KindExists,
			Reason: "instance " + holder + " has it and is " + string(stateOf(i)), Remedy: "detach it there first",
		}
	}
	_, err = m.waitAvailable(ctx, id)
	return err
}

// detach unplugs a volume; it needn't be plugged in, as another process may be
// doing the same. The instance and device are named: some endpoints want them.
func (m *Manager) detach(ctx context.Context, id, instanceID, device string) error {
	_, err := m.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &id, InstanceId: &instanceID, Device: &device})
	switch apiCode(err) {
	case "IncorrectState", "InvalidAttachment.NotFound":
		return nil // it is available already; the caller waits and sees
	}
	return wrap("detach", "volume "+id, err)
}
