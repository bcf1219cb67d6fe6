package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Collect puts the blocks that no snapshot names into the trash, and deletes for
// good what was there long enough. Snapshots may be created and deleted
// meanwhile: what a running Create puts or finds is kept. A root or page that
// can't be read aborts it before anything is taken away, for nobody knows what
// that one needs.
func (e *Engine) Collect(ctx context.Context) (swept pack.Swept, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("collect blocks: %w", err)
		}
	}()
	e.trash.Lock()
	defer e.trash.Unlock()
	// Before the roots are read: a Create that ends while they are has its
	// blocks kept by the sweep, one that ended earlier by its root.
	sweep, err := e.store.BeginSweep(ctx)
	if err != nil {
		return swept, err
	}
	defer sweep.Close()
	m := &marks{e: e, blobs: make(map[Digest]struct{}), pages: make(map[Digest]struct{}), seen: make(map[string]struct{})}
	if err := m.roots(ctx); err != nil {
		return swept, err
	}
	if err := m.pinned(ctx); err != nil {
		return swept, err
	}
	// Once more: a snapshot that was made meanwhile, and holds its pin no more,
	// may have taken over blocks of one that was deleted meanwhile.
	if err := m.roots(ctx); err != nil {
		return swept, err
	}
	swept, err = sweep.Run(ctx, m.blobs)
	if err == nil {
		e.log.Info("collected snapshot blocks", "trashed_bytes", swept.Bytes, "freed_bytes", swept.Freed)
	}
	return swept, err
}

// EmptyTrash deletes for good what is in the trash, and returns the bytes freed.
func (e *Engine) EmptyTrash(ctx context.Context) (freed int64, err error) {
	e.trash.Lock()
	defer e.trash.Unlock()
	return e.store.EmptyTrash(ctx)
}

// ExpireTrash deletes for good what has been in the trash long enough, and
// returns the bytes freed. Collect does so, too.
func (e *Engine) ExpireTrash(ctx context.Context) (freed int64, err error) {
	e.trash.Lock()
	defer e.trash.Unlock()
	return e.store.ExpireTrash(ctx)
}

// marks are the blobs that snapshots need.
type marks struct {
	e     *Engine
	blobs map[Digest]struct{} // blocks and pages
	// pages are those whose blocks are marked. A block may have the digest of a
	// page: it then says nothing of what the page names.
	pages map[Digest]struct{}
	seen  map[string]struct{} // roots
}

// roots marks what the listed snapshots need, but for those seen before.
func (m *marks) roots(ctx context.Context) error {
	names, err := m.e.store.Roots(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := m.seen[name]; ok {
			continue
		}
		r, err := m.e.loadRoot(ctx, name)
		if errors.Is(err, ErrNotFound) { // deleted since
			continue
		}
		if err != nil {
			return err
		}
		if err := m.tree(ctx, r); err != nil {
			return err
		}
		m.seen[name] = struct{}{}
	}
	return nil
}

// pinned marks what is read or built upon now.
func (m *marks) pinned(ctx context.Context) error {
	m.e.mu.Lock()
	pins := slices.Collect(maps.Keys(m.e.pins))
	m.e.mu.Unlock()
	for _, p := range pins {
		select {
		case <-p.read:
		case <-ctx.Done():
			return ctx.Err()
		}
		if p.root == nil { // it couldn't be read
			continue
		}
		if err := m.tree(ctx, p.root); err != nil {
			return err
		}
	}
	return nil
}

// tree marks a snapshot's pages and blocks. A page seen before has been marked
// with all below it.
func (m *marks) tree(ctx context.Context, r *root) error {
	for _, ref := range r.pages {
		if _, ok := m.pages[ref.sum]; ok {
			continue
		}
		p, err := m.e.loadPage(ctx, r, ref)
		if err != nil {
			return err
		}
		m.blobs[ref.sum] = struct{}{}
		for n, there := range p.there {
			if there {
				m.blobs[p.sums[n]] = struct{}{}
			}
		}
		m.pages[ref.sum] = struct{}{} // now that all below it is marked
	}
	return nil
}
