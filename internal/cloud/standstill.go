package cloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// A machine stands still when its host fails to read or write one of its disks:
// its guest sees no error and loses nothing. It is let go on, and so the request
// tried again, by itself: where the host's disk was full as soon as there is room,
// else later and later.
//
// One thing can't be mended so. When a sync of a volume fails, Linux may have
// dropped what it was to write, and the next one would succeed without it. QEMU
// knows that and fails each later sync of the file; so the guest is never told
// that its data is safe when it isn't, and the machine stands still until it is
// ended. What the guest had not been promised is lost then, as by a power cut.
// Which of the two it was QEMU doesn't tell: when trying again was in vain a few
// times, the one is said. The volume is marked before the first try, and read anew
// from its disk before a machine gets it again.
const (
	// room is how much the host's disk must have before a machine goes on for
	// which it was full, bytes.
	room        = 64 << 20
	lookFirst   = time.Second
	lookLast    = time.Minute
	triesInVain = 3 // before it is said to be in vain
	// calm is how long a machine must have run for its next failure to be a new
	// one.
	calm = 10 * time.Second
)

// fault is why a machine stands still.
type fault struct {
	machine.IOError
	inVain bool // it was let go on, and stood still at once again
}

// String says why, and what it takes to go on.
func (f *fault) String() string {
	switch {
	case f.inVain:
		return f.Reason + ", also when it was tried again; end it by force and start it (`stead stop --force`, `stead start`): " +
			"what the guest had not synced is lost then, as by a power cut"
	case f.NoSpace:
		return "the disk of the host is full; it goes on when there is room"
	}
	return f.Reason + "; it is tried again, and goes on when the disk of the host takes it"
}

// standstill is what a machine's handle knows of its failures.
type standstill struct {
	ioError *machine.IOError // why it stands still; nil when it doesn't
	volume  string           // the one that it stood still for last
	tries   int              // how often it was let go on for that in vain
	tried   time.Time        // the last time
	next    time.Time        // not before
}

// stopped notes that the machine has just stood still.
func (h *machineHandle) stopped(e machine.IOError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.still.tried) > calm || h.still.volume != e.VolumeID {
		h.still.tries = 0
	}
	h.still.volume, h.still.next = e.VolumeID, now
	if !e.NoSpace || h.still.tries > 0 {
		h.still.next = now.Add(min(lookFirst<<min(h.still.tries, 8), lookLast))
	}
}

// due says whether the machine is to be let go on now, how often that was in vain,
// and when to look again.
func (h *machineHandle) due() (yes bool, tries int, again time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := time.Until(h.still.next)
	return wait <= 0, h.still.tries, max(wait, lookFirst)
}

// letGo notes that the machine is let go on.
func (h *machineHandle) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.still.tries++
	h.still.tried = time.Now()
}

func (h *machineHandle) setIOError(e *machine.IOError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.still.ioError = e
}

// fault says why the machine stands still; nil if it doesn't.
func (h *machineHandle) fault() *fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.still.ioError == nil {
		return nil
	}
	return &fault{*h.still.ioError, h.still.tries >= triesInVain}
}

// goOn lets a machine go on that stands still for a failure of the host's disk.
func (c *Cloud) goOn(ctx context.Context, inst *state.Instance, h *machineHandle, e *machine.IOError) error {
	now, tries, again := h.due()
	c.work.later(jobOf(inst), again)
	if !now {
		return nil
	}
	if e.NoSpace {
		free, err := freeSpace(string(c.dir))
		if err == nil && free < room {
			c.makeRoom()
			free, err = freeSpace(string(c.dir))
		}
		if err != nil || free < room {
			return err
		}
	}
	if !e.NoSpace || tries > 0 {
		if err := c.doubt(inst.Scope(), e.VolumeID); err != nil {
			return err
		}
	}
	c.log.Info("machine goes on", "instance", inst.ID, "volume", e.VolumeID, "tries", tries)
	h.letGo()
	return h.vm.Continue(ctx)
}

// doubt marks a volume of which something may not be on the disk that was taken
// for written.
func (c *Cloud) doubt(s state.Scope, id string) error {
	return amend(c, job{(*state.Volume)(nil).Kind(), s, id}, func(_ *state.Tx, v *state.Volume) error {
		v.Doubted = true
		return nil
	})
}

// reread has a machine that gets doubted volumes read what their disk has.
func (c *Cloud) reread(ctx context.Context, disks ...*state.Volume) error {
	for _, d := range disks {
		if !d.Doubted {
			continue
		}
		err := c.volumes.Reread(ctx, d.ID)
		if errors.Is(err, volume.ErrInUse) {
			continue // a machine that is still to be adopted has it
		}
		if err != nil {
			return fmt.Errorf("%w; mend the disk of the host, or make a volume of a snapshot", err)
		}
		if err := amend(c, jobOf(d), func(_ *state.Tx, v *state.Volume) error {
			v.Doubted = false
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
