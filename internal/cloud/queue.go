package cloud

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// job names one resource for the workers.
type job struct {
	kind  string // the record's kind
	scope state.Scope
	id    string
}

func jobOf(rec state.Record) job {
	s, id := rec.Identity()
	return job{rec.Kind(), s, id}
}

// queue runs one worker a resource: a resource's work never runs twice at
// once, and a kick during the work runs it once more afterwards, so that no
// change is missed. Work that fails is tried again, later and later.
type queue struct {
	ctx context.Context
	do  func(context.Context, job) error
	log *slog.Logger
	wg  sync.WaitGroup

	mu    sync.Mutex
	items map[job]*item
	due   map[job]time.Time
}

type item struct {
	running bool
	again   bool
	fails   int
	timer   *time.Timer
}

const (
	retryFirst = 100 * time.Millisecond
	retryLast  = 30 * time.Second
)

func newQueue(ctx context.Context, do func(context.Context, job) error, log *slog.Logger) *queue {
	return &queue{ctx: ctx, do: do, log: log, items: map[job]*item{}, due: map[job]time.Time{}}
}

// kick has the resource looked at soon.
func (q *queue) kick(jobs ...job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		q.start(j)
	}
}

// later has the resource looked at after a while; of several such wishes the
// earliest counts.
func (q *queue) later(j job, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(d)
	if due, ok := q.due[j]; ok && !at.Before(due) {
		return
	}
	q.due[j] = at
	time.AfterFunc(d, func() {
		q.mu.Lock()
		if q.due[j].Equal(at) {
			delete(q.due, j)
		}
		q.start(j)
		q.mu.Unlock()
	})
}

func (q *queue) start(j job) {
	if q.ctx.Err() != nil {
		return
	}
	it := q.items[j]
	if it == nil {
		it = &item{}
		q.items[j] = it
	}
	if it.running {
		it.again = true
		return
	}
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
	it.running = true
	q.wg.Go(func() { q.run(j, it) })
}

func (q *queue) run(j job, it *item) {
	for {
		err := q.try(j)
		q.mu.Lock()
		switch {
		case q.ctx.Err() != nil:
			delete(q.items, j)
			q.mu.Unlock()
			return
		case err != nil:
			q.retry(j, it, err)
			q.mu.Unlock()
			return
		case it.again:
			it.again, it.fails = false, 0
			q.mu.Unlock()
		default:
			delete(q.items, j)
			q.mu.Unlock()
			return
		}
	}
}

// try does the work once. A worker that panics has failed; the others go on.
func (q *queue) try(j job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("worker panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return q.do(q.ctx, j)
}

func (q *queue) retry(j job, it *item, err error) {
	wait := min(retryFirst<<min(it.fails, 16), retryLast)
	if it.again {
		wait = retryFirst // something has changed since
	}
	it.fails++
	it.running, it.again = false, false
	it.timer = time.AfterFunc(wait, func() { q.kick(j) })
	q.log.Warn("work failed, will try again", "kind", j.kind, "id", j.id, "in", wait, "err", err)
}

// wait returns when no worker runs. The context has ended before: none starts any
// more, but for one that is just being started, for which the lock waits.
func (q *queue) wait() {
	q.mu.Lock()
	for _, it := range q.items {
		if it.timer != nil {
			it.timer.Stop()
		}
	}
	q.mu.Unlock()
	q.wg.Wait()
}
