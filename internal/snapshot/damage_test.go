package snapshot_test

import (
	"bytes"
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
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
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
		"cut in half":           func(b []byte) []byte { return b[:len(b)/2] },
		"empty":                 func([]byte) []byte { return nil },
		"longer":                func(b []byte) []byte { return append(b, 0) },
		"zeros":                 func(b []byte) []byte { return make([]byte, len(b)) },
	}
}

// packOf makes a snapshot and returns the one pack that it added.
func packOf(t *testing.T, e *snapshot.Engine, path, id string, volume memory) string {
	t.Helper()
	before := files(t, filepath.Join(path, "packs"))
	snap(t, e, id, volume)
	after := slices.DeleteFunc(files(t, filepath.Join(path, "packs")), func(f string) bool { return slices.Contains(before, f) })
	if len(after) != 1 {
		t.Fatalf("snapshot %s added %d packs, want 1", id, len(after))
	}
	return after[0]
}

// TestDamagedPackIsFoundAndRefused damages the pack that two snapshots share, in
// ways that leave its blocks as they were and in ways that don't, with the store
// open and when it is opened again. What comes out is right or refused; another
// snapshot isn't touched; and taking the snapshot again heals.
func TestDamagedPackIsFoundAndRefused(t *testing.T) {
	for name, edit := range damages() {
		for _, reopen := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				path := snapshot.Scratch(t)
				e := openStore(t, path)
				whole, shared := data(t, 3<<20, 2), memory(noise(1<<20))
				snap(t, e, "whole", whole)
				victim := packOf(t, e, path, "hit-1", shared)
				snap(t, e, "hit-2", shared)
				change(t, victim, edit)
				if reopen {
					e = again(t, e, path)
				}
				report, err := e.Check(t.Context(), true, nil)
				if errors.Is(err, snapshot.ErrVersion) && name == "bit in the header" {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				wantOneSided(t, report)
				for _, id := range []string{"hit-1", "hit-2"} {
					got := make(memory, len(shared))
					err := e.Restore(t.Context(), id, got, nil)
					if err == nil && (!bytes.Equal(got, shared) || len(report.Problems) > 0) {
						t.Fatalf("%s is restored, with %d problems", id, len(report.Problems))
					}
					if err != nil && len(report.Problems) == 0 {
						t.Fatalf("restore %s: %v, but the check found nothing", id, err)
					}
					if err != nil {
						wantRefused(t, e, id)
					}
				}
				wantRestored(t, e, "whole", whole)
				if len(report.Problems) > 0 {
					// One that takes over what hasn't changed mustn't take over that.
					if _, err := e.Create(t.Context(), "healer", shared, since("hit-2"), nil); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					wantClean(t, e)
					wantRestored(t, e, "hit-1", shared)
					e = again(t, e, path)
				}
			})
		}
	}
}

func again(t *testing.T, e *snapshot.Engine, path string) *snapshot.Engine {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return openStore(t, path)
}

// wantOneSided wants the same problems in both snapshots and none in the third.
func wantOneSided(t *testing.T, report snapshot.Report) {
	t.Helper()
	n := map[string]int{}
	for _, p := range report.Problems {
		if !errors.Is(p.Err, snapshot.ErrCorrupt) {
			t.Errorf("problem %+v, want an ErrCorrupt", p)
		}
		n[p.Snapshot]++
	}
	if n["hit-1"] != n["hit-2"] || n["whole"] != 0 {
		t.Errorf("problems %v, want those of hit-1 in hit-2 too", n)
	}
}

func wantRefused(t *testing.T, e *snapshot.Engine, id string) {
	t.Helper()
	err := e.Restore(t.Context(), id, make(memory, 64<<20), nil)
	var corrupt *snapshot.CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, snapshot.ErrCorrupt) {
		t.Fatalf("restore: %v, want a CorruptError", err)
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("restore: %v passes for an absent snapshot", err)
	}
	if corrupt.Snapshot != id {
		t.Errorf("restore: %+v, want snapshot %s", corrupt, id)
	}
}

func TestMissingPackIsFoundAndRefused(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		path := snapshot.Scratch(t)
		e := openStore(t, path)
		volume := data(t, 2<<20)
		victim := packOf(t, e, path, "s", volume)
		if err := os.Remove(victim); err != nil {
			t.Fatal(err)
		}
		if reopen {
			e = again(t, e, path)
		}
		report, err := e.Check(t.Context(), true, nil)
		if err != nil || len(report.Problems) == 0 || report.Problems[0].Snapshot != "s" {
			t.Errorf("reopen %v: problems %+v, %v", reopen, report.Problems, err)
		}
		wantRefused(t, e, "s")
		snap(t, e, "healer", volume)
		wantRestored(t, e, "s", volume)
	}
}

func TestDamagedRootIsFoundAndRefused(t *testing.T) {
	for name, edit := range damages() {
		t.Run(name, func(t *testing.T) {
			path := snapshot.Scratch(t)
			e := openStore(t, path)
			volume := data(t, 2<<20, 2)
			snap(t, e, "hit", data(t, 2<<20, 1))
			snap(t, e, "orphan", data(t, 2<<20, 3))
			snap(t, e, "whole", volume)
			change(t, filepath.Join(path, "snapshots", "hit"), edit)
			if err := e.Delete(t.Context(), "orphan"); err != nil {
				t.Fatal(err)
			}
			report, err := e.Check(t.Context(), false, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Problems) != 1 || report.Problems[0].Snapshot != "hit" || report.Problems[0].Index != -1 {
				t.Errorf("problems %+v, want the root of hit", report.Problems)
			}
			wantRefused(t, e, "hit")
			list, err := e.List(t.Context())
			if len(list) != 1 || list[0].ID != "whole" || !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("list %+v, %v; want whole and an error", list, err)
			}
			if _, err := e.Create(t.Context(), "hit", volume, nil, nil); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("create over it: %v", err)
			}
			packs := len(files(t, filepath.Join(path, "packs")))
			if _, err := e.Collect(t.Context()); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("collect: %v", err)
			}
			if n := len(files(t, filepath.Join(path, "packs"))); n != packs {
				t.Errorf("collect took %d packs though a root is unreadable", packs-n)
			}
			// Once the damaged one is given up, all is well again.
			if err := e.Delete(t.Context(), "hit"); err != nil {
				t.Fatal(err)
			}
			if swept := collect(t, e); swept.Trashed == 0 {
				t.Error("nothing was collected")
			}
			wantRestored(t, e, "whole", volume)
		})
	}
}

// A root under another's name would restore the wrong volume.
func TestSwappedRootIsRefused(t *testing.T) {
	path := snapshot.Scratch(t)
	e := openStore(t, path)
	snap(t, e, "a", data(t, 1<<20, 1))
	snap(t, e, "b", data(t, 1<<20, 2))
	roots := filepath.Join(path, "snapshots")
	if err := os.Rename(filepath.Join(roots, "a"), filepath.Join(roots, "b")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, e, "b")
}
