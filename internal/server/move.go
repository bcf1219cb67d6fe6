package server

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// MoveOptions says where a server goes.
type MoveOptions struct {
	Zone string // another zone of this region, or one of Region
	// Region is another region of the same cloud.
	Region string
	// To is another cloud, by the name of its context, and There its Manager.
	To    string
	There *Manager
	Type  string // "" means the recorded one
	// Release deletes the old disks of a move that is done; with Region or To,
	// all that the server has left here.
	Release bool
	Wait    WaitFor
}

// leaves tells a move after which all that is here is left behind.
func (o *MoveOptions) leaves() bool { return o.Region != "" || o.There != nil }

// MoveResult is a server that has moved.
type MoveResult struct {
	Server *Server `json:"server"`
	Set    string  `json:"set,omitempty"`  // that the new disks were made of
	From   string  `json:"from,omitempty"` // the region or the context that it left
	// Downtime is for how long it was stopped, in seconds; zero where another
	// run of the command has brought it there.
	Downtime float64 `json:"downtime_seconds,omitempty"`
	// Source are the old disks, which stay until they are released, and
	// Released those that are deleted.
	Source   []Disk `json:"source"`
	Released []Disk `json:"released"`
}

// Move brings a server to another zone, or another region, as new disks; or
// releases the old ones. To a zone:
//
//	stop → snapshots of all disks → terminate → launch from them in the other
//	zone → the old disks stay, as superseded, until they are released
//
// The instance is ended only when the snapshots are complete; the disks are
// there until Release, so that a rescue without a zone brings the server back
// where it was. The same call goes on where it was cut off.
func (m *Manager) Move(ctx context.Context, name string, o MoveOptions) (*MoveResult, error) {
	r, err := m.move(ctx, name, o)
	return r, wrap("move", "server "+name, err)
}

func (m *Manager) move(ctx context.Context, name string, o MoveOptions) (*MoveResult, error) {
	w, err := m.ashore(ctx, name)
	if err != nil {
		return nil, err
	}
	if w.empty() && !(o.leaves() && o.Release) { // a release may be over but for its answer
		return nil, &Error{Code: KindNotFound, Reason: "there is no such server", Remedy: "stead ls"}
	}
	switch {
	case o.There != nil:
		return m.moveContext(ctx, w, o)
	case o.Region != "":
		return m.moveRegion(ctx, w, o)
	case o.Release:
		return m.release(ctx, w)
	case o.Zone == "":
		return nil, &Error{Code: KindUsage, Reason: "no zone is named", Remedy: "stead move " + name + " --zone ZONE"}
	}
	// A launch in the zone, finished or not, is this move's own end.
	if w.instance != nil && zoneOf(w.instance) == o.Zone {
		if tagOf(w.instance.Tags, tagStep) == "" {
			return m.moved(ctx, name, tagOf(w.instance.Tags, tagSet))
		}
	} else if err := m.endForMove(ctx, w, o); err != nil {
		return nil, err
	}
	r, err := m.rescue(ctx, name, RescueOptions{By: RescueSnapshot, Zone: o.Zone, Type: o.Type, Wait: o.Wait})
	if err != nil {
		return nil, err
	}
	return m.moved(ctx, name, r.Set)
}

// endForMove ends a server's instance once there are snapshots of its disks
// from which the other zone can launch.
func (m *Manager) endForMove(ctx context.Context, w *world, o MoveOptions) error {
	if err := m.checkZone(ctx, w, o.Zone); err != nil {
		return err
	}
	if set, _, ok := w.restoring(); ok {
		return w.begunRestore(set)
	}
	if w.instance == nil {
		return nil
	}
	if err := w.mayEnd("move"); err != nil {
		return err
	}
	if step := tagOf(w.instance.Tags, tagStep); step != "" || w.standIn != nil {
		verb, _, _ := strings.Cut(step, " ")
		return &Error{Code: KindExists, Reason: "a " + verb + " isn't finished", Remedy: "the same command again, or stead start " + w.name}
	}
	w, err := m.atRest(ctx, w)
	if err != nil {
		return err
	}
	// The set that the rescue will look for: taken while the instance can
	// still be started again, so that nothing is ended in vain.
	plan := setPlan{server: w.name, id: w.rescueSetID(), note: "before move", volumes: w.volumes}
	id, err := m.quietSet(ctx, w, plan)
	if err != nil {
		return err
	}
	if _, err := m.waitSet(ctx, w.name, id); err != nil {
		return err
	}
	_, err = m.Terminate(ctx, w.name)
	return err
}

// checkZone tells whether a server can go to a zone.
func (m *Manager) checkZone(ctx context.Context, w *world, zone string) error {
	if zone == w.facts().Zone {
		return &Error{Code: KindUsage, Reason: "it is in zone " + zone + " already", Remedy: "name another zone"}
	}
	if others := m.otherZones(ctx, w.facts().Zone); len(others) > 0 && !slices.Contains(others, zone) {
		return &Error{Code: KindNotFound, Reason: "there is no zone " + zone + " in this region", Remedy: "--zone " + strings.Join(others, "|")}
	}
	return nil
}

// moved tells what a move has come to.
func (m *Manager) moved(ctx context.Context, name, set string) (*MoveResult, error) {
	w, err := m.world(ctx, "move", name)
	if err != nil {
		return nil, err
	}
	r := &MoveResult{Server: m.view(w), Set: set, Source: w.supersededDisks(), Released: []Disk{}}
	if r.Source == nil {
		r.Source = []Disk{}
	}
	return r, nil
}

// MoveLeft tells which disks a release would delete: those that a move left in
// another zone, or, with Region, all that the server has in this one.
func (m *Manager) MoveLeft(ctx context.Context, name string, o MoveOptions) ([]Disk, error) {
	w, err := m.world(ctx, "move", name)
	if KindOf(err) == KindNotFound && o.leaves() {
		return nil, nil // a release that is over but for its answer
	}
	if err != nil {
		return nil, err
	}
	if o.leaves() {
		return w.leftHere(), nil
	}
	left := []Disk{}
	for _, v := range w.leftBehind() {
		left = append(left, diskOf(v, nil))
	}
	return left, nil
}

// leftBehind are the disks that moves left in other zones, the root first, as
// they are shown. Those in the server's own zone are of a restore.
func (w *world) leftBehind() []*types.Volume {
	root := w.root()
	if root == nil {
		return nil
	}
	var list []*types.Volume
	for k := range w.superseded {
		if v := &w.superseded[k]; aws.ToString(v.AvailabilityZone) != aws.ToString(root.AvailabilityZone) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *types.Volume) int {
		return cmp.Or(cmp.Compare(tagOf(b.Tags, tagRole), tagOf(a.Tags, tagRole)), cmp.Compare(deviceOf(a), deviceOf(b)), cmp.Compare(aws.ToString(a.VolumeId), aws.ToString(b.VolumeId)))
	})
	return list
}

// leftHere are all disks of a server that goes away, the root first.
func (w *world) leftHere() []Disk {
	left := []Disk{}
	for _, v := range w.purgeDisks() {
		left = append(left, diskOf(v, nil))
	}
	slices.Reverse(left)
	return left
}

// release deletes the old disks of a move: those in other zones than the
// server, whose successor it has. Each gets a last snapshot first.
func (m *Manager) release(ctx context.Context, w *world) (*MoveResult, error) {
	root := w.root()
	if root == nil || w.instance == nil || stateOf(w.instance) != types.InstanceStateNameRunning || hasTag(w.instance.Tags, tagStep) {
		return nil, &Error{Code: KindExists, Reason: "it doesn't run yet where it went", Remedy: "stead show " + w.name}
	}
	r := &MoveResult{Source: []Disk{}, Released: []Disk{}}
	for _, v := range w.leftBehind() {
		// Any older snapshot may lack what was written after it.
		if _, err := m.keepTape(ctx, v, nil, noteSuperseded); err != nil {
			return nil, err
		}
		if err := m.dropDisk(ctx, w.name, aws.ToString(v.VolumeId), nil); err != nil {
			return nil, err
		}
		r.Released = append(r.Released, diskOf(v, nil))
	}
	after, err := m.moved(ctx, w.name, "")
	if err != nil {
		return nil, err
	}
	r.Server, r.Source = after.Server, after.Source
	return r, nil
}
