package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Sound says whether another snapshot can be built upon one: its root and its
// pages can be read, and the store has each of its blocks and doesn't know it to
// be rotten. No block is read. ErrNotFound or ErrCorrupt where it can't: what was
// taken over would be missing in the new one, too, though the volume has it.
func (e *Engine) Sound(ctx context.Context, id string) (Info, error) {
	p, err := e.pin(ctx, id)
	if err == nil {
		defer e.unpin(p)
		err = e.sound(ctx, p.root)
	}
	if err != nil {
		return Info{}, fmt.Errorf("build upon snapshot %s: %w", id, err)
	}
	return p.root.info(), nil
}

func (e *Engine) sound(ctx context.Context, r *root) error {
	return e.walk(ctx, r, 0, func(index int64, sum Digest) error {
		_, err := e.store.Stat(ctx, sum)
		if errors.Is(err, pack.ErrNotFound) {
			return &CorruptError{Snapshot: r.id, Block: sum, Index: index, Reason: "the block is missing"}
		}
		return err
	})
}
