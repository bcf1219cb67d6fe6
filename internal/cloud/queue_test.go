package cloud

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
)

// No worker is at work when a queue has come to rest, for the records are closed
// then; also none that was kicked in the very moment in which the context ended.
func TestQueueComesToRest(t *testing.T) {
	for range 5000 {
		var closed atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		q := newQueue(ctx, func(context.Context, job) error {
			if closed.Load() {
				t.Error("a worker runs on closed records")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
		var kicks sync.WaitGroup
		kicks.Go(func() { q.kick(collectJob) })
		cancel()
		q.wait()
		closed.Store(true)
		kicks.Wait()
		q.wg.Wait() // whoever was late has been found out
	}
}
