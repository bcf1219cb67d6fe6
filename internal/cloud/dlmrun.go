package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

const (
	// policyLook is how often a policy is looked at, at least: a timer alone
	// would stand still while the machine sleeps.
	policyLook = time.Minute
	// policySoon is how soon a run is looked at again whose snapshots are
	// being copied.
	policySoon = 2 * time.Second
	// runWindow is how long a run is tried, as DLM does.
	runWindow = time.Hour
	// tidyEvery is how often snapshots are looked for that are past their age.
	tidyEvery = time.Hour
)

// The values that variable tags may have.
const (
	variableInstance = "$(instance-id)"
	variableTime     = "$(timestamp)"
)

// Tags that DLM puts on what it makes:
// https://docs.aws.amazon.com/ebs/latest/userguide/dlm-elements.html
const (
	tagPolicyID     = "aws:dlm:lifecycle-policy-id"
	tagScheduleName = "aws:dlm:lifecycle-schedule-name"
	tagExpires      = "aws:dlm:expirationTime"
	tagManaged      = "dlm:managed"
)

// reconcilePolicy does what a policy's schedules want done by now, and comes
// again when the next time is due. Of the times that passed while no daemon
// ran, the latest is made up for, once.
func (c *Cloud) reconcilePolicy(ctx context.Context, j job) error {
	p, err := load[state.LifecyclePolicy](c, j)
	if err != nil || p == nil || p.State != state.PolicyEnabled {
		return err
	}
	wait := policyLook
	var errs []error
	for i := range p.Schedules {
		s := &p.Schedules[i]
		soon, err := c.runSchedule(ctx, p, s)
		errs = append(errs, err)
		wait = min(wait, soon)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("policy %s: %w", p.ID, err)
	}
	c.work.later(j, wait)
	return nil
}

// runSchedule does one schedule's part and tells when it wants to be looked at
// again.
func (c *Cloud) runSchedule(ctx context.Context, p *state.LifecyclePolicy, s *state.PolicySchedule) (time.Duration, error) {
	now := c.now().UTC()
	r, err := rhythmOf(s)
	if err != nil {
		return policyLook, err
	}
	if latest := latestDue(r, s.Handled, now); !latest.IsZero() && !latest.Equal(s.Due) {
		// Noted before anything is taken: whoever goes on knows for which time.
		err := c.noteRun(p, s.Name, func(now *state.PolicySchedule) { now.Due, now.Begun = latest, c.now().UTC() }, s)
		if err != nil {
			return policyLook, err
		}
	}
	if !s.Due.IsZero() {
		if err := c.takeRun(ctx, p, s); err != nil {
			if c.now().Sub(s.Begun) < runWindow {
				return policyLook, err
			}
			c.log.Error("scheduled snapshots given up until the next time", "policy", p.ID, "schedule", s.Name, "due", s.Due, "err", err)
		}
		err := c.noteRun(p, s.Name, func(now *state.PolicySchedule) {
			now.Handled, now.Due, now.Begun, now.Untidy = now.Due, time.Time{}, time.Time{}, true
		}, s)
		if err != nil {
			return policyLook, err
		}
	}
	pending := false
	if s.Untidy || s.KeepUnit != "" && now.Sub(s.Tidied) >= tidyEvery {
		if pending, err = c.tidy(p, s, now); err != nil {
			return policyLook, err
		}
		if err := c.noteRun(p, s.Name, func(n *state.PolicySchedule) { n.Untidy, n.Tidied = pending, now }, s); err != nil {
			return policyLook, err
		}
	}
	if pending {
		return policySoon, nil
	}
	return max(r.next(now).Sub(now), 0), nil
}

// noteRun changes how far a schedule has come, in the record and in s. One
// that was changed or deleted meanwhile is left as it is now: its worker has
// been kicked.
func (c *Cloud) noteRun(p *state.LifecyclePolicy, name string, change func(*state.PolicySchedule), s *state.PolicySchedule) error {
	return amend(c, jobOf(p), func(_ *state.Tx, now *state.LifecyclePolicy) error {
		i := slices.IndexFunc(now.Schedules, func(o state.PolicySchedule) bool { return o.Name == name })
		if i < 0 || !now.Modified.Equal(p.Modified) {
			return nil
		}
		change(&now.Schedules[i])
		*s = now.Schedules[i]
		return nil
	})
}

func rhythmOf(s *state.PolicySchedule) (rhythm, error) {
	if s.Cron != "" {
		return parseCron(s.Cron)
	}
	at, err := time.Parse("15:04", s.At)
	if err != nil {
		return nil, fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	return interval{time.Duration(s.Every) * time.Hour, time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute}, nil
}

// latestDue is the last time after handled that is not after now; zero: none
// is.
func latestDue(r rhythm, handled, now time.Time) time.Time {
	latest := time.Time{}
	for t := r.next(handled); !t.IsZero() && !t.After(now); t = r.next(t) {
		latest = t
	}
	return latest
}

// runTarget is what one run takes at one instant.
type runTarget struct {
	id       string
	instance string
	volumes  []*state.Volume
}

// takeRun takes the snapshots of a run that were not taken yet. Each target's
// are committed in one transaction and say which run took them, so that a run
// that was cut off goes on where it was.
func (c *Cloud) takeRun(ctx context.Context, p *state.LifecyclePolicy, s *state.PolicySchedule) error {
	var targets []runTarget
	taken := map[string]bool{}
	err := c.db.View(func(tx *state.Tx) (err error) {
		snaps, err := state.List[state.Snapshot](tx, p.Scope())
		if err != nil {
			return err
		}
		for _, snap := range snaps {
			if r := snap.Run; r != nil && r.Policy == p.ID && r.Schedule == s.Name && r.Due.Equal(s.Due) {
				taken[r.Target] = true
			}
		}
		targets, err = targetsOf(tx, p)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range targets {
		if taken[t.id] {
			continue
		}
		if err := c.takeTarget(ctx, p, s, t); err != nil {
			errs = append(errs, fmt.Errorf("snapshot %s: %w", t.id, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Cloud) takeTarget(ctx context.Context, p *state.LifecyclePolicy, s *state.PolicySchedule, t runTarget) error {
	run := state.PolicyRun{Policy: p.ID, Schedule: s.Name, Due: s.Due, Target: t.id}
	snaps, err := c.takeSnapshots(ctx, t.volumes, func(v *state.Volume, snap *state.Snapshot) {
		snap.Run = &run
		snap.Description = "Created for policy: " + p.ID + " schedule: " + s.Name
		snap.Tags = c.runTags(s, &run, t, v)
	}, func(tx *state.Tx, _ []*state.Snapshot) error {
		_, err := state.Get[state.LifecyclePolicy](tx, p.Scope(), p.ID) // it may have been deleted since
		return err
	})
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err == nil {
		c.log.Info("scheduled snapshots", "policy", p.ID, "schedule", s.Name, "due", s.Due, "target", t.id, "count", len(snaps))
	}
	return err
}

// runTags are those of one volume's snapshot. Where the volume's own are too
// many beside what the schedule adds, the last of them stay behind: a snapshot
// with fewer tags is better than none.
func (c *Cloud) runTags(s *state.PolicySchedule, run *state.PolicyRun, t runTarget, v *state.Volume) map[string]string {
	tags := map[string]string{tagManaged: "true"}
	for _, add := range s.AddTags {
		tags[add.Key] = add.Value
	}
	for _, add := range s.VariableTags {
		tags[add.Key] = t.instance
		if add.Value == variableTime {
			tags[add.Key] = s.Begun.Format(time.RFC3339)
		}
	}
	if s.CopyTags {
		own := ownTags(v.Tags)
		for _, key := range slices.Sorted(maps.Keys(own)) {
			if _, has := tags[key]; has {
				continue
			}
			if len(tags) >= maxTags {
				c.log.Warn("a scheduled snapshot has not all tags of its volume", "policy", run.Policy, "volume", v.ID, "first left out", key)
				break
			}
			tags[key] = own[key]
		}
	}
	tags[tagPolicyID], tags[tagScheduleName] = run.Policy, s.Name
	if s.KeepUnit != "" {
		tags[tagExpires] = keptUntil(s, s.Begun).Format(time.RFC3339)
	}
	return tags
}

// targetsOf finds what a policy is to take snapshots of now.
func targetsOf(tx *state.Tx, p *state.LifecyclePolicy) ([]runTarget, error) {
	if p.Target == state.PolicyVolumes {
		vols, err := state.List[state.Volume](tx, p.Scope())
		var targets []runTarget
		for _, v := range vols {
			if v.Ready && v.State != state.VolumeDeleting && hasAny(v.Tags, p.TargetTags) {
				targets = append(targets, runTarget{id: v.ID, volumes: []*state.Volume{v}})
			}
		}
		return targets, err
	}
	insts, err := state.List[state.Instance](tx, p.Scope())
	if err != nil {
		return nil, err
	}
	var targets []runTarget
	for _, i := range insts {
		if ended(i) || !hasAny(i.Tags, p.TargetTags) {
			continue
		}
		vols, err := disksOf(tx, i)
		if err != nil {
			return nil, err
		}
		vols = slices.DeleteFunc(vols, func(v *state.Volume) bool {
			if sameDevice(v.Attachment.Device, i.RootDevice) {
				return p.ExcludeRoot
			}
			return hasAny(v.Tags, p.ExcludeTags)
		})
		if len(vols) > 0 {
			targets = append(targets, runTarget{id: i.ID, instance: i.ID, volumes: vols})
		}
	}
	return targets, nil
}

func hasAny(tags map[string]string, want []state.Tag) bool {
	return slices.ContainsFunc(want, func(t state.Tag) bool {
		v, ok := tags[t.Key]
		return ok && v == t.Value
	})
}
