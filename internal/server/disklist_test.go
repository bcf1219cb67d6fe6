package server_test

import (
	"context"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// listed checks that the root's list names just these devices.
func (b *bench) listed(m *server.Manager, want string) {
	b.t.Helper()
	s, err := m.Get(context.Background(), "web")
	b.check(err)
	if got := tag(b.inventory().volumes[s.Root.VolumeID].Tags, "stead:disks"); got != want {
		b.t.Errorf("the root lists %q, want %q", got, want)
	}
}

// The list of a server's disks stays true while disks come and go, and a rescue
// misses none that was taken out on purpose.
func TestVolumesAreListed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	web, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	root := web.Root.Device
	b.listed(m, "/dev/sdf "+root)
	b.check(b.volumesComeAndGo(m, root))
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	b.check(b.volumesComeAndGo(m, root))
	d, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 1, Device: "/dev/sdh"})
	b.check(err)
	b.listed(m, "/dev/sdf /dev/sdh "+root)
	_, err = m.VolumeDelete(t.Context(), d.VolumeID, false)
	b.check(err)
	p, err := m.PlanRescue(t.Context(), "web", server.RescueOptions{})
	if err != nil || len(p.Lost) > 0 || p.Consent {
		t.Errorf("the rescue is %+v, %v", p, err)
	}
	_, err = m.Rescue(t.Context(), "web", server.RescueOptions{})
	b.check(err)
	b.whole(m, 2)
	b.listed(m, "/dev/sdf "+root)
}

// volumesComeAndGo gives the server a disk and takes it away again, with or
// without an instance.
func (b *bench) volumesComeAndGo(m *server.Manager, root string) error {
	ctx := context.Background()
	d, err := m.VolumeCreate(ctx, server.VolumeOptions{Server: "web", SizeGiB: 1, Device: "/dev/sdh"})
	if err != nil {
		return err
	}
	b.listed(m, "/dev/sdf /dev/sdh "+root)
	if _, err = m.VolumeDetach(ctx, d.VolumeID, false); err != nil {
		return err
	}
	b.listed(m, "/dev/sdf "+root)
	if _, err = m.VolumeAttach(ctx, d.VolumeID, "web", "/dev/sdi"); err != nil {
		return err
	}
	b.listed(m, "/dev/sdf /dev/sdi "+root)
	if _, err = m.VolumeDetach(ctx, d.VolumeID, false); err != nil {
		return err
	}
	b.listed(m, "/dev/sdf "+root)
	_, err = m.VolumeDelete(ctx, d.VolumeID, false)
	return err
}

// A disk that somebody deleted behind the server's back stays listed, so that a
// rescue tells of it, whatever other disks come and go.
func TestLostDiskStaysListed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	web, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	b.deleteVolume(web.Data[0].VolumeID)
	b.check(b.volumesComeAndGo(m, web.Root.Device))
	if _, err := m.PlanRescue(t.Context(), "web", server.RescueOptions{}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("a lost disk isn't missed: %v", err)
	}
}

func TestMachineVolumeListKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	for _, detached := range []bool{false, true} {
		t.Run(map[bool]string{false: "running", true: "detached"}[detached], func(t *testing.T) {
			k := &killer{}
			b := newBench(t, k)
			m := b.manager(b.client)
			web, err := m.Create(t.Context(), b.faultOptions())
			b.check(err)
			if detached {
				_, err = m.Terminate(t.Context(), "web")
				b.check(err)
			}
			var id string
			everyStep(t, k,
				func(int) {
					d, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 1, Device: "/dev/sdh"})
					b.check(err)
					id = d.VolumeID
				},
				func(ctx context.Context, _ int) error { _, err := m.VolumeDetach(ctx, id, false); return err },
				func(int) { b.listed(m, "/dev/sdf "+web.Root.Device) })
			everyStep(t, k,
				func(int) {},
				func(ctx context.Context, _ int) error {
					_, err := m.VolumeAttach(ctx, id, "web", "/dev/sdh")
					return err
				},
				func(int) {
					b.listed(m, "/dev/sdf /dev/sdh "+web.Root.Device)
					_, err := m.VolumeDetach(t.Context(), id, false)
					b.check(err)
				})
			if !detached {
				return
			}
			everyStep(t, k,
				func(int) {
					d, err := m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 1, Device: "/dev/sdh"})
					b.check(err)
					id = d.VolumeID
				},
				func(ctx context.Context, _ int) error {
					_, err := m.VolumeDelete(ctx, id, false)
					if errors.Is(err, server.ErrNotFound) {
						return nil // which says that it was done
					}
					return err
				},
				func(int) { b.listed(m, "/dev/sdf "+web.Root.Device) })
		})
	}
}
