package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

const (
	// killTimeout bounds the wait for a process that was told to end at once.
	// It may have to finish writing to a slow disk.
	killTimeout = 10 * time.Second
	// answerTimeout is how long QEMU has to answer a command; one that takes
	// longer is wedged, not busy.
	answerTimeout = 20 * time.Second
	// pressEvery is how often the power button is pressed again: a press before
	// the guest has loaded its driver goes unheard.
	pressEvery = 5 * time.Second
)

// Shutdown presses the power button, gives the guest until grace has passed to
// power itself off, and ends QEMU, by force if need be. A snapshot that is being
// read is waited for once the guest is off. The process is gone when Shutdown
// returns nil; when ctx ends before, the machine may be left with its guest
// powered off, and Shutdown or Kill can be called again.
func (m *Machine) Shutdown(ctx context.Context, grace time.Duration) error {
	if err := m.shutdown(ctx, grace); err != nil {
		return fmt.Errorf("shut down machine %s: %w", m.spec.ID, err)
	}
	return nil
}

func (m *Machine) shutdown(ctx context.Context, grace time.Duration) error {
	if err := m.powerOff(ctx, grace); err != nil {
		return err
	}
	for {
		if err := m.awaitInstants(ctx); err != nil {
			return err
		}
		if done, err := m.quit(ctx); done || err != nil {
			return err
		}
	}
}

// quit ends QEMU, unless a snapshot was begun meanwhile. What the guest has
// changed is read before: it stands still from then on.
func (m *Machine) quit(ctx context.Context) (done bool, err error) {
	unlock, err := m.lockGraph(ctx)
	if errors.Is(err, ErrNotRunning) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	if m.countInstants() > 0 {
		return false, nil
	}
	resumed, forget := m.resumed()
	defer forget()
	last := m.standStill(ctx)
	if err := m.end(ctx); err != nil {
		return false, err
	}
	if !resumed() {
		m.leave(last)
	}
	return true, nil
}

// standStill stops the guest for good and reads what it has changed of its disks.
func (m *Machine) standStill(ctx context.Context) map[string]Recorded {
	if err := m.execute(ctx, "stop", nil, nil); err != nil {
		return nil
	}
	st, err := m.Status(ctx)
	if err != nil || st.State == Running {
		return nil
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return nil
	}
	var volumes []string
	for name := range nodes {
		if id, ok := strings.CutPrefix(name, nodeFile("")); ok {
			volumes = append(volumes, id)
		}
	}
	return m.lastRecords(ctx, nodes, volumes)
}

// end has QEMU end by itself, by force if need be.
func (m *Machine) end(ctx context.Context) error {
	qctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	// quit closes the disks in order. Its answer may be lost with QEMU.
	_ = m.qmp.Execute(qctx, "quit", nil, nil)
	if m.proc.wait(qctx) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.log.Warn("QEMU doesn't end by itself; killing it")
	return m.proc.kill(ctx)
}

// powerOff presses the power button until the guest is off, grace has passed or
// the process is gone. Only the end of ctx is an error.
func (m *Machine) powerOff(ctx context.Context, grace time.Duration) error {
	off, stop := m.expect(func(e qmp.Event) bool { return e.Name == "SHUTDOWN" })
	defer stop()
	m.ask(1)
	defer m.ask(-1)
	st, err := m.Status(ctx)
	if err != nil || st.State == GuestShutdown || st.State == Exited || st.State == Failed {
		return ctx.Err()
	}
	if st.State == Paused {
		// A guest that stands still can't shut down. If its disk still fails,
		// it stops again and grace passes.
		_ = m.cont(ctx)
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	press := time.NewTicker(pressEvery)
	defer press.Stop()
	for {
		if err := m.execute(ctx, "system_powerdown", nil, nil); err != nil {
			return ctx.Err()
		}
		select {
		case <-press.C:
		case <-off:
			return nil
		case <-m.proc.done:
			return nil
		case <-patience.C:
			m.log.Info("guest has not powered itself off in time", "grace", grace)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask counts those who want the guest to power off: it is no event then.
func (m *Machine) ask(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked += n
}

// awaitInstants waits until no snapshot is being read.
func (m *Machine) awaitInstants(ctx context.Context) error {
	m.mu.Lock()
	quiet := m.quiet
	m.mu.Unlock()
	if quiet == nil {
		return nil
	}
	select {
	case <-quiet:
		return nil
	case <-m.proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a snapshot to be read: %w", ctx.Err())
	}
}

// Kill ends the machine at once, like a power cut: what the guest hasn't flushed
// is lost, and a snapshot that is being read fails. The process is gone when it
// returns nil.
func (m *Machine) Kill(ctx context.Context) error {
	if err := m.proc.kill(ctx); err != nil {
		return fmt.Errorf("kill machine %s: %w", m.spec.ID, err)
	}
	return nil
}

// Reset presses the reset button: what the guest hasn't flushed is lost. A guest
// that powered itself off starts again.
func (m *Machine) Reset(ctx context.Context) error {
	if err := m.reset(ctx); err != nil {
		return fmt.Errorf("reset machine %s: %w", m.spec.ID, err)
	}
	return nil
}

func (m *Machine) reset(ctx context.Context) error {
	if err := m.execute(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	st, err := m.Status(ctx)
	if err != nil || st.State == Running {
		return err
	}
	return m.cont(ctx)
}

// Reboot lets the guest shut down in order, as Shutdown does, and starts it again
// in the same process. After grace it is reset by force.
func (m *Machine) Reboot(ctx context.Context, grace time.Duration) error {
	if err := m.powerOff(ctx, grace); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.spec.ID, err)
	}
	return m.Reset(ctx)
}

// Continue lets a machine go on that stands still for an error of the host's
// disk. The requests that failed are tried again.
func (m *Machine) Continue(ctx context.Context) error {
	if err := m.cont(ctx); err != nil {
		return fmt.Errorf("continue machine %s: %w", m.spec.ID, err)
	}
	return nil
}
