package cloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// DefaultTrash is how long a deleted snapshot can be had back.
const DefaultTrash = 7 * 24 * time.Hour

// trashDays is a time in the trash as people give it.
func trashDays(d time.Duration) int { return max(0, int(d/(24*time.Hour))) }

// trashTime is that of a number of days; none is not at all.
func trashTime(days *int) time.Duration {
	switch {
	case days == nil:
		return DefaultTrash
	case *days <= 0:
		return -1
	}
	return time.Duration(*days) * 24 * time.Hour
}

// trashJob is what looks whether the trash has anything to let go of.
var trashJob = job{kind: "trash", id: "trash"}

const trashEvery = time.Hour

// trashSnapshot takes a deleted snapshot's data out of the store, and keeps its
// record for as long as the store's trash has the data. It says whether the
// snapshot is gone: it may have been brought back just before.
func (c *Cloud) trashSnapshot(ctx context.Context, j job) (gone bool, err error) {
	c.trashing.Lock()
	defer c.trashing.Unlock()
	snap, err := load[state.Snapshot](c, j)
	if err != nil || snap == nil || !snap.Deleted {
		return snap == nil, err
	}
	if snap.Upload != nil {
		if err := c.uploads.discard(c.dir, snap.ID); err != nil {
			return false, err
		}
	}
	if err := c.snapshots.Delete(ctx, snap.ID); err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		return false, err
	}
	return true, c.db.Update(func(tx *state.Tx) error {
		if snap.Upload != nil {
			if err := dropTokens(tx, snap.Scope(), snap.ID); err != nil {
				return err
			}
		}
		if snap.State == state.SnapshotCompleted && c.trash >= 0 {
			if err := state.Put(tx, &state.DeletedSnapshot{Snapshot: *snap, DeletedAt: c.now().UTC()}); err != nil {
				return err
			}
		}
		return errors.Join(wantCollection(tx, snap.Scope()), state.Delete(tx, snap))
	})
}

// expireTrash lets go of what has been in the trash long enough.
func (c *Cloud) expireTrash(ctx context.Context) error {
	freed, err := c.snapshots.ExpireTrash(ctx)
	if err != nil {
		return fmt.Errorf("expire the trash: %w", err)
	}
	if freed > 0 {
		c.log.Info("deleted what was in the trash long enough", "bytes", freed)
	}
	if err := c.forgetTrash(ctx); err != nil {
		return err
	}
	c.snapshots.Rest() // the index of a large store is large
	c.work.later(trashJob, trashEvery)
	return nil
}

// forgetTrash removes the records of deleted snapshots whose data is gone for
// good, and finishes what Undelete had begun.
func (c *Cloud) forgetTrash(ctx context.Context) error {
	c.trashing.Lock()
	defer c.trashing.Unlock()
	var records []*state.DeletedSnapshot
	err := c.db.View(func(tx *state.Tx) (err error) {
		records, err = state.All[state.DeletedSnapshot](tx)
		return err
	})
	if err != nil || len(records) == 0 {
		return err
	}
	left, err := c.snapshots.Deleted(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(left))
	for _, d := range left {
		there[d.ID] = true
	}
	for _, r := range records {
		if there[r.ID] {
			continue
		}
		_, err := c.snapshots.Info(ctx, r.ID)
		switch {
		case errors.Is(err, snapshot.ErrNotFound):
			err = c.db.Update(func(tx *state.Tx) error { return state.Delete(tx, r) })
		case err == nil || errors.Is(err, snapshot.ErrCorrupt):
			_, err = c.putBack(r) // a daemon ended after it had brought the data back
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Undelete brings back a deleted snapshot as it was, with its tags. One that is
// there is fine. Policies take it for one that they didn't make: else the next
// run would delete it again.
func (c *Cloud) Undelete(ctx context.Context, id string) (*state.Snapshot, error) {
	if err := snapshotIDs.check(id); err != nil {
		return nil, err
	}
	c.trashing.Lock()
	defer c.trashing.Unlock()
	snap, deleted, err := c.findDeleted(id)
	switch {
	case err != nil:
		return nil, err
	case snap != nil && snap.Deleted:
		return c.spare(ctx, snap)
	case snap != nil:
		return snap, nil
	case deleted == nil:
		return nil, c.neverTrashed(id)
	}
	if err := c.untrash(ctx, id); err != nil {
		return nil, err
	}
	return c.putBack(deleted)
}

// putBack makes the record of a snapshot whose data is back in the store.
func (c *Cloud) putBack(deleted *state.DeletedSnapshot) (*state.Snapshot, error) {
	back := deleted.Snapshot
	back.Deleted, back.Copying, back.Run = false, nil, nil
	return &back, c.db.Update(func(tx *state.Tx) error {
		return errors.Join(state.Put(tx, &back), state.Delete(tx, deleted))
	})
}

// neverTrashed says that the trash hasn't got a snapshot, and where it is.
func (c *Cloud) neverTrashed(id string) error {
	kept := false
	err := c.db.View(func(tx *state.Tx) error {
		all, err := state.All[state.Binned](tx)
		for _, b := range all {
			kept = kept || b.ID == id
		}
		return err
	})
	if err == nil && kept {
		return fail("IncorrectState", "The snapshot '%s' is in the Recycle Bin; `stead bin restore %s` brings it back.", id, id)
	}
	return errors.Join(err, snapshotIDs.missing(id))
}

// untrash brings a snapshot's data back, be it in the trash or still where it was.
func (c *Cloud) untrash(ctx context.Context, id string) error {
	_, err := c.snapshots.Undelete(ctx, id)
	if errors.Is(err, snapshot.ErrNotFound) {
		return fail(snapshotIDs.notFound, "The data of the snapshot '%s' is not in the trash any more.", id)
	}
	return err
}

// spare undoes the deletion of a snapshot that still waits for it. Its data may be
// in the trash: what came between that and its record's end was interrupted.
func (c *Cloud) spare(ctx context.Context, snap *state.Snapshot) (*state.Snapshot, error) {
	if snap.State != state.SnapshotCompleted {
		return nil, fail("IncorrectState", "The snapshot '%s' was %s when it was deleted, not completed.", snap.ID, snap.State)
	}
	if err := c.untrash(ctx, snap.ID); err != nil {
		return nil, err
	}
	err := amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
		s.Deleted, s.Run = false, nil
		snap = s
		return nil
	})
	return snap, err
}

// findDeleted finds a snapshot of any region by its ID, there or in the trash.
func (c *Cloud) findDeleted(id string) (snap *state.Snapshot, deleted *state.DeletedSnapshot, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		snaps, err := state.All[state.Snapshot](tx)
		if err != nil {
			return err
		}
		for _, s := range snaps {
			if s.ID == id {
				snap = s
			}
		}
		records, err := state.All[state.DeletedSnapshot](tx)
		for _, d := range records {
			if d.ID == id {
				deleted = d
			}
		}
		return err
	})
	return snap, deleted, err
}

// TrashedSnapshot is one that can be had back.
type TrashedSnapshot struct {
	Snapshot    string            `json:"snapshot"`
	Region      string            `json:"region"`
	Volume      string            `json:"volume"`
	SizeGiB     int32             `json:"size_gib"`
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Deleted     time.Time         `json:"deleted,omitzero"` // when; neither of one that is back
	Until       time.Time         `json:"until,omitzero"`   // it can be had back
}

// Trashed lists the deleted snapshots that can be had back, by region and ID.
func (c *Cloud) Trashed(ctx context.Context) ([]TrashedSnapshot, error) {
	left, err := c.snapshots.Deleted(ctx)
	if err != nil {
		return nil, err
	}
	until := make(map[string]time.Time, len(left))
	for _, d := range left {
		if d.Until.After(until[d.ID]) {
			until[d.ID] = d.Until
		}
	}
	list := []TrashedSnapshot{}
	err = c.db.View(func(tx *state.Tx) error {
		records, err := state.All[state.DeletedSnapshot](tx)
		for _, r := range records {
			if end, ok := until[r.ID]; ok {
				list = append(list, TrashedSnapshot{
					Snapshot: r.ID, Region: r.Region, Volume: r.VolumeID, SizeGiB: r.VolumeSize, Description: r.Description, Tags: r.Tags,
					Deleted: r.DeletedAt, Until: end.UTC(),
				})
			}
		}
		return err
	})
	return list, err
}

// EmptyTrash deletes for good all that is in the trash, and returns the bytes
// freed.
func (c *Cloud) EmptyTrash(ctx context.Context) (freed int64, err error) {
	// What was just deleted may not have come to the trash yet.
	if err := c.collect(ctx); err != nil {
		c.log.Warn("emptying the trash without what was deleted last; stead cloud store check names what is damaged", "err", err)
	}
	if freed, err = c.snapshots.EmptyTrash(ctx); err != nil {
		return freed, err
	}
	return freed, c.forgetTrash(ctx)
}
