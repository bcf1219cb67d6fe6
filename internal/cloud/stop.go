package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// StopMachines shuts every machine down cleanly and waits until they are off.
// Their instances are started again when the cloud is next opened.
func (c *Cloud) StopMachines(ctx context.Context) error {
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		insts, err := state.All[state.Instance](tx)
		if err != nil {
			return err
		}
		for _, i := range insts {
			if i.Want != state.Running {
				continue
			}
			i.Want, i.Resume = state.Stopped, true
			c.enter(i, state.Stopping)
			c.reason(i, "Server.ScheduledStop", "The local cloud was stopped")
			if err := state.Put(tx, i); err != nil {
				return err
			}
			jobs = append(jobs, jobOf(i))
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.work.kick(jobs...)
	return c.waitOff(ctx)
}

func (c *Cloud) waitOff(ctx context.Context) error {
	for {
		busy := 0
		err := c.db.View(func(tx *state.Tx) error {
			insts, err := state.All[state.Instance](tx)
			for _, i := range insts {
				if i.State != state.Stopped && i.State != state.Terminated {
					busy++
				}
			}
			return err
		})
		if err != nil || busy == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d machines still run: %w", busy, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// StopWithoutDaemon shuts down the machines that a daemon left behind.
func StopWithoutDaemon(ctx context.Context, dataDir string, log *slog.Logger) error {
	cfg, err := Config{DataDir: dataDir, Log: log}.complete()
	if err != nil {
		return err
	}
	dir := Dir(cfg.DataDir)
	if _, err := os.Stat(dir.StateFile()); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever started there
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer unlock()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := Open(work, Options{Dir: dir, Account: cfg.Account, Log: cfg.Log, StayDown: true}, newHypervisor(cfg))
	if err != nil {
		return err
	}
	err = c.StopMachines(ctx)
	cancel()
	return errors.Join(err, c.Close())
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
