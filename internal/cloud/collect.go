package cloud

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// collectJob is the one worker that gives back what deleted snapshots alone
// needed. To find that out it goes through all snapshots that are left, so it
// isn't done for each that is deleted.
var collectJob = job{kind: "collection", id: "collection"}

const (
	// collectQuiet is how long it waits after a deletion for further ones.
	collectQuiet = 5 * time.Second
	// collectShare: it takes at most one part in so many of the time.
	collectShare = 10
	// collectRetry is the wait after one that failed. What it most often fails
	// on is damage, which doesn't go away by itself.
	collectRetry = 10 * time.Minute
)

// pace says when the next collection may begin.
type pace struct {
	quiet time.Duration // zero is collectQuiet

	mu    sync.Mutex
	ended time.Time
	took  time.Duration
}

// wait is the time from now until a collection that is wanted now begins.
func (p *pace) wait(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(cmp.Or(p.quiet, collectQuiet), p.took*(collectShare-1)-now.Sub(p.ended))
}

func (p *pace) note(began, ended time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took, p.ended = ended.Sub(began), ended
}

// wantCollection notes, with the deletion itself, that there is something to
// collect, so that a daemon that ends before it did is followed by one that does.
func wantCollection(tx *state.Tx, s state.Scope) error {
	return state.Put(tx, &state.Collection{
		Meta:   state.Meta{Account: s.Account, Region: s.Region, ID: collectJob.id},
		Wanted: newID("c"), // another than those that one under way has seen
	})
}

// collectLater has a collection begin soon; of several wishes the earliest counts.
func (c *Cloud) collectLater() { c.work.later(collectJob, c.collecting.wait(time.Now())) }

// reconcileCollection collects if that is wanted.
func (c *Cloud) reconcileCollection(ctx context.Context) error {
	err := c.collect(ctx)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("what deleted snapshots took can't be given back yet; stead cloud store check names what is damaged", "again", collectRetry, "err", err)
		c.work.later(collectJob, collectRetry)
		return nil
	}
	return err
}

// collect takes to the trash what only deleted snapshots needed, if anything was
// deleted since it last did.
func (c *Cloud) collect(ctx context.Context) error {
	wanted, err := c.wantedCollections()
	if err != nil || len(wanted) == 0 {
		return err
	}
	began := time.Now()
	_, err = c.snapshots.Collect(ctx)
	c.collecting.note(began, time.Now())
	if err != nil {
		return err
	}
	var more bool
	err = c.db.Update(func(tx *state.Tx) error {
		for _, w := range wanted {
			now, err := state.Get[state.Collection](tx, w.Scope(), w.ID)
			if errors.Is(err, state.ErrNotFound) {
				continue // the trash was emptied beside it
			}
			if err != nil {
				return err
			}
			if now.Wanted != w.Wanted {
				more = true // deleted meanwhile, and perhaps too late for this run
				continue
			}
			if err := state.Delete(tx, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if more {
		c.collectLater()
	}
	return c.forgetTrash(ctx)
}

func (c *Cloud) wantedCollections() (wanted []*state.Collection, err error) {
	err = c.db.View(func(tx *state.Tx) (err error) {
		wanted, err = state.All[state.Collection](tx)
		return err
	})
	return wanted, err
}
