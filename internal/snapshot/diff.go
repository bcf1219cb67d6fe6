package snapshot

import (
	"context"
	"errors"
	"fmt"
)

// ErrStop ends a walk without an error, when the function that it calls returns
// it.
var ErrStop = errors.New("stop")

// Blocks calls fn in order for each block of a snapshot from an index on that
// isn't zero.
func (e *Engine) Blocks(ctx context.Context, id string, from int64, fn func(index int64, sum Digest) error) error {
	p, err := e.pin(ctx, id)
	if err == nil {
		defer e.unpin(p)
		err = e.walk(ctx, p.root, from, fn)
	}
	if err != nil && !errors.Is(err, ErrStop) {
		return fmt.Errorf("list blocks of snapshot %s: %w", id, err)
	}
	return nil
}

// Changed calls fn in order for each block from an index on in which two
// snapshots differ, with its digest in either; zero is a block of zeros. Pages
// that they share aren't read.
func (e *Engine) Changed(ctx context.Context, first, second string, from int64, fn func(index int64, a, b Digest) error) error {
	pa, err := e.pin(ctx, first)
	if err != nil {
		return fmt.Errorf("compare snapshot %s: %w", first, err)
	}
	defer e.unpin(pa)
	pb, err := e.pin(ctx, second)
	if err != nil {
		return fmt.Errorf("compare snapshot %s: %w", second, err)
	}
	defer e.unpin(pb)
	a, b := pa.root, pb.root
	for n := from / pageBlocks; n*pageBlocks < max(a.blocks(), b.blocks()); n++ {
		err := e.changedPage(ctx, a, b, n, from, fn)
		if errors.Is(err, ErrStop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("compare snapshots %s and %s: %w", first, second, err)
		}
	}
	return nil
}

func (e *Engine) changedPage(ctx context.Context, a, b *root, n, from int64, fn func(index int64, a, b Digest) error) error {
	ra, oka := a.page(n)
	rb, okb := b.page(n)
	if oka == okb && ra == rb {
		return nil
	}
	pa, pb := &page{}, &page{}
	var err error
	if oka {
		if pa, err = e.recentPage(ctx, a, ra); err != nil {
			return err
		}
	}
	if okb {
		if pb, err = e.recentPage(ctx, b, rb); err != nil {
			return err
		}
	}
	for i := max(0, from-n*pageBlocks); i < pageBlocks; i++ {
		if pa.sums[i] == pb.sums[i] { // a block of zeros has no digest
			continue
		}
		if err := fn(n*pageBlocks+i, pa.sums[i], pb.sums[i]); err != nil {
			return err
		}
	}
	return nil
}

// ReadBlock returns one block of a snapshot, in buf where it fits; nil is a block
// of zeros, or one past the volume's end.
func (e *Engine) ReadBlock(ctx context.Context, id string, index int64, buf []byte) ([]byte, error) {
	p, err := e.pin(ctx, id)
	if err == nil {
		defer e.unpin(p)
		buf, err = e.readBlock(ctx, p.root, index, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("read block %d of snapshot %s: %w", index, id, err)
	}
	return buf, nil
}

func (e *Engine) readBlock(ctx context.Context, r *root, index int64, buf []byte) ([]byte, error) {
	ref, ok := r.page(index / pageBlocks)
	if !ok || index < 0 {
		return nil, nil
	}
	p, err := e.recentPage(ctx, r, ref)
	if err != nil {
		return nil, err
	}
	at := index % pageBlocks
	if !p.there[at] {
		return nil, nil
	}
	return e.fetch(ctx, r, block{index, p.sums[at]}, buf)
}
