package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Deleted is a snapshot in the trash.
type Deleted struct {
	Info
	Deleted, Until time.Time // Until it can be had back
}

// Deleted lists the snapshots in the trash, the one deleted last first. Those
// whose root is unreadable are left out.
func (e *Engine) Deleted(ctx context.Context) ([]Deleted, error) {
	roots, err := e.store.DeletedRoots(ctx)
	if err != nil {
		return nil, fmt.Errorf("list deleted snapshots: %w", err)
	}
	var list []Deleted
	for _, d := range roots {
		raw, err := e.store.DeletedRootData(ctx, d)
		if errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrDamaged) {
			continue // it came back or was deleted for good just now; or is unreadable
		}
		if err != nil {
			return nil, fmt.Errorf("list deleted snapshots: %w", err)
		}
		if r, err := parseRoot(d.Name, raw); err == nil {
			list = append(list, Deleted{Info: r.info(), Deleted: d.Deleted, Until: d.Until})
		}
	}
	return list, nil
}

// Undelete brings back a snapshot from the trash, the one deleted last of its
// ID: ErrNotFound where there is none, ErrExists where there is one again. One
// that was brought back is fine.
func (e *Engine) Undelete(ctx context.Context, id string) (Info, error) {
	info, err := e.undelete(ctx, id)
	if err != nil {
		return Info{}, fmt.Errorf("bring back snapshot %s: %w", id, err)
	}
	return info, nil
}

func (e *Engine) undelete(ctx context.Context, id string) (Info, error) {
	e.trash.Lock()
	defer e.trash.Unlock()
	roots, err := e.store.DeletedRoots(ctx)
	if err != nil {
		return Info{}, err
	}
	for _, d := range roots {
		if d.Name == id {
			return e.bringBack(ctx, d)
		}
	}
	if r, err := e.loadRoot(ctx, id); err == nil {
		return r.info(), nil
	}
	return Info{}, ErrNotFound
}

// bringBack takes a snapshot out of the trash. e.trash is held.
func (e *Engine) bringBack(ctx context.Context, d pack.DeletedRoot) (Info, error) {
	raw, err := e.store.DeletedRootData(ctx, d)
	if err != nil {
		return Info{}, err
	}
	r, err := parseRoot(d.Name, raw)
	if err != nil {
		return Info{}, err
	}
	if err := e.recover(ctx, r); err != nil {
		return Info{}, err
	}
	return r.info(), e.store.RestoreRoot(ctx, d)
}

// recover brings a snapshot's pages back from the trash, and then its blocks.
func (e *Engine) recover(ctx context.Context, r *root) error {
	var pages []Digest
	for _, ref := range r.pages {
		pages = append(pages, ref.sum)
	}
	if err := e.store.Recover(ctx, pages); err != nil {
		return lost(r.id, err)
	}
	for _, ref := range r.pages {
		p, err := e.loadPage(ctx, r, ref)
		if err != nil {
			return err
		}
		var blocks []Digest
		for n, there := range p.there {
			if there {
				blocks = append(blocks, p.sums[n])
			}
		}
		if err := e.store.Recover(ctx, blocks); err != nil {
			return lost(r.id, err)
		}
	}
	return nil
}

// lost says that a snapshot isn't whole any more.
func lost(id string, err error) error {
	if errors.Is(err, pack.ErrNotFound) {
		return &CorruptError{Snapshot: id, Index: -1, Reason: err.Error()}
	}
	return err
}
