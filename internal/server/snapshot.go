package server

import (
	"context"
	"strconv"

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
	at := m.now().UTC()
	plan := setPlan{
		id: at.Format(setTime) + "-" + digest(name, strconv.FormatInt(at.UnixNano(), 10))[:4], note: o.Note,
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
