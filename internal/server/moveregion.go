package server

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// moveSetPrefix begins the IDs of the sets that a server leaves a region by.
const moveSetPrefix = "move"

// destination is where a server goes when it leaves its region: another one, or
// the cloud of another context.
type destination struct {
	m    *Manager
	from string // "region eu-central-1"
	noun string // "region eu-west-1", "context lab"
	flag string // "--region eu-west-1", "--to lab"
	// copy brings the snapshots of a set there.
	copy func(ctx context.Context, name, set string) error
	// kernels are those to boot by there, where they have other IDs than here.
	kernels map[string]string
}

// place is the name alone of what the server leaves.
func (d *destination) place() string { return lastWord(d.from) }

func lastWord(s string) string { return s[strings.LastIndexByte(s, ' ')+1:] }

// moveRegion brings a server to another region, or, with Release, deletes what
// it has left behind here.
//
//	check that it can run there → stop → snapshots of all disks → copies of
//	them there → launch from the copies → an address there
//
// Nothing is deleted here: the stopped instance can be started again as long
// as it isn't released. Each step finds what an earlier try has made by its
// tags; the set's ID follows from the disks and from when they last ran.
func (m *Manager) moveRegion(ctx context.Context, w *world, o MoveOptions) (*MoveResult, error) {
	there, err := m.elsewhere(w.name, o.Region)
	if err != nil {
		return nil, err
	}
	d := &destination{m: there, from: "region " + m.region, noun: "region " + o.Region, flag: "--region " + o.Region}
	d.copy = func(ctx context.Context, name, set string) error { return m.copySet(ctx, there, name, set) }
	away, err := there.ashore(ctx, w.name)
	if err != nil {
		return nil, err
	}
	if o.Release {
		return m.releaseHere(ctx, d, w, away)
	}
	zone, err := m.checkThere(ctx, d, w, away, o)
	if err != nil {
		return nil, err
	}
	if err := there.checkKernels(ctx, machineFacts(w.facts(), RescueOptions{Type: o.Type}), o.Region); err != nil {
		return nil, err
	}
	return m.moveTo(ctx, d, w, away, zone, o)
}

// moveTo brings a server that can run there to its destination.
func (m *Manager) moveTo(ctx context.Context, d *destination, w, away *world, zone string, o MoveOptions) (*MoveResult, error) {
	w, err := m.atRest(ctx, w)
	if err != nil {
		return nil, err
	}
	id, err := m.takeLast(ctx, w, w.lastSetID(moveSetPrefix), "before move to "+lastWord(d.noun))
	if err != nil {
		return nil, err
	}
	if err := away.comesOf(id, d); err != nil {
		return nil, err
	}
	if err := d.copy(ctx, w.name, id); err != nil {
		return nil, err
	}
	if away.instance == nil || hasTag(away.instance.Tags, tagStep) {
		if _, err := d.m.rescue(ctx, w.name, RescueOptions{By: RescueSnapshot, Set: id, Zone: zone, Type: o.Type, Wait: o.Wait}); err != nil {
			return nil, err
		}
	}
	return m.arrived(ctx, d, w, id)
}

// elsewhere returns the Manager of another region.
func (m *Manager) elsewhere(name, region string) (*Manager, error) {
	switch {
	case region == m.region:
		return nil, &Error{Code: KindUsage, Reason: "it is in region " + region + " already", Remedy: "name another region, or: stead move " + name + " --zone ZONE"}
	case m.regional == nil:
		return nil, &Error{Code: KindUnsupported, Reason: "this endpoint has no other regions", Remedy: "stead move " + name + " --zone ZONE"}
	}
	return m.regional(region)
}

// checkThere tells whether a server can leave for another region or cloud,
// before anything is changed, and in which of its zones it will be.
func (m *Manager) checkThere(ctx context.Context, d *destination, w, away *world, o MoveOptions) (string, error) {
	if err := w.mayEnd("move"); err != nil {
		return "", err
	}
	if w.instance != nil && tagOf(w.instance.Tags, tagStep) != "" || w.standIn != nil || len(w.coming) > 0 {
		return "", &Error{Code: KindExists, Reason: "something that was begun with it isn't finished", Remedy: "stead show " + w.name}
	}
	if w.root() == nil {
		return "", w.hopeless(nil)
	}
	ofMove := away.instance != nil && strings.HasPrefix(tagOf(away.instance.Tags, tagSet), moveSetPrefix+"-")
	if !away.empty() && !ofMove || away.standIn != nil {
		return "", taken(w.name, d)
	}
	if ofMove && isUp(w.instance) { // it was stopped when that was launched
		return "", ranSince(w.name, d)
	}
	f := machineFacts(w.facts(), RescueOptions{Type: o.Type})
	if err := d.m.checkType(ctx, f, f.Type); err != nil {
		return "", err
	}
	if away.instance != nil {
		return zoneOf(away.instance), nil
	}
	zones := d.m.otherZones(ctx, "")
	switch {
	case len(zones) == 0:
		return "", &Error{Code: KindNotFound, Reason: d.noun + " has no zone that is available", Remedy: "go elsewhere, or later"}
	case o.Zone == "":
		return zones[0], nil
	case !slices.Contains(zones, o.Zone):
		return "", &Error{Code: KindNotFound, Reason: "there is no zone " + o.Zone + " in " + d.noun, Remedy: "--zone " + strings.Join(zones, "|")}
	}
	return o.Zone, nil
}

// checkKernels tells whether the region has the kernel that a paravirtual
// server boots by. Its ID is a region's own, and so is its RAM disk's.
func (m *Manager) checkKernels(ctx context.Context, f facts, region string) error {
	for _, id := range []string{f.Kernel, f.Ramdisk} {
		if id == "" {
			continue
		}
		_, err := m.imageByID(ctx, id)
		if kind := KindOf(err); err != nil && kind != KindNotFound && kind != KindUsage {
			return err
		}
		if err != nil {
			return &Error{
				Code: KindUnsupported, Reason: "it boots by " + id + ", which region " + region + " doesn't have", Err: err,
				Remedy: "make it boot by its own boot loader (hvm) first, or copy its files to a new server there by stead cp",
			}
		}
	}
	return nil
}

func taken(name string, d *destination) *Error {
	return &Error{Code: KindExists, Reason: d.noun + " has another server of that name", Remedy: "stead rename " + name + " NEW, on either side"}
}

// comesOf tells whether what is where a server goes to, if anything, was made of
// the set.
func (w *world) comesOf(set string, d *destination) error {
	if w.instance == nil || tagOf(w.instance.Tags, tagSet) == set {
		return nil
	}
	if strings.HasPrefix(tagOf(w.instance.Tags, tagSet), moveSetPrefix+"-") {
		return ranSince(w.name, d)
	}
	return taken(w.name, d)
}

func ranSince(name string, d *destination) *Error {
	return &Error{
		Code:   KindExists,
		Reason: "there is one that an earlier move made, and this one in " + d.from + " has run since, or its disks have changed",
		Remedy: "look at both, and stead purge " + name + " where it isn't wanted",
	}
}

// copySet copies the snapshots of a set to another region, with what they say
// of their disks. CopySnapshot takes no client token, so those that an earlier
// try has copied are found by their tags.
func (m *Manager) copySet(ctx context.Context, there *Manager, name, id string) error {
	tapes, err := m.setSnapshots(ctx, name, id)
	if err != nil {
		return err
	}
	return m.step("copy snapshots to "+there.region, name, func() error {
		copies, err := there.setSnapshots(ctx, name, id)
		if err != nil {
			return err
		}
		for _, tape := range tapes {
			if slices.ContainsFunc(copies, func(c types.Snapshot) bool {
				return c.State != types.SnapshotStateError && tagOf(c.Tags, tagRole) == tagOf(tape.Tags, tagRole) && tagOf(c.Tags, tagDevice) == tagOf(tape.Tags, tagDevice)
			}) {
				continue
			}
			_, err := there.ec2.CopySnapshot(ctx, &ec2.CopySnapshotInput{
				SourceRegion: &m.region, SourceSnapshotId: tape.SnapshotId,
				Description:       aws.String("Copy of " + aws.ToString(tape.SnapshotId) + " from " + m.region),
				TagSpecifications: []types.TagSpecification{abroad(tape.Tags).spec(types.ResourceTypeSnapshot)},
			})
			if err != nil {
				return wrap("copy", "snapshot "+aws.ToString(tape.SnapshotId), err)
			}
		}
		return nil
	})
}

// abroad keeps of a snapshot's tags what goes for its copy in another region:
// addresses, networks and images are a region's own.
func abroad(tags []types.Tag) tagMap {
	t := steadTags(tags)
	for _, key := range []string{tagZone, tagElasticIP, tagPrivateIP, tagSubnet, tagImage, tagInstance} {
		delete(t, key)
	}
	return t
}

// arrived gives a server that runs elsewhere an address there, if it has one
// here, and tells what the move has come to.
func (m *Manager) arrived(ctx context.Context, d *destination, w *world, set string) (*MoveResult, error) {
	there := d.m
	away, err := there.world(ctx, "move", w.name)
	if err != nil {
		return nil, err
	}
	if len(w.addresses) > 0 && away.instance != nil {
		if err := there.address(ctx, w.name, aws.ToString(away.instance.InstanceId), true); err != nil {
			return nil, err
		}
	}
	r, err := there.moved(ctx, w.name, set)
	if err != nil {
		return nil, err
	}
	r.From, r.Source = d.place(), w.leftHere()
	return r, nil
}

// releaseHere deletes what a server that has moved elsewhere left here: instance, disks, address and group. The snapshots stay. It must
// run there, made of the last set of what is here; which is marked with it, so
// that repeating goes on without what is gone already.
func (m *Manager) releaseHere(ctx context.Context, d *destination, w, away *world) (*MoveResult, error) {
	set := ""
	if away.instance != nil {
		set = tagOf(away.instance.Tags, tagSet)
	}
	if stateOf(away.instance) != types.InstanceStateNameRunning || hasTag(away.instance.Tags, tagStep) || !strings.HasPrefix(set, moveSetPrefix+"-") {
		return nil, &Error{Code: KindExists, Reason: "it doesn't run in " + d.noun + " yet", Remedy: "stead move " + w.name + " " + d.flag}
	}
	left := w.leftHere()
	if !w.empty() || len(w.superseded) > 0 {
		if err := m.markMoved(ctx, w, set); err != nil {
			return nil, err
		}
		if _, err := m.purge(ctx, w.name, PurgeOptions{}); err != nil {
			return nil, err
		}
	}
	r, err := d.m.moved(ctx, w.name, set)
	if err != nil {
		return nil, err
	}
	r.From, r.Source, r.Released = d.place(), []Disk{}, left
	return r, nil
}

// markMoved marks disks as ready to go, unless it can be seen that the set that
// those elsewhere are made of lacks something of them. What can't be seen, a
// purge takes another last set for.
func (m *Manager) markMoved(ctx context.Context, w *world, set string) error {
	tapes, err := m.setSnapshots(ctx, w.name, set)
	if err != nil {
		return err
	}
	ran, _, err := m.lastRun(ctx, w, set)
	if err != nil {
		return err
	}
	for k := range w.volumes {
		v := &w.volumes[k]
		at := slices.IndexFunc(tapes, func(s types.Snapshot) bool { return aws.ToString(s.VolumeId) == aws.ToString(v.VolumeId) })
		switch {
		case at < 0 && w.instance == nil && w.purgeSet() == set:
			continue // the purge was cut off while it took another one
		case at >= 0 && attachedTo(v) == "" && !ran.After(aws.ToTime(tapes[at].StartTime)):
			continue
		case at >= 0 && w.lainIn(v, aws.ToTime(tapes[at].StartTime)):
			continue
		}
		return &Error{
			Code: KindProtected, Reason: "it has run here since it was copied, or its disks have changed",
			Remedy: "look at both; stead purge " + w.name + " deletes the one here, after a last snapshot",
		}
	}
	return m.markPurge(ctx, w, set)
}
