package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"time"
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

// Engine makes, restores, verifies and collects snapshots in one store. Its
// methods may be called concurrently.
type Engine struct {
	store   Store
	log     *slog.Logger
	workers int
	now     func() time.Time
}

// Option changes how an Engine works.
type Option func(*Engine)

// WithWorkers sets how many blocks are worked on at a time. Each worker holds
// one or two blocks in memory.
func WithWorkers(n int) Option { return func(e *Engine) { e.workers = max(n, 1) } }

// WithClock sets where CreatedAt comes from.
func WithClock(now func() time.Time) Option { return func(e *Engine) { e.now = now } }

// New returns an engine on store. The caller closes the store.
func New(store Store, log *slog.Logger, opts ...Option) *Engine {
	// Two more than there are processors: some workers wait for the disk.
	e := &Engine{store: store, log: log, workers: runtime.GOMAXPROCS(0) + 2, now: time.Now}
	for _, opt := range opts {
		opt(e)
	}
	return e
}

// Info describes one snapshot: ErrNotFound, or ErrCorrupt where its manifest
// is unreadable.
func (e *Engine) Info(ctx context.Context, id string) (Info, error) {
	m, err := e.load(ctx, id)
	if err != nil {
		return Info{}, fmt.Errorf("describe snapshot %s: %w", id, err)
	}
	return m.info(), nil
}

// List describes all snapshots in order of their IDs. Those with an unreadable
// manifest are left out and named in the error, which is then not nil though
// the list is good.
func (e *Engine) List(ctx context.Context) ([]Info, error) {
	names, err := e.store.Manifests(ctx)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var (
		infos []Info
		bad   []error
	)
	for _, name := range names {
		m, err := e.load(ctx, name)
		switch {
		case errors.Is(err, ErrNotFound): // deleted since
		case err != nil:
			bad = append(bad, fmt.Errorf("list snapshots: %w", err))
		default:
			infos = append(infos, m.info())
		}
	}
	return infos, errors.Join(bad...)
}

// Delete removes a snapshot; an absent one is fine. Other snapshots don't
// depend on it. Its blocks are freed by Collect.
func (e *Engine) Delete(ctx context.Context, id string) error {
	if err := e.store.DeleteManifest(ctx, id); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return nil
}

// load reads and verifies a manifest.
func (e *Engine) load(ctx context.Context, id string) (*manifest, error) {
	raw, err := e.store.GetManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(raw)
	if err == nil && m.id != id {
		err = &CorruptError{Reason: fmt.Sprintf("it is the manifest of %q", m.id)}
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		corrupt.Snapshot = id
	}
	return m, err
}
