package cloud

import (
	"errors"
	"slices"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// keptUntil is how long a schedule that goes by age keeps what was taken at t.
func keptUntil(s *state.PolicySchedule, t time.Time) time.Time {
	n := int(s.KeepFor)
	switch s.KeepUnit {
	case "WEEKS":
		return t.AddDate(0, 0, 7*n)
	case "MONTHS":
		return t.AddDate(0, n, 0)
	case "YEARS":
		return t.AddDate(n, 0, 0)
	default:
		return t.AddDate(0, 0, n)
	}
}

// expiry is the time that a snapshot was taken to be kept until; zero where the
// rule was another. A rule that is changed is one for what is taken from then on.
func expiry(snap *state.Snapshot) time.Time {
	at, err := time.Parse(time.RFC3339, snap.Tags[tagExpires])
	if err != nil {
		return time.Time{}
	}
	return at
}

// pastRun is what one run took of one target.
type pastRun struct {
	due            time.Time
	taken          time.Time
	expires        time.Time // as its snapshots say; zero: they don't
	snaps          []*state.Snapshot
	pending, whole bool
}

// tidy deletes what a schedule has taken and no longer keeps. It tells whether
// snapshots are still being copied: until they are complete they stand for
// nothing, and nothing goes on their account.
func (c *Cloud) tidy(p *state.LifecyclePolicy, s *state.PolicySchedule, now time.Time) (pending bool, err error) {
	var snaps []*state.Snapshot
	managed := map[string]bool{}
	if err := c.db.View(func(tx *state.Tx) (err error) {
		if snaps, err = state.List[state.Snapshot](tx, p.Scope()); err != nil {
			return err
		}
		for target := range runsByTarget(snaps, p.ID, s.Name) {
			if managed[target], err = manages(tx, p, s, target); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	for target, runs := range runsByTarget(snaps, p.ID, s.Name) {
		for _, r := range runs {
			pending = pending || r.pending
		}
		if !managed[target] {
			continue
		}
		for _, r := range pastTime(s, runs, now) {
			if err := c.dropRun(p, s, r); err != nil {
				return pending, err
			}
		}
	}
	return pending, nil
}

// manages tells whether a schedule still looks after what it took of a target.
// As on AWS, one that counts forgets a target that is gone, and its snapshots
// stay until somebody deletes them; one that goes by age goes on to the last but
// one. Neither looks after a target that has lost the tag.
// https://repost.aws/knowledge-center/ebs-snapshot-dlm-policy-not-deleting
func manages(tx *state.Tx, p *state.LifecyclePolicy, s *state.PolicySchedule, target string) (bool, error) {
	var tags map[string]string
	gone := false
	if p.Target == state.PolicyVolumes {
		v, err := state.Get[state.Volume](tx, p.Scope(), target)
		switch {
		case errors.Is(err, state.ErrNotFound) || err == nil && v.State == state.VolumeDeleting:
			gone = true
		case err != nil:
			return false, err
		default:
			tags = v.Tags
		}
	} else {
		i, err := state.Get[state.Instance](tx, p.Scope(), target)
		switch {
		case errors.Is(err, state.ErrNotFound) || err == nil && ended(i):
			gone = true
		case err != nil:
			return false, err
		default:
			tags = i.Tags
		}
	}
	if gone {
		return s.KeepUnit != "", nil
	}
	return hasAny(tags, p.TargetTags), nil
}

// ended tells an instance that is gone or on its way out.
func ended(i *state.Instance) bool {
	return i.State == state.Terminated || i.State == state.ShuttingDown || i.Want == state.Terminated
}

// runsByTarget gathers a schedule's runs of each target, newest first.
func runsByTarget(snaps []*state.Snapshot, policy, schedule string) map[string][]*pastRun {
	targets := map[string][]*pastRun{}
	for _, snap := range snaps {
		r := snap.Run
		if r == nil || r.Policy != policy || r.Schedule != schedule || snap.Deleted {
			continue
		}
		i := slices.IndexFunc(targets[r.Target], func(o *pastRun) bool { return o.due.Equal(r.Due) })
		if i < 0 {
			i = len(targets[r.Target])
			targets[r.Target] = append(targets[r.Target], &pastRun{due: r.Due, taken: snap.Created, expires: expiry(snap), whole: true})
		}
		run := targets[r.Target][i]
		run.snaps = append(run.snaps, snap)
		run.pending = run.pending || snap.State == state.SnapshotPending
		run.whole = run.whole && snap.State == state.SnapshotCompleted
	}
	for _, runs := range targets {
		slices.SortFunc(runs, func(a, b *pastRun) int { return b.due.Compare(a.due) })
	}
	return targets
}

// pastTime chooses the runs that a schedule no longer keeps. Those that failed
// count for nothing. The newest whole one of a target is always kept, also when
// the target is gone.
func pastTime(s *state.PolicySchedule, runs []*pastRun, now time.Time) []*pastRun {
	var past []*pastRun
	whole := 0
	for _, r := range runs {
		old := whole >= int(s.KeepCount)
		if s.KeepUnit != "" {
			until := r.expires
			if until.IsZero() {
				until = keptUntil(s, r.taken)
			}
			old = whole > 0 && !now.Before(until)
		}
		if r.whole {
			whole++
		}
		if old && !r.pending {
			past = append(past, r)
		}
	}
	return past
}

// dropRun deletes a run's snapshots, but for those that an image uses.
func (c *Cloud) dropRun(p *state.LifecyclePolicy, s *state.PolicySchedule, r *pastRun) error {
	for _, snap := range r.snaps {
		var next job
		err := c.db.Update(func(tx *state.Tx) (err error) {
			next, err = c.dropSnapshot(tx, snap.Scope(), snap.ID)
			return err
		})
		var api *apiError
		if errors.As(err, &api) && (api.Code == "InvalidSnapshot.InUse" || api.Code == snapshotIDs.notFound) {
			c.log.Info("a scheduled snapshot past its time is kept", "policy", p.ID, "schedule", s.Name, "snapshot", snap.ID, "why", api.Message)
			continue
		}
		if err != nil {
			return err
		}
		c.log.Info("scheduled snapshot deleted", "policy", p.ID, "schedule", s.Name, "snapshot", snap.ID, "taken", r.taken)
		c.work.kick(next)
	}
	return nil
}
