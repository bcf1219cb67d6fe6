package blocks

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// turn is a block that is read while others before it are written.
type turn struct {
	block
	data chan []byte
}

// stream writes the file in order. Blocks are read side by side, and wait for
// their turn; none is read more than mostParallel before it.
func (x *exporting) stream(ctx context.Context, w io.Writer) error {
	group, ctx := errgroup.WithContext(ctx)
	turns := make(chan turn, mostParallel)
	spare := make(chan []byte, 2*mostParallel)
	group.Go(func() error { return x.inTurn(ctx, w, turns, spare) })
	group.Go(func() error {
		list := func(ctx context.Context, yield func(turn) bool) error {
			defer close(turns)
			err := x.list(ctx, func(b block) bool {
				t := turn{b, make(chan []byte, 1)}
				select {
				case turns <- t:
					return yield(t)
				case <-ctx.Done():
					return false
				}
			})
			if err == nil {
				err = ctx.Err() // else the writer would take it for the end
			}
			return err
		}
		return each(ctx, x.gate, x.o.Parallel, list, func(ctx context.Context, t turn, _ []byte) error {
			if err := x.within(t.block); err != nil {
				return err
			}
			var buf []byte
			select {
			case buf = <-spare:
			default:
				buf = make([]byte, Size)
			}
			sum, err := get(ctx, x.from, x.gate, x.o.Snapshot, t.block, buf)
			if err != nil {
				return err
			}
			t.data <- buf
			return x.journal.note(t.index, sum)
		})
	})
	return group.Wait()
}

// inTurn writes the head and the blocks, and zeros where nothing is.
func (x *exporting) inTurn(ctx context.Context, w io.Writer, turns <-chan turn, spare chan<- []byte) error {
	out := &padded{w: w}
	for _, p := range x.layout.head {
		if err := out.writeAt(p.data, p.offset); err != nil {
			return err
		}
	}
	for t := range turns {
		select {
		case buf := <-t.data:
			if err := out.writeAt(buf, x.layout.offset(t.index)); err != nil {
				return err
			}
			select {
			case spare <- buf:
			default:
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		x.meter.done(t.index, true)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return out.padTo(x.layout.size)
}

// padded writes to a stream as to a file of zeros, from its beginning on.
type padded struct {
	w  io.Writer
	at int64
}

func (p *padded) writeAt(b []byte, offset int64) error {
	if err := p.padTo(offset); err != nil {
		return err
	}
	n, err := p.w.Write(b)
	p.at += int64(n)
	return err
}

func (p *padded) padTo(offset int64) error {
	if offset < p.at {
		return fmt.Errorf("%w: what belongs at %d comes after %d", ErrCorrupt, offset, p.at)
	}
	for p.at < offset {
		n, err := p.w.Write(zeros[:min(int64(len(zeros)), offset-p.at)])
		p.at += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}
