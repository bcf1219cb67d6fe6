package snapshot_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// TestDeleteInAnyOrder makes snapshots of a volume that changes, deletes them
// at random, collecting now and then, and wants the others to stay as they are.
func TestDeleteInAnyOrder(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			path := snapshot.Scratch(t)
			store := openStore(t, path, snapshot.WithPackSize(256<<10))
			e := store
			volume := data(t, 3<<20+4321, seed)
			kept := make(map[string]memory)
			for i := range 24 {
				switch id := fmt.Sprintf("snap-%02d", i); {
				case len(kept) < 3 || rng.IntN(3) > 0:
					snap(t, store, id, volume)
					kept[id] = bytes.Clone(volume)
					at := rng.IntN(len(volume) - 5000)
					copy(volume[at:], data(t, 5000, uint64(i)))
					if rng.IntN(3) == 0 {
						clear(volume[at:])
					}
				default:
					ids := slices.Sorted(maps.Keys(kept))
					id = ids[rng.IntN(len(ids))]
					if err := e.Delete(t.Context(), id); err != nil {
						t.Fatal(err)
					}
					delete(kept, id)
				}
				if rng.IntN(3) == 0 {
					collect(t, e)
				}
			}
			for id, want := range kept {
				wantRestored(t, store, id, want)
			}
			collect(t, e)
			wantClean(t, store)
			if st, err := e.Stats(t.Context()); err != nil || st.Bytes > st.LiveBytes*110/100+20_000 {
				t.Errorf("%d bytes are taken for %d live (%v)", st.Bytes, st.LiveBytes, err)
			}
			for id := range kept {
				if err := e.Delete(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			collect(t, e)
			if left := files(t, filepath.Join(path, "packs")); len(left) != 0 {
				t.Errorf("%d packs left without a snapshot", len(left))
			}
		})
	}
}

func collect(t *testing.T, e *snapshot.Engine) pack.Swept {
	t.Helper()
	swept, err := e.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return swept
}

// TestCollectRacesCreate lets collections run all the time while snapshots of
// the same blocks come, are copied and go: a block is often garbage just when it
// is found.
func TestCollectRacesCreate(t *testing.T) {
	store := openStore(t, snapshot.Scratch(t), snapshot.WithPackSize(256<<10))
	e := store
	volumes := []memory{data(t, 2<<20, 1), data(t, 2<<20, 2)}
	copy(volumes[1][1<<20:], volumes[0][1<<20:])

	stop := make(chan struct{})
	var makers, collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := e.Collect(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for maker := range 3 {
		makers.Go(func() {
			for i := range 15 {
				id := fmt.Sprintf("snap-%d-%d", maker, i)
				volume := volumes[i%len(volumes)]
				if _, err := e.Create(t.Context(), id, volume, nil, nil); err != nil {
					t.Error(err)
					return
				}
				got := make(memory, len(volume))
				if err := e.Restore(t.Context(), id, got, nil); err != nil || !bytes.Equal(got, volume) {
					t.Errorf("restore %s: %v", id, err)
					return
				}
				if _, err := e.Copy(t.Context(), id, id+"-copy"); err != nil {
					t.Error(err)
					return
				}
				if err := e.Delete(t.Context(), id); err != nil {
					t.Error(err)
					return
				}
				clear(got)
				if err := e.Restore(t.Context(), id+"-copy", got, nil); err != nil || !bytes.Equal(got, volume) {
					t.Errorf("restore the copy of %s: %v", id, err)
					return
				}
				if err := e.Delete(t.Context(), id+"-copy"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	close(stop)
	collector.Wait()
	collect(t, e)
	if report := wantClean(t, store); report.Snapshots != 0 {
		t.Errorf("%d snapshots left", report.Snapshots)
	}
}

// TestCollectKeepsRunningUpload collects from within a Create: what it has
// stored so far is named by no manifest.
func TestCollectKeepsRunningUpload(t *testing.T) {
	store := openStore(t, snapshot.Scratch(t), snapshot.WithPackSize(256<<10))
	e := store
	volume := data(t, 16<<20)
	collects := 0
	_, err := e.Create(t.Context(), "s", volume, nil, func(done, total int64) {
		if done > total*int64(collects+1)/5 {
			collects++
			if swept := collect(t, e); swept.Trashed != 0 {
				t.Errorf("took away %+v under a running create", swept)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if collects == 0 {
		t.Error("nothing was collected meanwhile")
	}
	wantRestored(t, store, "s", volume)
}

// TestUndeleteRacesCollect deletes a snapshot and brings it back, again and
// again, while collections run: what is back is whole, and stays so when the
// trash is emptied.
func TestUndeleteRacesCollect(t *testing.T) {
	e := openStore(t, snapshot.Scratch(t), snapshot.WithPackSize(64<<10), snapshot.WithTrash(time.Hour))
	volume := data(t, 4<<20)
	snap(t, e, "s", volume)
	for range 40 {
		if err := e.Delete(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := e.Collect(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := e.Undelete(t.Context(), "s"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if _, err := e.EmptyTrash(t.Context()); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
		wantRestored(t, e, "s", volume)
	}
}
