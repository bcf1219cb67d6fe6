package pack

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"
)

const (
	// runSize is how many bytes of a pack are read at a time at most, but for a
	// single blob: enough for a disk to be at its full speed.
	runSize = 2 << 20
	// runGap is how many bytes between two blobs are read for nothing rather than
	// in two reads.
	runGap = 64 << 10
	// spare is what the decoder wants to have behind a blob's contents: within it
	// it need not look at each step whether it is at the end.
	spare = 64
)

// located is a blob that is to be read.
type located struct {
	n   int // what its caller calls it
	sum Digest
	place
}

// end is where the blob ends in its pack.
func (l located) end() int64 { return int64(l.off) + int64(blobHeader) + int64(l.stored) }

// run is a part of a pack that is read at once. Its blobs are in their order.
type run struct {
	pack  string
	blobs []located
}

// span is where the run begins and how many bytes it has.
func (r run) span() (off, size int64) {
	off = int64(r.blobs[0].off)
	for _, b := range r.blobs {
		size = max(size, b.end()-off)
	}
	return off, size
}

// Fetch reads blobs in the order in which they lie on the disk, neighbours with
// one read, on so many workers. It calls fn for each, concurrently, with its
// number in sums and its contents, which are fn's until it returns, or with the
// error that Get would return. The first error of fn ends it.
func (s *Store) Fetch(ctx context.Context, sums []Digest, workers int, fn func(n int, data []byte, err error) error) error {
	runs, err := s.runs(ctx, sums)
	if err != nil {
		return err
	}
	return s.readRuns(ctx, workers, slices.Values(runs), func(b located, data []byte, err error) error { return fn(b.n, data, err) })
}

// runs locates blobs. One that isn't in the index is a run without a pack.
func (s *Store) runs(ctx context.Context, sums []Digest) ([]run, error) {
	for {
		if err := s.load(ctx); err != nil {
			return nil, err
		}
		s.mu.RLock()
		if s.index != nil {
			break
		}
		s.mu.RUnlock() // it was let go of since
	}
	defer s.mu.RUnlock()
	blobs := make([]located, 0, len(sums))
	var runs []run
	for n, sum := range sums {
		b := located{n: n, sum: sum}
		var ok bool
		if b.place, ok = s.index.places[s.id(sum)]; !ok {
			runs = append(runs, run{blobs: []located{b}})
			continue
		}
		blobs = append(blobs, b)
	}
	slices.SortFunc(blobs, func(a, b located) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
	for len(blobs) > 0 {
		n := 1
		for n < len(blobs) && blobs[n].pack == blobs[0].pack {
			n++
		}
		runs = append(runs, cut(s.index.packs[blobs[0].place.pack].name, blobs[:n])...)
		blobs = blobs[n:]
	}
	return runs, nil
}

// cut makes runs of a pack's blobs, which are in their order.
func cut(pack string, blobs []located) (runs []run) {
	from := 0
	for n := range blobs {
		if n > from && (blobs[n].end()-int64(blobs[from].off) > runSize || int64(blobs[n].off)-blobs[n-1].end() > runGap) {
			runs = append(runs, run{pack: pack, blobs: blobs[from:n]})
			from = n
		}
	}
	return append(runs, run{pack: pack, blobs: blobs[from:]})
}

// readRuns reads runs in order on so many workers. fn is called concurrently.
func (s *Store) readRuns(ctx context.Context, workers int, runs iter.Seq[run], fn func(located, []byte, error) error) error {
	group, ctx := errgroup.WithContext(ctx)
	queue := make(chan run)
	group.Go(func() error {
		defer close(queue)
		for r := range runs {
			select {
			case queue <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			w := runReader{s: s, buf: make([]byte, 0, MaxBlob+spare)}
			for r := range queue {
				if err := w.read(ctx, r, fn); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// runReader reads one run after another.
type runReader struct {
	s        *Store
	mem, buf []byte
}

// read hands each blob of a run to fn. What isn't right is read by itself, which
// finds out why, and where else it may be.
func (w *runReader) read(ctx context.Context, r run, fn func(located, []byte, error) error) error {
	framed := w.readAt(ctx, r)
	var last []byte
	for n, b := range r.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := last, errNotRead
		switch {
		case n > 0 && last != nil && b.place == r.blobs[n-1].place: // the same again
			err = nil
		case framed != nil:
			at := int64(b.off) - int64(r.blobs[0].off)
			data, err = w.s.decode(r.pack, framed[at:at+b.end()-int64(b.off)], b.off, b.sum, w.buf)
		}
		if err != nil {
			data, err = w.s.Get(ctx, b.sum, w.buf)
		}
		if last = nil; err == nil {
			last = data
		}
		if err := fn(b, data, err); err != nil {
			return err
		}
	}
	return nil
}

var errNotRead = errors.New("not read yet")

// readAt reads a run; nil where that can't be done.
func (w *runReader) readAt(ctx context.Context, r run) []byte {
	if r.pack == "" {
		return nil
	}
	off, size := r.span()
	if int64(cap(w.mem)) < size {
		w.mem = make([]byte, max(size, runSize))
	}
	if n, _ := w.s.objs.ReadAt(ctx, kindPacks+"/"+r.pack, w.mem[:size], off); int64(n) < size {
		return nil
	}
	return w.mem[:size]
}
