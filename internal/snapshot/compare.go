package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// ErrDiffers says that a volume isn't as a snapshot.
var ErrDiffers = errors.New("it differs from the snapshot")

// Compare reads a volume through and compares it with a snapshot's digests:
// ErrDiffers where it isn't byte by byte what Restore writes. No block of the
// store is read.
func (e *Engine) Compare(ctx context.Context, id string, with Source) error {
	p, err := e.pin(ctx, id)
	if err == nil {
		defer e.unpin(p)
		c := &comparison{e: e, root: p.root, with: with, ends: dataFinder{src: with}}
		err = c.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("compare with snapshot %s: %w", id, err)
	}
	return nil
}

// comparison is a Compare under way.
type comparison struct {
	e    *Engine
	root *root
	with Source
	ends dataFinder
}

func (c *comparison) run(ctx context.Context) error {
	if size := c.with.Size(); size != c.root.volumeSize {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDiffers, size, c.root.volumeSize)
	}
	group, ctx := errgroup.WithContext(ctx)
	queue := make(chan block, c.e.workers)
	group.Go(func() error {
		defer close(queue)
		return c.plan(ctx, queue)
	})
	for range c.e.workers {
		group.Go(func() error {
			buf := make([]byte, BlockSize)
			for b := range queue {
				if err := c.block(b, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// plan sends every block that the snapshot or the volume has.
func (c *comparison) plan(ctx context.Context, queue chan<- block) error {
	for n := int64(0); n*pageBlocks < c.root.blocks(); n++ {
		p := &page{}
		if ref, ok := c.root.page(n); ok {
			var err error
			if p, err = c.e.loadPage(ctx, c.root, ref); err != nil {
				return err
			}
		}
		for at := range min(pageBlocks, c.root.blocks()-n*pageBlocks) {
			b := block{n*pageBlocks + at, p.sums[at]}
			hole, err := c.ends.isHole(b.index*BlockSize, c.root.blockLen(b.index), c.root.volumeSize)
			if err != nil {
				return err
			}
			if hole && !p.there[at] {
				continue
			}
			select {
			case queue <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// block compares one block; one without a digest should be zeros.
func (c *comparison) block(b block, buf []byte) error {
	data, off := buf[:c.root.blockLen(b.index)], b.index*BlockSize
	if n, err := c.with.ReadAt(data, off); n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read volume at %d: %w", off, err)
	}
	same := isZero(data)
	if b.sum != (Digest{}) {
		same = pack.Sum(data) == b.sum
	}
	if !same {
		return fmt.Errorf("%w: in the block at %d", ErrDiffers, off)
	}
	return nil
}
