package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Create makes the snapshot id of src and returns when it is durable. With since
// only the blocks that it names are read, unless its base can't be used; nil
// reads everything but the holes. A snapshot that exists is returned as it is,
// without reading src, so that a Create whose answer was lost can be repeated.
// After an error or a crash there is no snapshot id, or all of it, where only the
// answer of the last step was lost; a repeated Create finds the blocks that were
// stored.
func (e *Engine) Create(ctx context.Context, id string, src Source, since *Since, progress Progress) (Info, error) {
	info, err := e.create(ctx, id, src, since, progress)
	if err != nil {
		return Info{}, fmt.Errorf("create snapshot %s: %w", id, err)
	}
	return info, nil
}

func (e *Engine) create(ctx context.Context, id string, src Source, since *Since, progress Progress) (Info, error) {
	existing, err := e.loadRoot(ctx, id)
	if err == nil {
		return existing.info(), nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Info{}, err
	}
	r := &root{id: id, volumeSize: src.Size(), createdAt: e.pack.Now().UTC()}
	if r.volumeSize <= 0 {
		return Info{}, fmt.Errorf("volume of %d bytes", r.volumeSize)
	}
	up, err := e.store.Begin(ctx)
	if err != nil {
		return Info{}, err
	}
	defer up.Close()
	base, release, err := e.base(ctx, since, r)
	if err != nil {
		return Info{}, err
	}
	defer release()
	c := &creation{e: e, up: up, src: src, root: r, base: base, since: since, ends: dataFinder{src: src}, done: newMeter(progress, r.volumeSize)}
	if err := c.run(ctx); err != nil {
		return Info{}, err
	}
	return e.commit(ctx, up, r)
}

// base pins the snapshot that since builds on. One that can't be used is nil:
// then everything is read.
func (e *Engine) base(ctx context.Context, since *Since, r *root) (base *root, release func(), err error) {
	if since == nil || since.Base == "" {
		return nil, func() {}, nil
	}
	p, err := e.pin(ctx, since.Base)
	if err == nil {
		if err = e.sound(ctx, p.root); err != nil {
			e.unpin(p)
		}
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		e.log.Info("the volume is read whole, as the snapshot that it builds on can't be used", "snapshot", r.id, "base", since.Base, "error", err)
		return nil, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return p.root, func() { e.unpin(p) }, nil
}

// commit makes what was uploaded durable and then the root.
func (e *Engine) commit(ctx context.Context, up *pack.Upload, r *root) (Info, error) {
	if err := up.Flush(ctx); err != nil {
		return Info{}, err
	}
	err := e.store.CreateRoot(ctx, r.id, r.encode())
	if errors.Is(err, ErrExists) { // somebody who made the same ID was quicker
		existing, err := e.loadRoot(ctx, r.id)
		if err != nil {
			return Info{}, err
		}
		return existing.info(), nil
	}
	if err != nil {
		return Info{}, err
	}
	return r.info(), nil
}

// creation is a Create under way.
type creation struct {
	e     *Engine
	up    *pack.Upload
	src   Source
	root  *root
	base  *root // nil reads everything
	since *Since
	done  *meter

	stored atomic.Int64

	ends dataFinder // used by plan alone

	mu    sync.Mutex
	pages map[int64]pageRef
}

// job is a page that is being filled. Each of its blocks is written by one
// worker.
type job struct {
	number int64
	page   page
	left   atomic.Int32 // blocks to come, and one while they are being planned
}

type task struct {
	job   *job
	index int64
}

func (c *creation) run(ctx context.Context) error {
	c.pages = make(map[int64]pageRef)
	group, ctx := errgroup.WithContext(ctx)
	workers, yield := c.e.workers, func() {}
	if l, ok := c.src.(Limited); ok {
		workers, yield = max(1, min(workers, l.Workers())), l.Yield
	}
	tasks := make(chan task, workers)
	group.Go(func() error {
		defer close(tasks)
		return c.plan(ctx, tasks)
	})
	for range workers {
		group.Go(func() error {
			return c.work(ctx, tasks, yield)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for n := int64(0); n*pageBlocks < c.root.blocks(); n++ {
		if ref, ok := c.pages[n]; ok {
			c.root.pages = append(c.root.pages, ref)
		}
	}
	c.root.storedBytes = c.stored.Load()
	return nil
}

// work does what is planned, until there is no more.
func (c *creation) work(ctx context.Context, tasks <-chan task, yield func()) error {
	yield()
	buf := make([]byte, BlockSize)
	for t := range tasks {
		if err := c.block(ctx, t, buf); err != nil {
			return err
		}
	}
	return nil
}

// plan sends the blocks that must be read and takes over what needn't be.
func (c *creation) plan(ctx context.Context, tasks chan<- task) error {
	for n := int64(0); n*pageBlocks < c.root.blocks(); n++ {
		if err := c.planPage(ctx, n, tasks); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) planPage(ctx context.Context, n int64, tasks chan<- task) error {
	first, end := n*pageBlocks, min((n+1)*pageBlocks, c.root.blocks())
	changed := make([]bool, end-first)
	some := false
	for i := range changed {
		changed[i] = c.changed(first + int64(i))
		some = some || changed[i]
	}
	var old *page
	if c.base != nil {
		ref, ok := c.base.page(n)
		if !some && end < c.root.blocks() { // the last page's blocks are counted anew
			if ok {
				c.addPage(ref)
			}
			c.done.add((end - first) * BlockSize)
			return nil
		}
		old = &page{}
		if ok {
			var err error
			if old, err = c.e.loadPage(ctx, c.base, ref); err != nil {
				if !errors.Is(err, ErrCorrupt) {
					return err
				}
				c.e.log.Warn("reading more of a volume, as a page of the snapshot that it builds on can't be read", "snapshot", c.root.id, "error", err)
				old = nil
			}
		}
	}
	j := &job{number: n}
	j.left.Store(1)
	for i := range changed {
		if err := c.planBlock(ctx, j, first+int64(i), old, changed[i], tasks); err != nil {
			return err
		}
	}
	return c.finish(ctx, j)
}

// changed says whether a block may differ from the base's. One that the base has
// in another length, or not at all, does.
func (c *creation) changed(index int64) bool {
	return c.base == nil || index >= c.base.blocks() || c.base.blockLen(index) != c.root.blockLen(index) || c.since.Changed(index)
}

func (c *creation) planBlock(ctx context.Context, j *job, index int64, old *page, changed bool, tasks chan<- task) error {
	at := index % pageBlocks
	if old != nil && !changed {
		j.page.there[at], j.page.sums[at] = old.there[at], old.sums[at]
		c.note(index, old.there[at])
		c.done.add(c.root.blockLen(index))
		return nil
	}
	hole, err := c.ends.isHole(index*BlockSize, c.root.blockLen(index), c.root.volumeSize)
	if err != nil {
		return err
	}
	if hole {
		c.done.add(c.root.blockLen(index))
		return nil
	}
	j.left.Add(1)
	select {
	case tasks <- task{job: j, index: index}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// block reads and stores one block.
func (c *creation) block(ctx context.Context, t task, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, off := buf[:c.root.blockLen(t.index)], t.index*BlockSize
	n, err := c.src.ReadAt(data, off)
	if n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read volume at %d: %w", off, err)
	}
	if !isZero(data) {
		sum := pack.Sum(data)
		stored, err := c.up.Put(ctx, pack.Block, sum, data)
		if err != nil {
			return fmt.Errorf("store block at %d: %w", off, err)
		}
		c.stored.Add(stored)
		at := t.index % pageBlocks
		t.job.page.there[at], t.job.page.sums[at] = true, sum
		c.note(t.index, true)
	}
	c.done.add(int64(len(data)))
	return c.finish(ctx, t.job)
}

// note remembers how short the volume's last block is.
func (c *creation) note(index int64, there bool) {
	if there && index == c.root.blocks()-1 {
		c.root.short = BlockSize - c.root.blockLen(index) // one block, so one writer
	}
}

// finish stores a page whose blocks are all there.
func (c *creation) finish(ctx context.Context, j *job) error {
	if j.left.Add(-1) > 0 {
		return nil
	}
	ref, stored, err := putPage(ctx, c.up, j.number, &j.page)
	if err != nil {
		return fmt.Errorf("store page %d: %w", j.number, err)
	}
	c.stored.Add(stored)
	if ref.blocks > 0 {
		c.addPage(ref)
	}
	return nil
}

func (c *creation) addPage(ref pageRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages[ref.number] = ref
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
