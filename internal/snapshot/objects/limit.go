package objects

import (
	"context"

	"golang.org/x/time/rate"
)

// Limit wraps a store so that at most so many bytes a second are written to it
// and read from it, each; 0 is no limit.
func Limit(s Store, written, read float64) Store {
	return &limit{Store: s, written: limiter(written), read: limiter(read)}
}

type limit struct {
	Store
	written, read *rate.Limiter
}

func limiter(bytesPerSecond float64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	// What passes at once is a tenth of a second's worth.
	return rate.NewLimiter(rate.Limit(bytesPerSecond), max(1, int(bytesPerSecond/10)))
}

func (l *limit) Create(ctx context.Context, name string, data []byte) error {
	if err := wait(ctx, l.written, len(data)); err != nil {
		return err
	}
	return l.Store.Create(ctx, name, data)
}

func (l *limit) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := wait(ctx, l.read, len(p)); err != nil {
		return 0, err
	}
	return l.Store.ReadAt(ctx, name, p, off)
}

// wait takes n from the limiter, which gives no more than its burst at a time.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	if l.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		some := min(n, l.Burst())
		if err := l.WaitN(ctx, some); err != nil {
			return err
		}
		n -= some
	}
	return nil
}
