package snapshot

import (
	"context"
	"errors"
	"fmt"
)

// Copy makes the snapshot to with the contents of the snapshot from. They share
// their blocks, and each lives on when the other is deleted. Like Create it can
// be repeated.
func (e *Engine) Copy(ctx context.Context, from, to string) (Info, error) {
	info, err := e.copy(ctx, from, to)
	if err != nil {
		return Info{}, fmt.Errorf("copy snapshot %s to %s: %w", from, to, err)
	}
	return info, nil
}

func (e *Engine) copy(ctx context.Context, from, to string) (Info, error) {
	existing, err := e.loadRoot(ctx, to)
	if err == nil {
		return existing.info(), nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Info{}, err
	}
	up, err := e.store.Begin(ctx)
	if err != nil {
		return Info{}, err
	}
	defer up.Close()
	p, err := e.pin(ctx, from)
	if err != nil {
		return Info{}, err
	}
	defer e.unpin(p)
	r := *p.root
	r.id, r.createdAt, r.storedBytes = to, e.pack.Now().UTC(), 0
	return e.commit(ctx, up, &r)
}
