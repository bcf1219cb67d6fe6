package server_test

import (
	"context"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// nothingLeft checks that a server is gone, but for its snapshots.
func (b *bench) nothingLeft(snapshots int) {
	b.t.Helper()
	inv := b.inventory()
	if len(inv.live) != 0 || len(inv.volumes) != 0 || len(inv.addresses) != 0 || inv.groups != 0 || inv.snapshots != snapshots {
		b.t.Errorf("left: %d instances, %d volumes, %d addresses, %d groups, %d snapshots (want %d)", len(inv.live), len(inv.volumes), len(inv.addresses), inv.groups, inv.snapshots, snapshots)
	}
}

func TestMachinePurgeKilledAtEveryCall(t *testing.T) {
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	round := 0
	everyStep(t, k,
		func(int) {
			round++
			_, err := m.Create(t.Context(), b.faultOptions())
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			r, err := m.Purge(ctx, "web", server.PurgeOptions{})
			if err == nil && r.Set == "" && len(r.Disks) > 0 {
				t.Errorf("purged %+v without a last set", r)
			}
			return err
		},
		func(int) {
			b.nothingLeft(2 * round) // the last set of each
			sets, err := m.Snapshots(t.Context(), "web")
			b.check(err)
			if len(sets) != round || !sets[0].Complete || sets[0].Note != "before purge" {
				t.Errorf("after %d purges the sets are %+v", round, sets)
			}
		})
}

func TestPurge(t *testing.T) {
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, set := b.quietServer(m)
	_, err := m.Protect(ctx, "web")
	b.check(err)
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, server.ErrProtected) || server.Remedy(err) != "stead unprotect web" {
		t.Errorf("a protected one: %v (%s)", err, server.Remedy(err))
	}
	_, err = m.Unprotect(ctx, "web")
	b.check(err)
	_, err = m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID, Part: server.RoleData}) // leaves an old disk
	b.check(err)
	plan, err := m.PlanPurge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	if len(plan.Disks) != 3 || plan.InstanceID != web.InstanceID || plan.PublicIP == "" {
		t.Errorf("planned %+v", plan)
	}
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	b.nothingLeft(2 + 2 + 2) // the set, the one before the restore, the last one
	// It comes back from its last set.
	back, err := m.Rescue(ctx, "web", server.RescueOptions{Set: r.Set})
	b.check(err)
	if back.Server.State != server.StateRunning || len(back.Server.Data) != 1 {
		t.Errorf("back as %+v", back.Server)
	}
	_, err = m.Purge(ctx, "web", server.PurgeOptions{Snapshots: true})
	b.check(err)
	b.nothingLeft(0)
	if inv := b.inventory(); len(inv.images) != 0 {
		t.Errorf("images left: %v", inv.images)
	}
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("purged again: %v", err)
	}
}
