package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/steadcloud/stead/internal/state"
)

// halt brings an instance to rest.
func (c *Cloud) halt(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if err := c.endMachine(ctx, inst, h); err != nil {
		return err
	}
	if inst.ImagePending != "" {
		return c.restForImage(inst)
	}
	if inst.State == state.Stopped {
		return nil
	}
	var replaced *job
	err := c.db.Update(func(tx *state.Tx) error {
		i, err := state.Get[state.Instance](tx, inst.Scope(), inst.ID)
		if err != nil || i.Want != state.Stopped {
			return err
		}
		if replaced, err = c.restReplacement(tx, i); err != nil {
			return err
		}
		c.enter(i, state.Stopped)
		i.Force, i.RebootsDone, i.PublicIP = false, i.RebootsAsked, ""
		disks, err := disksOf(tx, i)
		if err != nil {
			return err
		}
		for _, d := range disks {
			switch d.Attachment.State {
			case state.Attaching:
				d.Attachment.State = state.Attached
				err = state.Put(tx, d)
			case state.Detaching:
				err = detach(tx, d, i)
			}
			if err != nil {
				return err
			}
		}
		if i.Resume && !c.stopping.Load() && !c.stayDown {
			// The cloud was stopped while it was stopping this one.
			if err := c.setGoing(tx, i); err != nil {
				return err
			}
		}
		return state.Put(tx, i)
	})
	c.networkChanged(inst.Scope())
	c.kickIf(replaced)
	c.work.kick(jobOf(inst))
	return err
}

// endMachine ends an instance's machine, gently unless it was forced: then a
// snapshot that is still being read from it is read to its end.
func (c *Cloud) endMachine(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if h == nil {
		c.unplugNetwork(inst)
		return nil
	}
	if !inst.Force {
		if err := c.shutDown(ctx, inst, h); err != nil {
			return fmt.Errorf("stop %s: %w", inst.ID, err)
		}
		return nil
	}
	if err := h.vm.Kill(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", inst.ID, err)
	}
	c.buried(inst)
	return nil
}

// terminate ends an instance for good: its volumes are let go, each kept or
// deleted as its mapping says.
func (c *Cloud) terminate(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if inst.State == state.Terminated {
		return c.forget(inst)
	}
	if err := c.endMachine(ctx, inst, h); err != nil {
		return err
	}
	if inst.ImagePending != "" {
		if err := c.restForImage(inst); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.dir.Machine(inst.ID)); err != nil {
		return fmt.Errorf("terminate %s: %w", inst.ID, err)
	}
	var gone []job
	err := c.db.Update(func(tx *state.Tx) error {
		i, err := state.Get[state.Instance](tx, inst.Scope(), inst.ID)
		if err != nil {
			return err
		}
		i.Resume = false
		replaced, err := c.restReplacement(tx, i)
		if err != nil {
			return err
		}
		if replaced != nil {
			gone = append(gone, *replaced)
		}
		disks, err := disksOf(tx, i)
		if err != nil {
			return err
		}
		for _, d := range disks {
			// One that is on its way out of the instance doesn't go with it.
			deleted := d.Attachment.DeleteOnTermination && d.Attachment.State != state.Detaching
			if err := detach(tx, d, i); err != nil {
				return err
			}
			next := jobOf(d)
			if deleted {
				if next, err = c.deleteVolume(tx, d); err != nil {
					return err
				}
			}
			gone = append(gone, next)
		}
		if err := disassociate(tx, i); err != nil {
			return err
		}
		spot, err := c.spotEnded(tx, i)
		if err != nil {
			return err
		}
		gone = append(gone, spot...)
		c.enter(i, state.Terminated)
		i.ImagePending, i.PublicIP = "", ""
		return state.Put(tx, i)
	})
	c.work.kick(gone...)
	if err == nil {
		c.networkChanged(inst.Scope()) // it is no source in others' rules any more
		c.work.later(jobOf(inst), keepTerminated)
	}
	return err
}

// forget removes a terminated instance's record after its hour.
func (c *Cloud) forget(inst *state.Instance) error {
	if left := keepTerminated - c.now().Sub(inst.StateChanged); left > 0 {
		c.work.later(jobOf(inst), left)
		return nil
	}
	return c.db.Update(func(tx *state.Tx) error {
		return errors.Join(dropTokens(tx, inst.Scope(), inst.ID), dropReplacements(tx, inst), dropSpot(tx, inst), state.Delete(tx, inst))
	})
}
