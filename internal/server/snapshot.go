package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepSnapshot marks the snapshots of a set that isn't finished.
const stepSnapshot = "snapshot"

// sameSnapshot is how soon a snapshot that was cut off must be repeated to go
// on with it. Later, a set of now is wanted.
const sameSnapshot = 10 * time.Minute

// Snapshot takes a set of the server's disks as they are at one instant: of
// all of them, of the root or of the data disks. The disks of a server without
// an instance are taken as they lie.
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
	if err := w.underRepair(); err != nil {
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
	plan, err := m.planSnapshot(ctx, w, o)
	if err != nil {
		return nil, err
	}
	if err := m.step("take snapshots", name, func() error { return m.frozen(ctx, w, o, plan, func() error { return m.takeSet(ctx, w, plan) }) }); err != nil {
		return nil, err
	}
	if err := m.finishSet(ctx, plan); err != nil {
		return nil, err
	}
	if o.Wait {
		return m.waitSet(ctx, name, plan.id)
	}
	return m.findSet(ctx, name, plan.id)
}

// setPlan is a set that is to be.
type setPlan struct {
	server, id, note string
	part             string // "", RoleRoot or RoleData
	volumes          []types.Volume
	gone             int  // how many disks are in the set that are no more
	loose            bool // the disks may be of several instants
}

// size is how many snapshots the set has when it is complete.
func (p *setPlan) size() string { return strconv.Itoa(len(p.volumes) + p.gone) }

// tags are those of one volume's snapshot.
func (p *setPlan) tags(v *types.Volume, instant bool) tagMap {
	return steadTags(v.Tags).with(p.common(instant))
}

// common are the tags that all snapshots of the set have.
func (p *setPlan) common(instant bool) tagMap {
	t := tagMap{
		tagSchema: schemaVersion, tagSet: p.id, tagSetSize: p.size(), tagSetInstant: yesNo(instant),
	}
	if p.server != "" {
		t[tagServer] = p.server
	}
	if p.note != "" {
		t[tagNote] = p.note
	}
	if p.part != "" {
		t[tagSetPart] = p.part
	}
	return t
}

// planSnapshot chooses the disks, and goes on with a set that the same command
// began and was cut off in.
func (m *Manager) planSnapshot(ctx context.Context, w *world, o SnapshotOptions) (*setPlan, error) {
	at := m.now().UTC()
	p := &setPlan{
		server: w.name, note: o.Note, part: o.Part, loose: o.Loose,
		id: at.Format(setTime) + "-" + digest(w.name, strconv.FormatInt(at.UnixNano(), 10))[:4],
	}
	root := w.root()
	for k := range w.volumes {
		v := &w.volumes[k]
		isRoot := root != nil && aws.ToString(v.VolumeId) == aws.ToString(root.VolumeId)
		if o.Part == "" || (o.Part == RoleRoot) == isRoot {
			p.volumes = append(p.volumes, *v)
		}
	}
	switch {
	case o.Part != "" && o.Part != RoleRoot && o.Part != RoleData:
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no part of a server", o.Part), Remedy: "take root or data"}
	case o.Part != RoleData && root == nil:
		return nil, &Error{Code: KindNotFound, Reason: "its root disk is gone", Remedy: "stead rescue " + w.name}
	case len(p.volumes) == 0:
		return nil, &Error{Code: KindNotFound, Reason: "it has no data disk", Remedy: "stead snapshot " + w.name}
	}
	begun, err := m.begunSet(ctx, w, p)
	if err != nil || begun == "" {
		return p, err
	}
	p.id = begun
	return p, nil
}

// begunSet finds the set that the same command began a moment ago: one that
// lacks nothing but the end of its mark, or one of disks that lay still since.
func (m *Manager) begunSet(ctx context.Context, w *world, p *setPlan) (string, error) {
	found, err := m.findSnapshots(ctx, filter("tag:"+tagServer, w.name), filter("tag:"+tagStep, stepSnapshot))
	if err != nil {
		return "", err
	}
	for _, t := range gather(found) {
		set := t.view()
		again := *p
		again.id = set.ID
		switch {
		case t.scheduled || set.Part != p.part || set.Note != p.note || m.now().Sub(set.Started) > sameSnapshot:
		case set.State == string(types.SnapshotStateError) || !again.covers(t.tapes):
		case len(t.tapes) == len(p.volumes), t.sayInstant() && w.stillSince(set.Started):
			return set.ID, nil
		}
	}
	return "", nil
}

// sayInstant tells whether all the snapshots claim to be of one instant.
func (t *tapeSet) sayInstant() bool {
	return !slices.ContainsFunc(t.tapes, func(s types.Snapshot) bool { return tagOf(s.Tags, tagSetInstant) != yesNo(true) })
}

// covers tells whether all the snapshots are of the plan's disks.
func (p *setPlan) covers(tapes []types.Snapshot) bool {
	return !slices.ContainsFunc(tapes, func(s types.Snapshot) bool { return p.volume(aws.ToString(s.VolumeId)) == nil })
}

func (p *setPlan) volume(id string) *types.Volume {
	for k := range p.volumes {
		if aws.ToString(p.volumes[k].VolumeId) == id {
			return &p.volumes[k]
		}
	}
	return nil
}

// stillSince tells whether nothing can have written to the disks since t: they
// have lain in the stopped instance, or there is none. (Who plugged
// the disks into a machine by hand and out again would not be seen.)
func (w *world) stillSince(t time.Time) bool {
	if w.instance == nil {
		return !slices.ContainsFunc(w.volumes, func(v types.Volume) bool { return attachedTo(&v) != "" })
	}
	return !slices.ContainsFunc(w.volumes, func(v types.Volume) bool { return !w.lainIn(&v, t) })
}

// writers counts the plan's disks that a machine may be writing to.
func (w *world) writers(p *setPlan) int {
	n := 0
	for k := range p.volumes {
		holder := attachedTo(&p.volumes[k])
		stopped := w.instance != nil && holder == aws.ToString(w.instance.InstanceId) && stateOf(w.instance) == types.InstanceStateNameStopped
		if holder != "" && !stopped {
			n++
		}
	}
	return n
}

// takeSet snapshots the plan's volumes. Disks that a machine writes to are
// taken by one call; those that lie still, or one alone, need none such.
func (m *Manager) takeSet(ctx context.Context, w *world, p *setPlan) error {
	taken, err := m.takenOf(ctx, p)
	if err != nil {
		return err
	}
	instant := w.writers(p) == 0 || len(p.volumes) == 1
	if len(taken) > 0 { // by a command that was cut off
		for _, s := range taken {
			instant = tagOf(s.Tags, tagSetInstant) == yesNo(true)
		}
	} else if !instant {
		err := m.takeTogether(ctx, w, p)
		switch {
		case err == nil:
			instant = true
			if taken, err = m.takenOf(ctx, p); err != nil {
				return err
			}
		case !unsupported(err):
			return err
		case !p.loose:
			return &Error{
				Code: KindUnsupported, Err: err,
				Reason: "the endpoint takes one disk after the other, and the server runs: its disks would not be of one instant",
				Remedy: "stead stop " + w.name + ", and start it again after; or add --not-one-instant",
			}
		default:
			m.warn("take snapshots", w.name, "the endpoint takes one disk after the other: the set isn't of one instant")
		}
	}
	for k := range p.volumes {
		v := &p.volumes[k]
		tags := p.tags(v, instant)
		if have := taken[aws.ToString(v.VolumeId)]; have != nil {
			if err := m.tag(ctx, aws.ToString(have.SnapshotId), tagsOf(have.Tags).missing(tags)); err != nil {
				return err
			}
			continue
		}
		if err := m.snapshotVolume(ctx, v, tags.with(tagMap{tagStep: stepSnapshot})); err != nil {
			return err
		}
	}
	return nil
}

// takenOf lists the snapshots of the plan that there are, by volume.
func (m *Manager) takenOf(ctx context.Context, p *setPlan) (map[string]*types.Snapshot, error) {
	found, err := m.findSnapshots(ctx, filter("tag:"+tagServer, p.server), filter("tag:"+tagSet, p.id))
	taken := map[string]*types.Snapshot{}
	for k := range found {
		taken[aws.ToString(found[k].VolumeId)] = &found[k]
	}
	return taken, err
}

// takeTogether snapshots all disks of a running instance that are in the plan
// at one instant. Its other disks are left out; disks of the plan that aren't
// plugged in lie still.
func (m *Manager) takeTogether(ctx context.Context, w *world, p *setPlan) error {
	if w.instance == nil {
		return &Error{Code: KindExists, Reason: "another instance has its disks", Remedy: "stead show " + w.name}
	}
	id := aws.ToString(w.instance.InstanceId)
	spec := &types.InstanceSpecification{InstanceId: &id}
	for _, mapped := range mappedVolumes(w.instance) {
		switch {
		case p.volume(mapped) != nil:
		case mapped == rootVolumeID(w.instance):
			spec.ExcludeBootVolume = aws.Bool(true)
		default:
			spec.ExcludeDataVolumeIds = append(spec.ExcludeDataVolumeIds, mapped)
		}
	}
	in := &ec2.CreateSnapshotsInput{
		InstanceSpecification: spec, CopyTagsFromSource: types.CopyTagsFromSourceVolume,
		Description:       aws.String("server " + w.name + ", set " + p.id),
		TagSpecifications: []types.TagSpecification{p.common(true).with(tagMap{tagStep: stepSnapshot}).spec(types.ResourceTypeSnapshot)},
	}
	err := m.takeOnce(ctx, "instance "+id, func(ctx context.Context) error {
		_, err := m.ec2.CreateSnapshots(ctx, in, onlyOnce)
		return err
	}, func(ctx context.Context) (bool, error) {
		taken, err := m.takenOf(ctx, p)
		return len(taken) > 0, err
	})
	return wrap("snapshot", "instance "+id, err)
}

// snapshotVolume takes one disk.
func (m *Manager) snapshotVolume(ctx context.Context, v *types.Volume, tags tagMap) error {
	id := aws.ToString(v.VolumeId)
	in := &ec2.CreateSnapshotInput{
		VolumeId: &id, Description: aws.String("server " + tags[tagServer] + ", set " + tags[tagSet]),
		TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeSnapshot)},
	}
	err := m.takeOnce(ctx, "volume "+id, func(ctx context.Context) error {
		_, err := m.ec2.CreateSnapshot(ctx, in, onlyOnce)
		return err
	}, func(ctx context.Context) (bool, error) {
		found, err := m.findSnapshots(ctx, filter("volume-id", id), filter("tag:"+tagSet, tags[tagSet]))
		return len(found) > 0, err
	})
	return wrap("snapshot", "volume "+id, err)
}

// onlyOnce keeps the SDK from sending a request again by itself. CreateSnapshot
// and CreateSnapshots take no client token: sent twice, they take two.
func onlyOnce(o *ec2.Options) { o.RetryMaxAttempts = 1 }

// takeOnce makes a call that takes no client token. Where its answer was lost,
// what it was to make is looked for before it is made again. An endpoint that
// says "too soon", as EC2 does of a second snapshot of a disk within seconds,
// is asked again later.
func (m *Manager) takeOnce(ctx context.Context, resource string, call func(context.Context) error, taken func(context.Context) (bool, error)) error {
	tried, told := false, false
	return m.poll(ctx, m.stateTimeout, "to be snapshotted", resource, func(ctx context.Context) (bool, error) {
		if tried {
			if done, err := taken(ctx); done || err != nil {
				return done, err
			}
		}
		err := call(ctx)
		tried = tried || !throttled(err)
		if throttled(err) && !told {
			told = true
			m.notify(Event{State: StepWaiting, Step: "take snapshots", Resource: resource, Detail: "the last one is too recent"})
		}
		return err == nil, err
	})
}

// finishSet takes the mark off a set that is taken.
func (m *Manager) finishSet(ctx context.Context, p *setPlan) error {
	ids, err := m.takenIDs(ctx, p, func(s *types.Snapshot) bool { return hasTag(s.Tags, tagStep) })
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = m.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagStep)}}})
	return wrap("finish", "set "+p.id, err)
}

// takenIDs lists those of the plan's snapshots that match.
func (m *Manager) takenIDs(ctx context.Context, p *setPlan, match func(*types.Snapshot) bool) ([]string, error) {
	taken, err := m.takenOf(ctx, p)
	var ids []string
	for _, s := range taken {
		if match(s) {
			ids = append(ids, aws.ToString(s.SnapshotId))
		}
	}
	slices.Sort(ids)
	return ids, err
}
