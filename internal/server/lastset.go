package server

import (
	"cmp"
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

// endWithLastSet shuts a server down, takes a last set of its disks unless
// that isn't wanted, and ends the instance. It returns the set's ID.
//
// Another tool may start the instance until it is ended. An ended one still
// tells when it was started last: where that isn't what it was before the set,
// the disks have something that the set lacks, and are taken once more.
func (m *Manager) endWithLastSet(ctx context.Context, w *world, o PurgeOptions) (*world, string, error) {
	for {
		now, set, err := m.lastSet(ctx, w, o)
		if err != nil || now.instance == nil {
			return now, set, err
		}
		if _, err := m.terminate(ctx, w.name); err != nil {
			return nil, "", err
		}
		ended, err := m.instanceByID(ctx, aws.ToString(now.instance.InstanceId))
		if err != nil {
			return nil, "", err
		}
		if set == "" || ended != nil && aws.ToTime(ended.LaunchTime).Equal(aws.ToTime(now.instance.LaunchTime)) {
			return now, set, nil
		}
		m.warn("terminate", aws.ToString(now.instance.InstanceId), "it was started after its last snapshots, so they are taken once more")
		if w, err = m.observe(ctx, w.name); err != nil {
			return nil, "", err
		}
	}
}

// lastSet takes a last set of all disks of a server at rest unless it isn't
// wanted, sees it completed with every disk in it, and marks the disks with it.
// A purge that is repeated goes on with the set of the mark: some disks may
// have gone. Snapshots in it that may be older than their disks are taken anew.
func (m *Manager) lastSet(ctx context.Context, w *world, o PurgeOptions) (*world, string, error) {
	if o.NoSnapshot || o.Snapshots {
		if len(w.purgeMarked()) > 0 { // the set of an earlier run stays known
			return w, "", nil
		}
		return w, "", m.markPurge(ctx, w, noLastSet)
	}
	w, err := m.atRest(ctx, w)
	if err != nil {
		return nil, "", err
	}
	for _, v := range w.aside() { // each for itself: they belong to no set
		if _, err := m.keepTape(ctx, v, w.instance, noteSuperseded); err != nil {
			return nil, "", err
		}
	}
	if len(w.volumes) == 0 {
		return w, "", nil
	}
	id := w.lastSetName()
	if err := m.retireDoubtful(ctx, w, id); err != nil {
		return nil, "", err
	}
	if id, err = m.takeLast(ctx, w, id, "before purge"); err != nil {
		return nil, "", err
	}
	if err := m.markPurge(ctx, w, id); err != nil {
		return nil, "", err
	}
	w, err = m.observe(ctx, w.name)
	return w, id, err
}

// aside are the disks that a server has beside its own and that hold something
// of theirs: superseded ones, and those of a restore that an instance has had.
func (w *world) aside() []*types.Volume {
	var list []*types.Volume
	for k := range w.superseded {
		list = append(list, &w.superseded[k])
	}
	for k := range w.coming {
		if attachedTo(&w.coming[k]) != "" {
			list = append(list, &w.coming[k])
		}
	}
	return list
}

// lastSetName is the ID of the last set: that of the marks, as long as the
// instance hasn't been started since, or else one of now.
func (w *world) lastSetName() string {
	marked, now := w.purgeSet(), w.lastSetID(lastSetPrefix)
	if marked == "" || w.instance != nil && marked != w.lastSetID(moveSetPrefix) {
		return now
	}
	return marked
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

// unmarkPurge takes back the marks of a purge that was cut off: what the
// server writes from here on is in no last set.
func (m *Manager) unmarkPurge(ctx context.Context, w *world) error {
	ids := w.purgeMarked()
	if len(ids) == 0 {
		return nil
	}
	_, err := m.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagStep)}}})
	return wrap("unmark", "the disks of "+w.name, err)
}

// markPurge marks a server's disks as ready to go, with their last set.
func (m *Manager) markPurge(ctx context.Context, w *world, set string) error {
	var ids []string
	for _, v := range w.volumes {
		if tagOf(v.Tags, tagStep) != stepPurge+" "+set {
			ids = append(ids, aws.ToString(v.VolumeId))
		}
	}
	if len(ids) == 0 {
		return nil
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
// disks, from when they last ran and from when they were plugged in.
func (w *world) lastSetID(prefix string) string {
	parts := append([]string{w.name, ""}, w.lifeIDs()...)
	if w.instance != nil {
		parts[1] = aws.ToTime(w.instance.LaunchTime).UTC().String()
		for _, v := range w.volumes {
			for _, a := range v.Attachments {
				parts = append(parts, aws.ToString(v.VolumeId)+" "+aws.ToTime(a.AttachTime).UTC().String())
			}
		}
		slices.Sort(parts[2:])
	}
	return prefix + "-" + digest(parts...)[:12]
}

// takeLast takes a set of all of a server's disks, which are at rest, and
// returns its ID once it is completed and every disk is in it.
func (m *Manager) takeLast(ctx context.Context, w *world, id, note string) (string, error) {
	id, err := m.quietSet(ctx, w, setPlan{server: w.name, id: id, note: note, volumes: w.volumes})
	if err != nil {
		return "", err
	}
	set, err := m.waitSet(ctx, w.name, id)
	if err != nil {
		return "", err
	}
	for _, v := range w.volumes {
		if !slices.ContainsFunc(set.Snapshots, func(s Snapshot) bool {
			return s.VolumeID == aws.ToString(v.VolumeId) && s.State == string(types.SnapshotStateCompleted)
		}) {
			return "", &Error{Code: KindPartial, Reason: "set " + set.ID + " has no completed snapshot of " + aws.ToString(v.VolumeId), Remedy: "stead snapshots " + w.name}
		}
	}
	return set.ID, nil
}

// noteSuperseded is the note of the last snapshot of a superseded disk.
const noteSuperseded = "superseded disk"

// diskSetPrefix begins the IDs of sets that hold the last snapshot of one disk.
const diskSetPrefix = "disk-"

// keepTape takes a last snapshot of a disk that is plugged in nowhere, or in a
// stopped instance, as a set of its own, and returns it completed. One that an
// earlier try took stays, under another name: nothing tells whether the disk
// has been used since.
func (m *Manager) keepTape(ctx context.Context, v *types.Volume, stopped *types.Instance, note string) (*types.Snapshot, error) {
	id := aws.ToString(v.VolumeId)
	if err := m.waitQuiet(ctx, id, stopped); err != nil {
		return nil, err
	}
	plan := setPlan{
		server: cmp.Or(tagOf(v.Tags, tagServer), tagOf(v.Tags, tagDetachedFrom)), id: diskSetPrefix + strings.TrimPrefix(id, "vol-"), note: note,
		part: cmp.Or(tagOf(v.Tags, tagRole), RoleData), volumes: []types.Volume{*v},
	}
	ofSet := []types.Filter{filter("volume-id", id), filter("tag:"+tagSet, plan.id)}
	var tape *types.Snapshot
	err := m.step("take last snapshot", id, func() error {
		before, err := m.findSnapshots(ctx, ofSet...)
		if err != nil {
			return err
		}
		if err := m.retire(ctx, plan.id, before); err != nil {
			return err
		}
		if err := m.snapshotVolume(ctx, v, plan.tags(v, true).with(tagMap{tagRole: plan.part})); err != nil {
			return err
		}
		return m.poll(ctx, 0, "to be completed", "the last snapshot of volume "+id, func(ctx context.Context) (bool, error) {
			now, err := m.findSnapshots(ctx, ofSet...)
			if err != nil || len(now) == 0 {
				return false, err
			}
			tape = &now[0]
			if tape.State == types.SnapshotStateError {
				return false, &Error{Op: "snapshot", Resource: "volume " + id, Reason: aws.ToString(tape.StateMessage), Remedy: "the same command again"}
			}
			return tape.State == types.SnapshotStateCompleted, nil
		})
	})
	return tape, err
}

// listedAfterEnd is for how long an instance is listed after its end, at
// least. EC2 says "about an hour".
const listedAfterEnd = 50 * time.Minute

// lainIn tells that a disk is plugged into the server's stopped instance, and
// was since t, without the instance being started. That alone proves that
// nothing was written.
func (w *world) lainIn(v *types.Volume, t time.Time) bool {
	i := w.instance
	if stateOf(i) != types.InstanceStateNameStopped || aws.ToTime(i.LaunchTime).After(t) {
		return false
	}
	return slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool {
		return aws.ToString(a.InstanceId) == aws.ToString(i.InstanceId) && a.State == types.VolumeAttachmentStateAttached && !aws.ToTime(a.AttachTime).After(t)
	})
}

// retireDoubtful takes those snapshots out of a last set that may be older
// than their disks: nothing but lainIn proves that they aren't. What the set
// has of disks that are gone stays, unless another disk has their place.
func (m *Manager) retireDoubtful(ctx context.Context, w *world, id string) error {
	found, err := m.findSnapshots(ctx, filter("tag:"+tagServer, w.name), filter("tag:"+tagSet, id))
	if err != nil {
		return err
	}
	return m.retire(ctx, id, slices.DeleteFunc(found, func(s types.Snapshot) bool {
		v := w.diskOf(&s)
		return s.State != types.SnapshotStateError && (v != nil && w.lainIn(v, aws.ToTime(s.StartTime)) || v == nil && !w.placeTaken(&s))
	}))
}

// diskOf finds the disk of the server that a snapshot shows.
func (w *world) diskOf(s *types.Snapshot) *types.Volume {
	for k := range w.volumes {
		if aws.ToString(w.volumes[k].VolumeId) == aws.ToString(s.VolumeId) {
			return &w.volumes[k]
		}
	}
	return nil
}

// placeTaken tells whether the server has a disk where that of a snapshot was.
func (w *world) placeTaken(s *types.Snapshot) bool {
	if tagOf(s.Tags, tagRole) == RoleRoot {
		return w.root() != nil
	}
	return slices.ContainsFunc(w.volumes, func(v types.Volume) bool { return sameSlot(deviceOf(&v), tagOf(s.Tags, tagDevice)) })
}

// retire gives snapshots of a set another set's name, which says when they
// began, and waits until a search doesn't find them by the old one. They stay,
// and stand for that moment.
func (m *Manager) retire(ctx context.Context, id string, old []types.Snapshot) error {
	if len(old) == 0 {
		return nil
	}
	var ids []string
	began := aws.ToTime(old[0].StartTime)
	for _, s := range old {
		ids = append(ids, aws.ToString(s.SnapshotId))
		if at := aws.ToTime(s.StartTime); at.Before(began) {
			began = at
		}
	}
	_, err := m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{
		Resources: ids, Tags: tagMap{tagSet: id + "-" + began.UTC().Format(setTime)}.list(),
	})
	if err != nil {
		return wrap("rename", "the older snapshots of set "+id, err)
	}
	return m.poll(ctx, settleTime, "to lose its older snapshots", "set "+id, func(ctx context.Context) (bool, error) {
		found, err := m.findSnapshots(ctx, filter("tag:"+tagSet, id))
		return !slices.ContainsFunc(found, func(s types.Snapshot) bool { return slices.Contains(ids, aws.ToString(s.SnapshotId)) }), err
	})
}

// unspoiled returns the ID under which a set of disks at rest is to be taken,
// or gone on with: id, or one that follows from it where the snapshots of that
// name are spoiled. Its prefix is the same.
func (m *Manager) unspoiled(ctx context.Context, w *world, id string) (string, error) {
	for {
		found, err := m.findSnapshots(ctx, filter("tag:"+tagServer, w.name), filter("tag:"+tagSet, id))
		if err != nil {
			return "", err
		}
		spoiled, err := m.spoiled(ctx, w, id, found)
		if err != nil || len(spoiled) == 0 {
			return id, err
		}
		prefix, _, _ := strings.Cut(id, "-")
		id = prefix + "-" + digest(id, spoiled[0])[:12]
	}
}

// spoiled lists those snapshots of a set that failed, or that may be older
// than their disks are. A disk that is plugged in must have been so, in an
// instance at rest. Of detached ones nothing is told; but the instance that had
// them is listed for an hour after its end, with when it was last started. Where
// it had them when the snapshots were taken, that must be seen.
func (m *Manager) spoiled(ctx context.Context, w *world, set string, tapes []types.Snapshot) ([]string, error) {
	var bad []string
	ran, listed, asked := time.Time{}, false, false
	for k := range tapes {
		s := &tapes[k]
		v, t := w.diskOf(s), aws.ToTime(s.StartTime)
		switch {
		case s.State == types.SnapshotStateError:
		case v == nil || w.instance != nil && w.lainIn(v, t):
			continue
		case attachedTo(v) == "":
			if !asked {
				var err error
				if ran, listed, err = m.lastRun(ctx, w, set); err != nil {
					return nil, err
				}
				asked = true
			}
			plugged := hasTag(s.Tags, tagSetLaunched)
			if !ran.After(t) && (!plugged || listed || m.now().Sub(t) < listedAfterEnd) {
				continue
			}
		}
		bad = append(bad, aws.ToString(s.SnapshotId))
	}
	slices.Sort(bad)
	return bad, nil
}

// lastRun returns when one of a server's instances that have ended was last
// started, and whether the last that had its disks is listed still. Those that
// were made of the set never had the disks that it shows.
func (m *Manager) lastRun(ctx context.Context, w *world, set string) (ran time.Time, listed bool, err error) {
	ended := slices.Clone(w.dead)
	if id := w.facts().Instance; id != "" && w.instance == nil {
		i, err := m.instanceByID(ctx, id)
		if err != nil {
			return ran, false, err
		}
		if i != nil {
			listed = true
			ended = append(ended, *i)
		}
	}
	for k := range ended {
		if at := aws.ToTime(ended[k].LaunchTime); at.After(ran) && tagOf(ended[k].Tags, tagSet) != set {
			ran = at
		}
	}
	return ran, listed, nil
}
