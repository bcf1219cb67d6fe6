package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// files returns the files below a folder of the store.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func change(t *testing.T, path string, edit func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, edit(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

// damages are what a disk does to a file, by the part of the file it hits.
func damages() map[string]func([]byte) []byte {
	flip := func(at func(n int) int) func([]byte) []byte {
		return func(b []byte) []byte { b[at(len(b))] ^= 0x10; return b }
	}
	return map[string]func([]byte) []byte{
		"bit in the first byte": flip(func(int) int { return 0 }),
		"bit in the header":     flip(func(int) int { return 5 }),
		"bit in the middle":     flip(func(n int) int { return n / 2 }),
		"bit in the last byte":  flip(func(n int) int { return n - 1 }),
		"cut short":             func(b []byte) []byte { return b[:len(b)-1] },
		"empty":                 func([]byte) []byte { return nil },
		"longer":                func(b []byte) []byte { return append(b, 0) },
		"zeros":                 func(b []byte) []byte { return make([]byte, len(b)) },
	}
}

func TestDamagedBlockIsFoundAndRefused(t *testing.T) {
	for name, edit := range damages() {
		t.Run(name, func(t *testing.T) {
			path := snapshot.Scratch(t)
			store := openStore(t, path)
			shared := data(t, 1<<20, 1)
			only := data(t, 3<<20, 2)
			snap(t, store, "whole", only)
			before := files(t, filepath.Join(path, "blocks"))
			snap(t, store, "hit-1", shared)
			snap(t, store, "hit-2", shared)
			var victim string
			for _, f := range files(t, filepath.Join(path, "blocks")) {
				if !slices.Contains(before, f) {
					victim = f
				}
			}
			change(t, victim, edit)

			report, err := engine(store).Check(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Problems) != 2 || report.Problems[0].Snapshot != "hit-1" || report.Problems[1].Snapshot != "hit-2" {
				t.Fatalf("problems %+v, want one each of hit-1 and hit-2", report.Problems)
			}
			for _, p := range report.Problems {
				if string(p.Block) != filepath.Base(victim) || !errors.Is(p.Err, snapshot.ErrCorrupt) {
					t.Errorf("problem %+v, want block %s", p, filepath.Base(victim))
				}
			}
			wantRefused(t, store, "hit-1", filepath.Base(victim))
			wantRestored(t, store, "whole", only)
		})
	}
}

func wantRefused(t *testing.T, store snapshot.Store, id, block string) {
	t.Helper()
	err := engine(store).Restore(t.Context(), id, make(memory, 64<<20), nil)
	var corrupt *snapshot.CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, snapshot.ErrCorrupt) {
		t.Fatalf("restore: %v, want a CorruptError", err)
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("restore: %v passes for an absent snapshot", err)
	}
	if corrupt.Snapshot != id || string(corrupt.Block) != block {
		t.Errorf("restore: %+v, want snapshot %s, block %s", corrupt, id, block)
	}
}

// Another block in a block's place is sound by its own checksum; only the
// manifest knows better.
func TestMisplacedBlockIsFoundAndRefused(t *testing.T) {
	path := snapshot.Scratch(t)
	store := openStore(t, path)
	snap(t, store, "s", memory(append(bytesOf(1, snapshot.BlockSize), bytesOf(2, snapshot.BlockSize)...)))
	blocks := files(t, filepath.Join(path, "blocks"))
	other, err := os.ReadFile(blocks[1])
	if err != nil {
		t.Fatal(err)
	}
	change(t, blocks[0], func([]byte) []byte { return other })
	report, err := engine(store).Check(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) != 1 || string(report.Problems[0].Block) != filepath.Base(blocks[0]) {
		t.Errorf("problems %+v, want block %s", report.Problems, filepath.Base(blocks[0]))
	}
	wantRefused(t, store, "s", filepath.Base(blocks[0]))
}

func TestMissingBlockIsFoundAndRefused(t *testing.T) {
	path := snapshot.Scratch(t)
	store := openStore(t, path)
	snap(t, store, "s", data(t, 2<<20))
	victim := files(t, filepath.Join(path, "blocks"))[0]
	if err := os.Remove(victim); err != nil {
		t.Fatal(err)
	}
	for _, readData := range []bool{false, true} {
		report, err := engine(store).Check(t.Context(), readData)
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Problems) != 1 || string(report.Problems[0].Block) != filepath.Base(victim) {
			t.Errorf("readData %v: problems %+v, want block %s", readData, report.Problems, filepath.Base(victim))
		}
	}
	wantRefused(t, store, "s", filepath.Base(victim))
}

func TestDamagedManifestIsFoundAndRefused(t *testing.T) {
	for name, edit := range damages() {
		t.Run(name, func(t *testing.T) {
			path := snapshot.Scratch(t)
			store := openStore(t, path)
			volume := data(t, 2<<20, 2)
			snap(t, store, "hit", data(t, 2<<20, 1))
			snap(t, store, "orphan", data(t, 2<<20, 3))
			snap(t, store, "whole", volume)
			change(t, filepath.Join(path, "manifests", "hit"), edit)
			if err := engine(store).Delete(t.Context(), "orphan"); err != nil {
				t.Fatal(err)
			}

			report, err := engine(store).Check(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Problems) != 1 || report.Problems[0].Snapshot != "hit" || report.Problems[0].Block != "" {
				t.Errorf("problems %+v, want the manifest of hit", report.Problems)
			}
			wantRefused(t, store, "hit", "")
			list, err := engine(store).List(t.Context())
			if len(list) != 1 || list[0].ID != "whole" || !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("list %+v, %v; want whole and an error", list, err)
			}
			if _, err := engine(store).Create(t.Context(), "hit", volume, nil); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("create over it: %v", err)
			}

			blocks := len(files(t, filepath.Join(path, "blocks")))
			if _, err := engine(store).Collect(t.Context()); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("collect: %v", err)
			}
			if n := len(files(t, filepath.Join(path, "blocks"))); n != blocks {
				t.Errorf("collect deleted %d blocks though a manifest is unreadable", blocks-n)
			}
			// Once the damaged one is given up, all is well again.
			if err := engine(store).Delete(t.Context(), "hit"); err != nil {
				t.Fatal(err)
			}
			if freed, err := engine(store).Collect(t.Context()); err != nil || freed == 0 {
				t.Errorf("collect freed %d: %v", freed, err)
			}
			wantRestored(t, store, "whole", volume)
		})
	}
}

// A manifest under another's name would restore the wrong volume.
func TestSwappedManifestIsRefused(t *testing.T) {
	path := snapshot.Scratch(t)
	store := openStore(t, path)
	snap(t, store, "a", data(t, 1<<20, 1))
	snap(t, store, "b", data(t, 1<<20, 2))
	manifests := filepath.Join(path, "manifests")
	if err := os.Rename(filepath.Join(manifests, "a"), filepath.Join(manifests, "b")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, store, "b", "")
}
