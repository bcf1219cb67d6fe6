package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

const (
	// shutdownGrace is how long a guest has to power itself off; EC2's own
	// patience is of the order of minutes, a machine on the desk needs less.
	shutdownGrace = 30 * time.Second
	// keepTerminated is how long a terminated instance is still described.
	keepTerminated = time.Hour
)

// reconcileInstance brings an instance's machine to what is wanted.
func (c *Cloud) reconcileInstance(ctx context.Context, j job) error {
	inst, err := load[state.Instance](c, j)
	if err != nil || inst == nil {
		return err
	}
	if c.unadopted.has(inst.ID) {
		if err := c.adopt(ctx, inst); err != nil {
			return err
		}
	}
	h := c.running.get(inst.ID)
	switch {
	case h != nil:
		if h, err = c.examine(ctx, inst, h); err != nil {
			return err
		}
		if inst, err = load[state.Instance](c, j); err != nil || inst == nil {
			return err
		}
	case inst.State == state.Running && inst.ImagePending != "":
		return c.restForImage(inst) // it was shut down for it
	case inst.State == state.Running && inst.RebootsAsked == inst.RebootsDone:
		if off, err := c.isExchanging(inst); err != nil {
			return err
		} else if !off {
			return c.lost(j)
		}
	}
	switch inst.Want {
	case state.Running:
		if h == nil {
			return c.boot(ctx, inst)
		}
		return c.tend(ctx, inst, h)
	case state.Stopped:
		return c.halt(ctx, inst, h)
	default:
		return c.terminate(ctx, inst, h)
	}
}

// examine looks at a running machine: a guest that powered itself off, or a
// process that died, changes what is wanted. It gives nil when no process is
// left.
func (c *Cloud) examine(ctx context.Context, inst *state.Instance, h *machineHandle) (*machineHandle, error) {
	st, err := h.vm.Status(ctx)
	if err != nil && !errors.Is(err, machine.ErrNotRunning) {
		if inst.Want != state.Running {
			return h, nil // it is to end, whatever it says
		}
		return h, fmt.Errorf("machine of %s: %w", inst.ID, err)
	}
	h.setIOError(st.IOError)
	switch {
	case err != nil || st.State == machine.Exited:
		c.buried(inst)
		if inst.Want == state.Running && inst.State != state.Pending {
			return nil, c.lost(jobOf(inst))
		}
		return nil, nil
	case st.State == machine.GuestShutdown:
		return h, c.guestStopped(inst)
	case st.State == machine.Failed:
		return h, c.lost(jobOf(inst))
	case st.State == machine.Paused && st.IOError != nil:
		return h, c.goOn(ctx, inst, h, st.IOError)
	}
	return h, nil
}

// guestStopped records that a guest powered itself off: its instance stops or
// is terminated, as its attribute says. A guest that was being rebooted, or
// brought to rest for an image, is off because it was told to; what told it goes
// on, also after a daemon that died meanwhile.
func (c *Cloud) guestStopped(inst *state.Instance) error {
	return amend(c, jobOf(inst), func(tx *state.Tx, i *state.Instance) error {
		if i.Want != state.Running || i.RebootsAsked > i.RebootsDone || i.ImagePending != "" || exchanging(tx, i) {
			return nil
		}
		i.Want = state.Stopped
		c.enter(i, state.Stopping)
		if i.ShutdownBehavior == "terminate" {
			i.Want = state.Terminated
			c.enter(i, state.ShuttingDown)
		}
		c.reason(i, reasonGuestStop, "Instance initiated shutdown")
		return nil
	})
}

// lost records that a machine died under its instance. It is stopped, not
// started again: its disks are kept, and whoever depends on it decides.
func (c *Cloud) lost(j job) error {
	if c.stayDown {
		return nil // the host went down; it is started again another time
	}
	err := amend(c, j, func(tx *state.Tx, i *state.Instance) error {
		if i.Want == state.Running && i.State == state.Running && !exchanging(tx, i) {
			i.Want = state.Stopped
			c.enter(i, state.Stopping)
			c.reason(i, "Server.InternalError", "The machine's process ended unexpectedly; its log is in the instance's folder")
		}
		return nil
	})
	if err == nil {
		c.work.kick(j)
	}
	return err
}

// buried forgets a machine whose process is gone.
func (c *Cloud) buried(inst *state.Instance) {
	c.running.remove(inst.ID)
	c.uses.stopped(inst.ID)
	c.unplugNetwork(inst)
}

// boot starts an instance's machine once its volumes are complete.
func (c *Cloud) boot(ctx context.Context, inst *state.Instance) error {
	if c.stayDown {
		return nil
	}
	disks, err := c.disksToBoot(inst)
	if err != nil {
		return err
	}
	for _, d := range disks {
		switch {
		case d.State == state.VolumeError:
			return c.launchFailed(inst, "Client.InternalError", fmt.Sprintf("volume %s: %s", d.ID, d.Reason))
		case !d.Ready:
			return nil // its worker kicks this one
		}
	}
	ids := make([]string, len(disks))
	for i, d := range disks {
		ids[i] = d.ID
	}
	if !c.uses.run(inst.ID, ids, func() { c.work.kick(jobOf(inst)) }) {
		return nil // a snapshot reads one of them; its end kicks this one
	}
	spec, err := c.spec(inst, disks)
	if err == nil {
		err = c.reread(ctx, disks...)
	}
	if err != nil {
		c.uses.stopped(inst.ID)
		return c.launchFailed(inst, "Server.InternalError", err.Error())
	}
	for i := range spec.Disks {
		c.carry(&spec.Disks[i])
	}
	m, err := c.hyper.start(ctx, spec)
	if errors.Is(err, machine.ErrRunning) {
		c.uses.stopped(inst.ID)
		if err := c.adopt(ctx, inst); err != nil {
			return err
		}
		c.work.kick(jobOf(inst))
		return nil
	}
	if err != nil {
		c.uses.stopped(inst.ID)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.launchFailed(inst, "Server.InternalError", err.Error())
	}
	c.hold(inst, m)
	if err := c.plugNetwork(inst, m); err != nil {
		return fmt.Errorf("network of %s: %w", inst.ID, err)
	}
	return c.started(inst, m)
}

// disksToBoot gives the disks that an instance's machine starts with, the root
// first; a task may want another root from now on.
func (c *Cloud) disksToBoot(inst *state.Instance) (disks []*state.Volume, err error) {
	if inst.ReplaceRoot == "" {
		return disks, c.db.View(func(tx *state.Tx) (err error) {
			disks, err = disksOf(tx, inst)
			return err
		})
	}
	return disks, c.db.Update(func(tx *state.Tx) error {
		i, err := state.Get[state.Instance](tx, inst.Scope(), inst.ID)
		if err != nil {
			return err
		}
		if err := c.exchangeRoot(tx, i); err != nil {
			return err
		}
		*inst = *i
		disks, err = disksOf(tx, i)
		return err
	})
}

// started records that the machine runs. One that was stopped meanwhile keeps
// its state; the worker goes on to stop it.
func (c *Cloud) started(inst *state.Instance, m vm) error {
	var replaced *job
	err := amend(c, jobOf(inst), func(tx *state.Tx, i *state.Instance) (err error) {
		i.Accel, i.BootID = string(m.Accel()), bootID()
		i.RebootsDone = i.RebootsAsked
		if i.Want == state.Running {
			c.enter(i, state.Running)
		}
		disks, err := disksOf(tx, i)
		if err != nil {
			return err
		}
		for _, d := range disks {
			if d.Attachment.State == state.Attaching && slices.Contains(inst.Volumes, d.ID) {
				d.Attachment.State = state.Attached
				if err := state.Put(tx, d); err != nil {
					return err
				}
			}
		}
		replaced, err = c.finishReplacement(tx, i)
		return err
	})
	if err == nil {
		c.work.kick(jobOf(inst))
		c.kickIf(replaced)
	}
	return err
}

// launchFailed ends an instance that cannot start: a new one is terminated, as
// on EC2, one that has run before is stopped again.
func (c *Cloud) launchFailed(inst *state.Instance, code, why string) error {
	c.log.Error("instance did not start", "instance", inst.ID, "why", why)
	err := amend(c, jobOf(inst), func(tx *state.Tx, i *state.Instance) error {
		if i.Want != state.Running {
			return nil
		}
		if undone, err := c.undoReplacement(tx, i, why); undone || err != nil {
			c.enter(i, state.Pending) // it starts once more, with the root that it had
			return err
		}
		i.Want = state.Stopped
		if i.Accel == "" { // never ran
			i.Want = state.Terminated
		}
		c.reason(i, code, why)
		return nil
	})
	if err == nil {
		c.work.kick(jobOf(inst))
	}
	return err
}

// spec describes the machine of an instance.
func (c *Cloud) spec(inst *state.Instance, disks []*state.Volume) (machine.Spec, error) {
	t, ok := instanceType(inst.Type)
	if !ok {
		return machine.Spec{}, fmt.Errorf("instance type %s is unknown", inst.Type)
	}
	dir := c.dir.Machine(inst.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return machine.Spec{}, err
	}
	uuid := machineUUID(inst.ID)
	s := machine.Spec{
		ID: inst.ID, Dir: dir, CPUs: int(t.VCPUs), MemoryMiB: int(t.MemoryMiB), UEFI: string(currentBootMode(inst)) == bootUEFI,
		NIC:     &machine.NIC{MAC: inst.MAC, MTU: networkMTU},
		Product: inst.Type, UUID: uuid, SerialNumber: uuid,
	}
	if c.hyper.accel() == string(machine.AccelTCG) {
		s.CPUs = 1 // a translated guest boots slower with more
	}
	for _, d := range disks {
		s.Disks = append(s.Disks, c.diskOf(d))
	}
	if s.UEFI {
		var err error
		if s.Variables, err = c.firstVariables(inst); err != nil {
			return s, err
		}
	}
	if inst.KernelID == "" {
		return s, nil
	}
	err := c.db.View(func(tx *state.Tx) error {
		k, err := findKernel(tx, inst.Scope(), inst.KernelID)
		if err == nil {
			s.Kernel, s.Initrd, s.Cmdline = c.dir.Kernel(k.ID), c.dir.Initrd(k.ID), k.Cmdline
		}
		return err
	})
	return s, err
}

// machineUUID begins with ec2, by which guests know where they are.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
func machineUUID(instanceID string) string {
	d := "ec2" + strings.TrimPrefix(instanceID, "i-") + strings.Repeat("0", 32)
	return d[:8] + "-" + d[8:12] + "-4" + d[13:16] + "-8" + d[17:20] + "-" + d[20:32]
}

// tend does what a running machine is wanted to do: restart, take and give
// disks, lie still for an image.
func (c *Cloud) tend(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if inst.State != state.Running {
		if err := c.plugNetwork(inst, h.vm); err != nil {
			return err
		}
		return c.started(inst, h.vm)
	}
	if err := c.plugNetwork(inst, h.vm); err != nil {
		return err
	}
	if inst.ImagePending != "" {
		return c.rest(ctx, inst, h)
	}
	if inst.ReplaceRoot != "" {
		if done, err := c.replaceRoot(ctx, inst, h); done || err != nil {
			return err
		}
	}
	if inst.RebootsAsked > inst.RebootsDone {
		return c.reboot(ctx, inst, h)
	}
	return c.tendDisks(ctx, inst, h)
}

// reboot restarts a guest. A translated one comes back sooner in a new process
// than by a reset: about 5 s against 10.
func (c *Cloud) reboot(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if h.vm.Accel() != machine.AccelTCG {
		if err := h.vm.Reboot(ctx, shutdownGrace); err != nil {
			return fmt.Errorf("reboot %s: %w", inst.ID, err)
		}
		return amend(c, jobOf(inst), func(_ *state.Tx, i *state.Instance) error {
			i.RebootsDone = inst.RebootsAsked
			return nil
		})
	}
	if err := c.shutDown(ctx, inst, h); err != nil {
		return fmt.Errorf("reboot %s: %w", inst.ID, err)
	}
	return c.boot(ctx, inst)
}
