package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// Machine is a QEMU process. Its methods may be called from several goroutines.
type Machine struct {
	spec  Spec
	accel Accel
	proc  *process
	qmp   *qmp.Client
	log   *slog.Logger

	consoleBegan int64 // length of the console's log at this start
	events       chan Event

	// graph is held, by whoever has put a value in it, while the block graph
	// is changed. A channel, because waiting for it can be given up.
	graph chan struct{}

	mu       sync.Mutex
	waiters  map[*waiter]struct{}
	ioError  *IOError            // why the machine stands still
	asked    int                 // callers who told the guest to power off
	instants map[string]*Instant // by volume; read or write under graph
	quiet    chan struct{}       // closed when instants became empty; nil when it is
	left     map[string]Recorded // of volumes that were closed in order
	doubtful map[string]bool     // volumes whose records can't be relied upon; "" for all
}

// waiter is somebody who waits for one of QEMU's events.
type waiter struct {
	match func(qmp.Event) bool
	seen  chan struct{} // buffered; one value is enough
}

func newMachine(spec Spec, accel Accel, p *process, log *slog.Logger) *Machine {
	return &Machine{
		spec: spec, accel: accel, proc: p, log: log.With("machine", spec.ID),
		events:   make(chan Event, eventBuffer),
		graph:    make(chan struct{}, 1),
		waiters:  map[*waiter]struct{}{},
		instants: map[string]*Instant{},
		left:     map[string]Recorded{},
		doubtful: map[string]bool{},
	}
}

// ID returns the machine's ID.
func (m *Machine) ID() string { return m.spec.ID }

// PID returns the number of the QEMU process.
func (m *Machine) PID() int { return m.proc.pid }

// Accel says how the guest's processor is run: AccelKVM or AccelTCG.
func (m *Machine) Accel() Accel { return m.accel }

// ConsoleLog is the path of what the guest wrote to its serial port, over all
// its starts. It may be truncated at any time.
func (m *Machine) ConsoleLog() string { return filepath.Join(m.spec.Dir, fileConsole) }

// NetSocket is the path of the socket on which QEMU takes the network, one
// connection at a time, in stream framing (a 32-bit big-endian length before each
// frame). A new connection may follow one that ended. Empty without a NIC.
func (m *Machine) NetSocket() string {
	if m.spec.NIC == nil {
		return ""
	}
	return filepath.Join(m.spec.Dir, fileNet)
}

// Done is closed when the process is gone.
func (m *Machine) Done() <-chan struct{} { return m.proc.done }

// Release lets go of the machine, which runs on; Open takes hold of it again.
// Only Done is of use afterwards.
func (m *Machine) Release() error {
	m.proc.released.Store(true)
	return m.qmp.Close()
}

// Status asks what the machine does now.
func (m *Machine) Status(ctx context.Context) (Status, error) {
	var answer struct {
		Status string `json:"status"`
	}
	if err := m.execute(ctx, "query-status", nil, &answer); err != nil {
		if errors.Is(err, ErrNotRunning) {
			return Status{State: Exited}, nil
		}
		return Status{}, fmt.Errorf("status of machine %s: %w", m.spec.ID, err)
	}
	st := Status{State: stateOf(answer.Status), Reason: answer.Status}
	if answer.Status == "io-error" {
		ioErr, err := m.findIOError(ctx)
		if err != nil {
			return Status{}, fmt.Errorf("status of machine %s: %w", m.spec.ID, err)
		}
		st.IOError = &ioErr
	}
	return st, nil
}

// stateOf translates QEMU's RunState.
func stateOf(status string) State {
	switch status {
	case "running", "suspended", "debug":
		return Running
	case "shutdown":
		return GuestShutdown
	case "internal-error", "guest-panicked":
		return Failed
	default: // paused, io-error, prelaunch and what later versions add
		return Paused
	}
}

// findIOError asks which disk the machine stands still for.
func (m *Machine) findIOError(ctx context.Context) (IOError, error) {
	var disks []struct {
		Status   string `json:"io-status"`
		Inserted struct {
			NodeName string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := m.execute(ctx, "query-block", nil, &disks); err != nil {
		return IOError{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ioError != nil {
		return *m.ioError, nil // as the event told, with the reason
	}
	for _, d := range disks {
		if d.Status == "failed" || d.Status == "nospace" {
			e := IOError{VolumeID: volumeOfNode(d.Inserted.NodeName), Reason: "input/output error", NoSpace: d.Status == "nospace"}
			if e.NoSpace {
				e.Reason = "no space left on device"
			}
			return e, nil
		}
	}
	return IOError{Reason: "unknown"}, nil
}

// execute runs a QMP command; ErrNotRunning when the process is gone.
func (m *Machine) execute(ctx context.Context, command string, args, result any) error {
	ctx, stop := context.WithTimeout(ctx, answerTimeout)
	defer stop()
	err := m.qmp.Execute(ctx, command, args, result)
	if !errors.Is(err, qmp.ErrClosed) || m.proc.released.Load() {
		return err
	}
	// QEMU closes its socket a moment before it ends.
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if m.proc.wait(ctx) == nil {
		return fmt.Errorf("%s: %w", command, ErrNotRunning)
	}
	return err
}

// lockGraph waits for the right to change the block graph.
func (m *Machine) lockGraph(ctx context.Context) (unlock func(), err error) {
	select {
	case m.graph <- struct{}{}:
		return func() { <-m.graph }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another change of the disks: %w", ctx.Err())
	case <-m.proc.done:
		return nil, ErrNotRunning
	}
}

// letRun has what the guest changes recorded, lets it go and waits until it runs.
func (m *Machine) letRun(ctx context.Context) error {
	if m.spec.recorded() {
		m.beginRecords(ctx, m.spec.Disks)
		if err := m.execute(ctx, "cont", nil, nil); err != nil {
			return err
		}
	}
	return m.awaitRunning(ctx)
}

// leavePrelaunch lets a guest go whose daemon died before it could. What it
// changes isn't recorded unless that was begun already.
func (m *Machine) leavePrelaunch(ctx context.Context) error {
	st, err := m.Status(ctx)
	if err != nil || st.Reason != "prelaunch" {
		return err
	}
	return m.execute(ctx, "cont", nil, nil)
}

// awaitRunning waits until QEMU has left its preparations.
func (m *Machine) awaitRunning(ctx context.Context) error {
	for {
		st, err := m.Status(ctx)
		switch {
		case err != nil:
			return err
		case st.State == Exited:
			return ErrNotRunning
		case st.State == Running || st.State == GuestShutdown:
			return nil
		case st.State == Failed || st.IOError != nil:
			return fmt.Errorf("machine is %s (%s)", st.State, st.Reason)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errSilent says that a machine showed no sign of life.
var errSilent = errors.New("the guest shows no sign of life")

// bootedBytes is how much a guest has read from its disks when more than its
// firmware and its boot loader's first stage must be at work.
const bootedBytes = 1 << 20

// awaitLife waits for a sign that the guest's processor really runs: anything on
// the serial port. What boots from its own disk, or has no console there, may
// never write to it; then reading from the disk counts as well.
func (m *Machine) awaitLife(ctx context.Context, limit time.Duration) error {
	silence := time.NewTimer(limit)
	defer silence.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	quiet := m.spec.Kernel == "" || !strings.Contains(m.spec.Cmdline, "console=ttyS")
	for {
		if n := consoleSize(m.spec.Dir); n != m.consoleBegan {
			return nil
		}
		if quiet {
			if n, err := m.bytesRead(ctx); err == nil && n >= bootedBytes {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-silence.C:
			return fmt.Errorf("%w after %s under %s", errSilent, limit, m.accel)
		case <-m.proc.done:
			return fmt.Errorf("%w: QEMU says: %s", ErrNotRunning, tail(filepath.Join(m.spec.Dir, fileLog)))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Machine) bytesRead(ctx context.Context) (int64, error) {
	var disks []struct {
		Stats struct {
			Read int64 `json:"rd_bytes"`
		} `json:"stats"`
	}
	if err := m.execute(ctx, "query-blockstats", nil, &disks); err != nil {
		return 0, err
	}
	var n int64
	for _, d := range disks {
		n += d.Stats.Read
	}
	return n, nil
}

// removeFile removes a file that may be absent.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
