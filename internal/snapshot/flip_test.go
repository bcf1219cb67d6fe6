package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

// flipStore has an object of each kind, and knows what is to come out of it.
type flipStore struct {
	t     *testing.T
	path  string
	holds map[string]memory // all snapshots, but for gone
	gone  memory            // in the trash, in a pack of its own
}

func newFlipStore(t *testing.T) *flipStore {
	t.Helper()
	s := &flipStore{t: t, path: snapshot.Scratch(t), holds: map[string]memory{}, gone: memory(noise(700 << 10))}
	e := s.open(s.path)
	snap(t, e, "gone", s.gone)
	if err := e.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	collect(t, e)
	s.holds["large"], s.holds["twin"] = data(t, 1<<20, 3), data(t, 1<<20, 3)
	for i := range 66 { // so many footers that there will be an index
		s.holds[fmt.Sprintf("small-%d", i)] = memory(bytesOf(byte(i+1), 5000))
	}
	for id, volume := range s.holds {
		snap(t, e, id, volume)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = s.open(s.path)
	rotten := s.file("packs", 0)
	raw, err := os.ReadFile(filepath.Join(s.path, rotten))
	if err != nil {
		t.Fatal(err)
	}
	s.flip(s.path, rotten, int64(len(raw))*4) // in the middle: for a note of rot
	if report, err := e.Check(t.Context(), true, nil); err != nil || len(report.Problems) == 0 {
		t.Fatal(report, err)
	}
	for id, volume := range s.holds { // and heal it
		snap(t, e, id+"-again", volume)
		if err := e.Delete(t.Context(), id+"-again"); err != nil {
			t.Fatal(err)
		}
	}
	wantClean(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *flipStore) open(path string) *snapshot.Engine {
	s.t.Helper()
	return openStore(s.t, path, snapshot.WithPackSize(64<<10), snapshot.WithTrash(time.Hour))
}

// file is the n-th largest object of a kind.
func (s *flipStore) file(kind string, n int) string {
	s.t.Helper()
	paths := files(s.t, filepath.Join(s.path, kind))
	slices.SortFunc(paths, func(a, b string) int {
		one, _ := os.Stat(a)
		two, _ := os.Stat(b)
		return int(two.Size() - one.Size())
	})
	if n >= len(paths) {
		s.t.Fatalf("%d objects in %s", len(paths), kind)
	}
	name, err := filepath.Rel(s.path, paths[n])
	if err != nil {
		s.t.Fatal(err)
	}
	return name
}

// find returns where an object is, if only in the trash; "" for nowhere.
func (s *flipStore) find(store, name string) string {
	s.t.Helper()
	path := filepath.Join(store, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	moved, _ := filepath.Glob(filepath.Join(store, "*", "*"+name[strings.LastIndexAny(name, "/.")+1:]))
	if len(moved) > 1 {
		s.t.Fatalf("%s is in %v", name, moved)
	}
	if len(moved) == 0 {
		return ""
	}
	return moved[0]
}

// flip changes a bit of an object, or changes it back, wherever it was put
// meanwhile. Others who share the file keep theirs.
func (s *flipStore) flip(store, name string, bit int64) {
	s.t.Helper()
	path := s.find(store, name)
	if path == "" {
		s.t.Fatalf("%s was deleted", name)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	raw[bit/8] ^= 1 << (bit % 8)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, raw, 0o600)); err != nil {
		s.t.Fatal(err)
	}
}

// TestFlippedBitInEachKind flips bits in an object of each kind. What restores is
// right, what doesn't is named by the check, and the other way round; what is in
// the trash comes back right or is refused; and nothing is deleted on account of
// the damage: with the bit flipped back everything is there. With STEAD_SOAK it
// flips more.
func TestFlippedBitInEachKind(t *testing.T) {
	s := newFlipStore(t)
	for _, c := range []struct {
		kind  string
		nth   int // by size
		flips int64
	}{
		{"packs", 1, 5}, {"packs", 30, 3}, {"snapshots", 0, 3}, {"snapshots", 40, 2}, {"index", 0, 2}, {"trash", 0, 3}, {"deleted", 0, 2}, {"config", 0, 2},
	} {
		if soakRounds(0) > 0 {
			c.flips *= 20
		}
		name := s.file(c.kind, c.nth)
		info, err := os.Stat(filepath.Join(s.path, name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.flips {
			bit := info.Size()*8*i/c.flips + rand.Int64N(info.Size()*8/c.flips)
			s.try(name, bit)
			if t.Failed() {
				t.Fatalf("bit %d of %s, which has %d", bit, name, info.Size()*8)
			}
		}
	}
}

func (s *flipStore) try(name string, bit int64) {
	s.t.Helper()
	path := linked(s.t, s.path)
	defer func() { _ = os.RemoveAll(path) }()
	s.flip(path, name, bit)
	e, err := snapshot.OpenDir(s.t.Context(), path, slog.New(slog.DiscardHandler), snapshot.WithPackSize(64<<10), snapshot.WithTrash(time.Hour))
	switch {
	case err == nil:
		s.damaged(e)
		if err := e.Close(); err != nil {
			s.t.Error(err)
		}
	case !strings.HasPrefix(name, "config/") || !errors.Is(err, snapshot.ErrCorrupt) && !errors.Is(err, snapshot.ErrVersion) || !strings.Contains(err.Error(), path):
		s.t.Errorf("open: %v", err)
	}
	// An index is made anew, and a pack isn't kept whose blocks were all sound and
	// are in a larger one now.
	if s.find(path, name) != "" || !strings.HasPrefix(name, "index/") && !strings.HasPrefix(name, "packs/") {
		s.flip(path, name, bit)
	}
	e = s.open(path)
	if report, err := e.Repair(s.t.Context(), nil); err != nil || len(report.Problems) > 0 {
		s.t.Errorf("with the bit flipped back: %+v, %v", report, err)
	}
	if _, err := e.Undelete(s.t.Context(), "gone"); err != nil {
		s.t.Error(err)
	}
	wantRestored(s.t, e, "gone", s.gone)
	for id, want := range s.holds {
		if id != "small-3" { // which was deleted
			wantRestored(s.t, e, id, want)
		}
	}
	if err := e.Close(); err != nil {
		s.t.Error(err)
	}
}

// damaged looks at a store in which a bit is wrong.
func (s *flipStore) damaged(e *snapshot.Engine) {
	s.t.Helper()
	report, err := e.Check(s.t.Context(), true, nil)
	if errors.Is(err, snapshot.ErrVersion) {
		return // a newer program's, for all that is known
	}
	if err != nil {
		s.t.Fatal(err)
	}
	named := map[string]bool{}
	for _, p := range report.Problems {
		named[p.Snapshot] = true
		if p.Err == nil || !errors.Is(p.Err, snapshot.ErrCorrupt) || p.Index >= 0 && p.Block == (snapshot.Digest{}) {
			s.t.Errorf("problem %+v", p)
		}
	}
	for id, want := range s.holds {
		got := make(memory, len(want))
		err := e.Restore(s.t.Context(), id, got, nil)
		switch {
		case err == nil && (!bytes.Equal(got, want) || named[id]):
			s.t.Errorf("%s is restored, right %v, named %v", id, bytes.Equal(got, want), named[id])
		case err != nil && (!errors.Is(err, snapshot.ErrCorrupt) || !named[id]):
			s.t.Errorf("%s isn't restored: %v, with the problems %+v", id, err, report.Problems)
		}
	}
	if _, err := e.Undelete(s.t.Context(), "gone"); err == nil {
		got := make(memory, len(s.gone))
		if err := e.Restore(s.t.Context(), "gone", got, nil); err == nil && !bytes.Equal(got, s.gone) || err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
			s.t.Errorf("it came back otherwise: %v", err)
		}
	} else if !errors.Is(err, snapshot.ErrCorrupt) && !errors.Is(err, snapshot.ErrNotFound) {
		s.t.Errorf("undelete: %v", err)
	}
	if err := e.Delete(s.t.Context(), "small-3"); err != nil {
		s.t.Error(err)
	}
	if _, err := e.Collect(s.t.Context()); err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
		s.t.Errorf("collect: %v", err)
	}
}
