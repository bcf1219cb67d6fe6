package server

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// PurgeOptions says what goes.
type PurgeOptions struct {
	NoSnapshot bool // no last snapshot set of the disks
	// Snapshots deletes all snapshots and rescue images of the server too. It
	// takes no last set then.
	Snapshots bool
}

// PurgeResult is what goes, or has gone.
type PurgeResult struct {
	Name       string   `json:"name"`
	InstanceID string   `json:"instance_id,omitempty"`
	Disks      []Disk   `json:"disks"` // superseded ones too
	PublicIP   string   `json:"public_ip,omitempty"`
	Set        string   `json:"set,omitempty"`       // the last one, which stays
	Snapshots  []string `json:"snapshots,omitempty"` // deleted ones
	Images     []string `json:"image_ids,omitempty"` // deregistered ones
}

// PlanPurge says what Purge would delete, and changes nothing.
func (m *Manager) PlanPurge(ctx context.Context, name string, o PurgeOptions) (*PurgeResult, error) {
	w, err := m.purgeable(ctx, name)
	if err != nil {
		return nil, wrap("purge", "server "+name, err)
	}
	r, err := m.purgeList(ctx, w, o)
	return r, wrap("purge", "server "+name, err)
}

// Purge really deletes a server: instance, disks, address and group. Before
// any disk goes, all have a last snapshot set that is complete. Its order lets
// it be repeated: the root goes last, and says until then what is left to do.
//
//	stop → last set, completed and checked → terminate → address, group,
//	schedules → data disks, superseded disks → root
//
// Other tools may use the disks between two runs, or while this one waits. So a
// set counts only for what it can be shown to hold: see endWithLastSet.
func (m *Manager) Purge(ctx context.Context, name string, o PurgeOptions) (*PurgeResult, error) {
	r, err := m.purge(ctx, name, o)
	return r, wrap("purge", "server "+name, err)
}

func (m *Manager) purge(ctx context.Context, name string, o PurgeOptions) (*PurgeResult, error) {
	w, err := m.purgeable(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := m.purgeList(ctx, w, o)
	if err != nil {
		return nil, err
	}
	if w, r.Set, err = m.endWithLastSet(ctx, w, o); err != nil {
		return nil, err
	}
	if err := m.dropAround(ctx, w); err != nil {
		return nil, err
	}
	if o.Snapshots {
		if err := m.dropTapes(ctx, r); err != nil {
			return nil, err
		}
	}
	return r, m.dropDisks(ctx, name, r.Set)
}

// purgeable observes a server that may be deleted now.
func (m *Manager) purgeable(ctx context.Context, name string) (*world, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := w.underRepair(); err != nil {
		return nil, err
	}
	if err := m.notRenaming(ctx, name); err != nil {
		return nil, err
	}
	switch {
	case w.standIn != nil:
		return nil, &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + name}
	case len(w.extra) > 0:
		return nil, &Error{Code: KindExists, Reason: "instance " + aws.ToString(w.extra[0].InstanceId) + " claims to be this server too", Remedy: "terminate the one that isn't"}
	}
	if w.empty() && len(w.superseded) == 0 {
		sets, err := m.sets(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(sets) == 0 {
			return nil, &Error{Code: KindNotFound, Reason: "there is no such server", Remedy: "stead ls"}
		}
	}
	if err := w.mayEnd("purge"); err != nil {
		return nil, err
	}
	return w, nil
}

// purgeList is all that goes.
func (m *Manager) purgeList(ctx context.Context, w *world, o PurgeOptions) (*PurgeResult, error) {
	s := m.view(w)
	r := &PurgeResult{Name: w.name, InstanceID: s.InstanceID, Disks: []Disk{}}
	for _, v := range w.purgeDisks() {
		r.Disks = append(r.Disks, diskOf(v, nil))
	}
	for _, a := range w.addresses {
		r.PublicIP = aws.ToString(a.PublicIp)
	}
	if !o.Snapshots {
		return r, nil
	}
	tapes, err := m.tapes(ctx, w.name)
	if err != nil {
		return nil, err
	}
	for _, t := range tapes {
		r.Snapshots = append(r.Snapshots, aws.ToString(t.SnapshotId))
	}
	images, err := m.findImages(ctx, []string{"self"}, filter("tag:"+tagServer, w.name))
	for _, i := range images {
		r.Images = append(r.Images, aws.ToString(i.ImageId))
	}
	return r, err
}

// purgeDisks lists all disks in the order in which they go: the root last.
func (w *world) purgeDisks() []*types.Volume {
	root := w.root()
	var list []*types.Volume
	for _, some := range [][]types.Volume{w.coming, w.superseded, w.volumes} {
		for k := range some {
			if v := &some[k]; root == nil || v.VolumeId != root.VolumeId {
				list = append(list, v)
			}
		}
	}
	if root != nil {
		list = append(list, root)
	}
	return list
}

// dropAround releases what a server has beside its disks.
func (m *Manager) dropAround(ctx context.Context, w *world) error {
	for _, a := range w.addresses {
		id := aws.ToString(a.AllocationId)
		if err := m.step("release address", aws.ToString(a.PublicIp), func() error {
			_, err := m.ec2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: &id})
			if KindOf(err) == KindNotFound {
				return nil
			}
			return wrap("release", "address "+id, err)
		}); err != nil {
			return err
		}
	}
	if err := m.DropSchedules(ctx, w.name); err != nil {
		return err
	}
	return m.dropGroup(ctx, w.name)
}

// dropGroup deletes the server's security group. EC2 lets go of a terminated
// instance's interface some time after it; a group that others use stays.
func (m *Manager) dropGroup(ctx context.Context, name string) error {
	g, err := m.findServerGroup(ctx, name, "") // by its tags: the usual name may be a renamed server's
	if err != nil || g == nil {
		return err
	}
	id := aws.ToString(g.GroupId)
	return m.step("delete security group", id, func() error {
		var last error
		err := m.poll(ctx, settleTime, "the security group to be free", "security group "+id, func(ctx context.Context) (bool, error) {
			_, last = m.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &id})
			switch {
			case last == nil || KindOf(last) == KindNotFound:
				return true, nil
			case apiCode(last) == "DependencyViolation" || apiCode(last) == "InvalidGroup.InUse":
				return false, nil
			}
			return false, wrap("delete", "security group "+id, last)
		})
		if KindOf(err) == KindTimeout && ctx.Err() == nil {
			m.warn("delete security group", id, "something else uses it, so it stays")
			return nil
		}
		return err
	})
}

// dropTapes deregisters the server's images, and then deletes its snapshots:
// one that an image needs can't be deleted.
func (m *Manager) dropTapes(ctx context.Context, r *PurgeResult) error {
	for _, id := range r.Images {
		_, err := m.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &id})
		if err != nil && KindOf(err) != KindNotFound && KindOf(err) != KindUsage {
			return wrap("deregister", "image "+id, err)
		}
	}
	for _, id := range r.Snapshots {
		_, err := m.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
		if apiCode(err) == "InvalidSnapshot.InUse" {
			m.warn("delete snapshot", id, "an image needs it, so it stays")
			continue
		}
		if err != nil && KindOf(err) != KindNotFound {
			return wrap("delete", "snapshot "+id, err)
		}
	}
	return nil
}

// dropDisks deletes the disks, the root last. Each must be free, be the
// server's still, and be in its last set if there is one.
func (m *Manager) dropDisks(ctx context.Context, name, setID string) error {
	w, err := m.observe(ctx, name)
	if err != nil {
		return err
	}
	var set *SnapshotSet
	if setID != "" {
		if set, err = m.setAt(ctx, name, time.Time{}, setID); err != nil {
			return err
		}
	}
	for _, v := range w.purgeDisks() {
		if err := m.dropDisk(ctx, name, aws.ToString(v.VolumeId), set); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) dropDisk(ctx context.Context, name, id string, set *SnapshotSet) error {
	return m.step("delete disk", id, func() error {
		v, err := m.waitAvailable(ctx, id)
		if KindOf(err) == KindNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if tagOf(v.Tags, tagServer) != name {
			return nil // it has left the server
		}
		ours := !hasTag(v.Tags, tagSupersededBy) && !isComing(v)
		if set != nil && ours && !slices.ContainsFunc(set.Snapshots, func(s Snapshot) bool { return s.VolumeID == id }) {
			return &Error{Op: "delete", Resource: "volume " + id, Code: KindProtected, Reason: "it isn't in the last set " + set.ID, Remedy: "stead volume detach " + id + ", or purge with --no-snapshot"}
		}
		_, err = m.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		if KindOf(err) == KindNotFound {
			return nil
		}
		return wrap("delete", "volume "+id, err)
	})
}
