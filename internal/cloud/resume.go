package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// leftovers are what resume looks at.
type leftovers struct {
	instances []*state.Instance
	volumes   []*state.Volume
	snapshots []*state.Snapshot
	images    []*state.Image
	policies  []*state.LifecyclePolicy
	spot      []*state.SpotRequest
	binned    []*state.Binned
}

// resume brings back what an earlier daemon left: machines that run are
// adopted, snapshots that can go on hold their volumes still again, and every
// resource is looked at once.
func (c *Cloud) resume(ctx context.Context) error {
	if err := os.RemoveAll(c.dir.Scratch()); err != nil {
		return err
	}
	for _, d := range []string{c.dir.Scratch(), c.dir.Machines(), c.dir.Kernels(), c.dir.Cache(), c.dir.Uploads()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := c.clearBuilds(ctx); err != nil {
		return err
	}
	left, err := c.leftovers()
	if err != nil {
		return err
	}
	if err := c.clearUploads(left.snapshots); err != nil {
		return err
	}
	if err := c.keepGoldens(left.snapshots); err != nil {
		return err
	}
	c.adoptAll(ctx, left.instances)
	for _, i := range left.instances {
		if err := c.wake(i); err != nil {
			return err
		}
	}
	if err := c.holdAgain(left); err != nil {
		return err
	}
	if c.stayDown {
		return nil // what is to be done is kicked by the stop
	}
	c.work.kick(append(left.jobs(), trashJob)...)
	wanted, err := c.wantedCollections()
	if len(wanted) > 0 {
		c.collectLater()
	}
	return err
}

func (c *Cloud) leftovers() (*leftovers, error) {
	left := &leftovers{}
	return left, c.db.View(func(tx *state.Tx) (err error) {
		if left.instances, err = state.All[state.Instance](tx); err != nil {
			return err
		}
		if left.volumes, err = state.All[state.Volume](tx); err != nil {
			return err
		}
		if left.snapshots, err = state.All[state.Snapshot](tx); err != nil {
			return err
		}
		if left.images, err = state.All[state.Image](tx); err != nil {
			return err
		}
		if left.policies, err = state.All[state.LifecyclePolicy](tx); err != nil {
			return err
		}
		if left.binned, err = state.All[state.Binned](tx); err != nil {
			return err
		}
		left.spot, err = state.All[state.SpotRequest](tx)
		return err
	})
}

// jobs are the resources that may not be as they are wanted.
func (left *leftovers) jobs() []job {
	var jobs []job
	for _, i := range left.instances {
		jobs = append(jobs, jobOf(i))
	}
	for _, v := range left.volumes {
		if !v.Ready || v.State == state.VolumeDeleting || v.Modification.Pending() {
			jobs = append(jobs, jobOf(v))
		}
	}
	for _, s := range left.snapshots {
		if s.State == state.SnapshotPending || s.Deleted {
			jobs = append(jobs, jobOf(s))
		}
	}
	for _, i := range left.images {
		if i.State == state.ImagePending {
			jobs = append(jobs, jobOf(i))
		}
	}
	for _, r := range left.spot {
		if r.State == state.SpotOpen {
			jobs = append(jobs, jobOf(r))
		}
	}
	for _, b := range left.binned {
		jobs = append(jobs, jobOf(b))
	}
	for _, p := range left.policies {
		jobs = append(jobs, jobOf(p))
	}
	return jobs
}

// adoptAll takes hold of the machines that run. One that does not answer holds
// up nothing else: its worker tries again.
func (c *Cloud) adoptAll(ctx context.Context, insts []*state.Instance) {
	var g errgroup.Group
	g.SetLimit(8)
	for _, i := range insts {
		if i.State == state.Terminated {
			continue
		}
		g.Go(func() error {
			if err := c.adopt(ctx, i); err != nil {
				c.log.Error("machine not adopted, will try again", "instance", i.ID, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
}

// adopt takes hold of an instance's machine if it still runs. While that is
// not known, nothing else is done to the instance.
func (c *Cloud) adopt(ctx context.Context, i *state.Instance) error {
	m, err := c.hyper.adopt(ctx, c.dir.Machine(i.ID))
	if errors.Is(err, machine.ErrNotRunning) || errors.Is(err, os.ErrNotExist) {
		c.unadopted.remove(i.ID)
		return nil
	}
	if err != nil {
		c.unadopted.add(i.ID)
		return fmt.Errorf("adopt the machine of %s: %w", i.ID, err)
	}
	if err := m.SettleRecords(ctx, c.isStored); err != nil {
		// It is settled at the latest by the disks' next snapshots, which read
		// them whole.
		c.log.Warn("what a machine records of its disks is not settled", "instance", i.ID, "err", err)
	}
	disks, err := m.Disks(ctx)
	if err != nil {
		c.unadopted.add(i.ID)
		return errors.Join(fmt.Errorf("adopt the machine of %s: %w", i.ID, err), m.Release())
	}
	if !c.uses.run(i.ID, disks, func() {}) {
		c.log.Error("a running machine has disks that are being read", "instance", i.ID)
	}
	c.hold(i, m)
	c.unadopted.remove(i.ID)
	c.log.Info("adopted", "instance", i.ID, "accel", m.Accel())
	return nil
}

// holdAgain lets the snapshots go on whose volumes have lain still since their
// instant. Others wait for their instance to come to rest, or have failed.
func (c *Cloud) holdAgain(left *leftovers) error {
	resting := map[string]bool{} // volumes of instances that are on their way to rest
	for _, i := range left.instances {
		for _, v := range i.Volumes {
			resting[v] = i.ImagePending != ""
		}
	}
	for _, s := range left.snapshots {
		if s.State != state.SnapshotPending || s.Live || s.Deleted || s.CopyOf != nil || s.Upload != nil {
			continue
		}
		switch {
		case c.uses.read([]string{s.VolumeID}):
			c.instants.put(s.ID, c.stillFiles([]string{s.VolumeID}))
		case !resting[s.VolumeID]:
			if err := c.failSnapshot(s, "the volume was in use again before it was read"); err != nil {
				return err
			}
		}
	}
	for _, v := range left.volumes {
		if v.CopyOf != "" && v.State == state.VolumeCreating && !v.CopyLive && c.uses.read([]string{v.CopyOf}) {
			c.instants.put(v.ID, c.stillFiles([]string{v.CopyOf}))
		}
	}
	return nil
}

func (c *Cloud) failSnapshot(snap *state.Snapshot, why string) error {
	return amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
		if s.State == state.SnapshotPending {
			s.State, s.Message = state.SnapshotError, why
		}
		return nil
	})
}

// hold keeps a running machine and has its instance looked at whenever it does
// something by itself.
func (c *Cloud) hold(i *state.Instance, m vm) {
	c.running.put(i.ID, m)
	j := jobOf(i)
	go func() {
		for {
			select {
			case <-c.work.ctx.Done():
				return
			case <-m.Done():
				c.work.kick(j)
				return
			case e, ok := <-m.Events():
				if !ok {
					c.work.kick(j)
					return
				}
				c.notice(i.ID, e)
				c.work.kick(j)
			}
		}
	}()
}

func (c *Cloud) notice(id string, e machine.Event) {
	if ioerr, ok := e.(machine.IOError); ok {
		if h := c.running.get(id); h != nil {
			h.stopped(ioerr)
		}
		c.log.Error("machine stopped by a disk error", "instance", id, "volume", ioerr.VolumeID, "reason", ioerr.Reason, "full", ioerr.NoSpace)
	}
}
