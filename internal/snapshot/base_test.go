package snapshot_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// spoil flips a bit in the last blob of a kind in the store's one pack.
func spoil(t *testing.T, path string, kind byte) {
	t.Helper()
	packs := files(t, filepath.Join(path, "packs"))
	if len(packs) != 1 {
		t.Fatalf("%d packs, want 1", len(packs))
	}
	change(t, packs[0], func(b []byte) []byte {
		at := bytes.LastIndex(b, []byte{'b', 'l', 'o', 'b', kind})
		if at < 0 {
			t.Fatal("the pack has no such blob")
		}
		b[at+60] ^= 1 // behind its header
		return b
	})
}

const aBlock, aPage = 1, 2

// TestSoundLooksAgain has what was found sound become unsound.
func TestSoundLooksAgain(t *testing.T) {
	sound := func(t *testing.T, e *snapshot.Engine, want error) {
		t.Helper()
		for range 2 {
			if _, err := e.Sound(t.Context(), "s"); !errors.Is(err, want) || (err != nil) != (want != nil) {
				t.Fatalf("sound: %v, want %v", err, want)
			}
		}
	}
	t.Run("a rotten block", func(t *testing.T) {
		path := snapshot.Scratch(t)
		e := openStore(t, path)
		snap(t, e, "s", data(t, 4<<20))
		sound(t, e, nil)
		spoil(t, path, aBlock)
		sound(t, e, nil) // nobody knows
		if _, err := e.Check(t.Context(), true, nil); err != nil {
			t.Fatal(err)
		}
		sound(t, e, snapshot.ErrCorrupt)
		snap(t, e, "again", data(t, 4<<20))
		sound(t, e, nil) // healed
	})
	t.Run("a rotten page", func(t *testing.T) {
		path := snapshot.Scratch(t)
		e := openStore(t, path)
		snap(t, e, "s", data(t, 4<<20))
		sound(t, e, nil)
		spoil(t, path, aPage)
		sound(t, e, snapshot.ErrCorrupt)
	})
	t.Run("deleted", func(t *testing.T) {
		e := openStore(t, snapshot.Scratch(t))
		snap(t, e, "s", data(t, 4<<20))
		sound(t, e, nil)
		if err := e.Delete(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		sound(t, e, snapshot.ErrNotFound)
		collect(t, e)
		snap(t, e, "s", data(t, 4<<20))
		sound(t, e, nil)
	})
}

// TestReadBlockKeepsPages reads blocks of a page that was read before, and none of
// a snapshot that was deleted meanwhile.
func TestReadBlockKeepsPages(t *testing.T) {
	path, volume := snapshot.Scratch(t), data(t, 4<<20)
	e := openStore(t, path)
	snap(t, e, "s", volume)
	read := func(index int64) ([]byte, error) { return e.ReadBlock(t.Context(), "s", index, nil) }
	if _, err := read(0); err != nil {
		t.Fatal(err)
	}
	spoil(t, path, aPage)
	for i := range volume.Size() / snapshot.BlockSize {
		want := volume[i*snapshot.BlockSize:][:snapshot.BlockSize]
		if got, err := read(i); err != nil || !bytes.Equal(got, want) && (got != nil || bytes.Count(want, []byte{0}) < len(want)) {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	if report, err := e.Check(t.Context(), false, nil); err != nil || len(report.Problems) != 1 {
		t.Errorf("the check found %+v, %v, want the page", report, err)
	}
	e.Rest()
	if _, err := read(0); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("after a rest: %v", err)
	}
	if err := e.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := read(0); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// TestManyPagesAreRead goes through more pages than are kept in memory.
func TestManyPagesAreRead(t *testing.T) {
	e := openStore(t, snapshot.Scratch(t))
	const pages, step = 100, 1024 * snapshot.BlockSize
	volume := large{size: pages * step, blocks: map[int64]byte{}}
	for n := range int64(pages) {
		volume.blocks[n*1024+n] = byte(n + 1)
	}
	snap(t, e, "s", volume)
	for range 2 {
		for n := range int64(pages) {
			got, err := e.ReadBlock(t.Context(), "s", n*1024+n, nil)
			if err != nil || len(got) != snapshot.BlockSize || got[0] != byte(n+1) {
				t.Fatalf("block of page %d: %v", n, err)
			}
		}
	}
	if _, err := e.Sound(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkReadBlock(b *testing.B) {
	volume := benchVolume(b)
	store := openStore(b, b.TempDir())
	snap(b, store, "s", volume)
	buf := make([]byte, 0, snapshot.BlockSize)
	b.SetBytes(snapshot.BlockSize)
	for i := int64(0); b.Loop(); i++ {
		if _, err := store.ReadBlock(b.Context(), "s", i%(volume.Size()/snapshot.BlockSize), buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSound looks at 8 GiB.
func BenchmarkSound(b *testing.B) {
	volume := large{size: 8 << 30, blocks: map[int64]byte{}}
	for n := range volume.size / snapshot.BlockSize {
		volume.blocks[n] = byte(n%250 + 1)
	}
	store := openStore(b, b.TempDir())
	snap(b, store, "s", volume)
	for b.Loop() {
		if _, err := store.Sound(b.Context(), "s"); err != nil {
			b.Fatal(err)
		}
	}
}
