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

// past takes sets of a stopped server, oldest first, so far apart that the
// endpoint's clock tells them apart.
func (b *bench) past(m *server.Manager, options ...server.SnapshotOptions) []string {
	b.t.Helper()
	var ids []string
	for _, o := range options {
		o.Wait = true
		set, err := m.Snapshot(b.t.Context(), "web", o)
		b.check(err)
		ids = append(ids, set.ID)
		b.tick()
	}
	return ids
}

// setIDs lists the sets that there are, oldest first.
func (b *bench) setIDs(m *server.Manager) []string {
	b.t.Helper()
	sets, err := m.Snapshots(context.Background(), "web")
	b.check(err)
	var ids []string
	for _, s := range sets {
		ids = append(ids, s.ID)
	}
	slices.Reverse(ids)
	return ids
}

// A prune never deletes what an image is made of, the newest complete set, or
// what is left of a set that holds a disk's last snapshot.
func TestTrap15Prune(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m := b.manager(b.client)
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	ids := b.past(m, server.SnapshotOptions{Note: "1"}, server.SnapshotOptions{Note: "2"}, server.SnapshotOptions{Part: server.RoleData},
		server.SnapshotOptions{Note: "3"}, server.SnapshotOptions{Note: "4"}, server.SnapshotOptions{Part: server.RoleRoot})
	sets, _, err := m.SetsNamed(ctx, ids[:1])
	b.check(err)
	root := sets[0].Snapshots[0].SnapshotID
	image, err := b.client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("of the first"), RootDeviceName: aws.String("/dev/xvda"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &root}}},
	})
	b.check(err)
	for _, o := range []server.PruneOptions{{}, {Keep: 1, KeepFor: time.Hour}, {Keep: -1}} {
		if _, err := m.PlanPrune(ctx, "web", o); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	plan, err := m.PlanPrune(ctx, "web", server.PruneOptions{Keep: 1})
	b.check(err)
	var going, why []string
	for _, s := range plan.Delete {
		going = append(going, s.ID)
	}
	for _, s := range plan.Keep {
		why = append(why, s.ID+": "+s.Why)
	}
	first, wantGone, wantKept := ids[0], ids[1:4], []string{ids[5], ids[4], ids[0]}
	if !b.isMoto() || b.keepsImages(*image.ImageId, root) {
		if !slices.Equal(going, wantGone) || len(why) != 3 || !strings.Contains(why[2], first+": image "+*image.ImageId) {
			t.Errorf("of %v it would delete %v and keep %v", ids, going, why)
		}
		if _, err := m.RemoveSets(ctx, ids[:1]); !errors.Is(err, server.ErrExists) || server.Remedy(err) != "stead image rm "+*image.ImageId {
			t.Errorf("deleting what an image is made of: %v", err)
		}
	} else { // moto forgets what an image is made of
		wantKept = wantKept[:2]
	}
	// Only what was agreed to goes.
	_, err = m.Prune(ctx, "web", server.PruneOptions{Keep: 1, Only: ids[1:2]})
	b.check(err)
	if left := b.setIDs(m); len(left) != 5 || slices.Contains(left, ids[1]) {
		t.Errorf("agreed to was %s; left are %v", ids[1], left)
	}
	for range 2 {
		_, err = m.Prune(ctx, "web", server.PruneOptions{Keep: 1})
		b.check(err)
		slices.Reverse(wantKept)
		if left := b.setIDs(m); !slices.Equal(left, wantKept) {
			t.Errorf("left are %v, want %v", left, wantKept)
		}
		slices.Reverse(wantKept)
	}
	if plan, err := m.PlanPrune(ctx, "web", server.PruneOptions{KeepFor: time.Nanosecond}); err != nil || slices.ContainsFunc(plan.Delete, func(s server.SnapshotSet) bool { return s.ID == ids[4] }) {
		t.Errorf("the newest complete set would go: %+v, %v", plan, err)
	}
	if gone, err := m.RemoveSets(ctx, []string{ids[5], "nonesuch"}); err != nil || len(gone) != 1 || slices.Contains(b.setIDs(m), ids[5]) {
		t.Errorf("of two that one of isn't there: deleted %+v, %v", gone, err)
	}
	if _, err := m.RemoveSets(ctx, ids[5:]); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
}

// keepsImages tells whether the endpoint says what an image is made of.
func (b *bench) keepsImages(id, snapshot string) bool {
	b.t.Helper()
	out, err := b.client.DescribeImages(b.t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
	b.check(err)
	return slices.ContainsFunc(out.Images[0].BlockDeviceMappings, func(m types.BlockDeviceMapping) bool {
		return m.Ebs != nil && aws.ToString(m.Ebs.SnapshotId) == snapshot
	})
}

func TestPruneKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Stop(t.Context(), "web", true)
	b.check(err)
	var last string
	everyStep(t, k,
		func(int) {
			ids := b.past(m, server.SnapshotOptions{}, server.SnapshotOptions{Note: "2"})
			last = ids[1]
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Prune(ctx, "web", server.PruneOptions{Keep: 1})
			return err
		},
		func(int) {
			sets, err := m.Snapshots(t.Context(), "web")
			b.check(err)
			if len(sets) != 1 || sets[0].ID != last || !sets[0].Complete {
				t.Errorf("left are %+v", sets)
			}
		})
}

// tick waits until the endpoint's clock shows another time.
func (b *bench) tick() {
	if b.isMoto() { // whose times are whole seconds
		nextSecond()
	}
}

// nextSecond waits for it: the name of a scheduled set has its second.
func nextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1010 * time.Millisecond)))
}

// No prune takes the last snapshot of a disk that was detached or deleted. One
// that lives on in its successor isn't such.
func TestPruneKeepsTheLastOfADisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m := b.manager(b.client)
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	ids := b.past(m, server.SnapshotOptions{Note: "1"}, server.SnapshotOptions{Note: "2"})
	data := web.Data[0].VolumeID
	_, err = m.VolumeDetach(ctx, data, true)
	b.check(err)
	_, err = m.VolumeDelete(ctx, data, false)
	b.check(err)
	ids = append(ids, b.past(m, server.SnapshotOptions{Note: "3"}, server.SnapshotOptions{Note: "4"})...)
	plan, err := m.Prune(ctx, "web", server.PruneOptions{Keep: 1})
	b.check(err)
	if left := b.setIDs(m); !slices.Equal(left, []string{ids[1], ids[3]}) {
		t.Fatalf("of %v are left %v: the plan was %+v", ids, left, plan)
	}
	if why := plan.Keep[1].Why; !strings.Contains(why, data) || !strings.Contains(why, "stead snapshot rm "+ids[1]) {
		t.Errorf("it is kept because %s", why)
	}
	// The root comes back as another disk, made of its newest snapshot.
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	_, err = m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueSnapshot})
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	b.tick()
	now := b.past(m, server.SnapshotOptions{Note: "5"})[0]
	_, err = m.Prune(ctx, "web", server.PruneOptions{Keep: 1})
	b.check(err)
	if left := b.setIDs(m); slices.Contains(left, ids[3]) || !slices.Contains(left, ids[1]) || !slices.Contains(left, now) {
		t.Errorf("of %v are left %v", ids, left)
	}
	_, err = m.RemoveSets(ctx, ids[1:2])
	b.check(err)
	if left := b.setIDs(m); slices.Contains(left, ids[1]) {
		t.Errorf("asked for by its name, %s stays", ids[1])
	}
}
