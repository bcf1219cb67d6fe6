package snapshot

import (
	"context"
	"errors"
	"fmt"
)

// Collect deletes the blocks that no snapshot names and returns the bytes
// freed. Snapshots may be created and deleted meanwhile: what a running Create
// puts or finds is kept. A manifest that can't be read aborts it before
// anything is deleted, for nobody knows what that one needs.
func (e *Engine) Collect(ctx context.Context) (freed int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("collect blocks: %w", err)
		}
	}()
	// Before the manifests are read: a Create that ends while they are has its
	// blocks kept by the sweep, one that ended earlier by its manifest.
	sweep, err := e.store.BeginSweep(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, sweep.Close()) }()
	live, err := e.liveBlocks(ctx)
	if err != nil {
		return 0, err
	}
	err = e.store.Blocks(ctx, func(b BlockInfo) error {
		if _, ok := live[b.ID]; ok {
			return nil
		}
		n, err := sweep.Delete(ctx, b.ID)
		freed += n
		return err
	})
	if err == nil {
		e.log.Info("collected snapshot blocks", "freed_bytes", freed)
	}
	return freed, err
}

func (e *Engine) liveBlocks(ctx context.Context) (map[BlockID]struct{}, error) {
	names, err := e.store.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	live := make(map[BlockID]struct{})
	for _, name := range names {
		m, err := e.load(ctx, name)
		if errors.Is(err, ErrNotFound) { // deleted since
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, b := range m.blocks {
			live[b.id] = struct{}{}
		}
	}
	return live, nil
}
