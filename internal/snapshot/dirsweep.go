package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// dirSweep deletes blocks that no upload needs.
type dirSweep struct {
	store *DirStore
	// ended holds what uploads needed that ended during the sweep. Their
	// manifests may have come too late for the sweeper to see. Guarded by
	// store.mu.
	ended []map[BlockID]struct{}
}

// BeginSweep implements Store.
func (s *DirStore) BeginSweep(ctx context.Context) (Sweep, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A manifest whose deletion isn't durable could come back in a power cut,
	// to find its blocks swept.
	if err := s.disk.syncDir(filepath.Join(s.path, manifestsName)); err != nil {
		return nil, fmt.Errorf("begin sweep: %w", err)
	}
	w := &dirSweep{store: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeps[w] = struct{}{}
	return w, nil
}

// endUpload hands what an upload needed to the sweeps under way.
func (s *DirStore) endUpload(u *dirUpload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, u)
	for w := range s.sweeps {
		w.ended = append(w.ended, u.needed)
	}
}

// Delete implements Sweep.
func (w *dirSweep) Delete(ctx context.Context, id BlockID) (freed int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	path, ok := w.store.blockPath(id)
	if !ok {
		return 0, nil
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.needed(id) {
		return 0, nil
	}
	info, err := os.Stat(path)
	if err == nil {
		err = w.store.disk.remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("delete block %s: %w", id, err)
	}
	return info.Size(), nil
}

// needed says whether an upload protects the block. store.mu is held.
func (w *dirSweep) needed(id BlockID) bool {
	for u := range w.store.uploads {
		if _, ok := u.needed[id]; ok {
			return true
		}
	}
	for _, needed := range w.ended {
		if _, ok := needed[id]; ok {
			return true
		}
	}
	return false
}

// Close implements Sweep.
func (w *dirSweep) Close() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.sweeps, w)
	w.ended = nil
	return nil
}
