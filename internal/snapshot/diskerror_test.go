package snapshot_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

// thinDisk is an ext4 filesystem on a disk that takes writes only until there is
// no more of it: from then on they fail when they are synced, though the
// filesystem has room.
type thinDisk struct {
	t            *testing.T
	below, above string // what the disk is on, and where its filesystem is mounted
}

func newThinDisk(t *testing.T) *thinDisk {
	t.Helper()
	d := &thinDisk{t: t, below: t.TempDir(), above: t.TempDir()}
	if err := unix.Mount("tmpfs", d.below, "tmpfs", 0, "size=24m"); err != nil {
		skip(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(d.below, unix.MNT_DETACH) })
	image := filepath.Join(d.below, "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 128<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-b", "4096", "-N", "512", "-J", "size=4,location=4M", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.above, unix.MNT_DETACH) })
	d.keep(image, 10<<20)
	d.mount()
	return d
}

// keep gives the disk's beginning its place: the filesystem's tables and journal
// lie there, so that what fails is the writing of files alone.
func (d *thinDisk) keep(image string, size int64) {
	d.t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *thinDisk) mount() {
	d.t.Helper()
	out, err := exec.CommandContext(d.t.Context(), "mount", "-o", "loop,errors=continue", filepath.Join(d.below, "image"), d.above).CombinedOutput()
	if err != nil {
		skip(d.t, fmt.Sprintf("can't mount a disk of our own: %v: %s", err, out))
	}
}

// replace is another disk with what the first one has got, and room: nothing is
// in memory any more of what it didn't take.
func (d *thinDisk) replace() {
	d.t.Helper()
	if err := unix.Mount("tmpfs", d.below, "tmpfs", unix.MS_REMOUNT, "size=200m"); err != nil {
		d.t.Fatal(err)
	}
	if err := unix.Unmount(d.above, 0); err != nil {
		d.t.Fatal(err)
	}
	d.mount()
}

// TestDiskErrors makes snapshots on a disk whose writes begin to fail. One that
// was said to be made is on the disk, byte for byte; one that failed isn't there,
// though what it had written can still be read from memory; and when the disk is
// well again it can be made.
func TestDiskErrors(t *testing.T) {
	d := newThinDisk(t)
	path := filepath.Join(d.above, "store")
	e := openStore(t, path, snapshot.WithPackSize(512<<10))
	made, failed := map[string]memory{}, map[string]memory{}
	for i := 0; len(failed) < 3; i++ {
		id, volume := fmt.Sprintf("snap-%d", i), make(memory, 3<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(i), 9}).Read(volume)
		if _, err := e.Create(t.Context(), id, volume, nil, nil); err != nil {
			failed[id] = volume
		} else {
			made[id] = volume
		}
		if i > 40 {
			t.Fatal("the disk takes everything")
		}
	}
	_ = e.Close()
	d.replace()
	e = openStore(t, path, snapshot.WithPackSize(512<<10))
	wantClean(t, e)
	for id, volume := range made {
		wantRestored(t, e, id, volume)
	}
	list, err := e.List(t.Context())
	if err != nil || len(list) != len(made) || len(made) == 0 {
		t.Errorf("%d snapshots (%v), want %d", len(list), err, len(made))
	}
	for id, volume := range failed {
		if err := e.Restore(t.Context(), id, make(memory, len(volume)), nil); !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("%s, which failed: %v", id, err)
		}
		snap(t, e, id, volume)
	}
	for id, volume := range failed {
		wantRestored(t, e, id, volume)
	}
	wantClean(t, e)
	_ = e.Close()
}
