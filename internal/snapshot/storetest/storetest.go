// Package storetest holds snapshot stores to the contract of snapshot.Store.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// Run tests the stores that open returns. Each call must return an empty one;
// Run closes it.
func Run(t *testing.T, open func(t *testing.T) snapshot.Store) {
	tests := []struct {
		name string
		run  func(*fixture)
	}{
		{"BlocksComeBack", blocksComeBack},
		{"EqualBlocksAreStoredOnce", equalBlocksAreStoredOnce},
		{"ConcurrentPuts", concurrentPuts},
		{"AbsentIsNotFound", absentIsNotFound},
		{"ManifestsAreImmutable", manifestsAreImmutable},
		{"BadNamesAreRefused", badNamesAreRefused},
		{"UncommittedLeavesNoManifest", uncommittedLeavesNoManifest},
		{"ClosedUploadCannotCommit", closedUploadCannotCommit},
		{"SweepDeletes", sweepDeletes},
		{"SweepSparesOpenUpload", sweepSparesOpenUpload},
		{"SweepSparesLaterUpload", sweepSparesLaterUpload},
		{"SweepSparesUploadThatEnded", sweepSparesUploadThatEnded},
		{"KeptBlockIsSpared", keptBlockIsSpared},
		{"SweptBlockCanBePutAgain", sweptBlockCanBePutAgain},
		{"WalkStopsAtError", walkStopsAtError},
		{"CancelledContext", cancelledContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fixture{T: t, store: open(t)}
			t.Cleanup(func() {
				if err := f.store.Close(); err != nil {
					t.Errorf("close store: %v", err)
				}
			})
			test.run(f)
		})
	}
}

type fixture struct {
	*testing.T
	store snapshot.Store
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

func (f *fixture) begin() snapshot.Upload {
	f.Helper()
	up, err := f.store.BeginUpload(f.Context())
	f.ok(err)
	f.Cleanup(func() { f.ok(up.Close()) })
	return up
}

func (f *fixture) sweep() snapshot.Sweep {
	f.Helper()
	sweep, err := f.store.BeginSweep(f.Context())
	f.ok(err)
	f.Cleanup(func() { f.ok(sweep.Close()) })
	return sweep
}

func (f *fixture) put(up snapshot.Upload, data []byte) snapshot.BlockInfo {
	f.Helper()
	info, err := up.Put(f.Context(), sha256.Sum256(data), data)
	f.ok(err)
	return info
}

// add stores blocks and a manifest by a whole upload.
func (f *fixture) add(name string, blocks ...[]byte) []snapshot.BlockInfo {
	f.Helper()
	up := f.begin()
	var infos []snapshot.BlockInfo
	for _, b := range blocks {
		infos = append(infos, f.put(up, b))
	}
	f.ok(up.Commit(f.Context(), name, []byte("manifest of "+name)))
	f.ok(up.Close())
	return infos
}

func (f *fixture) listed() []snapshot.BlockID {
	f.Helper()
	var ids []snapshot.BlockID
	f.ok(f.store.Blocks(f.Context(), func(b snapshot.BlockInfo) error {
		ids = append(ids, b.ID)
		return nil
	}))
	slices.Sort(ids)
	return ids
}

func (f *fixture) wantBlock(id snapshot.BlockID, want []byte) {
	f.Helper()
	got, err := f.store.GetBlock(f.Context(), id, nil)
	f.ok(err)
	if !bytes.Equal(got, want) {
		f.Fatalf("block %s: %d bytes, want the %d bytes that were put", id, len(got), len(want))
	}
}

func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func text(size int) []byte {
	return bytes.Repeat([]byte("the disk is the server. "), size/24+1)[:size]
}

func blocksComeBack(f *fixture) {
	blocks := [][]byte{
		{0},
		{7},
		text(511), text(4096), noise(1, 65537), text(snapshot.BlockSize),
		noise(2, snapshot.BlockSize), make([]byte, snapshot.BlockSize),
	}
	infos := f.add("s", blocks...)
	buf := make([]byte, 0, snapshot.BlockSize)
	for i, info := range infos {
		f.wantBlock(info.ID, blocks[i])
		got, err := f.store.GetBlock(f.Context(), info.ID, buf)
		f.ok(err)
		if !bytes.Equal(got, blocks[i]) {
			f.Fatalf("block %d differs when read into a buffer", i)
		}
		stat, err := f.store.StatBlock(f.Context(), info.ID)
		f.ok(err)
		if stat != info {
			f.Errorf("block %d: StatBlock %+v, Put returned %+v", i, stat, info)
		}
		if info.Stored <= 0 {
			f.Errorf("block %d takes %d bytes", i, info.Stored)
		}
	}
	if got := infos[5].Stored; got > snapshot.BlockSize/10 {
		f.Errorf("%d bytes of repeated text take %d", snapshot.BlockSize, got)
	}
}

func equalBlocksAreStoredOnce(f *fixture) {
	a, b := text(5000), noise(3, 5000)
	first := f.add("s1", a, b, a)
	again := f.add("s2", b, a)
	if first[0].ID != first[2].ID || first[0].ID != again[1].ID || first[1].ID != again[0].ID {
		f.Errorf("equal blocks have unequal IDs: %v %v", first, again)
	}
	if first[0].ID == first[1].ID {
		f.Errorf("unequal blocks share the ID %s", first[0].ID)
	}
	for _, info := range []snapshot.BlockInfo{first[2], again[0], again[1]} {
		if info.Stored != 0 {
			f.Errorf("a block that was there added %d bytes", info.Stored)
		}
	}
	if ids := f.listed(); len(ids) != 2 {
		f.Errorf("%d blocks listed, want 2", len(ids))
	}
}

func concurrentPuts(f *fixture) {
	const count = 150 // more than is made durable at a time
	blocks := make([][]byte, count)
	for i := range blocks {
		blocks[i] = noise(uint64(i), 1000+i)
	}
	uploads := []snapshot.Upload{f.begin(), f.begin()}
	var wg sync.WaitGroup
	for i := range 6 { // three goroutines an upload, all of them the same blocks
		wg.Go(func() {
			for _, b := range blocks {
				if _, err := uploads[i%2].Put(f.Context(), sha256.Sum256(b), b); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f.ok(uploads[0].Commit(f.Context(), "a", nil))
	f.ok(uploads[1].Commit(f.Context(), "b", nil))
	if n := len(f.listed()); n != count {
		f.Errorf("%d blocks listed, want %d", n, count)
	}
	up := f.begin()
	for _, b := range blocks {
		f.wantBlock(f.put(up, b).ID, b)
	}
}

func absentIsNotFound(f *fixture) {
	id := f.add("s", text(100))[0].ID
	sweep := f.sweep()
	_, err := sweep.Delete(f.Context(), id)
	f.ok(err)
	for _, id := range []snapshot.BlockID{id, "", "x", "../../format", snapshot.BlockID(bytes.Repeat([]byte("/"), 64))} {
		_, err = f.store.GetBlock(f.Context(), id, nil)
		f.wantErr(err, snapshot.ErrNotFound)
		_, err = f.store.StatBlock(f.Context(), id)
		f.wantErr(err, snapshot.ErrNotFound)
		freed, err := sweep.Delete(f.Context(), id)
		f.ok(err)
		if freed != 0 {
			f.Errorf("deleting an absent block freed %d bytes", freed)
		}
	}
	_, err = f.store.GetManifest(f.Context(), "t")
	f.wantErr(err, snapshot.ErrNotFound)
	f.ok(f.store.DeleteManifest(f.Context(), "t"))
}

func manifestsAreImmutable(f *fixture) {
	f.add("snap-2")
	f.add("snap-1")
	up := f.begin()
	f.put(up, text(10))
	f.wantErr(up.Commit(f.Context(), "snap-1", []byte("other")), snapshot.ErrExists)
	raw, err := f.store.GetManifest(f.Context(), "snap-1")
	f.ok(err)
	if string(raw) != "manifest of snap-1" {
		f.Errorf("manifest became %q", raw)
	}
	f.wantManifests("snap-1", "snap-2")
	f.ok(f.store.DeleteManifest(f.Context(), "snap-1"))
	f.wantManifests("snap-2")
	_, err = f.store.GetManifest(f.Context(), "snap-1")
	f.wantErr(err, snapshot.ErrNotFound)
	f.add("snap-1") // a name is free again once deleted
	f.wantManifests("snap-1", "snap-2")
}

func (f *fixture) wantManifests(want ...string) {
	f.Helper()
	names, err := f.store.Manifests(f.Context())
	f.ok(err)
	if !slices.Equal(names, want) {
		f.Errorf("manifests %q, want %q", names, want)
	}
}

func badNamesAreRefused(f *fixture) {
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden", "a\x00b", "a b", string(bytes.Repeat([]byte("x"), 300))} {
		up := f.begin()
		f.wantErr(up.Commit(f.Context(), name, nil), snapshot.ErrInvalid)
		_, err := f.store.GetManifest(f.Context(), name)
		f.wantErr(err, snapshot.ErrInvalid)
		f.wantErr(f.store.DeleteManifest(f.Context(), name), snapshot.ErrInvalid)
	}
	f.wantManifests()
}

func uncommittedLeavesNoManifest(f *fixture) {
	up := f.begin()
	block := text(3000)
	f.put(up, block)
	f.ok(up.Close())
	f.ok(up.Close())
	f.wantManifests()
	// Whatever became of the block, it can be put for good.
	id := f.add("s", block)[0].ID
	f.wantBlock(id, block)
}

func closedUploadCannotCommit(f *fixture) {
	up := f.begin()
	f.put(up, text(3000))
	f.ok(up.Close())
	if err := up.Commit(f.Context(), "s", nil); err == nil {
		f.Error("a closed upload was committed")
	}
	f.wantManifests()
}

func sweepDeletes(f *fixture) {
	infos := f.add("s", text(1000), noise(1, 1000))
	sweep := f.sweep()
	freed, err := sweep.Delete(f.Context(), infos[0].ID)
	f.ok(err)
	if freed != infos[0].Stored {
		f.Errorf("freed %d bytes, the block took %d", freed, infos[0].Stored)
	}
	_, err = f.store.GetBlock(f.Context(), infos[0].ID, nil)
	f.wantErr(err, snapshot.ErrNotFound)
	f.wantBlock(infos[1].ID, noise(1, 1000))
	f.ok(sweep.Close())
	f.ok(sweep.Close())
}

func (f *fixture) wantSpared(sweep snapshot.Sweep, id snapshot.BlockID) {
	f.Helper()
	freed, err := sweep.Delete(f.Context(), id)
	f.ok(err)
	if freed != 0 {
		f.Errorf("the sweep deleted block %s, which an upload needs", id)
	}
}

func sweepSparesOpenUpload(f *fixture) {
	found, fresh := text(2000), noise(9, 2000)
	f.add("s", found)
	up := f.begin()
	ids := []snapshot.BlockID{f.put(up, found).ID, f.put(up, fresh).ID}
	sweep := f.sweep()
	f.wantSpared(sweep, ids[0])
	f.wantSpared(sweep, ids[1])
	f.ok(up.Commit(f.Context(), "t", nil))
	f.wantSpared(sweep, ids[0])
	f.wantBlock(ids[0], found)
	f.wantBlock(ids[1], fresh)
}

func sweepSparesLaterUpload(f *fixture) {
	found := text(2000)
	f.add("s", found)
	sweep := f.sweep()
	up := f.begin()
	id := f.put(up, found).ID
	f.wantSpared(sweep, id)
	f.ok(up.Commit(f.Context(), "t", nil))
	f.wantBlock(id, found)
}

func keptBlockIsSpared(f *fixture) {
	found := text(2000)
	id := f.add("s", found)[0].ID
	sweep := f.sweep()
	up := f.begin()
	f.ok(up.Keep(f.Context(), id))
	f.ok(up.Commit(f.Context(), "t", nil))
	f.wantSpared(sweep, id)
	f.wantBlock(id, found)
	gone := f.add("u", text(3000))[0].ID
	_, err := f.sweep().Delete(f.Context(), gone)
	f.ok(err)
	up = f.begin()
	f.wantErr(up.Keep(f.Context(), gone), snapshot.ErrNotFound)
	if err := up.Commit(f.Context(), "v", nil); err == nil {
		f.Error("committed without a block that was to be kept")
	}
}

func sweepSparesUploadThatEnded(f *fixture) {
	found := text(2000)
	f.add("s", found)
	sweep := f.sweep()
	id := f.add("t", found)[0].ID
	f.wantSpared(sweep, id)
	f.ok(sweep.Close())
	// The next sweep owes it nothing.
	freed, err := f.sweep().Delete(f.Context(), id)
	f.ok(err)
	if freed == 0 {
		f.Error("a block is spared for ever")
	}
}

func sweptBlockCanBePutAgain(f *fixture) {
	block := noise(4, 2000)
	id := f.add("s", block)[0].ID
	sweep := f.sweep()
	_, err := sweep.Delete(f.Context(), id)
	f.ok(err)
	info := f.add("t", block)[0]
	if info.Stored == 0 {
		f.Error("a swept block was taken for present")
	}
	f.wantBlock(info.ID, block)
}

func walkStopsAtError(f *fixture) {
	f.add("s", noise(1, 10), noise(2, 10), noise(3, 10))
	stop, calls := errors.New("stop"), 0
	err := f.store.Blocks(f.Context(), func(snapshot.BlockInfo) error { calls++; return stop })
	f.wantErr(err, stop)
	if calls != 1 {
		f.Errorf("%d calls, want 1", calls)
	}
}

func cancelledContext(f *fixture) {
	id := f.add("s", text(10))[0].ID
	up, sweep := f.begin(), f.sweep()
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	_, err := f.store.GetBlock(ctx, id, nil)
	f.wantErr(err, context.Canceled)
	_, err = up.Put(ctx, sha256.Sum256(text(11)), text(11))
	f.wantErr(err, context.Canceled)
	f.wantErr(up.Commit(ctx, "t", nil), context.Canceled)
	// The block of the failed Put is missing: there must be no manifest.
	if err := up.Commit(f.Context(), "t", nil); err == nil {
		f.Error("an upload was committed though a Put had failed")
	}
	_, err = sweep.Delete(ctx, id)
	f.wantErr(err, context.Canceled)
	f.wantErr(f.store.Blocks(ctx, func(snapshot.BlockInfo) error { return nil }), context.Canceled)
	f.wantManifests("s")
}
