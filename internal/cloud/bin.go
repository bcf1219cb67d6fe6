package cloud

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// binLook is how often a thing in the bin is looked at, at least: a timer alone
// would stand still while the machine sleeps.
const binLook = time.Hour

// binOf tells which rules are for a record, by its ID.
func binOf(m *state.Meta) string {
	switch {
	case strings.HasPrefix(m.ID, "snap-"):
		return state.BinSnapshots
	case strings.HasPrefix(m.ID, "vol-"):
		return state.BinVolumes
	default:
		return state.BinImages
	}
}

// keepDays is for how long the rules of the Recycle Bin keep what is deleted;
// 0: it isn't kept. Of several rules the longest counts.
func keepDays(tx *state.Tx, m *state.Meta) (days int32, err error) {
	rules, err := state.List[state.BinRule](tx, m.Scope())
	for _, r := range rules {
		if r.Of == binOf(m) && (len(r.Only) == 0 || hasAny(m.Tags, r.Only)) && !hasAny(m.Tags, r.Except) {
			days = max(days, r.Days)
		}
	}
	return days, err
}

// bin keeps what is deleted, if a rule wants that: it takes the record's place.
// done tells whether it has. Whoever calls it in a transaction kicks the job.
func (c *Cloud) bin(tx *state.Tx, meta state.Meta, b *state.Binned) (done bool, err error) {
	days, err := keepDays(tx, &meta)
	if err != nil || days == 0 {
		return false, err
	}
	b.Meta = state.Meta{Account: meta.Account, Region: meta.Region, ID: meta.ID, Created: meta.Created}
	b.Entered = c.now().UTC()
	b.Exit = b.Entered.AddDate(0, 0, int(days))
	return true, state.Put(tx, b)
}

// deleteSnapshot puts a snapshot into the bin, or marks it as deleted. One that
// isn't complete holds nothing that could be kept. The job is to be kicked.
func (c *Cloud) deleteSnapshot(tx *state.Tx, s *state.Snapshot) (job, error) {
	if s.State == state.SnapshotCompleted {
		b := &state.Binned{Snapshot: s}
		if done, err := c.bin(tx, s.Meta, b); done || err != nil {
			return jobOf(b), errors.Join(err, state.Delete(tx, s))
		}
	}
	s.Deleted = true
	return jobOf(s), state.Put(tx, s)
}

// deleteVolume puts a volume that nothing uses into the bin, or marks it as
// being deleted. The job is to be kicked.
func (c *Cloud) deleteVolume(tx *state.Tx, v *state.Volume) (job, error) {
	if v.Ready && v.State == state.VolumeAvailable {
		b := &state.Binned{Volume: v}
		if done, err := c.bin(tx, v.Meta, b); done || err != nil {
			return jobOf(b), errors.Join(err, state.Delete(tx, v))
		}
	}
	v.State = state.VolumeDeleting
	return jobOf(v), state.Put(tx, v)
}

// reconcileBinned ends what has been in the bin for its time: the record comes
// back as one that is being deleted, and its own worker does the rest.
func (c *Cloud) reconcileBinned(j job) error {
	b, err := load[state.Binned](c, j)
	if err != nil || b == nil {
		return err
	}
	if left := b.Exit.Sub(c.now()); left > 0 {
		c.work.later(j, min(left, binLook))
		return nil
	}
	var next []job
	err = c.db.Update(func(tx *state.Tx) error {
		b, err := state.Get[state.Binned](tx, j.scope, j.id)
		if errors.Is(err, state.ErrNotFound) {
			return nil // restored meanwhile
		}
		if err != nil {
			return err
		}
		switch {
		case b.Snapshot != nil:
			b.Snapshot.Deleted = true
			err, next = state.Put(tx, b.Snapshot), append(next, jobOf(b.Snapshot))
		case b.Volume != nil:
			b.Volume.State = state.VolumeDeleting
			err, next = state.Put(tx, b.Volume), append(next, jobOf(b.Volume))
		}
		return errors.Join(err, state.Delete(tx, b))
	})
	if err == nil {
		c.log.Info("gone from the recycle bin", "resource", j.id, "entered", b.Entered)
		c.work.kick(next...)
	}
	return err
}

// takeOut takes a thing out of the bin and puts its record back.
func (c *Cloud) takeOut(tx *state.Tx, s state.Scope, ids idKind, id string, has func(*state.Binned) bool, back func(*state.Binned) error) error {
	b, err := state.Get[state.Binned](tx, s, id)
	if errors.Is(err, state.ErrNotFound) || err == nil && !has(b) {
		return ids.missing(id)
	}
	if err != nil {
		return err
	}
	return errors.Join(back(b), state.Delete(tx, b))
}

// binned lists what is in the bin, oldest first; of some IDs, or all.
func binned(tx *state.Tx, s state.Scope, ids []string, has func(*state.Binned) bool) ([]*state.Binned, error) {
	all, err := state.List[state.Binned](tx, s)
	all = slices.DeleteFunc(all, func(b *state.Binned) bool { return !has(b) || len(ids) > 0 && !slices.Contains(ids, b.ID) })
	slices.SortStableFunc(all, func(a, b *state.Binned) int { return a.Entered.Compare(b.Entered) })
	return all, err
}
