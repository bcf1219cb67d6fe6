package server

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/price"
)

// Config joins a Manager to its cloud. EC2 is required; all else has defaults.
type Config struct {
	EC2    EC2
	SSM    SSM  // nil: aliases are found by DescribeImages alone
	DLM    DLM  // nil: schedules are refused
	RBin   RBin // nil: there is no recycle bin
	STS    STS  // nil: the role of a schedule must be named
	Region string
	// Blocks are the EBS direct APIs. nil: a server can't go to another cloud,
	// or come from one.
	Blocks blocks.API
	// Name is that of the context, which tells clouds apart.
	Name string
	// Journals is a folder for notes by which copies between clouds go on where
	// they were cut off. "": they begin anew then.
	Journals string
	// Plan tells that the clients only foresee what is changed, so that nothing
	// is done past them either.
	Plan bool
	// Prices are those that the endpoint charges. nil: it charges nothing, or
	// nobody knows what.
	Prices *price.Book
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
	// Guest reaches into a server's operating system. nil: what needs it says
	// so.
	Guest Guest
	// Regional returns the Manager of another region of the same cloud, for
	// what goes from one to the other. nil: there is but one.
	Regional func(region string) (*Manager, error)
	// Dial connects to ssh to see whether it answers. Default: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Guest runs programs in a server's operating system.
type Guest interface {
	// Run runs a POSIX shell script as root on a running server and returns
	// what it wrote to stdout. A script that fails is an error that ends with
	// what it wrote to stderr.
	Run(ctx context.Context, s *Server, script string) (string, error)
}

// Looker is a Guest that tells scripts which change nothing from others: a dry
// run runs those alone.
type Looker interface {
	// Look is Run for a script that only looks.
	Look(ctx context.Context, s *Server, script string) (string, error)
}

// Manager keeps the servers of one endpoint and region. It holds no state
// between calls and may be used from several goroutines.
type Manager struct {
	ec2          EC2
	ssm          SSM
	dlm          DLM
	rbin         RBin
	sts          STS
	region       string
	blocks       blocks.API
	name         string
	journals     string
	plan         bool
	prices       *price.Book
	local        bool
	log          *slog.Logger
	notify       func(Event)
	now          func() time.Time
	pollMin      time.Duration
	pollMax      time.Duration
	stateTimeout time.Duration
	sshTimeout   time.Duration
	guest        Guest
	regional     func(region string) (*Manager, error)
	dial         func(ctx context.Context, network, addr string) (net.Conn, error)
}

// New returns a Manager for cfg.
func New(cfg Config) *Manager {
	m := &Manager{
		ec2: cfg.EC2, ssm: cfg.SSM, dlm: cfg.DLM, rbin: cfg.RBin, sts: cfg.STS, region: cfg.Region, prices: cfg.Prices, local: cfg.Local,
		blocks: cfg.Blocks, name: cfg.Name, journals: cfg.Journals, plan: cfg.Plan,
		log: cfg.Log, notify: cfg.Notify, now: cfg.Now, guest: cfg.Guest, dial: cfg.Dial, regional: cfg.Regional,
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
