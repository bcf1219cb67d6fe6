package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Report is what Check found.
type Report struct {
	Snapshots int   // with a readable root
	Blocks    int   // distinct blocks that they name
	BytesRead int64 // plain bytes verified
	Problems  []Problem
}

// Problem is one snapshot's damage. A block shared by several is reported for
// each.
type Problem struct {
	Snapshot string
	Block    Digest // zero where the root or a page is unreadable
	Index    int64  // of the block in its volume; -1 likewise
	Err      error
}

// Check verifies that every root and page is readable and that every block that
// they name is there; with readData also that each block holds what it should.
// Damage is in the report, and noted, so that the next snapshot with such a block
// stores it anew. The error is for a check that couldn't be done.
func (e *Engine) Check(ctx context.Context, readData bool, progress Progress) (Report, error) {
	report, err := e.check(ctx, readData, progress)
	if err != nil {
		return report, fmt.Errorf("check snapshots: %w", err)
	}
	return report, nil
}

func (e *Engine) check(ctx context.Context, readData bool, progress Progress) (report Report, err error) {
	bad := make(map[Digest]error)
	if readData {
		if err := e.readAll(ctx, &report, bad, progress); err != nil {
			return report, err
		}
	}
	names, err := e.store.Roots(ctx)
	if err != nil {
		return report, err
	}
	c := &checker{e: e, report: &report, bad: bad, seen: make(map[Digest]struct{})}
	for _, name := range names {
		p, err := e.pin(ctx, name) // else what is collected meanwhile would look like damage
		switch {
		case errors.Is(err, ErrNotFound): // deleted since
		case ctx.Err() != nil:
			return report, ctx.Err()
		case err != nil:
			report.Problems = append(report.Problems, Problem{Snapshot: name, Index: -1, Err: err})
		default:
			report.Snapshots++
			err := c.snapshot(ctx, p.root)
			e.unpin(p)
			if err != nil {
				return report, err
			}
		}
	}
	report.Blocks = len(c.seen)
	slices.SortFunc(report.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Snapshot, b.Snapshot), cmp.Compare(a.Index, b.Index))
	})
	return report, nil
}

// readAll reads everything in the store.
func (e *Engine) readAll(ctx context.Context, report *Report, bad map[Digest]error, progress Progress) error {
	stats, err := e.store.Stats(ctx)
	if err != nil {
		return err
	}
	done := newMeter(progress, int64(stats.Blobs))
	return e.store.Verify(ctx, e.workers, func(sum Digest, plain int, err error) {
		done.add(1)
		report.BytesRead += int64(plain)
		if err != nil {
			bad[sum] = err
		}
	})
}

type checker struct {
	e      *Engine
	report *Report
	bad    map[Digest]error
	seen   map[Digest]struct{}
}

func (c *checker) snapshot(ctx context.Context, r *root) error {
	for _, ref := range r.pages {
		p, err := c.e.loadPage(ctx, r, ref)
		if errors.Is(err, ErrCorrupt) {
			c.report.Problems = append(c.report.Problems, Problem{Snapshot: r.id, Index: -1, Err: err})
			continue
		}
		if err != nil {
			return err
		}
		for n, there := range p.there {
			if !there {
				continue
			}
			if err := c.block(ctx, r, block{ref.number*pageBlocks + int64(n), p.sums[n]}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) block(ctx context.Context, r *root, b block) error {
	c.seen[b.sum] = struct{}{}
	err := c.bad[b.sum]
	if err == nil {
		_, err = c.e.store.Stat(ctx, b.sum)
	}
	if err == nil {
		return nil
	}
	if err = inSnapshot(r.id, b.index, b.sum, err); !errors.Is(err, ErrCorrupt) {
		return err
	}
	c.report.Problems = append(c.report.Problems, Problem{Snapshot: r.id, Block: b.sum, Index: b.index, Err: err})
	return nil
}

// Repair makes the store's index again from its packs and then reads everything,
// as Check does. What is damaged stays so until a snapshot stores it anew.
// pack.ErrBusy says that snapshots are being made.
func (e *Engine) Repair(ctx context.Context, progress Progress) (Report, error) {
	if err := e.store.Rebuild(ctx); err != nil {
		return Report{}, fmt.Errorf("repair the snapshot store: %w", err)
	}
	return e.Check(ctx, true, progress)
}

// Stats describes what the store takes.
type Stats struct {
	pack.Stats
	Snapshots, Deleted int   // Deleted can be had back
	VolumeBytes        int64 // of all snapshots, as if each were whole
}

// Stats counts what is there.
func (e *Engine) Stats(ctx context.Context) (Stats, error) {
	infos, err := e.List(ctx)
	if err != nil {
		return Stats{}, err
	}
	s := Stats{Snapshots: len(infos)}
	for _, i := range infos {
		s.VolumeBytes += i.DataBytes
	}
	if s.Stats, err = e.store.Stats(ctx); err != nil {
		return s, fmt.Errorf("count the snapshot store: %w", err)
	}
	deleted, err := e.store.DeletedRoots(ctx)
	s.Deleted = len(deleted)
	return s, err
}
