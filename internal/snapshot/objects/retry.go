package objects

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Retry wraps a store that can be unavailable: what fails with ErrUnavailable is
// tried again, up to so many times in all, after a pause that doubles from first.
// A Create of what is there already, byte for byte, may then succeed: whether it
// was an attempt of its own, nobody can tell.
func Retry(s Store, log *slog.Logger, tries int, first time.Duration) Store {
	return &retry{Store: s, log: log, tries: tries, first: first}
}

type retry struct {
	Store
	log   *slog.Logger
	tries int
	first time.Duration
}

// do runs try, which is told whether an earlier attempt may have worked.
func (r *retry) do(ctx context.Context, op string, try func(again bool) error) error {
	pause := r.first
	for n := 1; ; n++ {
		err := try(n > 1)
		if !errors.Is(err, ErrUnavailable) || n >= r.tries {
			return err
		}
		r.log.Warn("store is unavailable, trying again", "op", op, "attempt", n, "error", err)
		// Half of it by chance, lest all that failed together come back together.
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)): //nolint:gosec // no secret
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
		pause *= 2
	}
}

func (r *retry) Create(ctx context.Context, name string, data []byte) error {
	return r.do(ctx, "create "+name, func(again bool) error {
		err := r.Store.Create(ctx, name, data)
		if again && errors.Is(err, ErrExists) && r.holds(ctx, name, data) {
			return nil // an attempt whose answer was lost
		}
		return err
	})
}

// holds says whether an object is what it would have been created with.
func (r *retry) holds(ctx context.Context, name string, data []byte) bool {
	there := make([]byte, len(data)+1)
	n, err := r.ReadAt(ctx, name, there, 0)
	return errors.Is(err, io.EOF) && bytes.Equal(there[:n], data)
}

func (r *retry) ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error) {
	err = r.do(ctx, "read "+name, func(bool) (err error) {
		n, err = r.Store.ReadAt(ctx, name, p, off)
		return err
	})
	return n, err
}

func (r *retry) Stat(ctx context.Context, name string) (info Info, err error) {
	err = r.do(ctx, "stat "+name, func(bool) (err error) {
		info, err = r.Store.Stat(ctx, name)
		return err
	})
	return info, err
}

// List goes on where a walk broke off: fn is called once for a name. An error
// of fn's own ends it, whatever that is.
func (r *retry) List(ctx context.Context, kind string, fn func(Info) error) error {
	seen := make(map[string]struct{})
	var own error
	err := r.do(ctx, "list "+kind, func(bool) error {
		err := r.Store.List(ctx, kind, func(info Info) error {
			if _, ok := seen[info.Name]; ok {
				return nil
			}
			seen[info.Name] = struct{}{}
			if own = fn(info); own != nil {
				return errOwn
			}
			return nil
		})
		if errors.Is(err, errOwn) {
			return errOwn // whatever else there was
		}
		return err
	})
	if errors.Is(err, errOwn) {
		return own
	}
	return err
}

// errOwn ends a walk whose function has failed, whatever with.
var errOwn = errors.New("the caller's own")

func (r *retry) Rename(ctx context.Context, from, to string) error {
	return r.do(ctx, "rename "+from, func(bool) error { return r.Store.Rename(ctx, from, to) })
}

func (r *retry) Delete(ctx context.Context, name string) error {
	return r.do(ctx, "delete "+name, func(bool) error { return r.Store.Delete(ctx, name) })
}
