package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// batchSize is how many blocks are made durable together. They share the
// filesystem's commits; a crash loses at most as many.
const batchSize = 64

// dirUpload writes new blocks into a folder of its own and, once they are
// synced, renames them to their places. What is in its place is therefore
// whole, also after a power cut, and can be trusted by later uploads.
type dirUpload struct {
	store *DirStore
	tmp   string
	bufs  sync.Pool // of *[]byte, for packed blocks

	needed map[BlockID]struct{} // guarded by store.mu: what no sweep may delete

	mu     sync.Mutex
	batch  []pendingBlock
	shards map[string]struct{} // folders to sync before the manifest
	err    error               // the first failure: then there is no Commit
	closed bool
}

// pendingBlock is written, but neither durable nor in its place.
type pendingBlock struct {
	id   BlockID
	file *os.File
}

// BeginUpload implements Store.
func (s *DirStore) BeginUpload(ctx context.Context) (Upload, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// MkdirTemp's own mkdir isn't worth a seam: nothing depends on it.
	tmp, err := os.MkdirTemp(filepath.Join(s.path, tmpName), "upload-")
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", full(err))
	}
	u := &dirUpload{
		store: s, tmp: tmp,
		bufs:   sync.Pool{New: func() any { b := make([]byte, 0, BlockSize+blockHeader); return &b }},
		needed: make(map[BlockID]struct{}),
		shards: make(map[string]struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[u] = struct{}{}
	return u, nil
}

// Put implements Upload.
func (u *dirUpload) Put(ctx context.Context, sum Digest, data []byte) (BlockInfo, error) {
	info := BlockInfo{ID: BlockID(sum.String())}
	if err := ctx.Err(); err != nil {
		return info, u.fail(err)
	}
	if !u.need(info.ID) {
		return info, nil // by an earlier Put of this upload, or one under way
	}
	// Only now, as a sweep that was quicker is seen by it.
	path, _ := u.store.blockPath(info.ID)
	if _, err := os.Stat(path); err == nil {
		return info, u.found(info.ID)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return info, u.fail(err)
	}
	stored, err := u.write(info.ID, data)
	if err != nil {
		return info, u.fail(err)
	}
	info.Stored = stored
	return info, nil
}

// Keep implements Upload.
func (u *dirUpload) Keep(ctx context.Context, id BlockID) error {
	if err := ctx.Err(); err != nil {
		return u.fail(err)
	}
	path, ok := u.store.blockPath(id)
	if !ok {
		return u.fail(fmt.Errorf("block %q: %w", id, ErrNotFound))
	}
	u.need(id) // first, as in Put
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return u.fail(fmt.Errorf("block %s: %w", id, ErrNotFound))
	} else if err != nil {
		return u.fail(err)
	}
	return u.found(id)
}

// need protects a block from sweeps and reports whether it wasn't yet.
func (u *dirUpload) need(id BlockID) bool {
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	if _, ok := u.needed[id]; ok {
		return false
	}
	u.needed[id] = struct{}{}
	return true
}

// found notes a block that is in its place already. Whoever put it there may
// not have synced the folder.
func (u *dirUpload) found(id BlockID) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.shards[u.store.shard(id)] = struct{}{}
	return u.err
}

// write packs and writes a block, and publishes the batch that it fills.
func (u *dirUpload) write(id BlockID, data []byte) (stored int64, err error) {
	buf := u.bufs.Get().(*[]byte)
	defer u.bufs.Put(buf)
	*buf = u.store.codec.pack((*buf)[:0], data)
	f, err := u.store.disk.create(filepath.Join(u.tmp, string(id)), *buf)
	if err != nil {
		return 0, err
	}
	// Let the disk begin: the sync of the batch then has little to wait for.
	// Not every filesystem knows how, and nothing depends on it.
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)

	u.mu.Lock()
	u.batch = append(u.batch, pendingBlock{id: id, file: f})
	var full []pendingBlock
	if len(u.batch) >= u.store.batchSize {
		full, u.batch = u.batch, nil
	}
	u.mu.Unlock()
	return int64(len(*buf)), u.publish(full)
}

// publish makes blocks durable and puts them in their places.
func (u *dirUpload) publish(batch []pendingBlock) error {
	var errs []error
	for _, b := range batch {
		errs = append(errs, u.store.disk.sync(b.file)) // also closes: do all
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, b := range batch {
		if err := u.place(b); err != nil {
			return err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range batch {
		u.shards[u.store.shard(b.id)] = struct{}{}
	}
	return nil
}

// place renames a durable block to its place, in a folder made when first used.
func (u *dirUpload) place(b pendingBlock) error {
	path, _ := u.store.blockPath(b.id)
	err := u.store.disk.rename(b.file.Name(), path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := u.store.disk.mkdir(u.store.shard(b.id)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return u.store.disk.rename(b.file.Name(), path)
}

// fail remembers the first error and returns err, with ErrNoSpace where it is that.
func (u *dirUpload) fail(err error) error {
	err = full(err)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
	return err
}

// Commit implements Upload.
func (u *dirUpload) Commit(ctx context.Context, name string, manifest []byte) error {
	path, err := u.store.manifestPath(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	u.mu.Lock()
	batch, closed := u.batch, u.closed
	err = u.err
	u.batch = nil
	u.mu.Unlock()
	if closed {
		return fmt.Errorf("commit %s: upload is closed", name)
	}
	if err == nil {
		err = u.publish(batch)
	} else {
		discard(batch)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", name, u.fail(err))
	}
	u.shards[filepath.Join(u.store.path, blocksName)] = struct{}{} // has the shards' own names
	for shard := range u.shards {
		if err := u.store.disk.syncDir(shard); err != nil {
			return fmt.Errorf("commit %s: %w", name, u.fail(err))
		}
	}
	if err := u.store.disk.writeFile(u.tmp, path, manifest); err != nil {
		return fmt.Errorf("commit %s: %w", name, full(err))
	}
	return nil
}

func discard(batch []pendingBlock) {
	for _, b := range batch {
		_ = b.file.Close()
	}
}

// Close implements Upload.
func (u *dirUpload) Close() error {
	u.mu.Lock()
	batch, closed := u.batch, u.closed
	u.batch, u.closed = nil, true
	u.mu.Unlock()
	if closed {
		return nil
	}
	discard(batch)
	u.store.endUpload(u)
	if err := u.store.disk.removeAll(u.tmp); err != nil {
		return fmt.Errorf("close upload: %w", err)
	}
	return nil
}
