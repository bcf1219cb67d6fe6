package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepPurge marks disks that are about to be deleted: "purge SET", where SET
// is their last snapshot set, or none.
const (
	stepPurge = "purge"
	noLastSet = "none"
	// lastSetPrefix begins the IDs of last sets.
	lastSetPrefix = "last"
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
	if w, err = m.lastSet(ctx, w, o); err != nil {
		return nil, err
	}
	if !o.Snapshots { // else that set goes too
		r.Set = w.purgeSet()
	}
	if w.instance != nil {
		if _, err := m.terminate(ctx, name); err != nil {
			return nil, err
		}
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

// purgeSet is the last set as the disks' marks name it, "" for none.
func (w *world) purgeSet() string {
	for _, v := range w.volumes {
		if verb, set, _ := strings.Cut(tagOf(v.Tags, tagStep), " "); verb == stepPurge && set != noLastSet {
			return set
		}
	}
	return ""
}

// purging tells that the disks' last set is behind them already, and nothing
// can have been written since. An instance may have run again after they were
// marked: then the set isn't the one that would be taken of them now. Nor is it
// behind them where an earlier purge wanted no set and this one does.
func (w *world) purging(o PurgeOptions) bool {
	set := w.purgeSet()
	if w.instance != nil && stateOf(w.instance) != types.InstanceStateNameShuttingDown {
		return stateOf(w.instance) == types.InstanceStateNameStopped && set != "" &&
			(set == w.lastSetID(lastSetPrefix) || set == w.lastSetID(moveSetPrefix))
	}
	return len(w.purgeMarked()) > 0 && (set != "" || o.NoSnapshot || o.Snapshots)
}

// purgeMarked lists the disks that a purge has marked.
func (w *world) purgeMarked() []string {
	var ids []string
	for _, v := range w.volumes {
		if strings.HasPrefix(tagOf(v.Tags, tagStep), stepPurge+" ") {
			ids = append(ids, aws.ToString(v.VolumeId))
		}
	}
	return ids
}

// unmarkPurge takes back the marks of a purge that was cut off while the
// server had its instance: what it wrote since is in no last set.
func (m *Manager) unmarkPurge(ctx context.Context, w *world) error {
	ids := w.purgeMarked()
	if len(ids) == 0 {
		return nil
	}
	_, err := m.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagStep)}}})
	return wrap("unmark", "the disks of "+w.name, err)
}

// lastSet shuts the server down, takes a last set of all its disks unless it
// isn't wanted, sees it completed with every disk in it, and marks the disks
// with it. A purge that is repeated goes by the mark: some disks may have gone.
func (m *Manager) lastSet(ctx context.Context, w *world, o PurgeOptions) (*world, error) {
	if w.purging(o) || len(w.volumes) == 0 {
		return w, nil
	}
	set := noLastSet
	if !o.NoSnapshot && !o.Snapshots {
		var err error
		if w, err = m.atRest(ctx, w); err != nil {
			return nil, err
		}
		if set, err = m.takeLast(ctx, w, w.volumes, lastSetPrefix, "before purge"); err != nil {
			return nil, err
		}
		for k := range w.superseded { // each for itself: they belong to no set
			if err := m.keepTape(ctx, w, &w.superseded[k]); err != nil {
				return nil, err
			}
		}
	}
	if err := m.markPurge(ctx, w, set); err != nil {
		return nil, err
	}
	return m.observe(ctx, w.name)
}

// markPurge marks a server's disks as ready to go, with their last set.
func (m *Manager) markPurge(ctx context.Context, w *world, set string) error {
	var ids []string
	for _, v := range w.volumes {
		ids = append(ids, aws.ToString(v.VolumeId))
	}
	_, err := m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: tagMap{tagStep: stepPurge + " " + set}.list()})
	return wrap("mark", "the disks of "+w.name, err)
}

// atRest stops a server's instance, if it has one.
func (m *Manager) atRest(ctx context.Context, w *world) (*world, error) {
	if w.instance == nil || stateOf(w.instance) == types.InstanceStateNameShuttingDown {
		return m.ashore(ctx, w.name)
	}
	if err := m.settle(ctx, w.name, aws.ToString(w.instance.InstanceId), w.facts()); err != nil {
		return nil, err
	}
	if err := m.stopInstance(ctx, aws.ToString(w.instance.InstanceId), stateOf(w.instance), false); err != nil {
		return nil, err
	}
	return m.observe(ctx, w.name)
}

// lastSetID names the set of a server's disks at rest. It follows from the
// disks and from when they last ran.
func (w *world) lastSetID(prefix string) string {
	ran := ""
	if w.instance != nil {
		ran = aws.ToTime(w.instance.LaunchTime).UTC().String()
	}
	return prefix + "-" + digest(append([]string{w.name, ran}, w.lifeIDs()...)...)[:12]
}

// takeLast takes a set of disks at rest and returns its ID once it is
// completed and every disk is in it.
func (m *Manager) takeLast(ctx context.Context, w *world, volumes []types.Volume, prefix, note string) (string, error) {
	plan := setPlan{server: w.name, id: w.lastSetID(prefix), note: note, volumes: volumes}
	if err := m.quietSet(ctx, w, plan); err != nil {
		return "", err
	}
	set, err := m.waitSet(ctx, w.name, plan.id)
	if err != nil {
		return "", err
	}
	for _, v := range volumes {
		if !slices.ContainsFunc(set.Snapshots, func(s Snapshot) bool {
			return s.VolumeID == aws.ToString(v.VolumeId) && s.State == string(types.SnapshotStateCompleted)
		}) {
			return "", &Error{Code: KindPartial, Reason: "set " + set.ID + " has no completed snapshot of " + aws.ToString(v.VolumeId), Remedy: "stead snapshots " + w.name}
		}
	}
	return set.ID, nil
}

// noteSuperseded is what the last snapshot of a superseded disk is called.
const noteSuperseded = "superseded disk"

// keepTape makes sure that a superseded disk has a completed snapshot of its
// own. It hasn't changed since it was superseded, so one is enough for good.
func (m *Manager) keepTape(ctx context.Context, w *world, v *types.Volume) error {
	id := aws.ToString(v.VolumeId)
	return m.poll(ctx, 0, "the last snapshot of a superseded disk", "volume "+id, func(ctx context.Context) (bool, error) {
		found, err := m.findSnapshots(ctx, filter("volume-id", id), filter("tag:"+tagNote, noteSuperseded))
		if err != nil {
			return false, err
		}
		for _, s := range found {
			if s.State != types.SnapshotStateError {
				return s.State == types.SnapshotStateCompleted, nil
			}
		}
		tags := steadTags(v.Tags).with(tagMap{tagSchema: schemaVersion, tagServer: w.name, tagNote: noteSuperseded})
		return false, m.snapshotVolume(ctx, v, tags)
	})
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
