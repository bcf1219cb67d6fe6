package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Source is the volume that a snapshot is made of. It doesn't change while it
// is read: a detached volume, or a running machine's at one instant.
type Source interface {
	// Size is the volume's size in bytes.
	Size() int64
	// ReadAt is called concurrently, for whole blocks.
	io.ReaderAt
	// NextData returns the bounds of the first stretch at or after off that may
	// hold data, in bytes; what lies before it reads as zeros. io.EOF says that
	// only zeros remain. It is called from one goroutine at a time.
	NextData(off int64) (start, end int64, err error)
}

// Limited is a Source that bounds how fast it is worked on: one that is read while
// others need the host more.
type Limited interface {
	Source
	// Workers is how many of its blocks are worked on at a time, 1 or more. No
	// bound is above WithWorkers.
	Workers() int
	// Yield is called by each worker before its first block, on the goroutine that
	// is its own and ends with it.
	Yield()
}

// Since says what a volume has kept of an earlier snapshot.
type Since struct {
	// Base is a snapshot of the volume.
	Base string
	// Changed says whether a block, by its offset / BlockSize, may differ from
	// Base. It is called from one goroutine at a time.
	Changed func(index int64) bool
}

// Progress is told how far a snapshot is, in bytes: of the volume for Create,
// of the snapshot's data for Restore. Calls don't overlap, done never falls,
// and the last call of a success has done equal to total. It must not block.
type Progress func(done, total int64)

// Info describes a snapshot.
type Info struct {
	ID         string
	VolumeSize int64 // bytes
	Blocks     int   // blocks that aren't zero
	DataBytes  int64 // plain bytes in those blocks
	// StoredBytes is what making the snapshot added to the store: less than its
	// size by what was there already and by compression.
	StoredBytes int64
	CreatedAt   time.Time // when Create began, UTC
	// Digest stands for the contents: equal for two snapshots exactly when
	// their volumes are equal in size and in every byte.
	Digest Digest
}

func (r *root) info() Info {
	info := Info{
		ID: r.id, VolumeSize: r.volumeSize, CreatedAt: r.createdAt, StoredBytes: r.storedBytes, Digest: r.digest(),
	}
	for _, p := range r.pages {
		info.Blocks += p.blocks
	}
	info.DataBytes = int64(info.Blocks)*BlockSize - r.short
	return info
}

// Engine makes, restores, verifies and collects snapshots in one store. Its
// methods may be called concurrently.
type Engine struct {
	objs    objects.Store
	store   *pack.Store
	log     *slog.Logger
	workers int
	pack    pack.Options
	recent  recentPages

	// trash is held by what empties it, fills it, or takes a snapshot out of it:
	// what comes back is in no list of roots until all of it is there, and
	// meanwhile a collection's marks know nothing of it.
	trash sync.Mutex

	mu   sync.Mutex
	pins map[*pin]struct{}
}

// Option changes how an Engine works.
type Option func(*Engine)

// WithWorkers sets how many blocks are worked on at a time. Each worker holds
// one or two blocks in memory.
func WithWorkers(n int) Option { return func(e *Engine) { e.workers = max(n, 1) } }

// WithClock sets where dates come from.
func WithClock(now func() time.Time) Option { return func(e *Engine) { e.pack.Now = now } }

// WithTrash sets how long what was deleted can be had back; a negative time is
// not at all.
func WithTrash(keep time.Duration) Option { return func(e *Engine) { e.pack.Trash = keep } }

// WithPackSize sets how many bytes a pack has, for tests.
func WithPackSize(n int) Option { return func(e *Engine) { e.pack.PackSize = n } }

// OpenDir opens the store in the folder at path, and makes it, for its owner
// alone, where there is none. ErrLocked says that another process has it open,
// ErrVersion that another version of this program made it.
func OpenDir(ctx context.Context, path string, log *slog.Logger, opts ...Option) (*Engine, error) {
	// Before there were packs, a store had a file of this name.
	if _, err := os.Stat(filepath.Join(path, "format")); err == nil {
		return nil, fmt.Errorf("open snapshot store %s: %w: store version 1", path, ErrVersion)
	}
	dir, err := objects.OpenDir(path)
	if err != nil {
		return nil, err
	}
	e, err := Open(ctx, dir, log, opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, dir.Close()))
	}
	return e, nil
}

// Open returns an engine on a store of objects, which Close closes.
func Open(ctx context.Context, objs objects.Store, log *slog.Logger, opts ...Option) (*Engine, error) {
	// Two more than there are processors: some workers wait for the disk.
	e := &Engine{objs: objs, log: log, workers: runtime.GOMAXPROCS(0) + 2, pins: make(map[*pin]struct{})}
	e.pack.Now = time.Now
	for _, opt := range opts {
		opt(e)
	}
	var err error
	e.store, err = pack.Open(ctx, objs, log, e.pack)
	return e, err
}

// Close lets go of the store. Nothing may be under way.
func (e *Engine) Close() error {
	e.store.Close()
	return e.objs.Close()
}

// Rest lets go of memory that only work needs, if nothing is under way.
func (e *Engine) Rest() {
	e.recent.clear()
	e.store.Rest()
}

// pin keeps a snapshot's blocks from being collected, even if it is deleted.
type pin struct {
	root *root         // once it was read
	read chan struct{} // closed when it was, or couldn't be
}

// pin reads a snapshot's root and keeps its blocks until unpin. A collection that
// begins meanwhile waits for the root: it may have been read just before the
// snapshot was deleted, and then nobody else knows what it needs.
func (e *Engine) pin(ctx context.Context, id string) (*pin, error) {
	p := &pin{read: make(chan struct{})}
	defer close(p.read)
	e.mu.Lock()
	e.pins[p] = struct{}{}
	e.mu.Unlock()
	r, err := e.loadRoot(ctx, id)
	if err != nil {
		e.unpin(p)
		return nil, err
	}
	p.root = r
	return p, nil
}

func (e *Engine) unpin(p *pin) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pins, p)
}

// Info describes one snapshot: ErrNotFound, or ErrCorrupt where its root is
// unreadable.
func (e *Engine) Info(ctx context.Context, id string) (Info, error) {
	r, err := e.loadRoot(ctx, id)
	if err != nil {
		return Info{}, fmt.Errorf("describe snapshot %s: %w", id, err)
	}
	return r.info(), nil
}

// List describes all snapshots in order of their IDs. Those with an unreadable
// root are left out and named in the error, which is then not nil though the
// list is good.
func (e *Engine) List(ctx context.Context) ([]Info, error) {
	names, err := e.store.Roots(ctx)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var (
		infos []Info
		bad   []error
	)
	for _, name := range names {
		r, err := e.loadRoot(ctx, name)
		switch {
		case errors.Is(err, ErrNotFound): // deleted since
		case err != nil:
			bad = append(bad, fmt.Errorf("list snapshots: %w", err))
		default:
			infos = append(infos, r.info())
		}
	}
	return infos, errors.Join(bad...)
}

// Delete removes a snapshot; an absent one is fine. Other snapshots don't
// depend on it. Its blocks are freed by Collect, and it can be had back by
// Undelete while the trash keeps it.
func (e *Engine) Delete(ctx context.Context, id string) error {
	if err := e.store.DeleteRoot(ctx, id); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return nil
}
