package server_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// fromSet checks that a server's disks were made of a set's snapshots, and
// that each old one is kept, marked with its successor.
func (b *bench) fromSet(s *server.Server, set *server.SnapshotSet, old ...string) {
	b.t.Helper()
	inv := b.inventory()
	for k, id := range disks(s) {
		if got := aws.ToString(inv.volumes[id].SnapshotId); got != set.Snapshots[k].SnapshotID {
			b.t.Errorf("disk %s is made of %s, not of %s", id, got, set.Snapshots[k].SnapshotID)
		}
		if step := tag(inv.volumes[id].Tags, "stead:step"); step != "" {
			b.t.Errorf("disk %s has step %q left", id, step)
		}
	}
	for _, id := range old {
		if v := inv.volumes[id]; tag(v.Tags, "stead:superseded-by") == "" || v.State != types.VolumeStateAvailable {
			b.t.Errorf("old disk %s is %s, tagged %v", id, v.State, v.Tags)
		}
	}
	for _, v := range inv.volumes {
		if !slices.Contains(disks(s), *v.VolumeId) && tag(v.Tags, "stead:superseded-by") == "" {
			b.t.Errorf("volume %s is nobody's", *v.VolumeId)
		}
	}
}

// quietServer creates a server and takes a set of it. moto refuses nothing of
// a running one, but a cloud without machines does.
func (b *bench) quietServer(m *server.Manager) (*server.Server, *server.SnapshotSet) {
	b.t.Helper()
	ctx := context.Background()
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	set, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	s, err := m.Start(ctx, "web", server.WaitSSH)
	b.check(err)
	return s, set
}

func TestMachineRestoreKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	web, set := b.quietServer(m)
	var before *server.Server
	everyStep(t, k,
		func(int) {
			var err error
			before, err = m.Get(t.Context(), "web")
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID})
			return err
		},
		func(int) {
			s, err := m.Get(t.Context(), "web")
			b.check(err)
			if s.InstanceID != web.InstanceID || s.ElasticIP != web.ElasticIP || s.State != server.StateRunning || !s.Protected || len(s.Warnings) > 0 || len(s.Data) != 1 || s.Data[0].Device != web.Data[0].Device {
				t.Errorf("restored %+v", s)
			}
			b.fromSet(s, set, disks(before)...)
			b.checkAttributes(s.InstanceID)
		})
}

func TestMachineRescueFromSetKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, set := b.quietServer(m)
	var before *server.Server
	everyStep(t, k,
		func(int) {
			var err error
			before, err = m.Get(t.Context(), "web")
			b.check(err)
			_, err = m.Terminate(t.Context(), "web")
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			r, err := m.Rescue(ctx, "web", server.RescueOptions{Set: set.ID})
			if err == nil && (r.By != server.RescueSwap || r.Set != set.ID || len(r.Superseded) == 0) {
				t.Errorf("rescued by %s from %s, with %v left", r.By, r.Set, r.Superseded)
			}
			return err
		},
		func(int) {
			s, err := m.Get(t.Context(), "web")
			b.check(err)
			if s.State != server.StateRunning || !s.Protected || len(s.Warnings) > 0 {
				t.Errorf("rescued %+v", s)
			}
			b.fromSet(s, set, disks(before)...)
		})
}

// One part of a set goes back, the rest stays; and a server that doesn't run
// isn't started.
func TestRestorePart(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, set := b.quietServer(m)
	_, err := m.Stop(ctx, "web", true)
	b.check(err)
	r, err := m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID, Part: server.RoleData})
	b.check(err)
	if r.Server.State != server.StateStopped || r.Server.Root.VolumeID != web.Root.VolumeID || r.Server.Data[0].VolumeID == web.Data[0].VolumeID {
		t.Errorf("restored %+v", r.Server)
	}
	if len(r.Superseded) != 1 || r.Superseded[0].VolumeID != web.Data[0].VolumeID {
		t.Errorf("superseded %+v", r.Superseded)
	}
	sets, err := m.Snapshots(ctx, "web")
	b.check(err)
	if at := slices.IndexFunc(sets, func(s server.SnapshotSet) bool { return s.ID == r.Before }); at < 0 || !sets[at].Complete || sets[at].Note != "before restore" {
		t.Errorf("as it was before is %q in %+v", r.Before, sets)
	}
	// Without an instance the disks alone are exchanged.
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	r, err = m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID})
	b.check(err)
	if r.Server.State != server.StateDetached || r.Server.Root.VolumeID == web.Root.VolumeID {
		t.Errorf("restored %+v", r.Server)
	}
	b.fromSet(r.Server, set, web.Root.VolumeID)
	if _, err := m.Restore(ctx, "web", server.RestoreOptions{}); !errors.Is(err, server.ErrUsage) {
		t.Errorf("no set: %v", err)
	}
	if _, err := m.Restore(ctx, "web", server.RestoreOptions{Set: "nonesuch"}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("no such set: %v", err)
	}
}

// A restore that isn't finished says so to every other verb.
func TestRestoreUnfinished(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	ctx := t.Context()
	_, set := b.quietServer(m)
	fired, err := k.killed(6, func(ctx context.Context) error { // some way in
		_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID})
		return err
	})
	if !fired || err == nil {
		t.Fatalf("not interrupted: %v", err)
	}
	for verb, err := range map[string]error{
		"start":  func() error { _, err := m.Start(ctx, "web", server.WaitNone); return err }(),
		"rescue": func() error { _, err := m.Rescue(ctx, "web", server.RescueOptions{}); return err }(),
		"another": func() error {
			_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: "latest-but-one"})
			return err
		}(),
	} {
		if !errors.Is(err, server.ErrExists) || server.Remedy(err) != "stead restore web" {
			t.Errorf("%s meanwhile: %v (%s)", verb, err, server.Remedy(err))
		}
	}
	s, err := m.Show(ctx, "web")
	b.check(err)
	if got := strings.Join(s.Warnings, "\n"); !strings.Contains(got, "run `stead restore web` again") || strings.Contains(got, "stead start") {
		t.Errorf("warns: %s", got)
	}
	r, err := m.Restore(ctx, "web", server.RestoreOptions{})
	b.check(err)
	b.fromSet(r.Server, set)
}

// The newest set is another one once the disks have theirs taken as they were
// before: the same command goes on with that which it began with.
func TestRestoreLatestKilled(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, set := b.quietServer(m)
	latest := func(ctx context.Context) error {
		_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: "latest"})
		return err
	}
	for _, calls := range []int{6, 3} { // the second in the midst of going on
		if fired, err := k.killed(calls, latest); !fired || err == nil {
			t.Fatalf("not interrupted: %v", err)
		}
	}
	r, err := m.Restore(t.Context(), "web", server.RestoreOptions{Set: "latest"})
	b.check(err)
	b.fromSet(r.Server, set)
}

// A data disk that is gone is noticed, told and brought back only when asked.
func TestRescueWithoutADisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, set := b.quietServer(m)
	_, err := m.Terminate(ctx, "web")
	b.check(err)
	b.deleteVolume(web.Data[0].VolumeID)
	plan, err := m.PlanRescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	if !plan.Consent || plan.Set.ID != set.ID || !slices.Equal(plan.Lost, []string{"/dev/sdf"}) {
		t.Errorf("planned %+v", plan)
	}
	_, err = m.Rescue(ctx, "web", server.RescueOptions{})
	if !errors.Is(err, server.ErrProtected) || !strings.Contains(err.Error(), "/dev/sdf is gone") || !strings.Contains(server.Remedy(err), "--without-lost") {
		t.Errorf("a lost disk: %v (%s)", err, server.Remedy(err))
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{WithoutLost: true})
	b.check(err)
	if len(r.Server.Data) != 0 || r.Server.Root.VolumeID != web.Root.VolumeID {
		t.Errorf("without it: %+v", r.Server)
	}
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	r, err = m.Rescue(ctx, "web", server.RescueOptions{Set: set.ID})
	b.check(err)
	b.fromSet(r.Server, set, web.Root.VolumeID)
}

// TestTrap05ZoneBySnapshot: the way by snapshot and image crosses zones.
func TestTrap05And13ZoneBySnapshot(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	other := b.otherZone(web.Zone)
	if _, err := m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueSwap, Zone: other}); !errors.Is(err, server.ErrUsage) {
		t.Errorf("a swap into another zone: %v, want ErrUsage", err)
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{Zone: other})
	b.check(err)
	if r.By != server.RescueSnapshot || r.Server.Zone != other || r.Server.Root.Zone != other || len(r.Server.Data) != 1 || r.Server.PublicIP != web.PublicIP {
		t.Errorf("rescued by %s: %+v", r.By, r.Server)
	}
	b.fromSet(r.Server, func() *server.SnapshotSet {
		sets, err := m.Snapshots(ctx, "web")
		b.check(err)
		return &sets[0]
	}(), disks(web)...)
}

// TestTrap13NoRoom: a launch for which there is no room changes nothing and
// says where there may be some.
func TestTrap13NoRoomForTheStandIn(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	full := b.manager(b.through(refuser{"RunInstances", "InsufficientInstanceCapacity"}))
	_, err = full.Rescue(ctx, "web", server.RescueOptions{})
	if server.KindOf(err) != server.KindCapacity || !strings.Contains(server.Remedy(err), "--zone "+b.region) {
		t.Errorf("no room: %v (%s)", err, server.Remedy(err))
	}
	s, err := m.Get(ctx, "web")
	b.check(err)
	if s.State != server.StateDetached || !slices.Equal(disks(s), disks(web)) || len(s.Warnings) > 0 {
		t.Errorf("after it: %+v", s)
	}
	_, err = m.Rescue(ctx, "web", server.RescueOptions{Type: "t3.small"})
	b.check(err)
}

// launches notes what is asked of RunInstances.
type launches struct {
	server.EC2
	list []*ec2.RunInstancesInput
	// held is an address that is somebody else's.
	held string
}

func (l *launches) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	noted, c := *in, *in
	l.list = append(l.list, &noted)
	if c.PrivateIpAddress != nil && *c.PrivateIpAddress != l.held {
		c.PrivateIpAddress = nil // moto never frees an address
	}
	return l.EC2.RunInstances(ctx, &c, opts...)
}

// TestTrap12PrivateAddress: a rescue asks for the private address that the
// server had, and does without when that is somebody else's.
func TestTrap12PrivateAddress(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	api := &launches{EC2: b.client}
	m := b.manager(api)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	for _, by := range []server.RescueBy{server.RescueSwap, server.RescueSnapshot} {
		s, err := m.Get(ctx, "web")
		b.check(err)
		_, err = m.Terminate(ctx, "web")
		b.check(err)
		api.list, api.held = nil, ""
		r, err := m.Rescue(ctx, "web", server.RescueOptions{By: by})
		b.check(err)
		if got := aws.ToString(api.list[0].PrivateIpAddress); got != s.PrivateIP || !b.isMoto() && api.list[0].SubnetId == nil || len(api.list) != 1 {
			t.Errorf("by %s address %q is asked for in %d launches, want %s", by, got, len(api.list), s.PrivateIP)
		}
		if r.Server.PublicIP != web.PublicIP {
			t.Errorf("by %s the fixed address is %s, was %s", by, r.Server.PublicIP, web.PublicIP)
		}
	}
	s, err := m.Get(ctx, "web")
	b.check(err)
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	api.list, api.held = nil, s.PrivateIP
	if !b.isMoto() {
		return // there the address is free
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	if len(api.list) != 2 || api.list[1].PrivateIpAddress != nil || !b.warned("private address "+s.PrivateIP) || r.OldPrivateIP != s.PrivateIP {
		t.Errorf("with its address taken: %d launches, %+v, told %v", len(api.list), r, b.events)
	}
}

func (b *bench) warned(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.events, func(e server.Event) bool {
		return e.State == server.StepWarning && strings.Contains(e.Detail, text)
	})
}

// Once the new disks are in their places they are the server's own. A restore
// that was cut off while it waited for the server must not exchange them again:
// that would take away what was written since.
func TestRestoreExchangesOnce(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, set := b.quietServer(m)
	restore := func(ctx context.Context) error {
		_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: "latest"})
		return err
	}
	_, err := k.killed(0, restore) // undisturbed, to see its calls
	b.check(err)
	at := slices.Index(k.actions, "StartInstances") + 1
	fired, err := k.killed(at, restore)
	if last := k.actions[len(k.actions)-1]; !fired || err == nil || last != "StartInstances" {
		t.Fatalf("cut off at %s: %v", last, err)
	}
	before, err := m.Get(t.Context(), "web")
	b.check(err)
	r, err := m.Restore(t.Context(), "web", server.RestoreOptions{Set: "latest"})
	b.check(err)
	b.fromSet(r.Server, set)
	if r.Server.Root.VolumeID != before.Root.VolumeID || r.Server.Data[0].VolumeID != before.Data[0].VolumeID {
		t.Errorf("exchanged again: %s and %s for %s and %s", r.Server.Root.VolumeID, r.Server.Data[0].VolumeID, before.Root.VolumeID, before.Data[0].VolumeID)
	}
	if len(r.Server.Warnings) > 0 {
		t.Errorf("warnings: %v", r.Server.Warnings)
	}
}

// Several who restore a server to its latest set at once have one restore, and
// all come back with it.
func TestManyRestoresAtOnce(t *testing.T) {
	const restorers, rounds = 3, 2
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	_, set := b.quietServer(m)
	for round := range rounds {
		if round == 1 { // the second of a server without an instance
			_, err := m.Terminate(ctx, "web")
			b.check(err)
		}
		api := &oneDisk{EC2: b.client, made: map[string]*ec2.CreateVolumeOutput{}}
		errs := make(chan error, restorers)
		barrier := make(chan struct{})
		for range restorers {
			go func() {
				<-barrier
				time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond) // so that they meet in every step
				r, err := b.manager(api).Restore(ctx, "web", server.RestoreOptions{Set: "latest"})
				if err == nil && r.Set != set.ID {
					err = errors.New("restored " + r.Set)
				}
				errs <- err
			}()
		}
		close(barrier)
		for range restorers {
			if err := <-errs; err != nil {
				t.Errorf("round %d: one of the restores: %v (%s)", round, err, server.Remedy(err))
			}
		}
		s, err := m.Get(ctx, "web")
		b.check(err)
		inv := b.inventory()
		// Who comes when the others are done restores once more.
		if len(inv.volumes)%2 != 0 || len(s.Data) != 1 || s.Root.VolumeID == "" || s.State == server.StateStopped {
			t.Errorf("round %d: the server is %+v, and there are %d volumes", round, s, len(inv.volumes))
		}
		sets, err := m.Snapshots(ctx, "web")
		b.check(err)
		for _, set := range sets {
			if twin := strings.Count(set.ID, "-") > 1; !set.Complete && !twin {
				t.Errorf("round %d: set %s of before lacks something: %s", round, set.ID, set.Lacks)
			}
		}
		for _, v := range inv.volumes {
			if step := tag(v.Tags, "stead:step"); step != "" {
				t.Errorf("round %d: volume %s is tagged %s", round, *v.VolumeId, step)
			}
		}
	}
}

// oneDisk minds the client tokens of disks, for moto does not.
type oneDisk struct {
	server.EC2
	mu   sync.Mutex
	made map[string]*ec2.CreateVolumeOutput
}

func (o *oneDisk) CreateVolume(ctx context.Context, in *ec2.CreateVolumeInput, opts ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if out := o.made[aws.ToString(in.ClientToken)]; out != nil {
		return out, nil
	}
	out, err := o.EC2.CreateVolume(ctx, in, opts...)
	if err == nil {
		o.made[aws.ToString(in.ClientToken)] = out
	}
	return out, err
}
