package server_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// Killed after any call and repeated, all of a server has its new name, and
// nothing its old.
func TestMachineRenameKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	ctx := context.Background()
	s, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	_, err = m.Snapshot(ctx, "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	from, to := "shop", "web" // swapped before each round
	everyStep(t, k,
		func(int) { from, to = to, from },
		func(ctx context.Context, _ int) error {
			_, err := m.Rename(ctx, from, to)
			if errors.Is(err, server.ErrNotFound) && strings.Contains(err.Error(), "renamed already") {
				return nil // the last call had come through
			}
			return err
		},
		func(int) {
			if _, err := m.Get(ctx, from); !errors.Is(err, server.ErrNotFound) {
				t.Errorf("%s is still there: %v", from, err)
			}
			now, err := m.Get(ctx, to)
			b.check(err)
			sets, err := m.Snapshots(ctx, to)
			b.check(err)
			if !slices.Equal(disks(now), disks(s)) || now.InstanceID != s.InstanceID || now.ElasticIP != s.ElasticIP || len(now.Warnings) != 0 || len(sets) != 1 || !sets[0].Complete {
				t.Errorf("it is %+v with %+v", now, sets)
			}
			inv := b.inventory()
			for id, v := range inv.volumes {
				if tag(v.Tags, "stead:renaming") != "" || !strings.HasPrefix(tag(v.Tags, "Name"), to) {
					t.Errorf("volume %s is tagged %v", id, v.Tags)
				}
			}
			if b.openTo(to) != "22@0.0.0.0/0" || tag(inv.addresses[0].Tags, "stead:server") != to {
				t.Errorf("open are %q; the address is tagged %v", b.openTo(to), inv.addresses[0].Tags)
			}
		})
}

// The old name is free for another server, which gets a firewall of its own.
func TestRenamedNameIsFree(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	_, err := m.Create(ctx, b.webOptions())
	b.check(err)
	_, err = m.Rename(ctx, "web", "shop")
	b.check(err)
	second, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	if second.Name != "web" || b.openTo("web") != "22@0.0.0.0/0" || b.openTo("shop") != "22@0.0.0.0/0 80@0.0.0.0/0" {
		t.Errorf("web opens %s, shop %s", b.openTo("web"), b.openTo("shop"))
	}
	if _, err := m.Rename(ctx, "shop", "web"); !errors.Is(err, server.ErrExists) {
		t.Errorf("renaming over another: %v", err)
	}
}

// While a server has two names, nothing of it is deleted under either.
func TestHalfRenamedIsNotDeleted(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	web, _ := b.quietServer(m)
	_, err := m.Terminate(t.Context(), "web")
	b.check(err)
	_, err = k.killed(2, func(ctx context.Context) error { _, err := m.Rename(ctx, "web", "shop"); return err })
	if err == nil {
		t.Fatal("it wasn't cut off")
	}
	for _, name := range []string{"web", "shop"} {
		if _, err := m.Purge(t.Context(), name, server.PurgeOptions{NoSnapshot: true}); !errors.Is(err, server.ErrExists) || server.Remedy(err) != "stead rename web shop" {
			t.Errorf("purged %s: %v (%s)", name, err, server.Remedy(err))
		}
		if _, err := m.Prune(t.Context(), name, server.PruneOptions{Keep: 1}); !errors.Is(err, server.ErrExists) {
			t.Errorf("pruned %s: %v", name, err)
		}
	}
	if inv := b.inventory(); len(inv.volumes) != len(disks(web)) {
		t.Errorf("%d disks are left", len(inv.volumes))
	}
}
