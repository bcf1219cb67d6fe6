package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadcloud/stead/internal/network"
	"github.com/steadcloud/stead/internal/sigv4"
	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
	"github.com/steadcloud/stead/internal/yield"
)

// Cloud is the local cloud on one data folder. It implements http.Handler.
type Cloud struct {
	dir     Dir
	account string
	egress  bool
	// stayDown: nothing is started again that a stop had ended.
	stayDown bool
	keys     Credentials
	log      *slog.Logger
	now      func() time.Time

	db        *state.DB
	volumes   *volume.Dir
	snapshots *snapshot.Engine
	hyper     hypervisor
	work      *queue
	uses      *diskUses
	running   *machines
	instants  *instants
	session   *yield.Session
	trash     time.Duration // how long a deleted snapshot can be had back; negative: not at all
	trashing  sync.Mutex    // held while snapshots go to the trash or come back
	// collecting says how soon the store may be looked through again.
	collecting pace
	networks   *networks
	consoles   consoles
	unadopted  idSet // instances whose machines run but do not answer
	uploads    *uploads
	blockLoad  blockLoad
	tokens     tokenKey
	stopping   atomic.Bool // machines are being shut down; none is started

	ready      sync.Map // state.Scope → struct{}: regions whose defaults exist
	ec2Actions map[string]action
	stsActions map[string]action
	ssmActions map[string]action
	dlmActions map[string]action
	binActions map[string]action
	ebsActions map[string]action
}

// Options are what a Cloud is opened with.
type Options struct {
	Dir     Dir
	Account string // twelve digits
	Egress  bool   // whether machines reach beyond the cloud
	Keys    Credentials
	// StayDown leaves instances off that ran when the cloud was last stopped.
	StayDown bool
	// Trash is how long a deleted snapshot can be had back: 0 is DefaultTrash,
	// negative not at all.
	Trash time.Duration
	Log   *slog.Logger
	Now   func() time.Time // nil is time.Now
}

// Open opens the cloud in its folder and begins to make what is match the
// records: machines that run are adopted, half-done work goes on. The workers
// end with ctx; machines live on.
func Open(ctx context.Context, o Options, hyper hypervisor) (*Cloud, error) {
	c := &Cloud{dir: o.Dir, account: o.Account, egress: o.Egress, stayDown: o.StayDown, keys: o.Keys, log: o.Log, now: o.Now, hyper: hyper}
	if c.now == nil {
		c.now = time.Now
	}
	if c.trash = o.Trash; c.trash == 0 {
		c.trash = DefaultTrash
	}
	var err error
	if c.db, err = state.Open(o.Dir.StateFile()); err != nil {
		return nil, err
	}
	if c.volumes, err = volume.Open(o.Dir.Volumes(), o.Log); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if c.snapshots, err = snapshot.OpenDir(ctx, o.Dir.Snapshots(), o.Log, snapshot.WithTrash(c.trash), snapshot.WithClock(c.now)); err != nil {
		return nil, err
	}
	if c.tokens, err = loadTokenKey(o.Dir.TokenKeyFile()); err != nil {
		return nil, err
	}
	c.uploads = newUploads()
	c.uses = newDiskUses()
	c.running = &machines{byID: map[string]*machineHandle{}}
	c.instants = &instants{bySnapshot: map[string]*heldInstant{}}
	c.session = yield.NewSession(o.Log)
	c.networks = &networks{byScope: map[state.Scope]*network.Network{}}
	c.work = newQueue(ctx, c.reconcile, o.Log)
	c.registerActions()
	if err := c.resume(ctx); err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	return c, nil
}

// Close waits for the workers to come to rest and closes the folder's files.
// Cancel Open's context first. Machines are left running.
func (c *Cloud) Close() error {
	c.work.wait()
	c.instants.endAll() // so that the machines copy nothing more for them
	err := c.running.release()
	c.networks.close()
	return errors.Join(err, c.uploads.closeAll(), c.snapshots.Close(), c.db.Close())
}

// credential is the sigv4.Lookup of the one pair of keys that the cloud has.
func (c *Cloud) credential(id string) (sigv4.Credential, bool) {
	if id != c.keys.AccessKeyID {
		return sigv4.Credential{}, false
	}
	return sigv4.Credential{AccessKeyID: id, SecretAccessKey: c.keys.SecretAccessKey, Account: c.account}, true
}
