package pack

import (
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

func TestSweepTrashesDeadPacks(t *testing.T) {
	f := newFixture(t)
	keep, drop := noises(0, 30, 4000), noises(100, 30, 4000)
	f.add(keep...)
	f.add(drop...)
	if done := f.sweep(keep...); done.Trashed == 0 || done.Bytes < 30*4000 {
		t.Errorf("swept %+v", done)
	}
	f.want(keep...)
	st, err := f.Stats(t.Context())
	f.ok(err)
	if st.Blobs != 30 || st.TrashBytes < 30*4000 {
		t.Errorf("%+v; want 30 blobs and the others in the trash", st)
	}
	f.time.now = f.time.now.Add(6 * 24 * time.Hour)
	if done := f.sweep(keep...); done.Freed != 0 {
		t.Errorf("the trash lost %d bytes a day too early", done.Freed)
	}
	f.time.now = f.time.now.Add(25 * time.Hour)
	if done := f.sweep(keep...); done.Freed < 30*4000 || len(f.files(kindTrash)) != 0 {
		t.Errorf("freed %d bytes, left %v", done.Freed, f.files(kindTrash))
	}
	f.want(keep...)
	f.reopen()
	f.want(keep...)
}

// TestSweepRewrites kills half of each pack and wants the space back.
func TestSweepRewrites(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 100, 4000)
	f.add(blobs...)
	var live [][]byte
	for i := 0; i < len(blobs); i += 2 {
		live = append(live, blobs[i])
	}
	done := f.sweep(live...)
	if done.Rewritten == 0 {
		t.Fatalf("swept %+v", done)
	}
	_, err := f.EmptyTrash(t.Context())
	f.ok(err)
	for range 2 {
		f.want(live...)
		st, err := f.Stats(t.Context())
		f.ok(err)
		if limit := int64(50*4000) * 110 / 100; st.Bytes > limit {
			t.Errorf("%d bytes for %d live", st.Bytes, 50*4000)
		}
		f.reopen()
	}
}

// TestSmallPacksAreMerged makes a small pack a day.
func TestSmallPacksAreMerged(t *testing.T) {
	f := newFixture(t)
	var live [][]byte
	for day := range 40 {
		b := noise(uint64(day), 1000)
		live = append(live, b)
		f.add(b)
		f.sweep(live...)
	}
	if n := len(f.files(kindTrash)); n > 0 {
		t.Errorf("%d packs in the trash that hold nothing but what is elsewhere", n)
	}
	if n := len(f.files(kindPacks)); n > smallPacks+1 {
		t.Errorf("%d packs for 40,000 bytes", n)
	}
	f.want(live...)
}

func TestSweepSparesUploads(t *testing.T) {
	f := newFixture(t)
	a, b, c := noise(1, 5000), noise(2, 5000), noise(3, 5000)
	f.add(a, b, c)
	open := f.begin()
	f.put(open, a)
	w, err := f.BeginSweep(t.Context())
	f.ok(err)
	defer w.Close()
	later := f.begin()
	f.ok(later.Keep(t.Context(), Sum(b)))
	f.ok(later.Flush(t.Context()))
	later.Close()
	_, err = w.Run(t.Context(), marked())
	f.ok(err)
	f.want(a, b)
	if st, err := f.Stats(t.Context()); err != nil || st.Blobs != 2 {
		t.Errorf("%+v, %v; want c to be gone", st, err)
	}
}

// TestNeededBlobComesBackFromTrash sweeps what is needed, as only a fault of the
// program could.
func TestNeededBlobComesBackFromTrash(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 40, 4000)
	f.add(blobs...)
	f.sweep()
	if len(f.files(kindPacks)) != 0 {
		t.Fatal("nothing was swept")
	}
	f.want(blobs[7])
	f.reopen()
	f.want(blobs...)
}

func TestDeletedRootComesBack(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 40, 4000)
	f.add(blobs...)
	f.ok(f.CreateRoot(t.Context(), "snap-1", []byte("root")))
	f.wantErr(f.CreateRoot(t.Context(), "snap-1", []byte("other")), objects.ErrExists)
	for range 2 {
		f.ok(f.DeleteRoot(t.Context(), "snap-1"))
	}
	_, err := f.Root(t.Context(), "snap-1")
	f.wantErr(err, ErrNotFound)
	f.sweep()
	f.reopen()
	deleted, err := f.DeletedRoots(t.Context())
	f.ok(err)
	if len(deleted) != 1 || deleted[0].Name != "snap-1" || !deleted[0].Until.Equal(f.time.now.Add(7*24*time.Hour)) {
		t.Fatalf("deleted: %+v", deleted)
	}
	var sums []Digest
	for _, b := range blobs {
		sums = append(sums, Sum(b))
	}
	f.wantErr(f.Recover(t.Context(), append(sums, Sum([]byte("nowhere")))), ErrNotFound)
	f.ok(f.Recover(t.Context(), sums))
	f.ok(f.RestoreRoot(t.Context(), deleted[0]))
	f.want(blobs...)
	raw, err := f.Root(t.Context(), "snap-1")
	if err != nil || string(raw) != "root" {
		t.Errorf("root %q, %v", raw, err)
	}
}
