package cloud

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/steadcloud/stead/internal/image"
	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// builtTiny stands for what a build made: three small files.
func builtTiny(t *testing.T, c *Cloud) *image.Tiny {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir.Scratch(), "tiny-") // it is renamed within the data folder
	if err != nil {
		t.Fatal(err)
	}
	fill(t, dir, "vmlinuz", "initrd")
	root := filepath.Join(dir, "root.raw")
	if err := os.WriteFile(root, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return &image.Tiny{
		Root: root, Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
		KernelVersion: "6.1", Architecture: "x86_64", Size: 1 << 20,
	}
}

// checkNothingBuilt wants no trace of a build: no record, no kernel, nothing in
// the store.
func checkNothingBuilt(t *testing.T, c *Cloud) {
	t.Helper()
	err := c.db.View(func(tx *state.Tx) error {
		snaps, err := state.All[state.Snapshot](tx)
		if len(snaps) > 0 {
			t.Errorf("snapshot %s is left, %s", snaps[0].ID, snaps[0].State)
		}
		images, err2 := state.All[state.Image](tx)
		if len(images) > 0 {
			t.Errorf("image %s is left", images[0].ID)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(c.dir.Kernels()); err != nil || len(left) > 0 {
		t.Errorf("kernels are left: %v, %v", left, err)
	}
	if left, err := c.snapshots.List(context.Background()); err != nil || len(left) > 0 {
		t.Errorf("the store holds %v, %v", left, err)
	}
}

func TestBuildIsUndone(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Cloud, *image.Tiny) context.Context{
		"the daemon ends": func(*testing.T, *Cloud, *image.Tiny) context.Context { return canceled() },
		"no root": func(t *testing.T, _ *Cloud, b *image.Tiny) context.Context {
			b.Root += ".gone"
			return t.Context()
		},
		"no kernel": func(t *testing.T, _ *Cloud, b *image.Tiny) context.Context {
			b.Initrd += ".gone"
			return t.Context()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newTestCloud(t)
			built := builtTiny(t, c)
			if _, err := c.registerTiny(spoil(t, c, built), testScope, built); err == nil {
				t.Fatal("registered")
			}
			checkNothingBuilt(t, c)
		})
	}
}

// The next daemon removes what a build left whose daemon died, and keeps what
// was finished.
func TestClearBuilds(t *testing.T) {
	c, _ := newTestCloud(t)
	snap := &state.Snapshot{Meta: c.meta(testScope, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: 1}
	if err := c.db.Update(func(tx *state.Tx) error { return state.Put(tx, snap) }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.snapshotFile(t.Context(), snap.ID, builtTiny(t, c).Root); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Dir(c.dir.Kernel("aki-00000000000000001")), "vmlinuz")
	if err := c.clearBuilds(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingBuilt(t, c)

	ami, err := c.registerTiny(t.Context(), testScope, builtTiny(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.clearBuilds(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = c.db.View(func(tx *state.Tx) error {
		img, err := state.Get[state.Image](tx, testScope, ami)
		if err != nil {
			return err
		}
		if _, err := os.Stat(c.dir.Kernel(img.KernelID)); err != nil {
			t.Error(err)
		}
		if _, err := c.snapshots.Info(t.Context(), img.BlockDevices[0].SnapshotID); errors.Is(err, snapshot.ErrNotFound) {
			t.Error(err)
		}
		s, err := state.Get[state.Snapshot](tx, testScope, img.BlockDevices[0].SnapshotID)
		if err == nil && s.State != state.SnapshotCompleted {
			t.Errorf("its snapshot is %s", s.State)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPublicIPsDiffer(t *testing.T) {
	c, _ := newTestCloud(t)
	err := c.db.Update(func(tx *state.Tx) error {
		next, err := c.publicIPs(tx, nil)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for range 600 {
			ip, err := next()
			if err != nil || seen[ip] {
				t.Fatalf("address %s twice, or %v", ip, err)
			}
			seen[ip] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
