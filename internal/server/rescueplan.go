package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rescueWays are what RescueOptions.By may say.
var rescueWays = []RescueBy{RescueAuto, RescueReplaceRoot, RescueSwap, RescueSnapshot}

// planRescue picks the way to bring a server back, and the set if it takes
// one; or says why there is nothing to rescue. What is under way decides over
// what is asked for, unless both are explicit and differ.
func (m *Manager) planRescue(ctx context.Context, w *world, o RescueOptions) (*RescuePlan, error) {
	asked := cmp.Or(o.By, RescueAuto)
	if !slices.Contains(rescueWays, asked) {
		return nil, &Error{Code: KindUsage, Reason: "no way to rescue is called " + string(asked), Remedy: "--by auto, replace-root, swap or snapshot"}
	}
	if o.Set != "" && !o.At.IsZero() {
		return nil, &Error{Code: KindUsage, Reason: "both a set and a time are named", Remedy: "name one of them"}
	}
	if p, err := w.underWay(asked); p != nil || err != nil {
		if err != nil {
			return nil, err
		}
		p.Set, err = m.sameSource(ctx, w, o)
		return p, err
	}
	p := &RescuePlan{}
	if err := m.planSet(ctx, w, o, p); err != nil {
		return nil, err
	}
	return p, w.planWay(asked, o, p)
}

// underWay is the plan of a rescue that was begun. nil: none was.
func (w *world) underWay(asked RescueBy) (*RescuePlan, error) {
	p := &RescuePlan{Why: "it is under way"}
	switch i := w.instance; {
	case w.standIn != nil:
		p.By = RescueSwap
		if w.byTask() || asked == RescueReplaceRoot { // which may have become a swap
			p.By = RescueReplaceRoot
		}
	case i == nil:
		return nil, nil
	case strings.HasPrefix(tagOf(i.Tags, tagStep), stepRestore+" "):
		return nil, &Error{Code: KindExists, Reason: "a restore isn't finished", Remedy: "stead restore " + w.name}
	case tagOf(i.Tags, tagStep) != stepRescue:
		e := &Error{Code: KindExists, Reason: "it has an instance, " + aws.ToString(i.InstanceId) + ", which is " + string(stateOf(i))}
		e.Remedy = "stead terminate " + w.name + " first, if it must go"
		if stateOf(i) == types.InstanceStateNameStopped {
			e.Remedy = "stead start " + w.name
		}
		return nil, e
	case hasTag(i.Tags, tagSet):
		p.By = RescueSnapshot
	default:
		p.By = RescueSwap
		if asked == RescueReplaceRoot {
			p.By = asked
		}
	}
	if asked != RescueAuto && asked != p.By {
		return nil, &Error{
			Code: KindExists, Reason: "a rescue by " + string(p.By) + " isn't finished",
			Remedy: "stead rescue " + w.name + " --by " + string(p.By),
		}
	}
	return p, nil
}

// sameSource returns the set of a rescue under way, nil when it is from none;
// and an error when another set is asked for. The root then isn't made of it.
func (m *Manager) sameSource(ctx context.Context, w *world, o RescueOptions) (*SnapshotSet, error) {
	id := cmp.Or(o.Set, w.restoredSet())
	if id == "" {
		return nil, nil
	}
	set, err := m.setAt(ctx, w.name, time.Time{}, id)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && tagOf(w.instance.Tags, tagSet) == set.ID {
		return set, nil
	}
	if root := w.root(); root != nil && slices.ContainsFunc(set.Snapshots, func(s Snapshot) bool { return s.SnapshotID == aws.ToString(root.SnapshotId) }) {
		return set, nil
	}
	return nil, &Error{Code: KindExists, Reason: "a rescue isn't finished, and it isn't from set " + id, Remedy: "stead rescue " + w.name}
}

// planSet decides which set the disks come from, if from one: the one asked
// for, or, where a disk is gone, the newest, which is only offered. A restore
// that was cut off is gone on with only by who names its set.
func (m *Manager) planSet(ctx context.Context, w *world, o RescueOptions, p *RescuePlan) error {
	explicit := o.Set != "" || !o.At.IsZero()
	if id, part, ok := w.restoring(); ok {
		if another(o.Set, id) || part != "" {
			return &Error{Code: KindExists, Reason: "a restore of set " + id + " isn't finished", Remedy: "stead restore " + w.name}
		}
		if !explicit {
			return w.begunRestore(id)
		}
		set, err := m.setAt(ctx, w.name, time.Time{}, id)
		p.Set = set
		return err
	}
	p.Lost = w.lost()
	if !explicit && (len(p.Lost) == 0 || o.WithoutLost && w.root() != nil) {
		return nil
	}
	set, err := m.setAt(ctx, w.name, o.At, o.Set)
	if !explicit && KindOf(err) == KindNotFound {
		return w.hopeless(p.Lost)
	}
	if err != nil {
		return err
	}
	if set.Part != "" {
		return &Error{Code: KindUsage, Reason: "set " + set.ID + " holds the " + set.Part + " alone", Remedy: "stead restore " + w.name + " --set " + set.ID + ", then stead rescue " + w.name}
	}
	p.Set, p.Consent = set, !explicit
	return nil
}

// lost lists the devices of disks that the server had and that are gone.
func (w *world) lost() []string {
	root := w.root()
	if root == nil {
		return []string{"its root"}
	}
	var lost []string
	for _, device := range strings.Fields(factsOf(root.Tags).Disks) {
		if sameSlot(device, deviceOf(root)) || device == tagOf(root.Tags, tagDevice) {
			continue
		}
		if !slices.ContainsFunc(w.volumes, func(v types.Volume) bool { return sameSlot(deviceOf(&v), device) }) {
			lost = append(lost, device)
		}
	}
	return lost
}

// hopeless is the error of a disk that is gone and in no complete set.
func (w *world) hopeless(lost []string) error {
	e := &Error{Code: KindNotFound, Remedy: "stead snapshots " + w.name}
	if w.root() == nil {
		e.Reason = "there is neither a root disk nor a complete snapshot set of it"
		return e
	}
	e.Reason = "the disk at " + strings.Join(lost, ", ") + " is gone, and there is no complete snapshot set of it"
	e.Remedy = "to go on without it: stead rescue " + w.name + " --without-lost"
	return e
}

// refusal offers the set that nobody has asked for.
func (p *RescuePlan) refusal(name string) error {
	remedy := "stead rescue " + name + " --set " + p.Set.ID
	if !slices.Contains(p.Lost, "its root") {
		remedy += ", or without that disk: stead rescue " + name + " --without-lost"
	}
	return &Error{
		Code: KindProtected, Remedy: remedy,
		Reason: fmt.Sprintf("%s is gone; the newest complete set is %s, of %s", p.LostText(), p.Set.ID, p.Set.Started.Format(time.RFC3339)),
	}
}

// LostText names the lost disks.
func (p *RescuePlan) LostText() string {
	if slices.Contains(p.Lost, "its root") {
		return "its root disk"
	}
	return "the disk at " + strings.Join(p.Lost, ", ")
}

// planWay picks the quickest way that is safe, and says why.
func (w *world) planWay(asked RescueBy, o RescueOptions, p *RescuePlan) error {
	f, root, data := w.facts(), w.root(), w.data()
	elsewhere := o.Zone != "" && f.Zone != "" && o.Zone != f.Zone
	if elsewhere && asked != RescueAuto && asked != RescueSnapshot {
		return &Error{Code: KindUsage, Reason: "its disks are in zone " + f.Zone + ", and a disk never leaves its zone", Remedy: "stead rescue " + w.name + " --by snapshot --zone " + o.Zone}
	}
	if asked == RescueReplaceRoot && len(data) > 0 {
		return &Error{Code: KindUsage, Reason: "it has data disks, which must be there before the root's first boot", Remedy: "stead rescue " + w.name + " --by swap"}
	}
	if asked != RescueAuto && asked != RescueSnapshot && root == nil && p.Set == nil {
		return &Error{Code: KindNotFound, Reason: "no root disk is tagged as this server's", Remedy: "stead rescue " + w.name + " --by snapshot"}
	}
	switch {
	case asked != RescueAuto:
		p.By, p.Why = asked, "as asked"
	case elsewhere:
		p.By, p.Why = RescueSnapshot, "its disks are in "+f.Zone+", and only a snapshot reaches "+o.Zone
	case p.Set != nil && root == nil && len(w.coming) == 0:
		p.By, p.Why = RescueSnapshot, "there is no root to plug in, and one launch brings all disks of set "+p.Set.ID
	case f.Market == marketSpot:
		p.By, p.Why = RescueSnapshot, "a spot instance that is stopped without its root is terminated"
	case w.scattered():
		p.By, p.Why = RescueSnapshot, "its disks are in several zones"
	case p.Set != nil:
		p.By, p.Why = RescueSwap, "new disks of set "+p.Set.ID+" take the place of the old ones"
	case len(data) > 0:
		p.By, p.Why = RescueSwap, "the data disks must be there before the root's first boot"
	default:
		// Not by task, although one would do. Measured on the local cloud with
		// a small image, from terminate to ssh, a swap takes half of the time:
		// it cuts the stub off, while a task lets the stub boot far enough to
		// shut down in order, for nothing.
		p.By, p.Why = RescueSwap, "nothing is copied, and the stub needn't shut down in order"
	}
	return nil
}

// scattered tells disks that no single instance can have.
func (w *world) scattered() bool {
	return slices.ContainsFunc(w.volumes, func(v types.Volume) bool {
		return aws.ToString(v.AvailabilityZone) != aws.ToString(w.volumes[0].AvailabilityZone)
	})
}
