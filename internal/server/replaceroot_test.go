package server_test

import (
	"context"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// bare is a server without data disks.
func (b *bench) bareOptions() server.CreateOptions {
	o := b.faultOptions()
	o.Data = nil
	return o
}

// TestTrap06ReplaceRoot: the very same root comes back by the endpoint's task
// where it has one, and by swap where it hasn't (moto), and is kept on
// termination; killed at any call.
func TestMachineTrap06ReplaceRootKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	onBoth(t, testMachineTrap06ReplaceRootKilledAtEveryCall)
}

func testMachineTrap06ReplaceRootKilledAtEveryCall(t *testing.T, b *bench, k *killer) {
	m := b.manager(b.client)
	web, err := m.Create(t.Context(), b.bareOptions())
	b.check(err)
	terminate := func(int) { _, err := m.Terminate(t.Context(), "web"); b.check(err) }
	rescue := func(ctx context.Context, _ int) error {
		_, err := m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueReplaceRoot})
		return err
	}
	check := func(int) {
		s, err := m.Get(t.Context(), "web")
		b.check(err)
		if s.State != server.StateRunning || !s.Protected || s.Root.VolumeID != web.Root.VolumeID || s.ElasticIP != web.ElasticIP || len(s.Warnings) > 0 {
			t.Errorf("rescued %+v", s)
		}
		b.checkAttributes(s.InstanceID)
		if inv := b.inventory(); len(inv.live) != 1 || len(inv.volumes) != 1 {
			t.Errorf("there are %d instances and %d volumes", len(inv.live), len(inv.volumes))
		}
	}
	if b.isMoto() { // where it is a swap, which is killed elsewhere, and slow
		terminate(0)
		b.check(rescue(t.Context(), 0))
		check(0)
		return
	}
	everyStep(t, k, terminate, rescue, check)
}

// Data disks must be there before the root's first boot, which a task can't
// promise.
func TestTrap06ReplaceRootRefusesDataDisks(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	if _, err := m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueReplaceRoot}); !errors.Is(err, server.ErrUsage) || server.Remedy(err) != "stead rescue web --by swap" {
		t.Errorf("with data disks: %v (%s)", err, server.Remedy(err))
	}
}
