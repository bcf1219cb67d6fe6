package machine

import "errors"

// Errors that a caller tells apart.
var (
	// ErrNotRunning is returned for a machine whose process is gone.
	ErrNotRunning = errors.New("machine is not running")
	// ErrRunning is returned by Start for a folder whose machine runs already:
	// Open adopts it.
	ErrRunning = errors.New("machine is running already")
	// ErrGuestHolds is returned by Detach when the guest didn't let go of the
	// disk in time. The request stands: a later Detach may find it granted.
	ErrGuestHolds = errors.New("guest has not released the disk")
	// ErrBusy is returned for a volume of which a snapshot is being read.
	ErrBusy = errors.New("a snapshot of the volume is being read")
	// ErrNotAttached is returned for a volume that the machine doesn't have.
	ErrNotAttached = errors.New("volume is not attached")
	// ErrNoSlot is returned by Attach when the machine has MaxDisks disks.
	ErrNoSlot = errors.New("no free slot for another disk")
	// ErrNoConsole is returned by Console for a machine that was started before
	// its serial port could be written to.
	ErrNoConsole = errors.New("the machine's serial port takes no input; start the machine anew")
	// ErrKVMUnusable is returned by Probe.
	ErrKVMUnusable = errors.New("KVM is not usable")
	// ErrNoFirmware is returned by Start when UEFI is asked for and OVMF isn't
	// installed.
	ErrNoFirmware = errors.New("UEFI firmware not found: install the package ovmf")
)

// State is what a machine's process does.
type State int

// The states of a machine.
const (
	// Running: the guest's processors run.
	Running State = iota + 1
	// Paused: they stand still; Status.IOError says when it is for a disk.
	Paused
	// GuestShutdown: the guest powered itself off. QEMU still holds the disks.
	GuestShutdown
	// Failed: the guest can't go on (its processor's state is lost).
	Failed
	// Exited: the process is gone.
	Exited
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Running:
		return "running"
	case Paused:
		return "paused"
	case GuestShutdown:
		return "guest-shutdown"
	case Failed:
		return "failed"
	case Exited:
		return "exited"
	}
	return "unknown"
}

// Status is a machine's state now.
type Status struct {
	State   State
	Reason  string   // QEMU's own word for it
	IOError *IOError // set while Paused by an error of a host's disk
}

// Event is something that a machine did by itself: one of the types below.
type Event interface{ event() }

// GuestShutdownEvent says that the guest powered itself off. The process remains
// until Shutdown or Kill.
type GuestShutdownEvent struct{}

// GuestResetEvent says that the guest restarted itself. The firmware may do so
// several times on its way up.
type GuestResetEvent struct{}

// IOError says that the host failed to read or write a volume and that the
// machine stands still because of it. As an Event it is sent once per failure.
type IOError struct {
	VolumeID string
	Reason   string
	NoSpace  bool // the host's disk is full: make room, then Continue
}

// ResumedEvent says that a machine that stood still runs again.
type ResumedEvent struct{}

// ExitedEvent says that the process is gone. It is the last event.
type ExitedEvent struct{}

func (GuestShutdownEvent) event() {}
func (GuestResetEvent) event()    {}
func (IOError) event()            {}
func (ResumedEvent) event()       {}
func (ExitedEvent) event()        {}
