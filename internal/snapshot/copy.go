package snapshot

import (
	"context"
	"errors"
	"fmt"
)

// Copy makes the snapshot to with the contents of the snapshot from. They share
// their blocks, and each lives on when the other is deleted. Like Create it can
// be repeated. Where a block is missing already, it is an ErrCorrupt.
func (e *Engine) Copy(ctx context.Context, from, to string) (Info, error) {
	info, err := e.copy(ctx, from, to)
	if err != nil {
		return Info{}, fmt.Errorf("copy snapshot %s to %s: %w", from, to, err)
	}
	return info, nil
}

func (e *Engine) copy(ctx context.Context, from, to string) (_ Info, err error) {
	existing, err := e.load(ctx, to)
	if err == nil {
		return existing.info(), nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Info{}, err
	}
	// Before the manifest is read: what it names is kept from then on, even if
	// it is deleted meanwhile and a sweep comes by.
	up, err := e.store.BeginUpload(ctx)
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if cerr := up.Close(); cerr != nil {
			e.log.Warn("closing an upload failed", "snapshot", to, "error", cerr)
		}
	}()
	m, err := e.load(ctx, from)
	if err != nil {
		return Info{}, err
	}
	for _, b := range m.blocks {
		if err := up.Keep(ctx, b.id); errors.Is(err, ErrNotFound) {
			return Info{}, &CorruptError{Snapshot: from, Block: b.id, Reason: "the block is missing"}
		} else if err != nil {
			return Info{}, err
		}
	}
	m.id, m.createdAt, m.storedBytes = to, e.now().UTC(), 0
	err = up.Commit(ctx, to, m.encode())
	if errors.Is(err, ErrExists) { // a Copy to the same ID was quicker
		existing, err := e.load(ctx, to)
		if err != nil {
			return Info{}, err
		}
		return existing.info(), nil
	}
	if err != nil {
		return Info{}, err
	}
	return m.info(), nil
}
