package cloud

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync/atomic"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
	"github.com/steadcloud/stead/internal/yield"
)

// What machines and volumes record, and the store reads, is of one unit.
var (
	_ [snapshot.BlockSize]struct{} = [machine.Granularity]struct{}{}
	_ [snapshot.BlockSize]struct{} = [volume.ChangeUnit]struct{}{}
)

// frozen is a volume as it was at an instant.
type frozen struct {
	snapshot.Source
	since *snapshot.Since // what it has kept of an earlier snapshot; nil if unknown
	// kept is told of a snapshot that was made of it and is in the store, failed
	// of one that came to nothing.
	kept   func(snap string)
	failed func(err error)
	Close  func() error
	// beside says that a guest runs on it meanwhile.
	beside bool

	read atomic.Int64 // bytes
}

var _ snapshot.Limited = (*frozen)(nil)

// Workers implements snapshot.Limited. Half of the processors are left to a guest
// that runs.
func (f *frozen) Workers() int {
	if f.beside {
		return max(1, runtime.GOMAXPROCS(0)/2)
	}
	return math.MaxInt
}

// Yield implements snapshot.Limited.
func (f *frozen) Yield() {
	if f.beside {
		_ = yield.Thread() // without it the work is done all the same
	}
}

// ReadAt reads, and counts what is read.
func (f *frozen) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Source.ReadAt(p, off)
	f.read.Add(int64(n))
	return n, err
}

// base is the snapshot that the next one builds on; empty for none.
func (f *frozen) base() string {
	if f.since == nil {
		return ""
	}
	return f.since.Base
}

// openStill opens a volume that lies still.
func (c *Cloud) openStill(id string) (*frozen, error) {
	r, err := c.volumes.Reader(id)
	if err != nil {
		return nil, err
	}
	f := &frozen{Source: r, failed: func(error) {}, Close: r.Close}
	f.kept = func(snap string) {
		if err := r.Keep(snap); err != nil {
			c.log.Warn("the volume will be read whole by its next snapshot", "volume", id, "err", err)
		}
	}
	ch, err := c.volumes.Changes(id)
	switch {
	case err == nil:
		f.since = &snapshot.Since{Base: ch.Base, Changed: changedIn(ch.Blocks)}
	case !errors.Is(err, volume.ErrNoChanges):
		return nil, errors.Join(err, r.Close())
	default:
		c.log.Debug("the volume is read whole", "volume", id, "err", err)
	}
	return f, nil
}

// openLive opens a volume of a running machine. What hasn't changed is given up
// at once and what was read as soon as it was, so that the machine copies nothing
// for it when the guest overwrites it.
func (c *Cloud) openLive(ctx context.Context, at instant, id string) (*frozen, error) {
	src, err := at.Source(id)
	if err != nil {
		return nil, err
	}
	f := &frozen{Source: readOnce{src}, beside: true}
	c.session.Begin()
	f.Close = func() error {
		c.session.End()
		return src.Close()
	}
	f.kept = func(string) { at.Completed(id) }
	f.failed = func(err error) {
		// The base was found damaged only when what it was to stand for had been
		// given up. The next snapshot must not try the same again.
		if errors.Is(err, machine.ErrReleased) {
			at.Forget(id)
		}
	}
	rec := src.Recorded()
	if rec == nil {
		return f, nil
	}
	ch, err := c.changedSince(id, *rec)
	var base snapshot.Info
	if err == nil {
		base, err = c.snapshots.Sound(ctx, ch.Base)
	}
	if err != nil {
		c.log.Info("the volume is read whole", "volume", id, "err", err)
		return f, nil
	}
	// What the base doesn't have is read, whether the guest wrote there or not.
	ch.Blocks = ch.Blocks[:min(int64(len(ch.Blocks)), base.VolumeSize/snapshot.BlockSize/8)]
	if err := src.Release(ch.Blocks); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.since = &snapshot.Since{Base: ch.Base, Changed: changedIn(ch.Blocks)}
	return f, nil
}

// readOnce gives up what was read: nobody reads it again.
type readOnce struct{ instantSource }

func (r readOnce) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.instantSource.ReadAt(p, off)
	if n > 0 {
		_ = r.Discard(off, int64(n)) // it only spares the machine work
	}
	return n, err
}

// changedSince adds to what a machine has recorded what was known when it got the
// volume.
func (c *Cloud) changedSince(id string, rec machine.Recorded) (volume.Changes, error) {
	ch := volume.Changes{Base: rec.Snapshot, Blocks: rec.Blocks}
	if rec.Carried == "" {
		return ch, nil
	}
	before, err := c.volumes.CarriedChanges(id, rec.Carried)
	if err != nil {
		return ch, err
	}
	if before.Base != rec.Snapshot {
		return ch, volume.ErrNoChanges
	}
	ch.Blocks = union(ch.Blocks, before.Blocks)
	return ch, nil
}

// union is what is in either of two sets of blocks. What the shorter has no bit
// for is left out, and so is in the set.
func union(a, b []byte) []byte {
	out := make([]byte, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] | b[i]
	}
	return out
}

// changedIn reads a set of blocks, one bit each. What it has no bit for is in it.
func changedIn(blocks []byte) func(int64) bool {
	return func(i int64) bool { return i/8 >= int64(len(blocks)) || blocks[i/8]&(1<<(i%8)) != 0 }
}

// carry has a machine that gets a disk go on recording from what is known of its
// volume.
func (c *Cloud) carry(d *machine.Disk) {
	base, carried, err := c.volumes.CarryChanges(d.VolumeID)
	switch {
	case err == nil:
		d.Since = &machine.Since{Snapshot: base, Carried: carried}
	case !errors.Is(err, volume.ErrNoChanges):
		c.log.Warn("what has changed of a volume is not known any more", "volume", d.VolumeID, "err", err)
	}
}

// keepChanges saves what was changed of the volumes that a machine has given back.
// Nobody else may use them before it returns.
func (c *Cloud) keepChanges(ctx context.Context, m vm) {
	for id, rec := range m.Left() {
		ch, err := c.changedSince(id, rec)
		if err == nil {
			err = c.volumes.SaveChanges(ctx, id, ch)
		}
		if err != nil {
			c.log.Warn("the volume will be read whole by its next snapshot", "volume", id, "err", err)
		}
	}
}

// shutDown shuts an instance's machine down in order.
func (c *Cloud) shutDown(ctx context.Context, inst *state.Instance, h *machineHandle) error {
	if err := h.vm.Shutdown(ctx, shutdownGrace); err != nil {
		return err
	}
	c.keepChanges(ctx, h.vm)
	c.buried(inst)
	return nil
}

// keepRestored notes that a volume that was just made is as its snapshot.
func (c *Cloud) keepRestored(vol *state.Volume) {
	r, err := c.volumes.Reader(vol.ID)
	if err == nil {
		err = errors.Join(r.Keep(vol.SnapshotID), r.Close())
	}
	if err != nil {
		c.log.Warn("the volume will be read whole by its first snapshot", "volume", vol.ID, "err", err)
	}
}

// isStored says whether a snapshot is whole in the store.
func (c *Cloud) isStored(ctx context.Context, snap string) (bool, error) {
	_, err := c.snapshots.Info(ctx, snap)
	if errors.Is(err, snapshot.ErrNotFound) || errors.Is(err, snapshot.ErrCorrupt) {
		return false, nil
	}
	return err == nil, err
}
