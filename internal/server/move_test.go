package server_test

import (
	"context"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

func TestMachineMoveKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	zones := []string{web.Zone, b.otherZone(web.Zone)}
	var before *server.Server
	to := ""
	everyStep(t, k,
		func(int) {
			before, err = m.Get(ctx, "web")
			b.check(err)
			to = zones[0]
			if before.Zone == zones[0] {
				to = zones[1]
			}
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Move(ctx, "web", server.MoveOptions{Zone: to})
			return err
		},
		func(int) {
			s, err := m.Get(ctx, "web")
			b.check(err)
			if s.Zone != to || s.Root.Zone != to || s.State != server.StateRunning || !s.Protected || len(s.Data) != 1 || s.ElasticIP != web.ElasticIP || len(s.Warnings) > 0 {
				t.Errorf("moved %+v", s)
			}
			inv := b.inventory()
			if len(inv.live) != 1 || len(inv.volumes) != 4 {
				t.Errorf("there are %d instances and %d volumes", len(inv.live), len(inv.volumes))
			}
			r, err := m.Move(ctx, "web", server.MoveOptions{Release: true})
			b.check(err)
			if len(r.Released) != 2 || r.Released[0].VolumeID != before.Root.VolumeID || len(b.inventory().volumes) != 2 {
				t.Errorf("released %+v", r.Released)
			}
		})
	if _, err := m.Move(ctx, "web", server.MoveOptions{Zone: "nowhere-1a"}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("to no zone: %v", err)
	}
}
