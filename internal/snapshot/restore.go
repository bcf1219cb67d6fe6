package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// zeroRun is the shortest stretch of zeros within a block that Restore leaves
// unwritten. Shorter ones cost more in calls than they save in space.
const zeroRun = 64 << 10

// Restore writes the snapshot's data to w, which reads as zeros before: zeros
// aren't written. w may be larger than the volume was. Each block is verified
// before it is written; a wrong or missing one is ErrCorrupt, and w is then to
// be thrown away.
func (e *Engine) Restore(ctx context.Context, id string, w io.WriterAt, progress Progress) error {
	m, err := e.load(ctx, id)
	if err == nil {
		err = e.restore(ctx, m, w, progress)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	return nil
}

func (e *Engine) restore(ctx context.Context, m *manifest, w io.WriterAt, progress Progress) error {
	done := newMeter(progress, m.info().DataBytes)
	return e.each(ctx, m.blocks, func(ctx context.Context, b entry, buf []byte) error {
		data, err := e.fetch(ctx, b, buf)
		if err == nil && int64(len(data)) != m.blockLen(b.index) {
			err = &CorruptError{Block: b.id, Reason: fmt.Sprintf("it has %d bytes", len(data))}
		}
		if err != nil {
			return inSnapshot(m.id, err)
		}
		if err := writeSparse(w, data, b.index*BlockSize); err != nil {
			return fmt.Errorf("write volume at %d: %w", b.index*BlockSize, err)
		}
		done.add(int64(len(data)))
		return nil
	})
}

// each calls fn for the blocks on all workers, with a buffer to use.
func (e *Engine) each(ctx context.Context, blocks []entry, fn func(ctx context.Context, b entry, buf []byte) error) error {
	group, ctx := errgroup.WithContext(ctx)
	queue := make(chan entry, e.workers)
	group.Go(func() error {
		defer close(queue)
		for _, b := range blocks {
			select {
			case queue <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range e.workers {
		group.Go(func() error {
			buf := make([]byte, 0, BlockSize)
			for b := range queue {
				if err := fn(ctx, b, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// fetch reads a block and verifies it against its digest.
func (e *Engine) fetch(ctx context.Context, b entry, buf []byte) ([]byte, error) {
	data, err := e.store.GetBlock(ctx, b.id, buf)
	if errors.Is(err, ErrNotFound) {
		// Not wrapped: to the caller it would be the snapshot that is absent.
		return nil, &CorruptError{Block: b.id, Reason: "it is missing"}
	}
	if err != nil {
		return nil, err
	}
	if Digest(sha256.Sum256(data)) != b.sum {
		return nil, &CorruptError{Block: b.id, Reason: "its contents don't match its digest"}
	}
	return data, nil
}

// inSnapshot adds the snapshot's ID to a block's error.
func inSnapshot(id string, err error) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		corrupt.Snapshot = id
	}
	return err
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
