package snapshot

import (
	"context"
	"fmt"
	"io"
)

// zeroRun is the shortest stretch of zeros within a block that Restore leaves
// unwritten. Shorter ones cost more in calls than they save in space.
const zeroRun = 64 << 10

// block is one of a volume's that isn't zero.
type block struct {
	index int64
	sum   Digest
}

// Restore writes the snapshot's data to w, which reads as zeros before: zeros
// aren't written. w may be larger than the volume was. Each block is verified
// before it is written; a wrong or missing one is ErrCorrupt, and w is then to
// be thrown away.
func (e *Engine) Restore(ctx context.Context, id string, w io.WriterAt, progress Progress) error {
	p, err := e.pin(ctx, id)
	if err == nil {
		defer e.unpin(p)
		err = e.restore(ctx, p.root, w, progress)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	return nil
}

// restoreWindow is how many blocks are put into the order of their packs at a
// time: 8 GiB, for which a mebibyte of digests is held.
const restoreWindow = 16 << 10

func (e *Engine) restore(ctx context.Context, r *root, w io.WriterAt, progress Progress) error {
	done := newMeter(progress, r.info().DataBytes)
	var window []block
	flush := func() error {
		err := e.restoreBlocks(ctx, r, window, w, done)
		window = window[:0]
		return err
	}
	err := e.walk(ctx, r, 0, func(index int64, sum Digest) error {
		if window = append(window, block{index, sum}); len(window) < restoreWindow {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}

// restoreBlocks writes blocks, in the order in which they lie in the store.
func (e *Engine) restoreBlocks(ctx context.Context, r *root, blocks []block, w io.WriterAt, done *meter) error {
	sums := make([]Digest, len(blocks))
	for n, b := range blocks {
		sums[n] = b.sum
	}
	return e.store.Fetch(ctx, sums, e.workers, func(n int, data []byte, err error) error {
		b := blocks[n]
		if data, err = r.whole(b, data, err); err != nil {
			return err
		}
		if err := writeSparse(w, data, b.index*BlockSize); err != nil {
			return fmt.Errorf("write volume at %d: %w", b.index*BlockSize, err)
		}
		done.add(int64(len(data)))
		return nil
	})
}

// fetch reads and verifies a block, in buf where it fits.
func (e *Engine) fetch(ctx context.Context, r *root, b block, buf []byte) ([]byte, error) {
	data, err := e.store.Get(ctx, b.sum, buf)
	return r.whole(b, data, err)
}

// whole says of what was read for a block whether it is that.
func (r *root) whole(b block, data []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, inSnapshot(r.id, b.index, b.sum, err)
	}
	if int64(len(data)) != r.blockLen(b.index) {
		return nil, &CorruptError{Snapshot: r.id, Block: b.sum, Index: b.index, Reason: fmt.Sprintf("it has %d bytes", len(data))}
	}
	return data, nil
}

// writeSparse writes data at off but for its longer stretches of zeros.
func writeSparse(w io.WriterAt, data []byte, off int64) error {
	from := 0 // the start of what is to be written
	flush := func(to int) error {
		if from == to {
			return nil
		}
		_, err := w.WriteAt(data[from:to], off+int64(from))
		return err
	}
	for at := 0; at < len(data); at += zeroRun {
		end := min(at+zeroRun, len(data))
		if !isZero(data[at:end]) {
			continue
		}
		if err := flush(at); err != nil {
			return err
		}
		from = end
	}
	return flush(len(data))
}
