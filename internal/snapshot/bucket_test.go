package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/objects/bucket"
)

// inBucket is an engine whose store is in a bucket that fails it all the time, and
// what must be in it.
type inBucket struct {
	*testing.T
	*snapshot.Engine
	rng    *rand.Rand
	bucket *bucket.Bucket
	now    time.Time
	volume memory
	last   string            // what was taken of the volume last
	kept   map[string]memory // snapshots that are there
	gone   map[string]memory // that can be had back
	unsure map[string]memory // either, as the answer never came
	begun  map[string]memory // likewise, or nowhere
	made   int
}

func (b *inBucket) clock() time.Time { return b.now }

// open opens the store as a process does that comes after one that died.
func (b *inBucket) open() {
	b.Helper()
	b.bucket.Settle()
	b.now = b.now.Add(2 * time.Minute) // the lease runs out
	log := slog.New(slog.DiscardHandler)
	var objs *bucket.Store
	err := errors.New("not tried")
	for tries := 0; err != nil; tries++ {
		if objs, err = bucket.Open(b.Context(), b.bucket, b.clock, time.Minute); err != nil && (tries > 100 || !errors.Is(err, objects.ErrUnavailable)) {
			b.Fatal(err)
		}
	}
	b.Engine, err = snapshot.Open(b.Context(), objects.Retry(objs, log, 30, time.Nanosecond), log,
		snapshot.WithPackSize(64<<10), snapshot.WithClock(b.clock), snapshot.WithTrash(24*time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	for id, want := range b.unsure {
		if _, err := b.Undelete(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		b.kept[id] = want
	}
	for id, want := range b.begun {
		switch _, err := b.Info(b.Context(), id); {
		case err == nil:
			b.kept[id] = want
		case !errors.Is(err, snapshot.ErrNotFound):
			b.Fatal(err)
		}
	}
	clear(b.unsure)
	clear(b.begun)
}

// step does one thing, which may be cut off anywhere.
func (b *inBucket) step() error {
	ctx, kept, gone := b.Context(), slices.Sorted(maps.Keys(b.kept)), slices.Sorted(maps.Keys(b.gone))
	to, lost, id, data, err := b.kept, b.begun, "", memory(nil), error(nil)
	switch n := b.rng.IntN(10); {
	case n < 4 || len(kept) < 2:
		b.made++
		id, data = fmt.Sprintf("snap-%03d", b.made), bytes.Clone(b.volume)
		var since *snapshot.Since
		if b.kept[b.last] != nil {
			old := b.kept[b.last]
			since = &snapshot.Since{Base: b.last, Changed: func(i int64) bool {
				at, end := i*snapshot.BlockSize, min((i+1)*snapshot.BlockSize, int64(len(old)))
				return !bytes.Equal(old[at:end], data[at:end])
			}}
		}
		if _, err = b.Create(ctx, id, data, since, nil); err == nil {
			b.last = id
			at := b.rng.IntN(len(b.volume) - 9000)
			copy(b.volume[at:], noisy(b.rng, 9000))
		}
	case n < 6:
		id = kept[b.rng.IntN(len(kept))]
		data = b.kept[id]
		delete(b.kept, id)
		to, lost = b.gone, b.unsure
		err = b.Delete(ctx, id)
	case n == 6 && len(gone) > 0:
		id = gone[b.rng.IntN(len(gone))]
		data = b.gone[id]
		delete(b.gone, id)
		lost = b.unsure
		_, err = b.Undelete(ctx, id)
	case n == 7:
		b.made++
		source := kept[b.rng.IntN(len(kept))]
		id, data = fmt.Sprintf("snap-%03d", b.made), b.kept[source]
		_, err = b.Copy(ctx, source, id)
	default:
		_, err = b.Collect(ctx)
		return err
	}
	if err == nil {
		to[id] = data
	} else {
		lost[id] = data
	}
	return err
}

func noisy(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}).Read(p)
	return p
}

// TestInABucket works in a bucket whose calls fail, whose answers are lost, whose
// lists are behind and whose writer dies anywhere, also in the middle of a rename.
// Nothing that was answered may be lost.
func TestInABucket(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := &inBucket{
				T: t, rng: rand.New(rand.NewPCG(seed, 5)), bucket: bucket.New(seed), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
				volume: data(t, 3<<20+4321, seed), kept: map[string]memory{}, gone: map[string]memory{}, unsure: map[string]memory{}, begun: map[string]memory{},
			}
			b.bucket.Trouble, b.bucket.Stale = 15, 10
			b.open()
			died := 0
			for range 60 {
				dies := b.rng.IntN(3) == 0
				if dies {
					b.bucket.CutAfter(b.rng.IntN(60))
				}
				if err := b.step(); err != nil && !dies {
					t.Fatal(err)
				}
				if dies {
					died++
					_ = b.Close()
					b.open()
				}
				if id := slices.Sorted(maps.Keys(b.kept)); len(id) > 0 && b.rng.IntN(4) == 0 {
					id := id[b.rng.IntN(len(id))]
					wantRestored(t, b.Engine, id, b.kept[id])
				}
			}
			for id, want := range b.gone {
				if _, err := b.Undelete(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				b.kept[id] = want
			}
			for id, want := range b.kept {
				wantRestored(t, b.Engine, id, want)
			}
			if report := wantClean(t, b.Engine); report.Snapshots != len(b.kept) {
				t.Errorf("%d snapshots, want %d", report.Snapshots, len(b.kept))
			}
			for id := range b.kept {
				if err := b.Delete(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			b.Rest()
			if _, err := b.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := b.EmptyTrash(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := slices.DeleteFunc(b.bucket.Keys(), func(k string) bool { return k == "lease" || k == "config/store" || len(k) > 6 && k[:6] == "index/" }); len(left) > 0 {
				t.Errorf("left without a snapshot: %v", left)
			}
			_ = b.Close()
			t.Logf("%d snapshots were made, and the writer died %d times", b.made, died)
		})
	}
}
