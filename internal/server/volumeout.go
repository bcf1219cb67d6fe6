package server

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Mounted is a data disk that a server has mounted.
type Mounted struct {
	Disk
	Mount      string `json:"mount"`
	FileSystem string `json:"file_system"`
}

// mayMount tells, before a disk is made, whether it can be mounted.
func (m *Manager) mayMount(w *world, o *VolumeOptions) error {
	if o.Mount == "" {
		if o.FS != "" {
			return &Error{Code: KindUsage, Reason: "a file system is made where the disk is mounted", Remedy: "add --mount PATH"}
		}
		return nil
	}
	if o.FS == "" {
		o.FS = fsExt4
	}
	if o.FS != fsExt4 && o.FS != fsXFS {
		return &Error{Code: KindUsage, Reason: "no file system " + o.FS + " is made here", Remedy: "--fs ext4 or --fs xfs"}
	}
	if err := checkMountPoint(o.Mount); err != nil {
		return err
	}
	return m.mayReach(w)
}

// checkMountPoint is checkMount where there must be a place.
func checkMountPoint(dir string) error {
	if dir == "" || dir == MountNone {
		return &Error{Code: KindUsage, Reason: "it isn't known where", Remedy: "--mount /srv"}
	}
	return checkMount(dir)
}

// mayReach tells whether scripts can be run in the server.
func (m *Manager) mayReach(w *world) error {
	switch {
	case m.guest == nil:
		return &Error{Code: KindUnsupported, Reason: "there is no way into a machine of this cloud", Remedy: "leave --mount away; in the local cloud, machines run after: stead cloud stop && stead cloud start --machines auto"}
	case stateOf(w.instance) != types.InstanceStateNameRunning:
		return &Error{Code: KindExists, Reason: "it doesn't run, so nothing can be mounted on it", Remedy: "stead start " + w.name}
	}
	return nil
}

// VolumeMount mounts a disk that is plugged into a running server, now and at
// each boot. It never formats. dir "" is where it was mounted before.
func (m *Manager) VolumeMount(ctx context.Context, volumeID, dir string) (*Mounted, error) {
	d, err := m.volumeMount(ctx, volumeID, dir)
	return d, wrap("mount", "volume "+volumeID, err)
}

func (m *Manager) volumeMount(ctx context.Context, volumeID, dir string) (*Mounted, error) {
	v, err := m.volumeNamed(ctx, volumeID)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		dir = tagOf(v.Tags, tagMount)
	}
	if err := checkMountPoint(dir); err != nil {
		return nil, err
	}
	w, err := m.pluggable(ctx, tagOf(v.Tags, tagServer))
	if err != nil {
		return nil, err
	}
	if err := m.mayReach(w); err != nil {
		return nil, err
	}
	d, err := m.mountVolume(ctx, w.name, v, dir, "")
	if err != nil {
		return nil, err
	}
	return d, m.tag(ctx, volumeID, tagsOf(v.Tags).missing(tagMap{tagMount: dir, tagFS: d.FileSystem}))
}

// mountVolume mounts a disk in its server. fs, if it isn't "", is made on it
// first where it has never held anything.
func (m *Manager) mountVolume(ctx context.Context, name string, v *types.Volume, dir, fs string) (*Mounted, error) {
	id := aws.ToString(v.VolumeId)
	s, err := m.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	mounted := &Mounted{}
	err = m.step("mount", id+" at "+dir, func() error {
		d, err := m.disk(ctx, id)
		if err != nil {
			return err
		}
		out, _, err := m.inGuest(ctx, s, map[string]string{"volume": id, "device": d.Device, "dir": dir, "fs": fs}, mountScript)
		if err != nil {
			return &Error{Op: "mount", Resource: "volume " + id, Code: KindOf(err), Err: err, Remedy: "stead ssh " + name + " to see why, then the same command again"}
		}
		said := guestLines(out)
		mounted = &Mounted{Disk: *d, Mount: firstOf(said["mount"]), FileSystem: firstOf(said["fs"])}
		return nil
	})
	return mounted, err
}

// VolumeDetach unplugs a data disk and takes it out of its server; it keeps
// its data. A running server unmounts it first; force unplugs it also where
// that can't be done.
func (m *Manager) VolumeDetach(ctx context.Context, volumeID string, force bool) (*Disk, error) {
	d, err := m.volumeDetach(ctx, volumeID, force)
	return d, wrap("detach", "volume "+volumeID, err)
}

func (m *Manager) volumeDetach(ctx context.Context, volumeID string, force bool) (*Disk, error) {
	v, err := m.volumeNamed(ctx, volumeID)
	if err != nil {
		return nil, err
	}
	if err := m.mayDetach(ctx, v); err != nil {
		return nil, err
	}
	t := tagsOf(v.Tags)
	if holder := attachedTo(v); holder != "" {
		if err := m.letGo(ctx, v, holder, force); err != nil {
			return nil, err
		}
	}
	// The list goes first: as long as the disk is the server's, the same
	// command comes by here again.
	if err := m.unlist(ctx, v); err != nil {
		return nil, err
	}
	if t[tagServer] != "" {
		if err := m.tag(ctx, volumeID, t.missing(tagMap{tagDetachedFrom: t[tagServer]})); err != nil {
			return nil, err
		}
		if err := m.untag(ctx, volumeID, tagServer, tagRole, tagStep); err != nil {
			return nil, err
		}
	}
	return m.disk(ctx, volumeID)
}

// mayDetach refuses disks that a server can't do without, and any while their
// server is in the middle of something that counts on them.
func (m *Manager) mayDetach(ctx context.Context, v *types.Volume) error {
	t := tagsOf(v.Tags)
	switch {
	case t[tagStandIn] != "":
		return &Error{Code: KindProtected, Reason: "a rescue of " + t[tagStandIn] + " isn't finished", Remedy: "stead rescue " + t[tagStandIn]}
	case t[tagHelper] != "":
		return &Error{Code: KindProtected, Reason: "it is a helper's disk, and goes with it", Remedy: "stead repair " + t[tagHelper] + " --finish"}
	case t[tagServer] == "" || t[tagSupersededBy] != "":
		return nil
	}
	w, err := m.observe(ctx, t[tagServer])
	if err != nil {
		return err
	}
	root := w.root()
	alone := root == nil && only(w.volumes, func(v *types.Volume) bool { return tagOf(v.Tags, tagRole) == RoleRoot }) != nil
	switch {
	case t[tagRole] == RoleRoot && (alone || root != nil && aws.ToString(root.VolumeId) == aws.ToString(v.VolumeId)):
		return &Error{Code: KindProtected, Reason: "it is the root disk of server " + w.name, Remedy: "a server gives up its root only with its instance: stead terminate " + w.name}
	case w.standIn != nil:
		return &Error{Code: KindExists, Reason: "a rescue of " + w.name + " isn't finished", Remedy: "stead rescue " + w.name}
	}
	return w.underRepair()
}

// unlist takes a disk off the list of its server's disks. One that was
// replaced isn't on it: what is listed there is its successor.
func (m *Manager) unlist(ctx context.Context, v *types.Volume) error {
	name := tagOf(v.Tags, tagServer)
	if name == "" || hasTag(v.Tags, tagSupersededBy) || isComing(v) {
		return nil
	}
	return m.noteDisks(ctx, name, nil, v)
}

// letGo unmounts a disk where a server's system has it, and unplugs it.
func (m *Manager) letGo(ctx context.Context, v *types.Volume, holder string, force bool) error {
	id := aws.ToString(v.VolumeId)
	i, err := m.instanceByID(ctx, holder)
	if err != nil {
		return err
	}
	if i != nil && rootVolumeID(i) == id {
		return &Error{Code: KindProtected, Reason: "instance " + holder + " runs from it"}
	}
	if name := tagOf(v.Tags, tagServer); name != "" && i != nil && !force {
		if err := m.unmountVolume(ctx, name, v); err != nil {
			return err
		}
	}
	return m.unplug(ctx, v, holder)
}

func (m *Manager) unmountVolume(ctx context.Context, name string, v *types.Volume) error {
	id := aws.ToString(v.VolumeId)
	s, err := m.Get(ctx, name)
	if err != nil {
		return err
	}
	if m.guest == nil || s.State != StateRunning || s.InstanceID != attachedTo(v) {
		return nil
	}
	return m.step("unmount", id, func() error {
		_, _, err := m.inGuest(ctx, s, map[string]string{"volume": id, "device": attachedAs(v)}, unmountScript)
		if err == nil {
			return nil
		}
		return &Error{
			Op: "unmount", Resource: "volume " + id, Code: KindOf(err), Err: err,
			Remedy: "end what uses it: stead ssh " + name + "; or --force, which loses what isn't written yet",
		}
	})
}

// VolumeRemoved is a disk that is gone, and what is left of it.
type VolumeRemoved struct {
	Disk
	SnapshotID string `json:"snapshot_id,omitempty"` // the last snapshot of it
	// Set is that snapshot's, of which the server's restore brings the disk
	// back; "" for a disk that was no server's.
	Set string `json:"set,omitempty"`
}

// VolumeLoss tells what deleting a volume would lose, or why it must not be.
func (m *Manager) VolumeLoss(ctx context.Context, volumeID string) (*Disk, error) {
	v, err := m.volumeNamed(ctx, volumeID)
	if err == nil {
		err = mayRemove(v)
	}
	if err != nil {
		return nil, wrap("delete", "volume "+volumeID, err)
	}
	d := diskOf(v, nil)
	return &d, nil
}

// mayRemove refuses disks that something still needs.
func mayRemove(v *types.Volume) error {
	t := tagsOf(v.Tags)
	switch {
	case v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted:
		return &Error{Code: KindNotFound, Reason: "it is deleted already", Remedy: "stead volume ls"}
	case t[tagStandIn] != "":
		return &Error{Code: KindProtected, Reason: "a rescue of " + t[tagStandIn] + " isn't finished", Remedy: "stead rescue " + t[tagStandIn]}
	case isComing(v): // made by a restore that was cut off, and nobody's yet
	case t[tagServer] != "" && t[tagRole] != RoleData && t[tagSupersededBy] == "":
		return &Error{Code: KindProtected, Reason: "it is the root disk of server " + t[tagServer], Remedy: "stead purge " + t[tagServer] + " deletes the whole server"}
	case attachedTo(v) != "":
		return &Error{Code: KindExists, Reason: "instance " + attachedTo(v) + " has it", Remedy: "stead volume detach " + aws.ToString(v.VolumeId)}
	}
	return nil
}

// VolumeDelete deletes a disk for good, after a last snapshot of it if asked.
func (m *Manager) VolumeDelete(ctx context.Context, volumeID string, lastSnapshot bool) (*VolumeRemoved, error) {
	r, err := m.volumeDelete(ctx, volumeID, lastSnapshot)
	return r, wrap("delete", "volume "+volumeID, err)
}

func (m *Manager) volumeDelete(ctx context.Context, volumeID string, lastSnapshot bool) (*VolumeRemoved, error) {
	v, err := m.volumeNamed(ctx, volumeID)
	if err == nil {
		err = mayRemove(v)
	}
	if err != nil {
		return nil, err
	}
	r := &VolumeRemoved{Disk: diskOf(v, nil)}
	if lastSnapshot {
		tape, err := m.keepTape(ctx, v, nil, "last of "+volumeID)
		if err != nil {
			return nil, err
		}
		r.SnapshotID = aws.ToString(tape.SnapshotId)
		if hasTag(tape.Tags, tagServer) {
			r.Set = tagOf(tape.Tags, tagSet)
		}
	}
	if err := m.unlist(ctx, v); err != nil {
		return nil, err
	}
	return r, m.step("delete disk", volumeID, func() error {
		if _, err := m.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &volumeID}); err != nil && KindOf(err) != KindNotFound {
			return wrap("delete", "volume "+volumeID, err)
		}
		return nil
	})
}
