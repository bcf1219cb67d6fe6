package cloud

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/snapshot"
)

// hypervisor starts machines and finds those that outlived a daemon.
type hypervisor interface {
	start(ctx context.Context, spec machine.Spec) (vm, error)
	// adopt gives machine.ErrNotRunning where the folder's machine is gone.
	adopt(ctx context.Context, dir string) (vm, error)
	// accel is what machines run under by default: kvm, tcg or none.
	accel() string
	// firmware is the file with the variables that UEFI's firmware begins with;
	// empty where there are no machines. machine.ErrNoFirmware where it isn't
	// installed.
	firmware() (string, error)
	// note says what the user should know of it; empty for nothing.
	note() string
}

// vm is a running machine.
type vm interface {
	Status(ctx context.Context) (machine.Status, error)
	Done() <-chan struct{}
	Events() <-chan machine.Event
	Shutdown(ctx context.Context, grace time.Duration) error
	Kill(ctx context.Context) error
	// Reboot restarts the guest, gently if it can be within the grace.
	Reboot(ctx context.Context, grace time.Duration) error
	// Release lets go of the machine, which runs on.
	Release() error
	Continue(ctx context.Context) error
	Attach(ctx context.Context, d machine.Disk) error
	Detach(ctx context.Context, volumeID string, timeout time.Duration) error
	// Seize takes a volume from a guest that does not let go of it.
	Seize(ctx context.Context, volumeID string) error
	Disks(ctx context.Context) ([]string, error)
	Snapshot(ctx context.Context, name string, disks []machine.Freeze) (instant, error)
	// SettleRecords tells a machine that was adopted which of the snapshots that
	// were being taken are complete.
	SettleRecords(ctx context.Context, completed func(ctx context.Context, snapshot string) (bool, error)) error
	// Left says, once, what was changed of the volumes that the machine has given
	// back in order.
	Left() map[string]machine.Recorded
	ConsoleLog() string
	// Console connects to the serial port, in both directions. It is for one
	// user at a time.
	Console(ctx context.Context) (io.ReadWriteCloser, error)
	// Grow tells the guest of a disk's new size, in bytes, once its file has it.
	Grow(ctx context.Context, volumeID string, size int64) error
	NetSocket() string
	Accel() machine.Accel
}

// instant is a machine's disks at one point in time.
type instant interface {
	Source(volumeID string) (instantSource, error)
	// Completed says that the snapshot of a volume is in the store, Forget that
	// what is recorded of the volume is of no use.
	Completed(volumeID string)
	Forget(volumeID string)
	Close(ctx context.Context) error
}

// instantSource is a volume of an instant.
type instantSource interface {
	snapshot.Source
	io.Closer
	// Recorded is what was changed since an earlier snapshot; nil if that isn't
	// known. Release gives up what isn't in the set, Discard what was read.
	Recorded() *machine.Recorded
	Release(changed []byte) error
	Discard(off, length int64) error
}

// qemu runs machines with QEMU.
type qemu struct {
	runner *machine.Runner
	kind   string
	remark string
}

func (q qemu) start(ctx context.Context, spec machine.Spec) (vm, error) {
	m, err := q.runner.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return qemuVM{m}, nil
}

func (q qemu) adopt(ctx context.Context, dir string) (vm, error) {
	m, err := q.runner.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	return qemuVM{m}, nil
}

func (q qemu) accel() string             { return q.kind }
func (q qemu) note() string              { return q.remark }
func (q qemu) firmware() (string, error) { return q.runner.Firmware() }

type qemuVM struct{ *machine.Machine }

func (m qemuVM) Snapshot(ctx context.Context, name string, disks []machine.Freeze) (instant, error) {
	at, err := m.Machine.Snapshot(ctx, name, disks)
	if err != nil {
		return nil, err
	}
	return qemuInstant{at}, nil
}

type qemuInstant struct{ *machine.Instant }

func (i qemuInstant) Source(volumeID string) (instantSource, error) {
	src, err := i.Instant.Source(volumeID)
	if err != nil {
		return nil, err
	}
	return src, nil
}

// noMachines serves the API without machines: instances change their states as
// they would, and nothing runs. A file in the instance's folder stands for the
// process, so that what a restarted daemon finds is as it would be.
type noMachines struct{ volumes string }

const shadowFile = "shadow"

func (n noMachines) start(_ context.Context, spec machine.Spec) (vm, error) {
	path := filepath.Join(spec.Dir, shadowFile)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	return n.shadow(path), nil
}

func (n noMachines) adopt(_ context.Context, dir string) (vm, error) {
	path := filepath.Join(dir, shadowFile)
	if _, err := os.Stat(path); err != nil {
		return nil, machine.ErrNotRunning
	}
	return n.shadow(path), nil
}

func (noMachines) accel() string             { return "none" }
func (noMachines) firmware() (string, error) { return "", nil }
func (noMachines) note() string {
	return "serving the API without machines: instances have states but nothing runs"
}

type shadow struct {
	path    string
	volumes string // their folder
	once    sync.Once
	done    chan struct{}
}

func (n noMachines) shadow(path string) *shadow {
	return &shadow{path: path, volumes: n.volumes, done: make(chan struct{})}
}

func (s *shadow) Status(context.Context) (machine.Status, error) {
	select {
	case <-s.done:
		return machine.Status{State: machine.Exited}, nil
	default:
		return machine.Status{State: machine.Running}, nil
	}
}
func (s *shadow) Done() <-chan struct{}                         { return s.done }
func (s *shadow) Events() <-chan machine.Event                  { return nil }
func (s *shadow) Shutdown(context.Context, time.Duration) error { return s.Kill(context.Background()) }

func (s *shadow) Kill(context.Context) error {
	s.once.Do(func() { close(s.done) })
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
func (*shadow) Reboot(context.Context, time.Duration) error         { return nil }
func (*shadow) Release() error                                      { return nil }
func (*shadow) Continue(context.Context) error                      { return nil }
func (*shadow) Attach(context.Context, machine.Disk) error          { return nil }
func (*shadow) Detach(context.Context, string, time.Duration) error { return nil }
func (*shadow) Seize(context.Context, string) error                 { return nil }
func (*shadow) Disks(context.Context) ([]string, error)             { return nil, nil }

// Snapshot reads the files themselves: no guest writes to them.
func (s *shadow) Snapshot(context.Context, string, []machine.Freeze) (instant, error) {
	return shadowInstant{s.volumes}, nil
}

func (*shadow) SettleRecords(context.Context, func(context.Context, string) (bool, error)) error {
	return nil
}
func (*shadow) Left() map[string]machine.Recorded { return nil }

func (*shadow) ConsoleLog() string { return "" }
func (*shadow) Console(context.Context) (io.ReadWriteCloser, error) {
	return nil, errors.New("there are no machines here, so nothing is at the other end")
}

// Grow makes the file longer itself, as QEMU would.
func (s *shadow) Grow(_ context.Context, volumeID string, size int64) error {
	return os.Truncate(filepath.Join(s.volumes, volumeID+".raw"), size)
}
func (*shadow) NetSocket() string    { return "" }
func (*shadow) Accel() machine.Accel { return "none" }

type shadowInstant struct{ volumes string }

func (i shadowInstant) Source(volumeID string) (instantSource, error) {
	f, err := os.Open(filepath.Join(i.volumes, volumeID+".raw"))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return shadowSource{sparseFile{f, st.Size()}, f}, nil
}

func (shadowInstant) Completed(string)            {}
func (shadowInstant) Forget(string)               {}
func (shadowInstant) Close(context.Context) error { return nil }

type shadowSource struct {
	sparseFile
	io.Closer
}

func (shadowSource) Recorded() *machine.Recorded { return nil }
func (shadowSource) Release([]byte) error        { return nil }
func (shadowSource) Discard(int64, int64) error  { return nil }
