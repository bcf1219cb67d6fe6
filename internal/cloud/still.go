package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// diskUses says who uses each volume's file in this process: any number of
// snapshots that read it while it lies still, or one machine that runs on it.
// Whoever comes second waits: a machine's start until the readers are done, a
// snapshot by reading through the machine.
type diskUses struct {
	mu   sync.Mutex
	uses map[string]*diskUse // by volume ID
}

type diskUse struct {
	readers int
	machine string // instance ID
	growing bool
	waiting []func()
}

func newDiskUses() *diskUses { return &diskUses{uses: map[string]*diskUse{}} }

func (u *diskUses) get(vol string) *diskUse {
	if u.uses[vol] == nil {
		u.uses[vol] = &diskUse{}
	}
	return u.uses[vol]
}

// read begins reading volumes that no machine runs on; false if one does.
func (u *diskUses) read(vols []string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, v := range vols {
		if use := u.uses[v]; use != nil && (use.machine != "" || use.growing) {
			return false
		}
	}
	for _, v := range vols {
		u.get(v).readers++
	}
	return true
}

func (u *diskUses) doneReading(vols []string) {
	u.mu.Lock()
	var wake []func()
	for _, v := range vols {
		use := u.get(v)
		if use.readers--; use.readers == 0 {
			wake = append(wake, use.waiting...)
			use.waiting = nil
		}
		u.drop(v)
	}
	u.mu.Unlock()
	for _, f := range wake {
		f()
	}
}

// grow claims a volume that nobody uses, to make it longer; false if somebody
// does.
func (u *diskUses) grow(vol string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	use := u.get(vol)
	if use.readers > 0 || use.machine != "" || use.growing {
		return false
	}
	use.growing = true
	return true
}

// grown gives back what grow claimed.
func (u *diskUses) grown(vol string) {
	u.mu.Lock()
	use := u.get(vol)
	wake := use.waiting
	use.growing, use.waiting = false, nil
	u.drop(vol)
	u.mu.Unlock()
	for _, f := range wake {
		f()
	}
}

// run claims volumes for a machine; false if any is being read or grown, and
// then wake is called when that is over.
func (u *diskUses) run(instance string, vols []string, wake func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, v := range vols {
		if use := u.uses[v]; use != nil && (use.readers > 0 || use.growing) {
			use.waiting = append(use.waiting, wake)
			return false
		}
	}
	for _, v := range vols {
		u.get(v).machine = instance
	}
	return true
}

// stopped gives back all that a machine claimed.
func (u *diskUses) stopped(instance string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for v, use := range u.uses {
		if use.machine == instance {
			use.machine = ""
			u.drop(v)
		}
	}
}

// unplugged gives back one volume of a machine.
func (u *diskUses) unplugged(vol string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if use := u.uses[vol]; use != nil {
		use.machine = ""
		u.drop(vol)
	}
}

func (u *diskUses) drop(vol string) {
	if use := u.uses[vol]; use.readers == 0 && use.machine == "" && !use.growing && len(use.waiting) == 0 {
		delete(u.uses, vol)
	}
}

// heldInstant keeps volumes readable as they were at one instant, for as long
// as any of its sharers needs it.
type heldInstant struct {
	open func(ctx context.Context, volumeID string) (*frozen, error)
	free func()

	mu   sync.Mutex
	refs int
}

func newInstant(open func(context.Context, string) (*frozen, error), free func()) *heldInstant {
	return &heldInstant{open: open, free: free, refs: 1}
}

func (h *heldInstant) share() *heldInstant {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refs++
	return h
}

func (h *heldInstant) release() {
	h.mu.Lock()
	h.refs--
	last := h.refs == 0
	h.mu.Unlock()
	if last {
		h.free()
	}
}

// instants are those that snapshots are being copied from.
type instants struct {
	mu         sync.Mutex
	bySnapshot map[string]*heldInstant
}

func (i *instants) put(snap string, h *heldInstant) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bySnapshot[snap] = h
}

func (i *instants) get(snap string) *heldInstant {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.bySnapshot[snap]
}

func (i *instants) end(snap string) {
	i.mu.Lock()
	h := i.bySnapshot[snap]
	delete(i.bySnapshot, snap)
	i.mu.Unlock()
	if h != nil {
		h.release()
	}
}

// endAll lets go of every instant; their snapshots are not complete.
func (i *instants) endAll() {
	i.mu.Lock()
	all := slices.Collect(maps.Keys(i.bySnapshot))
	i.mu.Unlock()
	for _, snap := range all {
		i.end(snap)
	}
}

// holdStill makes volumes readable as they are now: through their machine
// where one runs, else from their files, which no machine may start on until
// the reading ends. It marks the snapshots that came from a machine. With record
// the next snapshots of the volumes will know what has changed since these.
func (c *Cloud) holdStill(ctx context.Context, vols []*state.Volume, snaps []*state.Snapshot, record bool) (*heldInstant, error) {
	ids, disks := make([]string, len(vols)), make([]machine.Freeze, len(vols))
	for i, v := range vols {
		ids[i], disks[i] = v.ID, machine.Freeze{VolumeID: v.ID, Snapshot: snaps[i].ID, Record: record}
	}
	if c.uses.read(ids) {
		return c.stillFiles(ids), nil
	}
	inst := ""
	if a := vols[0].Attachment; a != nil {
		inst = a.InstanceID
	}
	h := c.running.get(inst)
	if h == nil {
		return nil, fail("IncorrectState", "The machine that uses %s is starting or stopping, or the volume is being grown; try again.", ids[0])
	}
	if !h.claim(ids) {
		return nil, fail("SnapshotCreationPerVolumeRateExceeded", "A snapshot of %s is being taken; only one at a time can be.", ids[0])
	}
	at, err := h.vm.Snapshot(ctx, snaps[0].ID, disks)
	if err != nil {
		h.unclaim(ids)
		switch {
		case errors.Is(err, machine.ErrBusy):
			return nil, fail("SnapshotCreationPerVolumeRateExceeded", "A snapshot of %s is being taken; only one at a time can be.", ids[0])
		case errors.Is(err, machine.ErrNotAttached), errors.Is(err, machine.ErrNotRunning):
			return nil, fail("IncorrectState", "The disks of %s are being plugged or its machine is ending; try again.", inst)
		}
		return nil, fmt.Errorf("snapshot %v of running instance %s: %w", ids, inst, err)
	}
	for _, s := range snaps {
		s.Live = true
	}
	return newInstant(func(ctx context.Context, id string) (*frozen, error) { return c.openLive(ctx, at, id) }, func() {
		c.closeInstant(context.WithoutCancel(ctx), inst, at)
		h.unclaim(ids)
	}), nil
}

// closeInstant clears a snapshot's nodes out of a machine. It is tried for a
// while: a machine does not end before they are gone.
func (c *Cloud) closeInstant(ctx context.Context, inst string, at instant) {
	const tries = 5
	var err error
	for n := range tries {
		if err = at.Close(ctx); err == nil {
			return
		}
		time.Sleep(retryFirst << n)
	}
	c.log.Error("snapshot's nodes were not cleared", "instance", inst, "err", err)
}

// stillFiles is an instant of volumes whose files have been claimed for reading.
func (c *Cloud) stillFiles(ids []string) *heldInstant {
	return newInstant(func(_ context.Context, id string) (*frozen, error) { return c.openStill(id) }, func() { c.uses.doneReading(ids) })
}

// machines are the running ones, by instance ID.
type machines struct {
	mu   sync.Mutex
	byID map[string]*machineHandle
}

// machineHandle is a running machine and the volumes of it that a snapshot is
// being read from.
type machineHandle struct {
	vm vm

	mu      sync.Mutex
	claimed []string
	still   standstill
}

func (h *machineHandle) claim(vols []string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.ContainsFunc(vols, func(v string) bool { return slices.Contains(h.claimed, v) }) {
		return false
	}
	h.claimed = append(h.claimed, vols...)
	return true
}

func (h *machineHandle) unclaim(vols []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claimed = slices.DeleteFunc(h.claimed, func(v string) bool { return slices.Contains(vols, v) })
}

func (m *machines) get(id string) *machineHandle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byID[id]
}

// fault says why an instance's machine stands still; nil if it doesn't.
func (m *machines) fault(id string) *fault {
	if h := m.get(id); h != nil {
		return h.fault()
	}
	return nil
}

func (m *machines) put(id string, v vm) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[id] = &machineHandle{vm: v}
}

func (m *machines) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, id)
}

// release lets go of the machines; their processes live on.
func (m *machines) release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for id, h := range m.byID {
		errs = append(errs, h.vm.Release())
		delete(m.byID, id)
	}
	return errors.Join(errs...)
}
