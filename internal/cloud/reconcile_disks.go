package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// detachTimeout is how long a guest has to let go of a disk before it is asked
// again.
const detachTimeout = 5 * time.Second

// tendDisks plugs and unplugs what is wanted of a running machine.
func (c *Cloud) tendDisks(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	var disks []*state.Volume
	err := c.db.View(func(tx *state.Tx) (err error) {
		disks, err = disksOf(tx, inst)
		return err
	})
	if err != nil {
		return err
	}
	var failed []error
	for _, d := range disks {
		switch d.Attachment.State {
		case state.Attaching:
			failed = append(failed, c.plug(ctx, inst, h, d))
		case state.Detaching:
			failed = append(failed, c.unplug(ctx, inst, h, d))
		}
	}
	return errors.Join(failed...)
}

func (c *Cloud) plug(ctx context.Context, inst *state.Instance, h *machineHandle, d *state.Volume) error {
	if !d.Ready {
		return nil
	}
	if !c.uses.run(inst.ID, []string{d.ID}, func() { c.work.kick(jobOf(inst)) }) {
		return nil
	}
	if err := c.reread(ctx, d); err != nil {
		c.uses.unplugged(d.ID)
		return fmt.Errorf("attach %s to %s: %w", d.ID, inst.ID, err)
	}
	disk := c.diskOf(d)
	c.carry(&disk)
	if err := h.vm.Attach(ctx, disk); err != nil {
		return fmt.Errorf("attach %s to %s: %w", d.ID, inst.ID, err)
	}
	return amend(c, jobOf(d), func(_ *state.Tx, v *state.Volume) error {
		if v.Attachment != nil && v.Attachment.State == state.Attaching {
			v.Attachment.State = state.Attached
		}
		return nil
	})
}

func (c *Cloud) unplug(ctx context.Context, inst *state.Instance, h *machineHandle, d *state.Volume) error {
	err := h.vm.Detach(ctx, d.ID, detachTimeout)
	if errors.Is(err, machine.ErrGuestHolds) && d.Attachment.Force {
		c.log.Warn("volume taken from a guest that does not let go of it", "instance", inst.ID, "volume", d.ID)
		err = h.vm.Seize(ctx, d.ID)
	}
	if err != nil && !errors.Is(err, machine.ErrNotAttached) {
		return fmt.Errorf("detach %s from %s: %w", d.ID, inst.ID, err)
	}
	c.keepChanges(ctx, h.vm)
	c.uses.unplugged(d.ID)
	return c.db.Update(func(tx *state.Tx) error {
		v, err := state.Get[state.Volume](tx, d.Scope(), d.ID)
		if err != nil {
			return err
		}
		i, err := state.Get[state.Instance](tx, inst.Scope(), inst.ID)
		if err != nil {
			return err
		}
		return detach(tx, v, i)
	})
}

// rest shuts a guest down so that an image of its disks can be made, lets the
// snapshots begin, and leaves the machine to be started again, which waits
// for them.
func (c *Cloud) rest(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if err := c.shutDown(ctx, inst, h); err != nil {
		return fmt.Errorf("shut %s down for image %s: %w", inst.ID, inst.ImagePending, err)
	}
	return c.restForImage(inst)
}

// restForImage begins the snapshots that waited for an instance to be off.
func (c *Cloud) restForImage(inst *state.Instance) error {
	var snaps []*state.Snapshot
	err := c.db.View(func(tx *state.Tx) error {
		all, err := state.List[state.Snapshot](tx, inst.Scope())
		for _, s := range all {
			if s.State == state.SnapshotPending && !s.Live && !s.Deleted && slices.Contains(inst.Volumes, s.VolumeID) && c.instants.get(s.ID) == nil {
				snaps = append(snaps, s)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if c.uses.read([]string{s.VolumeID}) {
			c.instants.put(s.ID, c.stillFiles([]string{s.VolumeID}))
		} else if err := c.failSnapshot(s, "the volume was in use when its instance was at rest"); err != nil {
			return err
		}
		c.work.kick(jobOf(s))
	}
	err = amend(c, jobOf(inst), func(_ *state.Tx, i *state.Instance) error {
		i.ImagePending = ""
		if i.Want == state.Running {
			c.enter(i, state.Pending)
		}
		return nil
	})
	c.work.kick(jobOf(inst))
	return errors.Join(err, c.kickImages(inst.Scope()))
}
