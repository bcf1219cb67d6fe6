package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Create makes the snapshot id of src and returns when it is durable. One that
// exists is returned as it is, without reading src, so that a Create whose
// answer was lost can be repeated. After an error or a crash there is no
// snapshot id; a repeated Create finds the blocks that were stored.
func (e *Engine) Create(ctx context.Context, id string, src Source, progress Progress) (Info, error) {
	info, err := e.create(ctx, id, src, progress)
	if err != nil {
		return Info{}, fmt.Errorf("create snapshot %s: %w", id, err)
	}
	return info, nil
}

func (e *Engine) create(ctx context.Context, id string, src Source, progress Progress) (_ Info, err error) {
	existing, err := e.load(ctx, id)
	if err == nil {
		return existing.info(), nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Info{}, err
	}
	m := &manifest{id: id, volumeSize: src.Size(), createdAt: e.now().UTC()}
	if m.volumeSize <= 0 {
		return Info{}, fmt.Errorf("volume of %d bytes", m.volumeSize)
	}
	up, err := e.store.BeginUpload(ctx)
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if cerr := up.Close(); cerr != nil {
			e.log.Warn("closing an upload failed", "snapshot", id, "error", cerr)
		}
	}()
	if err := e.upload(ctx, up, src, m, newMeter(progress, m.volumeSize)); err != nil {
		return Info{}, err
	}
	err = up.Commit(ctx, id, m.encode())
	if errors.Is(err, ErrExists) { // a Create of the same ID was quicker
		existing, err := e.load(ctx, id)
		if err != nil {
			return Info{}, err
		}
		return existing.info(), nil
	}
	if err != nil {
		return Info{}, err
	}
	return m.info(), nil
}

// upload puts all blocks of src that aren't zero and fills in m.
func (e *Engine) upload(ctx context.Context, up Upload, src Source, m *manifest, done *meter) error {
	group, ctx := errgroup.WithContext(ctx)
	indexes := make(chan int64, e.workers)
	group.Go(func() error {
		defer close(indexes)
		return dataBlocks(ctx, src, m.volumeSize, indexes, done)
	})
	var mu sync.Mutex // guards m
	for range e.workers {
		group.Go(func() error {
			w := uploader{up: up, src: src, m: m, buf: make([]byte, BlockSize)}
			for index := range indexes {
				if err := w.block(ctx, index); err != nil {
					return err
				}
				done.add(m.blockLen(index))
			}
			mu.Lock()
			defer mu.Unlock()
			m.blocks = append(m.blocks, w.blocks...)
			m.storedBytes += w.stored
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(m.blocks, func(a, b entry) int { return cmp.Compare(a.index, b.index) })
	return nil
}

// dataBlocks sends the index of each block that may hold data.
func dataBlocks(ctx context.Context, src Source, size int64, indexes chan<- int64, done *meter) error {
	next := int64(0) // the first block not yet decided
	for off := int64(0); off < size; off = next * BlockSize {
		start, end, err := src.NextData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("find data at %d: %w", off, err)
		}
		if start < off || end <= start {
			return fmt.Errorf("find data at %d: source returned %d to %d", off, start, end)
		}
		end = min(end, size)
		first := min(start, size) / BlockSize
		done.add((first - next) * BlockSize)
		for next = first; next*BlockSize < end; next++ {
			select {
			case indexes <- next:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	done.add(size - min(next*BlockSize, size))
	return nil
}

// uploader is one worker's share of an upload.
type uploader struct {
	up     Upload
	src    Source
	m      *manifest // its sizes; not written here
	buf    []byte
	blocks []entry
	stored int64
}

func (w *uploader) block(ctx context.Context, index int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data := w.buf[:w.m.blockLen(index)]
	off := index * BlockSize
	n, err := w.src.ReadAt(data, off)
	if n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read volume at %d: %w", off, err)
	}
	if isZero(data) {
		return nil
	}
	sum := Digest(sha256.Sum256(data))
	put, err := w.up.Put(ctx, sum, data)
	if err != nil {
		return fmt.Errorf("store block at %d: %w", off, err)
	}
	w.blocks = append(w.blocks, entry{index: index, sum: sum, id: put.ID})
	w.stored += put.Stored
	return nil
}

// isZero compares b with itself shifted by one byte, at the speed of memory.
func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// meter adds up progress from several goroutines.
type meter struct {
	mu          sync.Mutex
	done, total int64
	report      Progress
}

func newMeter(report Progress, total int64) *meter {
	if report == nil {
		report = func(int64, int64) {}
	}
	return &meter{report: report, total: total}
}

func (p *meter) add(n int64) {
	if n <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.report(p.done, p.total)
}
