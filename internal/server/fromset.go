package server

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepRestore marks disks that are made of a set and aren't the server's yet,
// and the instance that is to get them.
const stepRestore = "restore"

// isComing tells a disk that a restore has made and not yet put in the place
// of an old one.
func isComing(v *types.Volume) bool {
	verb, _, _ := strings.Cut(tagOf(v.Tags, tagStep), " ")
	return verb == stepRestore && hasTag(v.Tags, tagServer)
}

// restoring says which restore is under way: its set and which part of it, as
// the coming disks and the instance are tagged. ok is false when none is.
func (w *world) restoring() (set, part string, ok bool) {
	step := ""
	if w.instance != nil {
		step = tagOf(w.instance.Tags, tagStep)
	}
	if verb, _, _ := strings.Cut(step, " "); verb != stepRestore && len(w.coming) > 0 {
		step = tagOf(w.coming[0].Tags, tagStep)
	}
	fields := strings.Fields(step)
	if len(fields) < 3 || fields[0] != stepRestore {
		return "", "", false
	}
	return fields[1], strings.TrimPrefix(fields[2], partAll), true
}

// partAll stands for the whole set in stead:step.
const partAll = "all"

func restoreStep(set, part string) string {
	return stepRestore + " " + set + " " + cmp.Or(part, partAll)
}

// replaced finds the disk of the server that a snapshot's new one takes the
// place of: the one that it shows, else the one at its device.
func (w *world) replaced(s Snapshot) *types.Volume {
	if s.Role == RoleRoot {
		return w.root()
	}
	data := w.data()
	for _, v := range data {
		if aws.ToString(v.VolumeId) == s.VolumeID {
			return v
		}
	}
	for _, v := range data {
		if sameSlot(deviceOf(v), s.Device) {
			return v
		}
	}
	return nil
}

// comingOf finds the disk that was made of a snapshot.
func (w *world) comingOf(s Snapshot) *types.Volume {
	for k := range w.coming {
		if aws.ToString(w.coming[k].SnapshotId) == s.SnapshotID {
			return &w.coming[k]
		}
	}
	return nil
}

// ofPart returns a set's snapshots of a part, all with "".
func (s *SnapshotSet) ofPart(part string) []Snapshot {
	return slices.DeleteFunc(slices.Clone(s.Snapshots), func(one Snapshot) bool {
		return part != "" && one.Role != part
	})
}

// makeComing makes a disk of each snapshot of a set's part, tagged as one that
// is coming, and returns the world with all of them available, and their IDs.
// Those that an earlier try made are found by their tags, and before these are
// listed by the client token. Another restore of the set at the same time gets
// the same disks, and may have made them the server's already.
func (m *Manager) makeComing(ctx context.Context, w *world, set *SnapshotSet, part, zone string) (*world, []string, error) {
	tapes, err := m.setSnapshots(ctx, w.name, set.ID)
	if err != nil {
		return nil, nil, err
	}
	var made []string
	ids := append(w.lifeIDs(), w.comingLife()...)
	for _, s := range set.ofPart(part) {
		v := w.comingOf(s)
		if v == nil {
			tags := w.heirTags(tapes, s, restoreStep(set.ID, part))
			if v, err = m.makeOf(ctx, w, s, tags, zone, ids); err != nil {
				return nil, nil, err
			}
		}
		made = append(made, aws.ToString(v.VolumeId))
	}
	w, err = m.awaitListed(ctx, w.name, made)
	return w, made, err
}

// comingLife makes tokens differ between two restores of the same set to a
// server that has no disks of its own left.
func (w *world) comingLife() []string {
	var ids []string
	for k := range w.superseded {
		ids = append(ids, aws.ToString(w.superseded[k].VolumeId))
	}
	slices.Sort(ids)
	return ids
}

// awaitListed waits until a search by tag finds all of a set's new disks, and
// each can be plugged in.
func (m *Manager) awaitListed(ctx context.Context, name string, made []string) (*world, error) {
	var w *world
	err := m.poll(ctx, m.stateTimeout, "its new disks to be ready", "server "+name, func(ctx context.Context) (bool, error) {
		var err error
		if w, err = m.observe(ctx, name); err != nil {
			return false, err
		}
		listed := slices.Concat(w.coming, w.volumes, w.superseded)
		return !slices.ContainsFunc(made, func(id string) bool {
			at := slices.IndexFunc(listed, func(v types.Volume) bool { return aws.ToString(v.VolumeId) == id })
			return at < 0 || listed[at].State == types.VolumeStateCreating
		}), nil
	})
	return w, err
}

// has tells whether all the disks are the server's, none of them coming any
// more.
func (w *world) has(ids []string) bool {
	return len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool {
		return !slices.ContainsFunc(w.volumes, func(v types.Volume) bool { return aws.ToString(v.VolumeId) == id })
	})
}

// makeOf makes one disk of a snapshot: of the type of the disk that it takes
// the place of, and no smaller than that, for it was grown on purpose.
func (m *Manager) makeOf(ctx context.Context, w *world, s Snapshot, tags tagMap, zone string, ids []string) (*types.Volume, error) {
	token := func(ids []string) *string {
		return aws.String(clientToken(tags[tagStep], w.name, append(slices.Clone(ids), s.SnapshotID, zone)))
	}
	in := &ec2.CreateVolumeInput{
		AvailabilityZone: &zone, SnapshotId: &s.SnapshotID, Size: aws.Int32(int32(s.SizeGiB)), VolumeType: defaultVolumeType,
		ClientToken:       token(ids),
		TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeVolume)},
	}
	if old := w.replaced(s); old != nil {
		in.Size = aws.Int32(max(*in.Size, aws.ToInt32(old.Size)))
		in.VolumeType = cmp.Or(old.VolumeType, in.VolumeType)
		switch in.VolumeType {
		case types.VolumeTypeIo1, types.VolumeTypeIo2:
			in.Iops = old.Iops
		case types.VolumeTypeGp3:
			in.Iops, in.Throughput = old.Iops, old.Throughput
		default: // the others have nothing to choose
		}
	}
	var made *types.Volume
	err := m.step("make disk of "+s.SnapshotID, s.Device, func() error {
		for range 4 {
			out, err := m.ec2.CreateVolume(ctx, in)
			if err != nil {
				return wrap("make a disk of", "snapshot "+s.SnapshotID, err)
			}
			id := aws.ToString(out.VolumeId)
			made, err = m.waitVolume(ctx, id, "to be made", func(v *types.Volume) bool { return v.State != types.VolumeStateCreating })
			if KindOf(err) != KindNotFound {
				return err
			}
			// The token was spent on a disk that somebody has deleted since.
			ids = append(slices.Clone(ids), id)
			in.ClientToken = token(ids)
		}
		return &Error{Op: "make a disk of", Resource: "snapshot " + s.SnapshotID, Reason: "each was gone at once"}
	})
	return made, err
}

// heirTags are those of a disk that is made of a snapshot: what the snapshot
// says of the disk, and what the server's present root says of the server.
func (w *world) heirTags(tapes []types.Snapshot, s Snapshot, step string) tagMap {
	t := tagMap{}
	for _, tape := range tapes {
		if aws.ToString(tape.SnapshotId) == s.SnapshotID {
			t = diskTags(tape.Tags)
		}
	}
	t = t.with(serverTags(w.name)).with(tagMap{tagRole: s.Role, tagDevice: s.Device, tagStep: step})
	if s.Role != RoleRoot {
		t[tagName] = w.name + " data " + s.Device
		return t
	}
	if root := w.root(); root != nil {
		t = t.with(factsOf(root.Tags).ofServer().tags())
	}
	return t
}

// diskTags keeps of a snapshot's tags what goes for a disk made of it.
func diskTags(tags []types.Tag) tagMap {
	t := steadTags(tags)
	maps.DeleteFunc(t, func(key, _ string) bool {
		switch key {
		case tagSet, tagSetSize, tagSetInstant, tagSetPart, tagSetFrozen, tagSetLaunched, tagNote:
			return true
		}
		return false
	})
	return t
}

// ofServer keeps the facts that are the server's, whatever its root disk
// holds, and leaves those that describe the system on the disk.
func (f facts) ofServer() facts {
	f.Arch, f.Virt, f.BootMode, f.Ena, f.Kernel, f.Ramdisk, f.TPM, f.IMDS = "", "", "", "", "", "", "", ""
	f.Image, f.User = "", ""
	return f
}

// promote makes the coming disks the server's: first the old ones are marked
// as superseded, each by its successor, then all new ones change their mark in
// one call. Cut off in between, the marks of the new ones tell.
func (m *Manager) promote(ctx context.Context, w *world, set *SnapshotSet, part string) error {
	if len(w.coming) == 0 {
		return nil
	}
	return m.step("make the new disks the server's", w.name, func() error {
		var ids []string
		for _, s := range set.ofPart(part) {
			v := w.comingOf(s)
			if v == nil {
				continue
			}
			ids = append(ids, aws.ToString(v.VolumeId))
			if old := w.replaced(s); old != nil {
				if err := m.supersede(ctx, w.name, aws.ToString(old.VolumeId), aws.ToString(v.VolumeId)); err != nil {
					return err
				}
			}
		}
		if len(ids) == 0 {
			return nil
		}
		_, err := m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: tagMap{tagStep: restoredStep(set.ID, part)}.list()})
		return wrap("finish", "the new disks of "+w.name, err)
	})
}

func restoredStep(set, part string) string { return "restored " + set + " " + cmp.Or(part, partAll) }

// restored tells that a set's disks are the server's already, of a restore
// whose end the server hasn't seen yet.
func (w *world) restored(set *SnapshotSet, part string) bool {
	for _, s := range set.ofPart(part) {
		if !slices.ContainsFunc(w.volumes, func(v types.Volume) bool {
			return aws.ToString(v.SnapshotId) == s.SnapshotID && tagOf(v.Tags, tagStep) == restoredStep(set.ID, part)
		}) {
			return false
		}
	}
	return true
}

// restoredSet is the set that the root came of in a rescue that isn't
// finished, "" when there is none.
func (w *world) restoredSet() string {
	root := w.root()
	if root == nil {
		return ""
	}
	fields := strings.Fields(tagOf(root.Tags, tagStep))
	if len(fields) < 2 || fields[0] != "restored" {
		return ""
	}
	return fields[1]
}

// unmarkRestored takes the mark off disks that came of a restore, now that the
// server has them.
func (m *Manager) unmarkRestored(ctx context.Context, w *world) error {
	var ids []string
	for _, v := range w.volumes {
		if verb, _, _ := strings.Cut(tagOf(v.Tags, tagStep), " "); verb == "restored" {
			ids = append(ids, aws.ToString(v.VolumeId))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := m.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagStep)}}})
	return wrap("finish", "the new disks of "+w.name, err)
}

// disksFromSet brings a server without an instance the disks of a set in
// place of what it has. Repeated, it goes on where it was.
func (m *Manager) disksFromSet(ctx context.Context, w *world, set *SnapshotSet, part string) error {
	if w.restored(set, part) {
		return nil
	}
	if _, err := m.waitSet(ctx, w.name, set.ID); err != nil {
		return err
	}
	zone := w.facts().Zone
	if len(w.coming) > 0 {
		zone = aws.ToString(w.coming[0].AvailabilityZone)
	}
	if zone == "" {
		f, err := m.setFacts(ctx, set)
		if err != nil {
			return err
		}
		zone = f.Zone
	}
	w, made, err := m.makeComing(ctx, w, set, part, zone)
	if err != nil || w.has(made) {
		return err
	}
	for _, s := range set.ofPart(part) {
		if old := w.replaced(s); old != nil && attachedTo(old) != "" {
			if _, err := m.waitAvailable(ctx, aws.ToString(old.VolumeId)); err != nil {
				return err
			}
		}
	}
	return m.promote(ctx, w, set, part)
}
