package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// PruneOptions says which sets to keep: the newest Keep, or those younger than
// KeepFor; or, where neither is given, what the server's schedule keeps.
type PruneOptions struct {
	Keep    int
	KeepFor time.Duration
	// Only names the sets that may go; nil is all that the rule lets go. So
	// what a person agreed to is all that is deleted.
	Only []string
}

// PrunePlan is what a prune would do.
type PrunePlan struct {
	Server string        `json:"server"`
	Delete []SnapshotSet `json:"delete"` // oldest first
	Keep   []KeptSet     `json:"keep"`   // newest first
}

// KeptSet is a set that stays, and why.
type KeptSet struct {
	SnapshotSet
	Why string `json:"why"`
}

// PlanPrune tells what Prune would delete, and what it keeps and why.
func (m *Manager) PlanPrune(ctx context.Context, name string, o PruneOptions) (*PrunePlan, error) {
	plan, err := m.planPrune(ctx, name, o)
	return plan, wrap("prune", "server "+name, err)
}

func (m *Manager) planPrune(ctx context.Context, name string, o PruneOptions) (*PrunePlan, error) {
	if o.Keep == 0 && o.KeepFor == 0 {
		o.Keep, o.KeepFor = m.scheduledRule(ctx, name)
	}
	if (o.Keep > 0) == (o.KeepFor > 0) || o.Keep < 0 || o.KeepFor < 0 {
		return nil, &Error{Code: KindUsage, Reason: "say how many sets to keep, or for how long", Remedy: "stead prune " + name + " --keep 7"}
	}
	if err := m.notRenaming(ctx, name); err != nil {
		return nil, err
	}
	tapes, err := m.tapes(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(tapes) == 0 {
		if _, err := m.world(ctx, "prune", name); err != nil {
			return nil, err
		}
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	needs, err := m.needs(ctx, w, tapes)
	if err != nil {
		return nil, err
	}
	sets := setsOf(tapes)
	return pruneSets(name, sets, o, m.now(), needs, w.liveOn(sets)), nil
}

// needs tells why sets must stay whatever their age, by their IDs.
func (m *Manager) needs(ctx context.Context, w *world, tapes []types.Snapshot) (map[string]string, error) {
	images, err := m.imagesOfSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	why := map[string]string{}
	for _, t := range gather(tapes) {
		for _, s := range t.tapes {
			if image := images[aws.ToString(s.SnapshotId)]; image != "" {
				why[t.id] = "image " + image + " is made of it"
			}
			if tagOf(s.Tags, tagStep) == stepSnapshot && m.now().Sub(aws.ToTime(s.StartTime)) < sameSnapshot {
				why[t.id] = "it is being taken"
			}
		}
		for _, i := range []*types.Instance{w.instance, w.standIn} {
			if i != nil && hasTag(i.Tags, tagStep) && (tagOf(i.Tags, tagSet) == t.id || names(i.Tags, t.id)) {
				why[t.id] = "the server is coming back from it"
			}
		}
		for _, v := range slices.Concat(w.coming, w.volumes) {
			if names(v.Tags, t.id) {
				verb, _, _ := strings.Cut(tagOf(v.Tags, tagStep), " ")
				why[t.id] = "a " + strings.TrimSuffix(verb, "d") + " that goes by it isn't finished"
			}
		}
	}
	return why, nil
}

// names tells whether a resource's step names a set.
func names(tags []types.Tag, set string) bool {
	return slices.Contains(strings.Fields(tagOf(tags, tagStep)), set)
}

// imagesOfSnapshots tells of each snapshot that an image of the account is made
// of which image that is.
func (m *Manager) imagesOfSnapshots(ctx context.Context) (map[string]string, error) {
	images, err := m.findImages(ctx, []string{"self"})
	used := map[string]string{}
	for _, i := range images {
		for _, bdm := range i.BlockDeviceMappings {
			if bdm.Ebs != nil && bdm.Ebs.SnapshotId != nil {
				used[*bdm.Ebs.SnapshotId] = aws.ToString(i.ImageId)
			}
		}
	}
	return used, err
}

// pruneSets applies the rule to a server's sets, newest first. Only complete
// sets of the whole server count. Any other set goes when it is older than all
// that are kept. And none goes that has the newest snapshot of a disk: one that
// was detached, deleted or replaced may have no other. So each disk of a set
// that goes must be in a complete one that is kept, or live on in a disk of the
// server.
func pruneSets(name string, sets []SnapshotSet, o PruneOptions, now time.Time, needs map[string]string, liveOn map[string]bool) *PrunePlan {
	plan := &PrunePlan{Server: name, Delete: []SnapshotSet{}, Keep: []KeptSet{}}
	keep := func(s SnapshotSet, format string, args ...any) {
		plan.Keep = append(plan.Keep, KeptSet{s, fmt.Sprintf(format, args...)})
	}
	whole, full := 0, false // full: as many are kept as are wanted
	stand := maps.Clone(liveOn)
	for _, s := range sets {
		restorable := s.Complete && s.State == string(types.SnapshotStateCompleted)
		counts, last := restorable && s.Part == "", s.lastOf(stand)
		young := o.KeepFor > 0 && now.Sub(s.Started) < o.KeepFor
		full = full || whole > 0 && (o.Keep > 0 && whole >= o.Keep || o.KeepFor > 0 && !young)
		switch {
		case needs[s.ID] != "":
			keep(s, "%s", needs[s.ID])
		case s.State == string(types.SnapshotStatePending):
			keep(s, "it is being copied")
		case !full && counts && whole == 0:
			keep(s, "it is the newest complete one")
		case young:
			keep(s, "it is younger than %s", days(o.KeepFor))
		case !full && counts:
			keep(s, "it is one of the newest %d", o.Keep)
		case !full:
			keep(s, "no complete set is older than those that are kept")
		case last != "":
			keep(s, "it has the newest snapshot of %s; stead snapshot rm %s deletes it nevertheless", last, s.ID)
		case o.Only != nil && !slices.Contains(o.Only, s.ID):
			keep(s, "it was not there when this was agreed to")
		default:
			plan.Delete = append(plan.Delete, s)
			continue
		}
		if counts {
			whole++
		}
		for _, one := range s.Snapshots {
			if restorable {
				stand[one.disk()] = true
			}
		}
	}
	slices.Reverse(plan.Delete)
	return plan
}

// lastOf lists the disks of a set that nothing else stands for, "" if there
// are none.
func (s *SnapshotSet) lastOf(stand map[string]bool) string {
	var last []string
	for _, one := range s.Snapshots {
		if !stand[one.disk()] {
			last = append(last, strings.TrimSpace("disk "+one.VolumeID+" "+one.Device))
		}
	}
	return strings.Join(last, ", ")
}

// copiedVolume is what EC2 says a copy of a snapshot shows.
const copiedVolume = "vol-ffffffff"

// disk tells apart the disks that snapshots show. Of a copy it isn't known:
// it is taken for one of its own.
func (s *Snapshot) disk() string {
	if s.VolumeID == "" || s.VolumeID == copiedVolume {
		return s.SnapshotID
	}
	return s.VolumeID
}

// liveOn lists the disks that live on in others of the server: what was made
// of the newest snapshot of a disk began with all that is known of it. So old
// sets go, too, of a server that came back from snapshots.
func (w *world) liveOn(sets []SnapshotSet) map[string]bool {
	madeOf := map[string]bool{}
	for _, v := range slices.Concat(w.volumes, w.superseded) {
		madeOf[aws.ToString(v.SnapshotId)] = true
	}
	live := map[string]bool{}
	for _, s := range sets { // newest first
		for _, one := range s.Snapshots {
			if _, newer := live[one.disk()]; !newer && one.State == string(types.SnapshotStateCompleted) {
				live[one.disk()] = madeOf[one.SnapshotID]
			}
		}
	}
	return live
}

// days writes a duration as people say it.
func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

// Prune deletes a server's old sets. It never deletes what an image or a set
// that isn't complete needs, nor the newest complete set.
func (m *Manager) Prune(ctx context.Context, name string, o PruneOptions) (*PrunePlan, error) {
	plan, err := m.PlanPrune(ctx, name, o)
	if err != nil {
		return nil, err
	}
	for _, s := range plan.Delete {
		if err := m.deleteSet(ctx, s); err != nil {
			return nil, wrap("prune", "server "+name, err)
		}
	}
	return plan, nil
}

// deleteSet deletes a set's snapshots, the root's first: what is left of a set
// whose deletion was cut off must not pass for a complete one.
func (m *Manager) deleteSet(ctx context.Context, s SnapshotSet) error {
	return m.step("delete set", s.ID, func() error {
		for _, one := range s.Snapshots { // the root's is the first
			_, err := m.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &one.SnapshotID})
			if KindOf(err) == KindNotFound {
				continue // deleted before
			}
			if apiCode(err) == "InvalidSnapshot.InUse" {
				return &Error{
					Op: "delete", Resource: "snapshot " + one.SnapshotID, Code: KindExists, Err: err,
					Reason: "an image is made of it", Remedy: "stead image ls, and remove the image first",
				}
			}
			if err != nil {
				return wrap("delete", "snapshot "+one.SnapshotID, err)
			}
		}
		return nil
	})
}

// SetsNamed finds the sets with the IDs, of whatever servers. Of several some
// may be gone, as when their deletion was cut off; it fails when all are.
func (m *Manager) SetsNamed(ctx context.Context, ids []string) (found []SnapshotSet, gone []string, err error) {
	all, err := m.sets(ctx, "")
	if err != nil {
		return nil, nil, wrap("find", "snapshot sets", err)
	}
	for _, id := range ids {
		at := slices.IndexFunc(all, func(s SnapshotSet) bool { return s.ID == id })
		if at < 0 {
			gone = append(gone, id)
			continue
		}
		if slices.ContainsFunc(all[at+1:], func(s SnapshotSet) bool { return s.ID == id }) {
			return nil, nil, &Error{Op: "find", Resource: "set " + id, Code: KindUsage, Reason: "two servers have a set of that name", Remedy: "stead prune NAME"}
		}
		found = append(found, all[at])
	}
	if len(found) == 0 {
		return nil, nil, &Error{Op: "find", Resource: "set " + strings.Join(gone, ", "), Code: KindNotFound, Reason: "there is no such snapshot set", Remedy: "stead snapshots"}
	}
	return found, gone, nil
}

// RemoveSets deletes whole sets, whatever their age. Those that an image is
// made of, or that are being taken, stay, and then nothing is deleted. Those
// that are gone are passed over.
func (m *Manager) RemoveSets(ctx context.Context, ids []string) ([]SnapshotSet, error) {
	sets, _, err := m.SetsNamed(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		tapes, err := m.tapes(ctx, s.Server)
		if err != nil {
			return nil, wrap("delete", "set "+s.ID, err)
		}
		w, err := m.observe(ctx, s.Server)
		if err != nil {
			return nil, wrap("delete", "set "+s.ID, err)
		}
		needs, err := m.needs(ctx, w, tapes)
		if err != nil {
			return nil, wrap("delete", "set "+s.ID, err)
		}
		if why := needs[s.ID]; why != "" {
			return nil, &Error{Op: "delete", Resource: "set " + s.ID, Code: KindExists, Reason: why, Remedy: remedyForNeed(s.Server, why)}
		}
	}
	for _, s := range sets {
		if err := m.deleteSet(ctx, s); err != nil {
			return nil, wrap("delete", "set "+s.ID, err)
		}
	}
	return sets, nil
}

// remedyForNeed is what lets a needed set go.
func remedyForNeed(server, why string) string {
	switch words := strings.Fields(why); words[0] {
	case "image":
		return "stead image rm " + words[1]
	case "a":
		return "stead " + words[1] + " " + server
	}
	return "stead snapshots " + server
}
