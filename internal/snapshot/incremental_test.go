package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

// counting notes which blocks of a volume are read.
type counting struct {
	memory
	mu   sync.Mutex
	read map[int64]bool
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	if c.read == nil {
		c.read = make(map[int64]bool)
	}
	c.read[off/snapshot.BlockSize] = true
	c.mu.Unlock()
	return c.memory.ReadAt(p, off)
}

func since(base string, changed ...int64) *snapshot.Since {
	set := map[int64]bool{}
	for _, i := range changed {
		set[i] = true
	}
	return &snapshot.Since{Base: base, Changed: func(i int64) bool { return set[i] }}
}

// TestIncrementalReadsWhatChanged changes a volume in known blocks, at random,
// again and again, and wants each snapshot to be exact though only those blocks
// were read.
func TestIncrementalReadsWhatChanged(t *testing.T) {
	for seed := range uint64(3) {
		store := openStore(t, snapshot.Scratch(t))
		rng := rand.New(rand.NewPCG(seed, 3))
		volume := data(t, 20<<20+777, seed)
		snap(t, store, "snap-0", volume)
		for i := 1; i < 8; i++ {
			var changed []int64
			for range rng.IntN(4) {
				at := rng.IntN(len(volume))
				end := min(at+rng.IntN(snapshot.BlockSize/2), len(volume))
				if rng.IntN(3) == 0 {
					clear(volume[at/snapshot.BlockSize*snapshot.BlockSize : end])
					at = at / snapshot.BlockSize * snapshot.BlockSize
				} else {
					copy(volume[at:end], noise(end-at))
				}
				for b := at / snapshot.BlockSize; b*snapshot.BlockSize < max(end, at+1); b++ {
					changed = append(changed, int64(b))
				}
			}
			src := &counting{memory: volume}
			id := fmt.Sprintf("snap-%d", i)
			if _, err := store.Create(t.Context(), id, src, since(fmt.Sprintf("snap-%d", i-1), changed...), nil); err != nil {
				t.Fatal(err)
			}
			for b := range src.read {
				if !since("", changed...).Changed(b) {
					t.Errorf("block %d was read and hadn't changed", b)
				}
			}
			wantRestored(t, store, id, volume)
			whole := snap(t, store, id+"-whole", volume)
			if made, err := store.Info(t.Context(), id); err != nil || made.Digest != whole.Digest || made.Blocks != whole.Blocks || made.DataBytes != whole.DataBytes {
				t.Errorf("incremental %+v, whole %+v, %v", made, whole, err)
			}
			if whole.StoredBytes != 0 {
				t.Errorf("reading all stored %d more bytes", whole.StoredBytes)
			}
		}
	}
}

// TestIncrementalOfOtherSizes grows a volume whose last block was short.
func TestIncrementalOfOtherSizes(t *testing.T) {
	store := openStore(t, snapshot.Scratch(t))
	const block = snapshot.BlockSize
	whole := data(t, 6*block+999, 4)
	for i, size := range []int{3*block + 5, 3*block + 5, 4 * block, 4*block + 1, 6*block + 999, 2 * block} {
		volume := whole[:size]
		src := &counting{memory: volume}
		if _, err := store.Create(t.Context(), fmt.Sprintf("snap-%d", i), src, since(fmt.Sprintf("snap-%d", i-1)), nil); err != nil {
			t.Fatal(err)
		}
		wantRestored(t, store, fmt.Sprintf("snap-%d", i), volume)
		if i == 1 && len(src.read) != 0 {
			t.Errorf("an unchanged volume cost the reads %v", src.read)
		}
	}
}

// TestIncrementalWithoutItsBase wants everything to be read where the base is
// gone or damaged.
func TestIncrementalWithoutItsBase(t *testing.T) {
	path := snapshot.Scratch(t)
	store := openStore(t, path)
	volume := data(t, 4<<20)
	snap(t, store, "root-hit", volume)
	change(t, path+"/snapshots/root-hit", damages()["bit in the middle"])
	for _, base := range []string{"absent", "root-hit", ""} {
		if _, err := store.Create(t.Context(), "of-"+base, volume, since(base), nil); err != nil {
			t.Fatal(err)
		}
		wantRestored(t, store, "of-"+base, volume)
	}
}

// large is a volume of many pages, sparse.
type large struct {
	size   int64
	blocks map[int64]byte // by index, their bytes
}

func (l large) Size() int64 { return l.size }

func (l large) ReadAt(p []byte, off int64) (int, error) {
	if v := l.blocks[off/snapshot.BlockSize]; v != 0 {
		copy(p, bytesOf(v, len(p)))
	} else {
		clear(p)
	}
	return len(p), nil
}

func (l large) NextData(off int64) (start, end int64, err error) {
	for i := off / snapshot.BlockSize; i*snapshot.BlockSize < l.size; i++ {
		if l.blocks[i] != 0 {
			return max(off, i*snapshot.BlockSize), min((i+1)*snapshot.BlockSize, l.size), nil
		}
	}
	return 0, 0, io.EOF
}

// sparse takes blocks that each hold one byte value.
type sparse struct {
	mu     sync.Mutex
	blocks map[int64]byte
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if len(bytes.Trim(p, string(p[:1]))) != 0 {
		return 0, errors.New("mixed bytes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks[off/snapshot.BlockSize] = p[0]
	return len(p), nil
}

// TestManyPages takes volumes of 3 GiB over several pages, page borders and
// empty pages among them.
func TestManyPages(t *testing.T) {
	store := openStore(t, snapshot.Scratch(t))
	v := large{size: 3<<30 + 4096, blocks: map[int64]byte{0: 1, 1023: 2, 1024: 3, 5000: 4, 6144: 5}}
	first := snap(t, store, "a", v)
	if first.Blocks != 5 || first.DataBytes != 4*snapshot.BlockSize+4096 {
		t.Errorf("%+v, want 5 blocks, the last of 4096 bytes", first)
	}
	v.blocks[1024], v.blocks[3000], v.blocks[5000] = 9, 8, 0
	if _, err := store.Create(t.Context(), "b", v, since("a", 1024, 3000, 5000), nil); err != nil {
		t.Fatal(err)
	}
	got := &sparse{blocks: map[int64]byte{}}
	if err := store.Restore(t.Context(), "b", got, nil); err != nil {
		t.Fatal(err)
	}
	delete(v.blocks, 5000)
	if !maps.Equal(got.blocks, v.blocks) {
		t.Errorf("restored %v, want %v", got.blocks, v.blocks)
	}
	var changed, all []int64
	err := store.Changed(t.Context(), "a", "b", 0, func(i int64, _, _ snapshot.Digest) error { changed = append(changed, i); return nil })
	if err != nil || fmt.Sprint(changed) != "[1024 3000 5000]" {
		t.Errorf("changed %v, %v", changed, err)
	}
	changed = nil
	err = store.Changed(t.Context(), "b", "a", 1025, func(i int64, a, b snapshot.Digest) error {
		if (i == 3000) != (b == snapshot.Digest{}) || (i == 5000) != (a == snapshot.Digest{}) {
			t.Errorf("block %d: %v and %v", i, a, b)
		}
		changed = append(changed, i)
		return snapshot.ErrStop
	})
	if err != nil || fmt.Sprint(changed) != "[3000]" {
		t.Errorf("changed from 1025 on: %v, %v", changed, err)
	}
	err = store.Blocks(t.Context(), "a", 1, func(i int64, _ snapshot.Digest) error { all = append(all, i); return nil })
	if err != nil || fmt.Sprint(all) != "[1023 1024 5000 6144]" {
		t.Errorf("blocks from 1 on: %v, %v", all, err)
	}
	for i, want := range map[int64]byte{0: 1, 1: 0, 1024: 9, 2000: 0, 6144: 5, 99999: 0} {
		b, err := store.ReadBlock(t.Context(), "b", i, nil)
		if err != nil || want == 0 && b != nil || want != 0 && (len(b) == 0 || b[0] != want) {
			t.Errorf("block %d: %d bytes, %v; want %d", i, len(b), err, want)
		}
	}
}

// TestUndelete deletes a snapshot, has its blocks swept, and wants it back within
// its days, not after them.
func TestUndelete(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	path := snapshot.Scratch(t)
	opts := []snapshot.Option{snapshot.WithClock(func() time.Time { return now }), snapshot.WithTrash(48 * time.Hour), snapshot.WithPackSize(256 << 10)}
	e := openStore(t, path, opts...)
	a, b := data(t, 5<<20, 1), data(t, 5<<20, 2)
	copy(b[:2<<20], a[:2<<20])
	snap(t, e, "a", a)
	snap(t, e, "b", b)
	for range 2 {
		if err := e.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		now = now.Add(47 * time.Hour)
		if swept := collect(t, e); swept.Trashed == 0 {
			t.Fatal("nothing was swept")
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = openStore(t, path, opts...)
		list, err := e.Deleted(t.Context())
		if err != nil || len(list) != 1 || list[0].ID != "a" || list[0].Until.Sub(now) != time.Hour {
			t.Fatalf("deleted: %+v, %v", list, err)
		}
		for range 2 {
			if _, err := e.Undelete(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		wantRestored(t, e, "a", a)
		wantRestored(t, e, "b", b)
		wantClean(t, e)
	}
	if err := e.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	collect(t, e)
	now = now.Add(49 * time.Hour)
	if swept := collect(t, e); swept.Freed == 0 {
		t.Error("nothing was freed")
	}
	if _, err := e.Undelete(t.Context(), "a"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("after its days: %v", err)
	}
	wantRestored(t, e, "b", b)
}

// TestThirtyDays rolls a schedule of seven daily snapshots for thirty days over a
// volume of which some changes every day, and wants the store to end at no more
// than 1.1 times what is live.
func TestThirtyDays(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	e := openStore(t, snapshot.Scratch(t), snapshot.WithClock(func() time.Time { return now }),
		snapshot.WithTrash(72*time.Hour), snapshot.WithPackSize(1<<20))
	rng := rand.New(rand.NewPCG(1, 30))
	volume := data(t, 32<<20)
	for day := range 30 {
		var changed []int64
		for range 6 {
			i := rng.Int64N(volume.Size() / snapshot.BlockSize)
			copy(volume[i*snapshot.BlockSize:], data(t, 300<<10, uint64(day)*100+uint64(i)))
			changed = append(changed, i)
		}
		if _, err := e.Create(t.Context(), fmt.Sprintf("snap-%d", day), volume, since(fmt.Sprintf("snap-%d", day-1), changed...), nil); err != nil {
			t.Fatal(err)
		}
		if err := e.Delete(t.Context(), fmt.Sprintf("snap-%d", day-7)); day >= 7 && err != nil {
			t.Fatal(err)
		}
		collect(t, e)
		now = now.Add(24 * time.Hour)
	}
	for range 2 { // the first may rewrite packs, which the trash then keeps
		now = now.Add(72 * time.Hour)
		collect(t, e)
	}
	wantClean(t, e)
	wantRestored(t, e, "snap-29", volume)
	st, err := e.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live := onlyLive(t, e)
	t.Logf("%d bytes in %d packs for %d live: %.3f", st.Bytes, st.Packs, live, float64(st.Bytes)/float64(live))
	if st.TrashBytes != 0 || st.Bytes > live*110/100 {
		t.Errorf("%+v for %d live bytes", st, live)
	}
}

// onlyLive copies what is live to a store of its own and weighs that.
func onlyLive(t *testing.T, e *snapshot.Engine) int64 {
	t.Helper()
	other := openStore(t, snapshot.Scratch(t))
	list, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		m := make(memory, info.VolumeSize)
		if err := e.Restore(t.Context(), info.ID, m, nil); err != nil {
			t.Fatal(err)
		}
		snap(t, other, info.ID, m)
	}
	st, err := other.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.LiveBytes
}
