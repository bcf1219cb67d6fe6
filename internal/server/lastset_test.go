package server_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// errCut ends a run as a kill does.
var errCut = errors.New("cut off")

// meddled is an endpoint on which other tools are at work.
type meddled struct {
	server.EC2
	terminate func() error // before an instance is ended
	deleted   func() error // after a disk is deleted
	launched  *time.Time   // when the instance was started last, unless nil
}

func (e *meddled) TerminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput, opts ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error) {
	if e.terminate != nil {
		if err := e.terminate(); err != nil {
			return nil, err
		}
	}
	return e.EC2.TerminateInstances(ctx, in, opts...)
}

func (e *meddled) DeleteVolume(ctx context.Context, in *ec2.DeleteVolumeInput, opts ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error) {
	out, err := e.EC2.DeleteVolume(ctx, in, opts...)
	if err == nil && e.deleted != nil {
		err = e.deleted()
	}
	return out, err
}

func (e *meddled) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, opts ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	out, err := e.EC2.DescribeInstances(ctx, in, opts...)
	if err == nil && e.launched != nil {
		for r := range out.Reservations {
			for k := range out.Reservations[r].Instances {
				out.Reservations[r].Instances[k].LaunchTime = e.launched
			}
		}
	}
	return out, err
}

// endByHand starts an instance and ends it, as other tools do.
func (b *bench) endByHand(id string) {
	b.t.Helper()
	ctx := b.t.Context()
	_, err := b.client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
	b.check(err)
	_, err = b.client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	b.check(err)
	_, err = b.client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
	b.check(err)
	b.check(ec2.NewInstanceTerminatedWaiter(b.client, func(o *ec2.InstanceTerminatedWaiterOptions) { o.MinDelay, o.MaxDelay = soon, late }).
		Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}}, time.Minute))
}

// tapesOf lists the snapshots of a set by the volume that they show.
func (b *bench) tapesOf(m *server.Manager, id string) map[string]string {
	b.t.Helper()
	sets, _, err := m.SetsNamed(b.t.Context(), []string{id})
	b.check(err)
	if !sets[0].Complete {
		b.t.Errorf("set %s isn't complete: %s", id, sets[0].Lacks)
	}
	of := map[string]string{}
	for _, s := range sets[0].Snapshots {
		of[s.VolumeID] = s.SnapshotID
	}
	return of
}

// A purge is cut off when its last set is taken. Other tools start the server,
// use it and end it. What it wrote must be in the set that the next purge
// goes by.
func TestPurgeTrustsNoSetFromBeforeOtherTools(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	cut := &meddled{EC2: b.client, terminate: func() error { return errCut }}
	m := b.manager(cut)
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, errCut) {
		t.Fatalf("cut off: %v", err)
	}
	sets, err := m.Snapshots(ctx, "web")
	b.check(err)
	first := b.tapesOf(m, sets[0].ID)
	b.endByHand(web.InstanceID)
	b.tick()
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	last := b.tapesOf(m, r.Set)
	for volume, tape := range first {
		if last[volume] == "" || last[volume] == tape {
			t.Errorf("disk %s is gone, and its last snapshot is %q, as before", volume, last[volume])
		}
	}
	b.nothingLeft(4)
}

// A purge is cut off when it has deleted the data disk, and the root is used
// elsewhere. The set that the next one goes by has the old snapshot of the
// disk that is gone, and a new one of the root.
func TestPurgeCompletesItsSetAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	cut := &meddled{EC2: b.client, deleted: func() error { return errCut }}
	m := b.manager(cut)
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, errCut) {
		t.Fatalf("cut off: %v", err)
	}
	sets, err := m.Snapshots(ctx, "web")
	b.check(err)
	first := b.tapesOf(m, sets[0].ID)
	b.tick()
	cut.deleted = nil
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	last := b.tapesOf(m, r.Set)
	root, data := web.Root.VolumeID, web.Data[0].VolumeID
	if last[data] != first[data] || last[root] == "" || last[root] == first[root] || len(last) != 2 {
		t.Errorf("the last set holds %v, that of the first purge held %v", last, first)
	}
	b.nothingLeft(3)
	back, err := m.Rescue(ctx, "web", server.RescueOptions{Set: r.Set})
	b.check(err)
	if back.Server.State != server.StateRunning || len(back.Server.Data) != 1 {
		t.Errorf("back as %+v", back.Server)
	}
}

// Another tool starts the server between its last snapshots and its end.
func TestPurgeRacingWithAStart(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	raced := &meddled{EC2: b.client}
	m := b.manager(raced)
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	var first map[string]string
	raced.terminate = func() error {
		sets, err := m.Snapshots(ctx, "web")
		first = b.tapesOf(m, sets[0].ID)
		raced.launched = aws.Time(time.Now().Add(time.Second))
		b.tick()
		return err
	}
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	last := b.tapesOf(m, r.Set)
	for volume, tape := range first {
		if last[volume] == "" || last[volume] == tape {
			t.Errorf("disk %s is gone, and its last snapshot, %q, is from before it ran again", volume, last[volume])
		}
	}
	b.nothingLeft(4)
}

// The last snapshot of a single disk is a set, of which a restore brings the
// disk back.
func TestLastSnapshotOfADiskIsASet(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m := b.manager(b.client)
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	data := web.Data[0].VolumeID
	_, err = m.VolumeDetach(ctx, data, true)
	b.check(err)
	gone, err := m.VolumeDelete(ctx, data, true)
	b.check(err)
	sets, err := m.Snapshots(ctx, "web")
	b.check(err)
	if len(sets) != 1 || sets[0].ID != gone.Set || !sets[0].Complete || sets[0].Part != server.RoleData || sets[0].Snapshots[0].SnapshotID != gone.SnapshotID {
		t.Fatalf("deleted %+v, and the sets are %+v", gone, sets)
	}
	r, err := m.Restore(ctx, "web", server.RestoreOptions{Set: gone.Set})
	b.check(err)
	if s := r.Server; len(s.Data) != 1 || s.Data[0].Device != web.Data[0].Device || s.State != server.StateRunning {
		t.Errorf("restored as %+v", s)
	}
	if !slices.ContainsFunc(b.live("web"), func(i types.Instance) bool { return len(i.BlockDeviceMappings) == 2 }) {
		t.Error("its instance doesn't have the disk")
	}
}

// live lists the instances of a server.
func (b *bench) live(name string) []types.Instance {
	return slices.DeleteFunc(b.inventory().live, func(i types.Instance) bool { return tag(i.Tags, "stead:server") != name })
}

// A restore that was cut off before it changed anything of the server doesn't
// come true by a rescue or a move that nobody asked to go back.
func TestBegunRestoreDoesNotComeTrueByItself(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	ctx := t.Context()
	m := b.manager(b.client)
	web, set := b.quietServer(m)
	if _, err := k.killed(2, func(ctx context.Context) error {
		_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID})
		return err
	}); err == nil {
		t.Fatal("it wasn't cut off")
	}
	if _, err := m.Move(ctx, "web", server.MoveOptions{Zone: b.otherZone(web.Zone)}); !errors.Is(err, server.ErrExists) {
		t.Errorf("moved: %v", err)
	}
	_, err := m.Terminate(ctx, "web")
	b.check(err)
	_, err = m.Rescue(ctx, "web", server.RescueOptions{})
	if !errors.Is(err, server.ErrExists) {
		t.Fatalf("rescued: %v", err)
	}
	_, remedy, _ := strings.Cut(server.Remedy(err), "volume rm ")
	for _, id := range strings.Fields(remedy) {
		if strings.HasPrefix(id, "vol-") {
			_, err := m.VolumeDelete(ctx, id, false)
			b.check(err)
		}
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	if !slices.Equal(disks(r.Server), disks(web)) {
		t.Errorf("back with %v, not with its own %v", disks(r.Server), disks(web))
	}
}

// Another tool ends the instance while a restore makes its disks.
func TestRestoreOutlivesTheInstance(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m := b.manager(b.client)
	web, set := b.quietServer(m)
	ended := &endedAtCreate{EC2: b.client, end: func() { b.endByHand(web.InstanceID) }}
	if _, err := b.manager(ended).Restore(ctx, "web", server.RestoreOptions{Set: set.ID}); err != nil && !errors.Is(err, server.ErrExists) {
		t.Errorf("restored: %v", err)
	}
	_, err := m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID})
	b.check(err)
	r, err := m.Rescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	if len(r.Server.Data) != 1 || r.Server.Root.VolumeID == web.Root.VolumeID {
		t.Errorf("back as %+v", r.Server)
	}
}

// endedAtCreate has something happen when a disk is made for the first time.
type endedAtCreate struct {
	server.EC2
	end func()
}

func (e *endedAtCreate) CreateVolume(ctx context.Context, in *ec2.CreateVolumeInput, opts ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error) {
	if e.end != nil {
		e.end()
		e.end = nil
	}
	return e.EC2.CreateVolume(ctx, in, opts...)
}
