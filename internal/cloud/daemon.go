package cloud

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/snapshot"
)

// DefaultListen is where the API is found unless said otherwise.
const DefaultListen = "127.0.0.1:8773"

// DefaultAccount is the account that a cloud's resources belong to.
const DefaultAccount = "000000000000"

// Config is what a daemon runs with.
type Config struct {
	// Listen is the API's host:port. Empty is DefaultListen, or any free port
	// of the loopback where that one is taken.
	Listen   string
	DataDir  string
	Machines string // auto or none
	Account  string // twelve digits; empty is DefaultAccount
	Accel    string // auto, kvm or tcg; empty is auto
	Egress   bool   // whether machines reach beyond the cloud
	// TrashDays is how many days a deleted snapshot can be had back, 0 not at
	// all; nil is a week.
	TrashDays *int
	StopOnly  bool // shut down the machines that a dead daemon left, and end
	Version   string
	Log       *slog.Logger
}

// ErrInUse says that another daemon has the data folder.
var ErrInUse = errors.New("another daemon is running on the data folder")

// ErrVersion says that another version of this program made the data folder's
// snapshot store, in a format that this one doesn't have.
var ErrVersion = snapshot.ErrVersion

// Credentials sign requests to the local cloud.
type Credentials struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

// Run serves the cloud until ctx ends. Machines live on; the next daemon
// adopts them.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	dir := Dir(cfg.DataDir)
	if err := closeFolder(cfg.DataDir); err != nil {
		return err
	}
	unlock, err := claimFolder(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	if cfg.StopOnly {
		return stopLeft(ctx, cfg)
	}
	keys, err := loadKeys(dir.KeysFile())
	if err != nil {
		return err
	}
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	hyper := newHypervisor(cfg)
	c, err := Open(work, Options{Dir: dir, Account: cfg.Account, Egress: cfg.Egress, Keys: keys, Trash: trashTime(cfg.TrashDays), Log: cfg.Log}, hyper)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	life, endLife := context.WithCancel(context.WithoutCancel(ctx))
	defer endLife()
	d := &daemon{
		cfg: cfg, cloud: c, started: time.Now(), built: executableTime(), listener: listener, stop: make(chan bool, 1),
		life: life, endLife: endLife,
	}
	cfg.Log.Info("serving", "endpoint", d.endpoint(), "folder", cfg.DataDir, "machines", hyper.accel(), "note", hyper.note(), "version", cfg.Version)
	err = d.serve(ctx)
	stopWork()
	return errors.Join(err, c.Close())
}

func (cfg Config) complete() (Config, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Account == "" {
		cfg.Account = DefaultAccount
	}
	if len(cfg.Account) != 12 {
		return cfg, fmt.Errorf("account ID %q: give twelve digits", cfg.Account)
	}
	switch cfg.Machines {
	case "", "auto", "none":
	default:
		return cfg, fmt.Errorf("machines %q: give auto or none", cfg.Machines)
	}
	if cfg.DataDir == "" {
		return cfg, errors.New("no data folder given")
	}
	abs, err := filepath.Abs(cfg.DataDir)
	cfg.DataDir = abs
	return cfg, err
}

func newHypervisor(cfg Config) hypervisor {
	if cfg.Machines == "none" {
		return noMachines{Dir(cfg.DataDir).Volumes()}
	}
	accel, note := machine.Accel(cfg.Accel), ""
	if accel == "" || accel == machine.AccelAuto {
		accel = machine.AccelAuto
		if err := machine.Probe(kvmLimit); err != nil {
			accel, note = machine.AccelTCG, "KVM cannot be used ("+err.Error()+"): machines are emulated, several times slower"
		}
	}
	q := qemu{runner: machine.NewRunner(machine.Config{Accel: accel}, cfg.Log), kind: string(accel), remark: note}
	if accel == machine.AccelAuto {
		q.kind = string(machine.AccelKVM)
	}
	return q
}

// claimFolder is lockFolder for a daemon: who only looks whether the folder is
// free has the lock for a moment, too.
func claimFolder(ctx context.Context, dir Dir) (unlock func(), err error) {
	for range 20 {
		if unlock, err = lockFolder(dir); !errors.Is(err, ErrInUse) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil, err
}

// lockFolder makes this the folder's only daemon.
func lockFolder(dir Dir) (unlock func(), err error) {
	f, err := os.OpenFile(dir.LockFile(), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w; `stead cloud status` shows it", dir, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", dir.LockFile(), err)
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// loadKeys reads the folder's access key, making it at first start.
func loadKeys(path string) (Credentials, error) {
	var keys Credentials
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKeys(path)
	}
	if err != nil {
		return keys, fmt.Errorf("read access key: %w", err)
	}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return keys, fmt.Errorf("read access key %s: not a key (%w); remove the file and a new one is made", path, err)
	}
	if keys.AccessKeyID == "" || keys.SecretAccessKey == "" {
		return keys, fmt.Errorf("read access key %s: half a key; remove the file and a new one is made", path)
	}
	return keys, nil
}

func createKeys(path string) (Credentials, error) {
	var id [10]byte
	var secret [30]byte
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(secret[:])
	keys := Credentials{
		AccessKeyID:     "AKIA" + base32.StdEncoding.EncodeToString(id[:]),
		SecretAccessKey: base64.RawStdEncoding.EncodeToString(secret[:]),
	}
	raw, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return keys, err
	}
	if err := writeFile(path, append(raw, '\n')); err != nil {
		return keys, fmt.Errorf("write access key: %w", err)
	}
	return keys, nil
}

// writeFile replaces a file, readable by its owner alone, atomically and on
// the disk before it returns.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func listen(cfg Config) (net.Listener, error) {
	if cfg.Listen != "" {
		l, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for the API: %w", err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", DefaultListen)
	if errors.Is(err, syscall.EADDRINUSE) {
		cfg.Log.Info("port taken, another is used", "wanted", DefaultListen)
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	return l, nil
}

// daemon is a Cloud being served.
type daemon struct {
	cfg      Config
	cloud    *Cloud
	started  time.Time
	built    time.Time // of the executable that runs
	listener net.Listener
	stop     chan bool // whether the machines stop too
	life     context.Context
	endLife  context.CancelFunc
	builds   sync.WaitGroup     // of images; they end with life
	flights  singleflight.Group // builds by name: one at a time
	audience audience           // who waits for them
}

func (d *daemon) endpoint() string { return "http://" + d.listener.Addr().String() }

func (d *daemon) serve(ctx context.Context) error {
	control, err := listenControl(d.cloud.dir.ControlSocket())
	if err != nil {
		return errors.Join(err, d.listener.Close())
	}
	api := &http.Server{Handler: d.cloud, ReadHeaderTimeout: 10 * time.Second}
	orders := &http.Server{Handler: d.controlHandler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- api.Serve(d.listener) }()
	go func() { failed <- orders.Serve(control) }()
	select {
	case <-ctx.Done():
	case machines := <-d.stop:
		if machines {
			err = d.cloud.StopMachines(ctx)
		}
	case err = <-failed:
	}
	d.endLife()
	quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	for _, s := range []*http.Server{api, orders} {
		if e := s.Shutdown(quiet); e != nil {
			_ = s.Close() // a client that lingers is cut off
		}
	}
	d.builds.Wait() // they write to what is closed next
	return err
}

// listenControl opens the socket for orders, in place of a dead daemon's.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// A socket's mode before it is bound becomes its file's, so that there is no
	// moment in which others may connect.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w (a socket's path has at most 107 bytes)", err)
	}
	return l, nil
}

func executableTime() time.Time {
	st, err := os.Stat("/proc/self/exe")
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}
