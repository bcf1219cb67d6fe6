package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

const (
	// stopPatience is how long machines have to go off, with the snapshots that
	// are read from them, before they are killed.
	stopPatience = 2 * time.Minute
	// killPatience is how long killed ones have.
	killPatience = 30 * time.Second
)

// StopMachines shuts every machine down cleanly and waits until they are off;
// those that do not go off are killed. Their instances are started again when
// the cloud is next opened. Until then no instance is started.
func (c *Cloud) StopMachines(ctx context.Context) error { return c.stopMachines(ctx, stopPatience) }

func (c *Cloud) stopMachines(ctx context.Context, patience time.Duration) error {
	c.stopping.Store(true)
	left, err := c.restless(func(tx *state.Tx, i *state.Instance) error {
		if i.Want != state.Running {
			return nil
		}
		i.Want, i.Resume = state.Stopped, true
		c.enter(i, state.Stopping)
		c.reason(i, "Server.ScheduledStop", "The local cloud was stopped")
		return state.Put(tx, i)
	})
	if err != nil {
		return err
	}
	c.work.kick(left...)
	if left, err = c.waitOff(ctx, patience); err != nil || len(left) == 0 {
		return err
	}
	c.log.Warn("machines do not go off and are killed", "machines", len(left))
	if err := c.forceOff(ctx); err != nil {
		return err
	}
	if left, err = c.waitOff(ctx, killPatience); err == nil && len(left) > 0 {
		err = fmt.Errorf("%d machines could not be stopped; the first is of %s", len(left), left[0].id)
	}
	return err
}

// restless gives the instances that are not at rest, after a change to each.
func (c *Cloud) restless(change func(*state.Tx, *state.Instance) error) ([]job, error) {
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		insts, err := state.All[state.Instance](tx)
		if err != nil {
			return err
		}
		for _, i := range insts {
			if err := change(tx, i); err != nil {
				return err
			}
			if !atRest(i) {
				jobs = append(jobs, jobOf(i))
			}
		}
		return nil
	})
	return jobs, err
}

func atRest(i *state.Instance) bool {
	return i.State == state.Terminated || i.State == state.Stopped && i.Want == state.Stopped
}

// waitOff returns when every instance is at rest, or after a while with those
// that are not.
func (c *Cloud) waitOff(ctx context.Context, patience time.Duration) ([]job, error) {
	late := time.After(patience)
	for {
		var left []job
		err := c.db.View(func(tx *state.Tx) error {
			insts, err := state.All[state.Instance](tx)
			for _, i := range insts {
				if !atRest(i) {
					left = append(left, jobOf(i))
				}
			}
			return err
		})
		if err != nil || len(left) == 0 {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d machines still run: %w", len(left), ctx.Err())
		case <-late:
			return left, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// forceOff kills the machines that still run. A worker that waits for one of
// them sees it gone.
func (c *Cloud) forceOff(ctx context.Context) error {
	left, err := c.restless(func(tx *state.Tx, i *state.Instance) error {
		if atRest(i) {
			return nil
		}
		i.Force = true
		return state.Put(tx, i)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	var kills errgroup.Group
	for _, j := range left {
		if h := c.running.get(j.id); h != nil {
			kills.Go(func() error { return h.vm.Kill(ctx) })
		}
	}
	if err := kills.Wait(); err != nil {
		c.log.Error("machine not killed", "err", err)
	}
	c.work.kick(left...)
	return nil
}

// StopWithoutDaemon shuts down the machines that a daemon left behind. Root has
// it done by a process that has given up root, as the daemon does.
func StopWithoutDaemon(ctx context.Context, dataDir string, log *slog.Logger) error {
	cfg, err := Config{DataDir: dataDir, Log: log, StopOnly: true}.complete()
	if err != nil {
		return err
	}
	dir := Dir(cfg.DataDir)
	if _, err := os.Stat(dir.StateFile()); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever started there
	}
	if os.Geteuid() != 0 {
		return Run(ctx, cfg)
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "cloud", "run", "--stop-only", "--data-dir", cfg.DataDir)
	cmd.Args[0] = os.Args[0]
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := detachedDaemon(cmd, dir)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the child has its own
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w; the end of its log:\n%s", err, logEnd(dir))
	}
	return nil
}

// stopLeft is what a daemon does that only stops machines. It has the lock.
func stopLeft(ctx context.Context, cfg Config) error {
	dir := Dir(cfg.DataDir)
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	left := leftMachines{noMachines{dir.Volumes()}, qemu{runner: machine.NewRunner(machine.Config{Accel: machine.AccelTCG}, cfg.Log)}}
	c, err := Open(work, Options{Dir: dir, Account: cfg.Account, Log: cfg.Log, StayDown: true}, left)
	if err != nil {
		return err
	}
	err = c.StopMachines(ctx)
	cancel()
	return errors.Join(err, c.Close())
}

// leftMachines finds the machines that a daemon left, of whichever kind it had,
// and starts none.
type leftMachines struct {
	noMachines
	qemu qemu
}

func (leftMachines) start(context.Context, machine.Spec) (vm, error) {
	return nil, errors.New("machines are being stopped")
}

func (l leftMachines) adopt(ctx context.Context, dir string) (vm, error) {
	m, err := l.noMachines.adopt(ctx, dir)
	if errors.Is(err, machine.ErrNotRunning) {
		return l.qemu.adopt(ctx, dir)
	}
	return m, err
}

// bootID names this run of the host's kernel: machines of another are gone
// because the host was restarted, not because they failed.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// wake decides about an instance without a machine when the cloud is opened:
// what ran when the cloud was stopped or the host went down runs again.
func (c *Cloud) wake(i *state.Instance) error {
	if c.stayDown || c.running.get(i.ID) != nil {
		return nil
	}
	hostWentDown := i.State == state.Running && i.Want == state.Running && i.BootID != "" && i.BootID != bootID()
	if !hostWentDown && (!i.Resume || i.State != state.Stopped) {
		return nil
	}
	return amend(c, jobOf(i), c.setGoing)
}
