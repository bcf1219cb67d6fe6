package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

func TestVolumeMountAndDelete(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	busy := true
	g := &fakeGuest{answer: func(_ *server.Server, script string) (string, error) {
		if strings.Contains(script, "dir='/busy'") && busy {
			return "", errors.New("in use")
		}
		return "fs\txfs\nmount\t/srv\n", nil
	}}
	m := b.guarded(b.client, g)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	for _, bad := range []server.VolumeOptions{
		{Server: "web", SizeGiB: 1, FS: "xfs"},
		{Server: "web", SizeGiB: 1, Mount: "srv"},
		{Server: "web", SizeGiB: 1, Mount: "/"},
		{Server: "web", SizeGiB: 1, Mount: "/a b"},
		{Server: "web", SizeGiB: 1, Mount: "/srv", FS: "ntfs"},
	} {
		if _, err := m.VolumeCreate(t.Context(), bad); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	d, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 2, Mount: "/srv", FS: "xfs"})
	b.check(err)
	if v := b.inventory().volumes[d.VolumeID]; tag(v.Tags, "stead:mount") != "/srv" || tag(v.Tags, "stead:fs") != "xfs" || tag(v.Tags, "stead:step") != "" {
		t.Errorf("tagged %v", v.Tags)
	}
	if _, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 3, Mount: "/busy"}); err == nil {
		t.Error("not mounted, and no error")
	}
	// The same command goes on with the disk that was made, another doesn't.
	busy = false
	for o, device := range map[server.VolumeOptions]string{
		{Server: "web", SizeGiB: 3, Mount: "/busy", Type: "gp2"}: "/dev/sdi", {Server: "web", SizeGiB: 3, Mount: "/busy", FS: "xfs"}: "/dev/sdi",
		{Server: "web", SizeGiB: 3, Mount: "/other"}: "/dev/sdi", {Server: "web", SizeGiB: 3}: "/dev/sdi", {Server: "web", SizeGiB: 3, Mount: "/busy"}: "/dev/sdh",
	} {
		again, err := m.VolumeCreate(t.Context(), o)
		b.check(err)
		if again.Device != device {
			t.Errorf("%+v is at %s", o, again.Device)
		}
		if device == "/dev/sdi" {
			_, err := m.VolumeDetach(t.Context(), again.VolumeID, true)
			b.check(err)
		}
	}
	if _, err := m.VolumeDelete(t.Context(), d.VolumeID, false); !errors.Is(err, server.ErrExists) || !strings.Contains(server.Remedy(err), "stead volume detach") {
		t.Errorf("plugged in: %v", err)
	}
	g.answer = func(*server.Server, string) (string, error) { return "", errors.New("/srv is in use by sh (12)") }
	if _, err := m.VolumeDetach(t.Context(), d.VolumeID, false); err == nil || !strings.Contains(server.Remedy(err), "--force") {
		t.Errorf("in use: %v", err)
	}
	_, err = m.VolumeDetach(t.Context(), d.VolumeID, true)
	b.check(err)
	s, err := m.Get(t.Context(), "web")
	b.check(err)
	if _, err := m.VolumeDelete(t.Context(), s.Root.VolumeID, false); !errors.Is(err, server.ErrProtected) || !strings.Contains(server.Remedy(err), "purge") {
		t.Errorf("the root, plugged in: %v", err)
	}
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	if _, err := m.VolumeLoss(t.Context(), s.Root.VolumeID); !errors.Is(err, server.ErrProtected) || !strings.Contains(server.Remedy(err), "purge") {
		t.Errorf("the root: %v", err)
	}
	r, err := m.VolumeDelete(t.Context(), d.VolumeID, true)
	if err != nil || r.SnapshotID == "" {
		t.Errorf("deleted: %+v, %v", r, err)
	}
	if _, there := b.inventory().volumes[d.VolumeID]; there {
		t.Error("it is still there")
	}
}

func TestMachineVolumeDeleteKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	var id string
	everyStep(t, k,
		func(int) {
			d, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 1})
			b.check(err)
			id = d.VolumeID
		},
		func(ctx context.Context, _ int) error {
			_, err := m.VolumeDetach(ctx, id, false)
			if err == nil {
				_, err = m.VolumeDelete(ctx, id, true)
			}
			if errors.Is(err, server.ErrNotFound) {
				return nil // which says that it was done
			}
			return err
		},
		func(int) {
			if inv := b.inventory(); len(inv.volumes) != 2 {
				t.Errorf("there are %d volumes", len(inv.volumes))
			}
		})
}
