package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/objects/strictfs"
)

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) time() time.Time { return c.now }

type fixture struct {
	*testing.T
	*Store
	path string
	time *clock
	objs objects.Store
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error %v, want %v", err, want)
	}
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, path: filepath.Join(t.TempDir(), "store"), time: &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	f.open()
	t.Cleanup(func() { f.shut() })
	return f
}

func (f *fixture) open() {
	f.Helper()
	objs, err := objects.OpenDir(f.path)
	f.ok(err)
	f.objs = objs
	f.Store, err = Open(f.Context(), objs, slog.New(slog.DiscardHandler), Options{PackSize: 64 << 10, Now: f.time.time})
	f.ok(err)
}

func (f *fixture) shut() {
	f.Helper()
	f.Close()
	f.ok(f.objs.Close())
}

func (f *fixture) reopen() {
	f.Helper()
	f.shut()
	f.open()
}

func (f *fixture) begin() *Upload {
	f.Helper()
	u, err := f.Begin(f.Context())
	f.ok(err)
	f.Cleanup(u.Close)
	return u
}

func (f *fixture) put(u *Upload, data []byte) (Digest, int64) {
	f.Helper()
	sum := Sum(data)
	n, err := u.Put(f.Context(), Block, sum, data)
	f.ok(err)
	return sum, n
}

// add stores blobs durably.
func (f *fixture) add(blobs ...[]byte) []Digest {
	f.Helper()
	u := f.begin()
	defer u.Close()
	var sums []Digest
	for _, b := range blobs {
		sum, _ := f.put(u, b)
		sums = append(sums, sum)
	}
	f.ok(u.Flush(f.Context()))
	return sums
}

func (f *fixture) want(blobs ...[]byte) {
	f.Helper()
	for i, b := range blobs {
		got, err := f.Get(context.Background(), Sum(b), nil)
		if err != nil || !bytes.Equal(got, b) {
			f.Fatalf("blob %d: %d bytes, %v; want the %d that were put", i, len(got), err, len(b))
		}
	}
}

func (f *fixture) sweep(live ...[]byte) Swept {
	f.Helper()
	w, err := f.BeginSweep(f.Context())
	f.ok(err)
	defer w.Close()
	done, err := w.Run(f.Context(), marked(live...))
	f.ok(err)
	return done
}

func marked(live ...[]byte) map[Digest]struct{} {
	m := make(map[Digest]struct{})
	for _, b := range live {
		m[Sum(b)] = struct{}{}
	}
	return m
}

func (f *fixture) files(kind string) []string {
	f.Helper()
	names, err := f.names(f.Context(), kind)
	f.ok(err)
	return names
}

func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func noises(from, n, size int) [][]byte {
	var list [][]byte
	for i := range n {
		list = append(list, noise(uint64(from+i), size))
	}
	return list
}

func TestBlobsComeBack(t *testing.T) {
	f := newFixture(t)
	blobs := [][]byte{{0}, {7}, bytes.Repeat([]byte("tape "), 20000), noise(1, 65537), make([]byte, MaxBlob), noise(2, MaxBlob)}
	f.add(blobs...)
	f.want(blobs...)
	f.reopen()
	f.want(blobs...)
	info, err := f.Stat(t.Context(), Sum(blobs[2]))
	f.ok(err)
	if info.Stored > 5000 {
		t.Errorf("100,000 bytes of repeated text take %d", info.Stored)
	}
	_, err = f.Get(t.Context(), Sum([]byte("absent")), nil)
	f.wantErr(err, ErrNotFound)
}

func TestEqualBlobsAreStoredOnce(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	u1, u2 := f.begin(), f.begin()
	if _, n := f.put(u1, a); n == 0 {
		t.Error("a new blob added nothing")
	}
	for _, u := range []*Upload{u1, u2} {
		if _, n := f.put(u, a); n != 0 {
			t.Errorf("a blob on its way added %d bytes", n)
		}
	}
	f.put(u2, b)
	f.ok(u2.Flush(t.Context()))
	f.want(a, b) // a too: it is u2's as well
	f.ok(u1.Flush(t.Context()))
	if st, err := f.Stats(t.Context()); err != nil || st.Blobs != 2 {
		t.Errorf("%d blobs, %v; want 2", st.Blobs, err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 150, 3000)
	uploads := []*Upload{f.begin(), f.begin()}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for _, b := range blobs {
				if _, err := uploads[i%2].Put(t.Context(), Block, Sum(b), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, u := range uploads {
		f.ok(u.Flush(t.Context()))
	}
	f.want(blobs...)
	if st, err := f.Stats(t.Context()); err != nil || st.Blobs != 150 || st.Bytes > 150*3200 {
		t.Errorf("%+v, %v; want 150 blobs, each stored once", st, err)
	}
}

func TestAbandonedUploadLeavesNothingPending(t *testing.T) {
	f := newFixture(t)
	a := noise(1, 5000)
	u := f.begin()
	f.put(u, a)
	u.Close()
	if _, err := f.Get(t.Context(), Sum(a), nil); !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	f.add(a)
	f.want(a)
}

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

func TestKeepOfAbsentFails(t *testing.T) {
	f := newFixture(t)
	u := f.begin()
	f.wantErr(u.Keep(t.Context(), Sum([]byte("absent"))), ErrNotFound)
	f.wantErr(u.Flush(t.Context()), ErrNotFound)
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

// flip changes one bit of a stored object.
func (f *fixture) flip(object string, bit int64) {
	f.Helper()
	path := filepath.Join(f.path, object)
	raw, err := os.ReadFile(path)
	f.ok(err)
	if bit < 0 {
		bit += int64(len(raw)) * 8
	}
	raw[bit/8] ^= 1 << (bit % 8)
	f.ok(os.WriteFile(path, raw, 0o600))
}

// TestRotIsFoundAndHealed flips a bit in a blob: reading it fails, also after a
// restart, until it is put again.
func TestRotIsFoundAndHealed(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	f.add(a, b)
	p, name, err := f.find(t.Context(), id(Sum(a)))
	f.ok(err)
	f.flip(kindPacks+"/"+name, (int64(p.off)+200)*8)
	for range 2 {
		_, err := f.Get(t.Context(), Sum(a), nil)
		f.wantErr(err, ErrCorrupt)
		f.want(b)
		f.sweep(a, b)
		f.reopen()
	}
	if n := len(f.files(kindPacks)); n != 1 {
		t.Errorf("%d packs: the rotten one was given up", n)
	}
	u := f.begin()
	f.wantErr(u.Keep(t.Context(), Sum(a)), ErrCorrupt)
	u.Close()
	f.add(a)
	for range 2 {
		f.want(a, b)
		f.reopen()
	}
	f.sweep(a, b)
	f.want(a, b)
}

// TestEveryBitOfAPack flips bits all over a pack and wants each blob to be right
// or refused, and never others to be lost with it.
func TestEveryBitOfAPack(t *testing.T) {
	blobs := append(noises(0, 3, 300), bytes.Repeat([]byte("abcdefgh"), 100))
	f := newFixture(t)
	f.add(blobs...)
	object := kindPacks + "/" + f.files(kindPacks)[0]
	f.shut()
	raw, err := os.ReadFile(filepath.Join(f.path, object))
	f.ok(err)
	for bit := int64(0); bit < int64(len(raw))*8; bit += 29 {
		f.ok(os.WriteFile(filepath.Join(f.path, object), raw, 0o600))
		_ = os.RemoveAll(filepath.Join(f.path, kindRot))
		f.flip(object, bit)
		f.open()
		wrong := 0
		for _, b := range blobs {
			got, err := f.Get(t.Context(), Sum(b), nil)
			switch {
			case err == nil && bytes.Equal(got, b):
			case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrVersion):
				wrong++
				if errors.Is(err, ErrVersion) {
					wrong = 1
				}
			default:
				t.Fatalf("bit %d: %d bytes, %v", bit, len(got), err)
			}
		}
		if wrong > 1 {
			t.Fatalf("bit %d took %d blobs", bit, wrong)
		}
		f.shut()
	}
	f.ok(os.WriteFile(filepath.Join(f.path, object), raw, 0o600))
	f.open()
}

// TestRebuildPrefersTheHealed stores a rotten blob anew and makes the index again:
// it leads to the copy that is whole. A note that isn't true goes.
func TestRebuildPrefersTheHealed(t *testing.T) {
	a := noise(1, 3000)
	f := newFixture(t)
	f.add(a)
	rotten := f.files(kindPacks)[0]
	f.flip(kindPacks+"/"+rotten, int64(packHeader+blobHeader+100)*8)
	_, err := f.Get(t.Context(), Sum(a), nil)
	f.wantErr(err, ErrCorrupt)
	f.add(a)
	for range 2 {
		f.ok(f.Rebuild(t.Context()))
		f.want(a)
		f.reopen()
	}
	if n := len(f.files(kindRot)); n != 1 {
		t.Fatalf("%d notes of rot, want 1", n)
	}
	f.flip(kindPacks+"/"+rotten, int64(packHeader+blobHeader+100)*8) // and back
	f.ok(f.Rebuild(t.Context()))
	f.want(a)
	if n := len(f.files(kindRot)); n != 0 {
		t.Errorf("%d notes of rot in what is whole", n)
	}
}

func TestIndexObjectSavesFooters(t *testing.T) {
	f := newFixture(t)
	var blobs [][]byte
	for i := range tooManyFooters + 1 {
		b := noise(uint64(i), 500)
		blobs = append(blobs, b)
		f.add(b)
	}
	f.reopen()
	f.want(blobs...)
	names := f.files(kindIndex)
	if len(names) != 1 {
		t.Fatalf("%d index objects, want 1", len(names))
	}
	// A footer that can't be read isn't missed while the index tells the same.
	pack := f.files(kindPacks)[0]
	f.flip(kindPacks+"/"+pack, -1)
	f.reopen()
	f.want(blobs...)
	f.flip(kindIndex+"/"+names[0], 999)
	f.reopen()
	f.want(blobs...)
	f.ok(f.Rebuild(t.Context()))
	f.want(blobs...)
}

func TestRestAndBack(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 10, 1000)
	f.add(blobs...)
	u := f.begin()
	f.Rest()
	if f.index == nil {
		t.Fatal("the index was let go of under an upload")
	}
	u.Close()
	f.Rest()
	if f.index != nil {
		t.Fatal("the index wasn't let go of")
	}
	f.want(blobs...)
}

func TestFullStore(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	objs, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objs.Close() }()
	s, err := Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{PackSize: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, Store: s}
	before := noises(0, 5, 3000)
	f.add(before...)
	disk.Before = func(op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	after := noises(10, 20, 3000)
	u := f.begin()
	for _, b := range after {
		f.put(u, b)
	}
	f.wantErr(u.Flush(t.Context()), objects.ErrNoSpace)
	u.Close()
	f.want(before...)
	disk.Before = nil
	f.add(after...)
	f.want(after...)
}

// TestPowerCut cuts the power at every change of the filesystem during an
// upload, a deletion and a sweep, and wants all that was promised in everything
// that may be left.
func TestPowerCut(t *testing.T) {
	root := t.TempDir()
	old, gone, fresh := noises(0, 6, 700), noises(20, 6, 700), noises(40, 6, 700)
	old = append(old, gone[3]) // in a pack of the dead
	ctx, cut, outcomes := context.Background(), errors.New("power cut"), 0
	open := func(disk *strictfs.FS) (*fixture, error) {
		objs, err := objects.OpenDirOn(disk, root)
		if err != nil {
			return nil, err
		}
		s, err := Open(ctx, objs, slog.New(slog.DiscardHandler), Options{PackSize: 2000})
		if err != nil {
			_ = objs.Close()
			return nil, err
		}
		return &fixture{T: t, Store: s, objs: objs}, nil
	}
	for k, hit := 1, true; hit; k++ {
		disk, n := strictfs.New(root), 0
		f, err := open(disk)
		if err != nil {
			t.Fatal(err)
		}
		f.add(append(gone, old...)...)
		disk.Before = func(string, string) error {
			if n++; n >= k {
				return cut
			}
			return nil
		}
		promised := false
		func() { // a life
			u, err := f.Begin(ctx)
			if err != nil {
				return
			}
			defer u.Close()
			for _, b := range fresh {
				if _, err := u.Put(ctx, Block, Sum(b), b); err != nil {
					return
				}
			}
			if u.Flush(ctx) != nil || f.CreateRoot(ctx, "snap-1", []byte("root")) != nil {
				return
			}
			promised = true
			u.Close()
			w, err := f.BeginSweep(ctx)
			if err != nil {
				return
			}
			defer w.Close()
			_, _ = w.Run(ctx, marked(append(old, fresh...)...))
		}()
		f.Close()
		_ = f.objs.Close()
		hit = n >= k
		for left := range disk.Crashes(uint64(k), 32) {
			outcomes++
			f, err := open(left)
			if err != nil {
				t.Fatalf("cut at %d: %v", k, err)
			}
			_, err = f.Root(ctx, "snap-1")
			if there := err == nil; promised && !there {
				t.Fatalf("cut at %d: the root is gone, left:\n%s", k, left)
			} else if there {
				f.want(fresh...)
			}
			f.want(old...)
			f.add(fresh...)
			f.sweep(append(old, fresh...)...)
			f.want(append(old, fresh...)...)
			f.Close()
			_ = f.objs.Close()
		}
	}
	if outcomes < 100 {
		t.Errorf("only %d outcomes: the test has lost its teeth", outcomes)
	}
}

// TestCommitOrder writes down what reaches the disk, and when.
func TestCommitOrder(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	var trace []string
	disk.Before = func(op, path string) error {
		if kind, _, ok := strings.Cut(path, "/"); ok {
			path = kind + "/…"
		}
		trace = append(trace, op+" "+path)
		return nil
	}
	objs, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objs.Close() }()
	s, err := Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{})
	if err != nil {
		t.Fatal(err)
	}
	trace = nil
	f := &fixture{T: t, Store: s}
	f.add(noise(1, 100))
	f.ok(f.CreateRoot(t.Context(), "snap-1", []byte("root")))
	want := []string{
		"mkdir packs", "syncdir .", "create tmp/…", "write tmp/…", "sync tmp/…", "publish packs/…", "syncdir packs",
		"mkdir snapshots", "syncdir .", "create tmp/…", "write tmp/…", "sync tmp/…", "publish snapshots/…", "syncdir snapshots",
	}
	if !slices.Equal(trace, want) {
		t.Errorf("commit order:\n%s\nwant:\n%s", strings.Join(trace, "\n"), strings.Join(want, "\n"))
	}
}

func TestNewerStoreIsRefused(t *testing.T) {
	f := newFixture(t)
	f.shut()
	f.ok(os.WriteFile(filepath.Join(f.path, configName), []byte(`{"version":3}`), 0o600))
	objs, err := objects.OpenDir(f.path)
	f.ok(err)
	_, err = Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{})
	f.wantErr(err, ErrVersion)
	_ = objs.Close()
	f.ok(os.WriteFile(filepath.Join(f.path, configName), []byte(`{"version":2}`), 0o600))
	f.open()
}

func FuzzFooter(f *testing.F) {
	var b builder
	b.reset(nil)
	framed := make([]byte, blobHeader+5)
	frame(framed, id{1}, Block, packedNot, 5)
	b.add(framed)
	name := b.finish()
	f.Add(b.buf)
	f.Fuzz(func(_ *testing.T, pack []byte) {
		if len(pack) < packHeader+trailerLen {
			return
		}
		size := int64(len(pack))
		if n, err := footerSize(pack, size); err == nil {
			if entries, err := parseFooter(name, pack[:packHeader], pack[size-n:], size); err == nil {
				for _, e := range entries {
					_ = checkBlob(pack[e.off:int64(e.off)+e.size()], e)
				}
			}
		}
		for _, e := range scan(pack) {
			if wrong := checkBlob(pack[e.off:int64(e.off)+e.size()], e); wrong != "" {
				panic(fmt.Sprintf("scan found a blob that is wrong: %s", wrong))
			}
		}
		_ = parseIndex(pack, map[string]packList{})
	})
}
