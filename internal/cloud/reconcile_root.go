package cloud

import (
	"context"
	"fmt"

	"github.com/steadcloud/stead/internal/state"
)

// taskOf reads the task that exchanges an instance's root; nil where none does.
func taskOf(tx *state.Tx, i *state.Instance) (*state.ReplaceRootTask, error) {
	if i.ReplaceRoot == "" {
		return nil, nil
	}
	t, err := state.Get[state.ReplaceRootTask](tx, i.Scope(), i.ReplaceRoot)
	if err != nil {
		return nil, fmt.Errorf("root replacement of %s: %w", i.ID, err)
	}
	return t, nil
}

// exchanging says that an instance's machine is off on purpose: its root is
// being exchanged.
func exchanging(tx *state.Tx, i *state.Instance) bool {
	t, err := taskOf(tx, i)
	return err == nil && t != nil && t.State == state.TaskInProgress
}

func (c *Cloud) isExchanging(i *state.Instance) (yes bool, err error) {
	if i.ReplaceRoot == "" {
		return false, nil
	}
	err = c.db.View(func(tx *state.Tx) error {
		yes = exchanging(tx, i)
		return nil
	})
	return yes, err
}

// replaceRoot has a running machine's root exchanged as soon as the new one is
// complete. done is false while there is nothing to do for it yet.
func (c *Cloud) replaceRoot(ctx context.Context, inst *state.Instance, h *machineHandle) (done bool, err error) {
	var exchanged, wait bool
	err = amend(c, jobOf(inst), func(tx *state.Tx, i *state.Instance) error {
		t, err := taskOf(tx, i)
		if err != nil || t == nil {
			return err
		}
		fresh, err := state.Get[state.Volume](tx, i.Scope(), t.New)
		if err != nil {
			return err
		}
		exchanged = fresh.Attachment != nil
		switch {
		case fresh.State == state.VolumeError:
			return c.failReplacement(tx, i, t, fresh.ID+": "+fresh.Reason)
		case !fresh.Ready:
			wait = true // its worker kicks this one
		case t.State == state.TaskPending:
			t.State = state.TaskInProgress
			return state.Put(tx, t)
		}
		return nil
	})
	if err != nil || wait {
		return false, err
	}
	if inst, err = load[state.Instance](c, jobOf(inst)); err != nil || inst == nil || inst.ReplaceRoot == "" {
		return true, err
	}
	if exchanged {
		return true, c.started(inst, h.vm) // a daemon died before it could write that down
	}
	if err := c.shutDown(ctx, inst, h); err != nil {
		return true, fmt.Errorf("shut %s down for task %s: %w", inst.ID, inst.ReplaceRoot, err)
	}
	return true, c.boot(ctx, inst)
}

// exchangeRoot exchanges the root of an instance whose machine is off, if a
// task in progress wants it so. Both volumes change in one transaction, so
// that there is never none or two.
func (c *Cloud) exchangeRoot(tx *state.Tx, i *state.Instance) error {
	t, err := taskOf(tx, i)
	if err != nil || t == nil || t.State != state.TaskInProgress {
		return err
	}
	return swapRoots(c, tx, i, t.Old, t.New)
}

func swapRoots(c *Cloud, tx *state.Tx, i *state.Instance, from, to string) error {
	comes, err := state.Get[state.Volume](tx, i.Scope(), to)
	if err != nil || comes.Attachment != nil {
		return err
	}
	goes, err := state.Get[state.Volume](tx, i.Scope(), from)
	if err != nil {
		return err
	}
	a := *goes.Attachment
	if err := detach(tx, goes, i); err != nil {
		return err
	}
	return c.attach(tx, comes, i, a.Device, a.DeleteOnTermination)
}

// finishReplacement ends a task whose volume is in place.
func (c *Cloud) finishReplacement(tx *state.Tx, i *state.Instance) (*job, error) {
	t, err := taskOf(tx, i)
	if err != nil || t == nil || t.State != state.TaskInProgress {
		return nil, err
	}
	fresh, err := state.Get[state.Volume](tx, i.Scope(), t.New)
	if err != nil || fresh.Attachment == nil {
		return nil, err
	}
	fresh.ReservedFor, i.ReplaceRoot = "", ""
	t.State, t.Completed = state.TaskSucceeded, c.now().UTC()
	if err := state.Put(tx, t); err != nil {
		return nil, err
	}
	if err := state.Put(tx, fresh); err != nil {
		return nil, err
	}
	if !t.DeleteOld {
		return nil, nil
	}
	old, err := state.Get[state.Volume](tx, i.Scope(), t.Old)
	if err != nil {
		return nil, err
	}
	old.State = state.VolumeDeleting
	j := jobOf(old)
	return &j, state.Put(tx, old)
}

// failReplacement ends a task with the original root attached: still, or again.
// The volume that was to come is let go; one that the task made is deleted.
func (c *Cloud) failReplacement(tx *state.Tx, i *state.Instance, t *state.ReplaceRootTask, why string) error {
	if err := swapRoots(c, tx, i, t.New, t.Old); err != nil {
		return err
	}
	fresh, err := state.Get[state.Volume](tx, i.Scope(), t.New)
	if err != nil {
		return err
	}
	fresh.ReservedFor, i.ReplaceRoot = "", ""
	if !t.Given {
		fresh.State = state.VolumeDeleting
		defer c.work.kick(jobOf(fresh))
	}
	t.State, t.Reason, t.Completed = state.TaskFailed, why, c.now().UTC()
	c.log.Warn("root volume not replaced", "instance", i.ID, "task", t.ID, "why", why)
	if err := state.Put(tx, fresh); err != nil {
		return err
	}
	return state.Put(tx, t)
}

// undoReplacement puts the original root back where a machine did not start
// with the new one; false where no task is the cause.
func (c *Cloud) undoReplacement(tx *state.Tx, i *state.Instance, why string) (bool, error) {
	t, err := taskOf(tx, i)
	if err != nil || t == nil || t.State != state.TaskInProgress {
		return false, err
	}
	return true, c.failReplacement(tx, i, t, why)
}

// restReplacement settles the task of an instance whose machine is off and is
// to stay off: an exchange that was begun is done, one that was not fails,
// unless the instance is only waiting for the cloud to be started again.
func (c *Cloud) restReplacement(tx *state.Tx, i *state.Instance) (*job, error) {
	t, err := taskOf(tx, i)
	switch {
	case err != nil || t == nil || t.State == state.TaskPending && i.Resume:
		return nil, err
	case t.State == state.TaskPending:
		return nil, c.failReplacement(tx, i, t, "the instance was stopped")
	}
	if err := c.exchangeRoot(tx, i); err != nil {
		return nil, err
	}
	return c.finishReplacement(tx, i)
}

// dropReplacements forgets the tasks of an instance that is forgotten.
func dropReplacements(tx *state.Tx, i *state.Instance) error {
	tasks, err := state.List[state.ReplaceRootTask](tx, i.Scope())
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if t.InstanceID != i.ID {
			continue
		}
		if err := dropTokens(tx, i.Scope(), t.ID); err != nil {
			return err
		}
		if err := state.Delete(tx, t); err != nil {
			return err
		}
	}
	return nil
}
