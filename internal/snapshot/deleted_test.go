package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// held keeps whoever reads one object waiting, with its contents in hand, until
// it is let go on.
type held struct {
	objects.Store
	name      string
	read, let chan struct{}
}

func (h *held) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	n, err := h.Store.ReadAt(ctx, name, p, off)
	if name == h.name {
		h.name = ""
		close(h.read)
		<-h.let
	}
	return n, err
}

// TestReadWhileDeleted deletes a snapshot and collects its blocks just when
// somebody has read its root: who was that early must find all of it, or find that
// it is gone; not damage.
func TestReadWhileDeleted(t *testing.T) {
	volume, other := data(t, 2<<20, 1), data(t, 2<<20, 2)
	reads := map[string]func(context.Context, *snapshot.Engine) error{
		"Restore": func(ctx context.Context, e *snapshot.Engine) error {
			got := make(memory, len(volume))
			if err := e.Restore(ctx, "snap-a", got, nil); err != nil {
				return err
			}
			if !bytes.Equal(got, volume) {
				return errors.New("not byte for byte")
			}
			return nil
		},
		"Check": func(ctx context.Context, e *snapshot.Engine) error {
			report, err := e.Check(ctx, false, nil)
			for _, p := range report.Problems {
				err = errors.Join(err, p.Err)
			}
			return err
		},
		"Blocks": func(ctx context.Context, e *snapshot.Engine) error {
			return e.Blocks(ctx, "snap-a", 0, func(int64, snapshot.Digest) error { return nil })
		},
		"Changed": func(ctx context.Context, e *snapshot.Engine) error {
			return e.Changed(ctx, "snap-a", "snap-b", 0, func(int64, snapshot.Digest, snapshot.Digest) error { return nil })
		},
		"ReadBlock": func(ctx context.Context, e *snapshot.Engine) error {
			_, err := e.ReadBlock(ctx, "snap-a", 0, nil)
			return err
		},
		"Copy": func(ctx context.Context, e *snapshot.Engine) error {
			if _, err := e.Copy(ctx, "snap-a", "snap-c"); err != nil {
				return err
			}
			got := make(memory, len(volume))
			return e.Restore(ctx, "snap-c", got, nil)
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			path := snapshot.Scratch(t)
			synctest.Test(t, func(t *testing.T) {
				dir, err := objects.OpenDir(path)
				if err != nil {
					t.Fatal(err)
				}
				objs := &held{Store: dir, read: make(chan struct{}), let: make(chan struct{})}
				e, err := snapshot.Open(t.Context(), objs, slog.New(slog.DiscardHandler), snapshot.WithTrash(-1))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = e.Close() }()
				snap(t, e, "snap-a", volume)
				snap(t, e, "snap-b", other)
				objs.name = "snapshots/snap-a"
				result := make(chan error, 1)
				go func() { result <- read(t.Context(), e) }()
				<-objs.read
				if err := e.Delete(t.Context(), "snap-a"); err != nil {
					t.Fatal(err)
				}
				collected := make(chan error, 1)
				go func() {
					_, err := e.Collect(t.Context())
					collected <- err
				}()
				synctest.Wait() // it is done, or waits for the reader
				close(objs.let)
				if err := errors.Join(<-result, <-collected); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
