package server

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// RestoreOptions says what to put a server's disks back to.
type RestoreOptions struct {
	// Set is the snapshot set, and At the moment whose newest complete set it
	// is. Neither goes on with a restore that isn't finished.
	Set  string
	At   time.Time
	Part string // RoleRoot or RoleData alone; "" means all that the set has
	Wait WaitFor
}

// RestoreResult is a server with restored disks, and what it took.
type RestoreResult struct {
	Server *Server `json:"server"`
	Set    string  `json:"set"`
	// Before is the set that shows the disks as they were before.
	Before string `json:"before,omitempty"`
	// Superseded are the old disks. They are kept.
	Superseded []Disk `json:"superseded"`
}

// What stands in the instance's step after the set and its part: whether it is
// started again in the end, and at last that it has its new disks. From then on
// they are its own, and written to: a restore that goes on only waits.
const (
	thenStart = "start"
	thenStay  = "stay"
	exchanged = "exchanged"
)

// isExchanged tells a restore whose new disks are in their places.
func (w *world) isExchanged() bool {
	return w.instance != nil && strings.HasSuffix(tagOf(w.instance.Tags, tagStep), " "+exchanged)
}

// Restore puts a server's disks back to a snapshot set, in place: its instance
// and addresses stay. The disks as they are get snapshots first, and are kept
// themselves too. Without an instance only the disks are exchanged.
//
//	new disks of the set → stop → snapshots of the old disks → unplug each old
//	one and plug in the new one → old ones marked as superseded → start
//
// An old disk and its successor are never plugged in together: they carry the
// same UUIDs. Killed at any moment, the same call goes on: the new disks and
// the instance say in a tag what is under way.
func (m *Manager) Restore(ctx context.Context, name string, o RestoreOptions) (*RestoreResult, error) {
	r, err := m.restore(ctx, name, o)
	return r, wrap("restore", "server "+name, err)
}

// maxRestoreTries is how often a restore that another one has overtaken looks
// again.
const maxRestoreTries = 4

// restore goes on from the steps of another restore of the same set at the
// same time: a step that failed is tried again where anything has changed.
func (m *Manager) restore(ctx context.Context, name string, o RestoreOptions) (*RestoreResult, error) {
	w, err := m.ashore(ctx, name)
	if err != nil {
		return nil, err
	}
	set, part, err := m.restoreSource(ctx, w, o)
	if err != nil {
		return nil, err
	}
	run := &restoreRun{set: set, part: part, wait: o.Wait}
	for range maxRestoreTries {
		var r *RestoreResult
		if r, err = m.tryRestore(ctx, w, run); err == nil {
			return r, nil
		}
		before := w
		if ctx.Err() != nil {
			return nil, err
		}
		now, failed := m.ashore(ctx, name)
		if failed != nil || !overtaken(err, before, now) {
			return nil, err
		}
		if id, p, ok := now.restoring(); ok && (id != set.ID || p != part) {
			return nil, &Error{Code: KindExists, Err: err, Reason: "another restore, of set " + id + ", was begun meanwhile", Remedy: "stead restore " + name + " goes on with that one"}
		}
		w = now
	}
	return nil, err
}

// restoreRun is a restore of a set's part, with what it knows beyond the tags.
type restoreRun struct {
	set  *SnapshotSet
	part string
	wait WaitFor
	made []string // the new disks
}

func (m *Manager) tryRestore(ctx context.Context, w *world, run *restoreRun) (*RestoreResult, error) {
	name, set, part := w.name, run.set, run.part
	if err := w.restorable(set, part); err != nil {
		return nil, err
	}
	if _, err := m.waitSet(ctx, name, set.ID); err != nil {
		return nil, err
	}
	before, err := "", error(nil)
	if w.instance == nil {
		if before, err = m.restoreDetached(ctx, w, set, part); err != nil {
			return nil, err
		}
	} else if before, err = m.restoreInPlace(ctx, w, run); err != nil {
		return nil, err
	}
	if w, err = m.world(ctx, "restore", name); err != nil {
		return nil, err
	}
	r := &RestoreResult{Server: m.view(w), Set: set.ID, Before: before, Superseded: w.supersededDisks()}
	return r, nil
}

// RestoreSource returns the set that Restore would take, and which part of it,
// and changes nothing.
func (m *Manager) RestoreSource(ctx context.Context, name string, o RestoreOptions) (*SnapshotSet, string, error) {
	w, err := m.ashore(ctx, name)
	if err == nil {
		var set *SnapshotSet
		var part string
		if set, part, err = m.restoreSource(ctx, w, o); err == nil {
			return set, part, wrap("restore", "server "+name, w.restorable(set, part))
		}
	}
	return nil, "", wrap("restore", "server "+name, err)
}

func (m *Manager) restoreSource(ctx context.Context, w *world, o RestoreOptions) (*SnapshotSet, string, error) {
	if o.Part != "" && o.Part != RoleRoot && o.Part != RoleData {
		return nil, "", &Error{Code: KindUsage, Reason: "a set has no part " + o.Part, Remedy: "root or data"}
	}
	explicit := o.Set != "" || !o.At.IsZero()
	if id, part, ok := w.restoring(); ok {
		if another(o.Set, id) || o.Part != "" && o.Part != part {
			return nil, "", &Error{Code: KindExists, Reason: "a restore of " + cmp.Or(part, "all disks") + " of set " + id + " isn't finished", Remedy: "stead restore " + w.name}
		}
		set, err := m.setAt(ctx, w.name, time.Time{}, id)
		return set, part, err
	}
	if !explicit {
		return nil, "", &Error{Code: KindUsage, Reason: "no set is named", Remedy: "stead snapshots " + w.name + ", then stead restore " + w.name + " --set ID"}
	}
	id := o.Set
	if id == latestSet {
		var err error
		if id, err = m.latestTaken(ctx, w.name); err != nil {
			return nil, "", err
		}
	}
	set, err := m.setAt(ctx, w.name, o.At, id)
	if err != nil {
		return nil, "", err
	}
	part := cmp.Or(o.Part, set.Part)
	if len(set.ofPart(part)) == 0 {
		return nil, "", &Error{Code: KindUsage, Reason: "set " + set.ID + " has no " + part + " disk", Remedy: "stead snapshots " + w.name}
	}
	return set, part, nil
}

// latestTaken is the newest complete set that wasn't taken by a restore: the
// same command twice must not bring back what the first put away.
func (m *Manager) latestTaken(ctx context.Context, name string) (string, error) {
	sets, err := m.sets(ctx, name)
	if err != nil {
		return "", err
	}
	for _, s := range sets {
		if s.Complete && s.Part == "" && !strings.HasPrefix(s.ID, beforePrefix) {
			return s.ID, nil
		}
	}
	return latestSet, nil
}

// restorable tells whether the server's state allows a restore.
func (w *world) restorable(set *SnapshotSet, part string) error {
	step := ""
	if w.instance != nil {
		step, _, _ = strings.Cut(tagOf(w.instance.Tags, tagStep), " ")
	}
	switch {
	case w.standIn != nil || step == stepRescue:
		return &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + w.name}
	case step != "" && step != stepRestore:
		return &Error{Code: KindExists, Reason: "a " + step + " isn't finished", Remedy: "the same command again, or stead start " + w.name}
	case part != RoleData && w.instance != nil && w.instance.InstanceLifecycle == types.InstanceLifecycleTypeSpot:
		return &Error{
			Code: KindUnsupported, Reason: "it is a spot instance, and EC2 terminates one whose root is exchanged while it is stopped",
			Remedy: "stead terminate " + w.name + ", then stead rescue " + w.name + " --set " + set.ID,
		}
	}
	return nil
}

// restoreDetached exchanges the disks of a server without an instance.
func (m *Manager) restoreDetached(ctx context.Context, w *world, set *SnapshotSet, part string) (string, error) {
	before := ""
	if !w.restored(set, part) {
		if len(w.beforeExchange().volumes) > 0 {
			var err error
			if before, err = m.setBefore(ctx, w, set); err != nil {
				return "", err
			}
		}
		if err := m.disksFromSet(ctx, w, set, part); err != nil {
			return "", err
		}
	}
	w, err := m.observe(ctx, w.name)
	if err != nil {
		return "", err
	}
	// A set may bring disks that the server had given up.
	if err := m.noteDisks(ctx, w.name, nil, nil); err != nil {
		return "", err
	}
	return before, m.unmarkRestored(ctx, w)
}

// restoreInPlace exchanges the disks of a server that has an instance.
func (m *Manager) restoreInPlace(ctx context.Context, w *world, run *restoreRun) (before string, err error) {
	id := aws.ToString(w.instance.InstanceId)
	if !w.isExchanged() && !w.restored(run.set, run.part) && !w.has(run.made) {
		if before, err = m.exchange(ctx, w, run); err != nil {
			return "", err
		}
	}
	if err := m.keepDisks(ctx, id); err != nil {
		return "", err
	}
	if w, err = m.world(ctx, "restore", w.name); err != nil {
		return "", err
	}
	if !isInstance(w.instance, id) {
		return "", w.endedMeanwhile()
	}
	if err := m.settle(ctx, w.name, id, w.facts()); err != nil {
		return "", err
	}
	step := tagOf(w.instance.Tags, tagStep)
	if step != "" && !w.isExchanged() {
		if err := m.tag(ctx, id, tagMap{tagStep: step + " " + exchanged}); err != nil {
			return "", err
		}
	}
	if err := m.unmarkRestored(ctx, w); err != nil {
		return "", err
	}
	if strings.Contains(step, " "+thenStay) {
		return before, m.untag(ctx, id, tagStep)
	}
	if step == "" && stateOf(w.instance) == types.InstanceStateNameStopped {
		return before, nil // another restore has come to its end, and it stays stopped
	}
	if stateOf(w.instance) == types.InstanceStateNameStopped {
		if err := m.startInstance(ctx, id); err != nil {
			return "", err
		}
	}
	_, err = m.ready(ctx, "restore", w.name, id, run.wait)
	return before, err
}

// exchange brings an instance from its old disks to the new ones, stopped.
// Where another restore at the same time has done so, it does nothing: the
// instance may run from them again.
func (m *Manager) exchange(ctx context.Context, w *world, run *restoreRun) (string, error) {
	set, part := run.set, run.part
	id := aws.ToString(w.instance.InstanceId)
	w, made, err := m.makeComing(ctx, w, set, part, zoneOf(w.instance))
	if err != nil {
		return "", err
	}
	run.made = made
	if w.has(made) {
		return "", nil
	}
	if w.instance == nil {
		return "", w.endedMeanwhile()
	}
	if err := m.announce(ctx, w, set, part); err != nil {
		return "", err
	}
	if err := m.stopForExchange(ctx, w, made); err != nil {
		return "", err
	}
	if w, err = m.world(ctx, "restore", w.name); err != nil {
		return "", err
	}
	if w.has(made) {
		return "", nil
	}
	if w.instance == nil {
		return "", w.endedMeanwhile()
	}
	before, err := m.setBefore(ctx, w, set)
	if err != nil {
		return "", err
	}
	for _, s := range set.ofPart(part) {
		if err := m.exchangeOne(ctx, w, s); err != nil {
			return "", err
		}
	}
	if err := m.keepDisks(ctx, id); err != nil {
		return "", err
	}
	return before, m.promote(ctx, w, set, part)
}

// endedMeanwhile is the error of a restore whose instance something else ended.
func (w *world) endedMeanwhile() error {
	return &Error{Code: KindExists, Reason: "something else has ended its instance meanwhile", Remedy: "stead show " + w.name + ", then the same command again"}
}

// begunRestore is the error of a verb that would go on with, or pass over, a
// restore that was cut off: nobody knows whether it is wanted still.
func (w *world) begunRestore(set string) error {
	var made []string
	for _, v := range w.coming {
		made = append(made, aws.ToString(v.VolumeId))
	}
	return &Error{
		Code: KindExists, Reason: "a restore of set " + set + " was begun and isn't finished",
		Remedy: "stead restore " + w.name + " finishes it; stead volume rm " + strings.Join(made, " ") + " gives it up, with the disks that it made",
	}
}

// stopForExchange stops an instance that still has its old disks, as a look
// right before tells.
func (m *Manager) stopForExchange(ctx context.Context, w *world, made []string) error {
	now, err := m.world(ctx, "restore", w.name)
	if err != nil || now.instance == nil || now.has(made) {
		return err
	}
	return m.stopInstance(ctx, aws.ToString(now.instance.InstanceId), stateOf(now.instance), false)
}

// announce says on the instance what is under way, and whether it is to run
// in the end: once it is stopped nothing else would tell.
func (m *Manager) announce(ctx context.Context, w *world, set *SnapshotSet, part string) error {
	if strings.HasPrefix(tagOf(w.instance.Tags, tagStep), restoreStep(set.ID, part)) {
		return nil
	}
	then := thenStart
	if state := stateOf(w.instance); state == types.InstanceStateNameStopped || state == types.InstanceStateNameStopping {
		then = thenStay
	}
	step := restoreStep(set.ID, part) + " " + then
	if err := m.tag(ctx, aws.ToString(w.instance.InstanceId), tagMap{tagStep: step}); err != nil {
		return err
	}
	w.instance.Tags = tagsOf(w.instance.Tags).with(tagMap{tagStep: step}).list()
	return nil
}

// beforePrefix begins the names of the sets that restores take first.
const beforePrefix = "before-"

// setBefore takes a set of all disks as they are before a restore, and returns
// its ID. That follows from the disks and from when they last ran, so that
// repeating the restore finds it and later changes get another. The set needn't
// be completed yet: it shows the moment at which it was begun, and the disks
// are kept.
func (m *Manager) setBefore(ctx context.Context, w *world, set *SnapshotSet) (string, error) {
	w = w.beforeExchange()
	ran := ""
	if w.instance != nil {
		ran = aws.ToTime(w.instance.LaunchTime).UTC().Format(time.RFC3339Nano)
	}
	plan := setPlan{
		server: w.name, id: beforePrefix + digest(append([]string{w.name, set.ID, ran}, w.lifeIDs()...)...)[:12], note: "before restore",
		volumes: w.volumes,
	}
	return m.quietSet(ctx, w, plan)
}

// beforeExchange is the world with those disks as the server's still that a
// restore which isn't over has already marked as superseded.
func (w *world) beforeExchange() *world {
	was := *w
	was.volumes = slices.Clone(w.volumes)
	for _, v := range w.superseded {
		if slices.ContainsFunc(w.coming, func(c types.Volume) bool { return aws.ToString(c.VolumeId) == tagOf(v.Tags, tagSupersededBy) }) {
			was.volumes = append(was.volumes, v)
		}
	}
	return &was
}

// exchangeOne puts the new disk of a snapshot in the place of the old one, in
// a stopped instance.
func (m *Manager) exchangeOne(ctx context.Context, w *world, s Snapshot) error {
	fresh, id := w.comingOf(s), aws.ToString(w.instance.InstanceId)
	if fresh == nil || pluggedInto(fresh, id) {
		return nil
	}
	device := s.Device
	if s.Role == RoleRoot {
		device = aws.ToString(w.instance.RootDeviceName)
	}
	if old := w.replaced(s); old != nil && attachedTo(old) == id {
		oldID := aws.ToString(old.VolumeId)
		if err := m.step("unplug", oldID+" at "+attachedAs(old), func() error {
			if s.Role != RoleRoot {
				device = attachedAs(old)
			}
			if err := m.detach(ctx, oldID, id, attachedAs(old)); err != nil {
				return err
			}
			_, err := m.waitUnplugged(ctx, oldID, id)
			return err
		}); err != nil {
			return err
		}
	}
	return m.plug(ctx, fresh, w.instance, device)
}

// waitUnplugged waits until a disk has left an instance. One that is stuck is
// told of: nothing else of the server has been changed by then.
func (m *Manager) waitUnplugged(ctx context.Context, id, instanceID string) (*types.Volume, error) {
	v, err := m.waitAvailable(ctx, id)
	if KindOf(err) == KindTimeout {
		return nil, stuck(id, instanceID, err)
	}
	return v, err
}

// stuck is the error of a disk that doesn't come off its instance.
func stuck(id, instanceID string, err error) error {
	return &Error{
		Op: "unplug", Resource: "volume " + id, Code: KindTimeout, Err: err,
		Reason: "it is stuck in detaching from instance " + instanceID,
		Remedy: "wait and run the same command again; if it stays so: aws ec2 detach-volume --force --volume-id " + id,
	}
}
