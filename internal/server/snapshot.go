package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Snapshot takes a set of all the server's disks, in one instant where the
// endpoint can.
func (m *Manager) Snapshot(ctx context.Context, name string, o SnapshotOptions) (*SnapshotSet, error) {
	set, err := m.snapshot(ctx, name, o)
	return set, wrap("snapshot", "server "+name, err)
}

func (m *Manager) snapshot(ctx context.Context, name string, o SnapshotOptions) (*SnapshotSet, error) {
	if err := checkTagValue("the note", o.Note); err != nil {
		return nil, err
	}
	w, err := m.world(ctx, "snapshot", name)
	if err != nil {
		return nil, err
	}
	if w.standIn != nil {
		return nil, &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + name}
	}
	if w.instance != nil && stateOf(w.instance) != types.InstanceStateNameShuttingDown {
		if err := m.settle(ctx, name, aws.ToString(w.instance.InstanceId), w.facts()); err != nil {
			return nil, err
		}
		if w, err = m.world(ctx, "snapshot", name); err != nil {
			return nil, err
		}
	}
	at := m.now().UTC()
	plan := setPlan{
		id: at.Format("20060102T150405Z") + "-" + digest(name, strconv.FormatInt(at.UnixNano(), 10))[:4], note: o.Note,
		volumes: w.volumes,
	}
	if err := m.step("take snapshots", name, func() error { return m.takeSet(ctx, w, plan) }); err != nil {
		return nil, err
	}
	if o.Wait {
		return m.waitSet(ctx, name, plan.id)
	}
	return m.findSet(ctx, name, plan.id)
}

// setPlan is a set that is to be.
type setPlan struct {
	id, note string
	volumes  []types.Volume
}

// tags are those of one volume's snapshot.
func (p setPlan) tags(v *types.Volume, instant bool) tagMap {
	t := steadTags(v.Tags).with(tagMap{
		tagSchema: schemaVersion, tagSet: p.id, tagSetSize: strconv.Itoa(len(p.volumes)), tagSetInstant: yesNo(instant),
	})
	if p.note != "" {
		t[tagNote] = p.note
	}
	return t
}

// takeSet snapshots the plan's volumes. Disks that something writes to are
// taken by one call; those that are quiet, or one alone, need none such.
func (m *Manager) takeSet(ctx context.Context, w *world, p setPlan) error {
	running := w.instance != nil && stateOf(w.instance) != types.InstanceStateNameStopped
	if running && len(p.volumes) > 1 {
		err := m.takeTogether(ctx, w, p)
		if !unsupported(err) {
			return err
		}
		m.warn("take snapshots", w.name, "the endpoint takes one disk after the other: the set isn't of one instant")
	}
	for k := range p.volumes {
		v := &p.volumes[k]
		if err := m.snapshotVolume(ctx, v, p.tags(v, !running || len(p.volumes) == 1)); err != nil {
			return err
		}
	}
	return nil
}

// takeTogether snapshots all disks of a running instance in one instant. Disks
// of the server that aren't plugged in are quiet and are taken by themselves;
// other disks of the instance are left out.
func (m *Manager) takeTogether(ctx context.Context, w *world, p setPlan) error {
	id := aws.ToString(w.instance.InstanceId)
	spec := &types.InstanceSpecification{InstanceId: &id}
	ours := map[string]*types.Volume{}
	for k := range p.volumes {
		ours[aws.ToString(p.volumes[k].VolumeId)] = &p.volumes[k]
	}
	for _, mapped := range mappedVolumes(w.instance) {
		if ours[mapped] == nil {
			spec.ExcludeDataVolumeIds = append(spec.ExcludeDataVolumeIds, mapped)
		}
	}
	common := tagMap{tagSchema: schemaVersion, tagSet: p.id, tagSetSize: strconv.Itoa(len(p.volumes)), tagSetInstant: yesNo(true)}
	if p.note != "" {
		common[tagNote] = p.note
	}
	out, err := m.ec2.CreateSnapshots(ctx, &ec2.CreateSnapshotsInput{
		InstanceSpecification: spec, CopyTagsFromSource: types.CopyTagsFromSourceVolume,
		Description:       aws.String("server " + w.name + ", set " + p.id),
		TagSpecifications: []types.TagSpecification{common.spec(types.ResourceTypeSnapshot)},
	})
	if err != nil {
		return wrap("snapshot", "instance "+id, err)
	}
	for _, s := range out.Snapshots {
		v := ours[aws.ToString(s.VolumeId)]
		if v == nil {
			continue
		}
		delete(ours, aws.ToString(s.VolumeId))
		if err := m.tag(ctx, aws.ToString(s.SnapshotId), tagsOf(s.Tags).missing(p.tags(v, true))); err != nil {
			return err
		}
	}
	for _, v := range ours {
		if err := m.snapshotVolume(ctx, v, p.tags(v, true)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) snapshotVolume(ctx context.Context, v *types.Volume, tags tagMap) error {
	id := aws.ToString(v.VolumeId)
	_, err := m.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
		VolumeId: &id, Description: aws.String("server " + tags[tagServer] + ", set " + tags[tagSet]),
		TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeSnapshot)},
	})
	if apiCode(err) == "SnapshotCreationPerVolumeRateExceeded" {
		return &Error{Op: "snapshot", Resource: "volume " + id, Code: KindCapacity, Reason: "its last snapshot is too recent", Remedy: "wait 15 seconds and try again", Err: err}
	}
	return wrap("snapshot", "volume "+id, err)
}

// Snapshots lists the server's sets, newest first; all servers' with name "".
func (m *Manager) Snapshots(ctx context.Context, name string) ([]SnapshotSet, error) {
	sets, err := m.sets(ctx, name)
	if err != nil || name == "" || len(sets) > 0 {
		return sets, err
	}
	_, err = m.world(ctx, "list the snapshots of", name)
	return sets, err
}

// sets lists the sets under a name, whether or not there is such a server.
func (m *Manager) sets(ctx context.Context, name string) ([]SnapshotSet, error) {
	filters := []types.Filter{filter("tag-key", tagSet)}
	if name != "" {
		if err := CheckName(name); err != nil {
			return nil, wrap("list", "snapshots", err)
		}
		filters = append(filters, filter("tag:"+tagServer, name))
	}
	found, err := m.findSnapshots(ctx, filters...)
	if err != nil {
		return nil, err
	}
	return setsOf(found), nil
}

// setsOf gathers snapshots into their sets.
func setsOf(snapshots []types.Snapshot) []SnapshotSet {
	type key struct{ server, set string }
	members := map[key][]types.Snapshot{}
	for _, s := range snapshots {
		t := tagsOf(s.Tags)
		k := key{t[tagServer], t[tagSet]}
		members[k] = append(members[k], s)
	}
	sets := []SnapshotSet{}
	for k, list := range members {
		sets = append(sets, setView(k.server, k.set, list))
	}
	slices.SortFunc(sets, func(a, b SnapshotSet) int {
		return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(a.ID, b.ID))
	})
	return sets
}

func setView(server, id string, list []types.Snapshot) SnapshotSet {
	slices.SortFunc(list, func(a, b types.Snapshot) int { // root first, then by device
		return cmp.Or(cmp.Compare(tagOf(b.Tags, tagRole), tagOf(a.Tags, tagRole)), cmp.Compare(tagOf(a.Tags, tagDevice), tagOf(b.Tags, tagDevice)))
	})
	set := SnapshotSet{ID: id, Server: server, State: string(types.SnapshotStateCompleted), OneInstant: true, Snapshots: []Snapshot{}}
	roots := 0
	for _, s := range list {
		t := tagsOf(s.Tags)
		set.Snapshots = append(set.Snapshots, Snapshot{
			SnapshotID: aws.ToString(s.SnapshotId), VolumeID: aws.ToString(s.VolumeId), Role: t[tagRole], Device: t[tagDevice],
			SizeGiB: int(aws.ToInt32(s.VolumeSize)), State: string(s.State), Progress: aws.ToString(s.Progress),
			Message: aws.ToString(s.StateMessage),
		})
		if t[tagRole] == RoleRoot {
			roots++
		}
		set.Note = cmp.Or(set.Note, t[tagNote])
		set.OneInstant = set.OneInstant && t[tagSetInstant] == yesNo(true)
		if began := aws.ToTime(s.StartTime).UTC(); set.Started.IsZero() || began.Before(set.Started) {
			set.Started = began
		}
		switch {
		case s.State == types.SnapshotStateError || s.State == types.SnapshotStateRecoverable:
			set.State = string(types.SnapshotStateError)
		case s.State == types.SnapshotStatePending && set.State == string(types.SnapshotStateCompleted):
			set.State = string(types.SnapshotStatePending)
		}
	}
	size, err := strconv.Atoi(tagOf(list[0].Tags, tagSetSize))
	set.Complete = err == nil && size == len(list) && roots == 1 && set.State != string(types.SnapshotStateError)
	return set
}

// findSet returns one set of a server.
func (m *Manager) findSet(ctx context.Context, name, id string) (*SnapshotSet, error) {
	found, err := m.setSnapshots(ctx, name, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, &Error{Code: KindNotFound, Reason: "there is no snapshot set " + id, Remedy: "stead snapshots " + name}
	}
	set := setView(name, id, found)
	return &set, nil
}

func (m *Manager) setSnapshots(ctx context.Context, name, id string) ([]types.Snapshot, error) {
	return m.findSnapshots(ctx, filter("tag:"+tagServer, name), filter("tag:"+tagSet, id))
}

// waitSet waits until a set is complete and completed. Only the context bounds
// it: a first snapshot can take hours.
func (m *Manager) waitSet(ctx context.Context, name, id string) (*SnapshotSet, error) {
	var set *SnapshotSet
	told := time.Time{}
	err := m.step("wait for snapshots", name, func() error {
		return m.poll(ctx, 0, "snapshots to complete", "server "+name, func(ctx context.Context) (bool, error) {
			var err error
			if set, err = m.findSet(ctx, name, id); err != nil {
				return false, err
			}
			if set.State == string(types.SnapshotStateError) {
				return false, set.failure()
			}
			if m.now().Sub(told) > 5*time.Second {
				told = m.now()
				m.notify(Event{State: StepWaiting, Step: "wait for snapshots", Resource: name, Detail: set.progress()})
			}
			return set.Complete && set.State == string(types.SnapshotStateCompleted), nil
		})
	})
	return set, err
}

// failure is the error of a set that has a failed snapshot.
func (s *SnapshotSet) failure() error {
	e := &Error{Code: KindFailed, Reason: "a snapshot of set " + s.ID + " failed", Remedy: "stead snapshot " + s.Server}
	for _, one := range s.Snapshots {
		if one.State != string(types.SnapshotStateError) {
			continue
		}
		e.Reason = joinReason(one.SnapshotID+" of "+one.VolumeID+" failed", one.Message)
		if isFull(one.Message) {
			e.Code, e.Remedy = KindCapacity, "make room on the disk that is full, then stead snapshot "+s.Server
		}
	}
	return e
}

// isFull tells a message that speaks of a full disk.
func isFull(message string) bool {
	message = strings.ToLower(message)
	return strings.Contains(message, "no space left") || strings.Contains(message, "full")
}

func joinReason(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func (s *SnapshotSet) progress() string {
	text := ""
	for k, one := range s.Snapshots {
		if k > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %s", one.SnapshotID, cmp.Or(one.Progress, one.State))
	}
	return text
}
