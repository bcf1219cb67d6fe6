package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Config joins a Manager to its cloud. EC2 is required; all else has defaults.
type Config struct {
	EC2    EC2
	SSM    SSM // nil: aliases are found by DescribeImages alone
	Region string
	// Local tells that the endpoint is the local cloud. It decides which
	// aliases there are and the default login user, nothing else.
	Local bool
	Log   *slog.Logger
	// Notify is called with progress, from the calling goroutine.
	Notify func(Event)
	Now    func() time.Time
	// PollMin and PollMax bound the pause between two looks at something that
	// changes by itself: it grows from one to the other. Defaults: 100 ms, 3 s.
	PollMin, PollMax time.Duration
	// StateTimeout bounds each wait for a state (running, stopped, attached),
	// SSHTimeout the wait for ssh. Snapshots and images are bounded by the
	// context alone. Defaults: 10 min, 5 min.
	StateTimeout, SSHTimeout time.Duration
	// Dial connects to ssh to see whether it answers. Default: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Manager keeps the servers of one endpoint and region. It holds no state
// between calls and may be used from several goroutines.
type Manager struct {
	ec2          EC2
	ssm          SSM
	region       string
	local        bool
	log          *slog.Logger
	notify       func(Event)
	now          func() time.Time
	pollMin      time.Duration
	pollMax      time.Duration
	stateTimeout time.Duration
	sshTimeout   time.Duration
	dial         func(ctx context.Context, network, addr string) (net.Conn, error)
}

// New returns a Manager for cfg.
func New(cfg Config) *Manager {
	m := &Manager{
		ec2: cfg.EC2, ssm: cfg.SSM, region: cfg.Region, local: cfg.Local,
		log: cfg.Log, notify: cfg.Notify, now: cfg.Now, dial: cfg.Dial,
		pollMin:      orDuration(cfg.PollMin, 100*time.Millisecond),
		pollMax:      orDuration(cfg.PollMax, 3*time.Second),
		stateTimeout: orDuration(cfg.StateTimeout, 10*time.Minute),
		sshTimeout:   orDuration(cfg.SSHTimeout, 5*time.Minute),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.notify == nil {
		m.notify = func(Event) {}
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.dial == nil {
		m.dial = (&net.Dialer{}).DialContext
	}
	return m
}

func orDuration(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}

// Create makes a server and waits as far as asked. Repeated after an
// interruption with the same options it completes what was begun; a finished
// server of that name is ErrExists.
func (m *Manager) Create(ctx context.Context, o CreateOptions) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// List returns all servers, by name.
func (m *Manager) List(ctx context.Context) ([]Server, error) { return nil, errors.ErrUnsupported }

// Get returns the server called name, or ErrNotFound.
func (m *Manager) Get(ctx context.Context, name string) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Start starts a stopped server and waits. On a running one it only waits. One
// without an instance needs Rescue.
func (m *Manager) Start(ctx context.Context, name string, wait WaitFor) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Stop shuts a server down and waits until it is stopped; force doesn't wait
// for the guest.
func (m *Manager) Stop(ctx context.Context, name string, force bool) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Reboot restarts a running server.
func (m *Manager) Reboot(ctx context.Context, name string, wait WaitFor) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Terminate ends the server's instance, after it has made sure that every disk
// stays. Without an instance it only reports the disks.
func (m *Manager) Terminate(ctx context.Context, name string) (*TerminateResult, error) {
	return nil, errors.ErrUnsupported
}

// Rescue brings a server without an instance back.
func (m *Manager) Rescue(ctx context.Context, name string, o RescueOptions) (*RescueResult, error) {
	return nil, errors.ErrUnsupported
}

// Snapshot takes a set of all the server's disks.
func (m *Manager) Snapshot(ctx context.Context, name string, o SnapshotOptions) (*SnapshotSet, error) {
	return nil, errors.ErrUnsupported
}

// Snapshots lists the server's sets, newest first; all servers' with name "".
func (m *Manager) Snapshots(ctx context.Context, name string) ([]SnapshotSet, error) {
	return nil, errors.ErrUnsupported
}

// VolumeCreate makes a blank data disk of a server, and attaches it when the
// server has an instance.
func (m *Manager) VolumeCreate(ctx context.Context, o VolumeOptions) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeAttach makes an available volume a data disk of the server and plugs
// it in. device "" means the recorded one, else the next free.
func (m *Manager) VolumeAttach(ctx context.Context, volumeID, server, device string) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeDetach unplugs a data disk and takes it out of its server; it keeps
// its data.
func (m *Manager) VolumeDetach(ctx context.Context, volumeID string) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeList returns the disks of the server, or with server "" every volume
// in the region, superseded and unowned ones too.
func (m *Manager) VolumeList(ctx context.Context, server string) ([]Disk, error) {
	return nil, errors.ErrUnsupported
}

// ImageList returns the caller's own images, and the aliases that resolve.
func (m *Manager) ImageList(ctx context.Context) ([]Image, error) { return nil, errors.ErrUnsupported }

// ImageDurable makes an image from which whatever launches it keeps its disks.
func (m *Manager) ImageDurable(ctx context.Context, o DurableOptions) (*Image, error) {
	return nil, errors.ErrUnsupported
}

// ResolveImage finds an image by ID, alias or the name of an own image. arch
// is EC2's (x86_64, arm64); "" means x86_64.
func (m *Manager) ResolveImage(ctx context.Context, ref, arch string) (*Image, error) {
	return nil, errors.ErrUnsupported
}

// ConsoleOutput returns what the server's instance wrote to its console.
func (m *Manager) ConsoleOutput(ctx context.Context, name string) (string, error) {
	return "", errors.ErrUnsupported
}
