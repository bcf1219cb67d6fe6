package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// Defaults of Config.
const (
	defaultQEMU         = "qemu-system-x86_64"
	defaultStartTimeout = 30 * time.Second
	defaultFirstOutput  = 30 * time.Second
	defaultProbeLimit   = 40 * time.Millisecond
)

// Config says how machines are run. The zero value is useful.
type Config struct {
	// QEMU is the program: a path or a name in PATH. qemu-system-x86_64 when
	// empty. Version 7.2 or later.
	QEMU string
	// Accel is for machines whose Spec names none; AccelAuto when empty.
	Accel Accel
	// StartTimeout bounds the time until QEMU says that the machine runs.
	StartTimeout time.Duration
	// FirstOutput is how long a machine that got KVM by AccelAuto may show no
	// sign of life before it is started anew under TCG.
	FirstOutput time.Duration
	// ProbeKVM says whether KVM runs guests. Probe when nil.
	ProbeKVM func() error
	// Firmware are folders with OVMF's files, the usual ones when nil.
	Firmware []string
}

// Runner starts machines and finds those that run.
type Runner struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	probed bool
	noKVM  error // why AccelAuto means TCG
}

// NewRunner returns a Runner. It starts nothing.
func NewRunner(cfg Config, log *slog.Logger) *Runner {
	if cfg.QEMU == "" {
		cfg.QEMU = defaultQEMU
	}
	if cfg.Accel == "" {
		cfg.Accel = AccelAuto
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	if cfg.FirstOutput == 0 {
		cfg.FirstOutput = defaultFirstOutput
	}
	if cfg.ProbeKVM == nil {
		cfg.ProbeKVM = func() error { return Probe(defaultProbeLimit) }
	}
	if cfg.Firmware == nil {
		cfg.Firmware = []string{"/usr/share/OVMF", "/usr/share/edk2/x64", "/usr/share/edk2/ovmf"}
	}
	return &Runner{cfg: cfg, log: log}
}

// Start runs a new machine and returns when QEMU says that it runs. The process
// goes on when the caller ends. When it doesn't come up, the error holds what
// QEMU wrote and nothing is left running; ErrRunning when the folder's machine
// runs already.
//
// Under AccelAuto a machine that KVM fails, by dying at its start or by showing
// no sign of life (see Config.FirstOutput), is started once more under TCG, and
// so are later ones at once.
func (r *Runner) Start(ctx context.Context, spec Spec) (*Machine, error) {
	m, err := r.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", spec.ID, err)
	}
	return m, nil
}

func (r *Runner) start(ctx context.Context, spec Spec) (*Machine, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if pid, err := lockHolder(spec.Dir); err != nil || pid != 0 {
		return nil, errors.Join(ErrRunning, err)
	}
	if err := sweep(spec.Dir); err != nil {
		return nil, err
	}
	wanted := spec.Accel
	if wanted == "" {
		wanted = r.cfg.Accel
	}
	accel := r.choose(wanted)
	m, err := r.launch(ctx, spec, accel)
	if err == nil && wanted == AccelAuto && accel == AccelKVM {
		err = m.awaitLife(ctx, r.cfg.FirstOutput)
	}
	if err == nil || wanted != AccelAuto || accel != AccelKVM || ctx.Err() != nil || errors.Is(err, ErrRunning) {
		return m, r.abandon(m, err)
	}
	err = r.abandon(m, err)
	// It may have written to its disks before it failed.
	spec.Disks = slices.Clone(spec.Disks)
	for i := range spec.Disks {
		spec.Disks[i].Since = nil
	}
	r.log.Warn("machine failed under KVM; starting it once more under TCG, which is slower", "machine", spec.ID, "error", err)
	m, terr := r.launch(ctx, spec, AccelTCG)
	if terr != nil {
		return nil, terr // not KVM's fault
	}
	r.distrust(err)
	return m, nil
}

// abandon kills a machine that came to nothing, and passes on why.
func (r *Runner) abandon(m *Machine, why error) error {
	if why == nil || m == nil {
		return why
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	return errors.Join(why, m.Kill(ctx))
}

// choose turns AccelAuto into what works here.
func (r *Runner) choose(wanted Accel) Accel {
	if wanted != AccelAuto {
		return wanted
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.probed {
		r.probed = true
		if r.noKVM = r.cfg.ProbeKVM(); r.noKVM != nil {
			r.log.Info("KVM is not usable; machines run under TCG, which is slower", "reason", r.noKVM)
		}
	}
	if r.noKVM != nil {
		return AccelTCG
	}
	return AccelKVM
}

// distrust makes AccelAuto mean TCG from now on.
func (r *Runner) distrust(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probed, r.noKVM = true, why
}

// launch starts QEMU and waits until the machine runs.
func (r *Runner) launch(ctx context.Context, spec Spec, accel Accel) (*Machine, error) {
	firmware, err := r.prepareUEFI(spec)
	if err != nil {
		return nil, err
	}
	spec.Slotted = true
	began := consoleSize(spec.Dir)
	if err := writeRecord(spec.Dir, record{Spec: spec, Accel: accel}); err != nil {
		return nil, err
	}
	p, err := r.spawn(spec.Dir, arguments(spec, accel, firmware))
	if err != nil {
		return nil, err
	}
	go p.supervise(spec.Dir)
	ctx, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	m, err := connect(ctx, spec, accel, p, r.log)
	if err == nil {
		m.consoleBegan = began
		err = m.letRun(ctx)
	}
	if err == nil {
		return m, nil
	}
	kctx, kcancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer kcancel()
	err = errors.Join(err, p.kill(kctx))
	if said := tail(filepath.Join(spec.Dir, fileLog)); said != "" {
		err = fmt.Errorf("%w: QEMU says: %s", err, said)
	}
	if pid, lerr := lockHolder(spec.Dir); lerr == nil && pid != 0 {
		err = errors.Join(ErrRunning, err) // another got hold of the folder
	}
	return nil, err
}

// spawn starts QEMU in a session of its own, so that nothing sent to the
// daemon's terminal or process group reaches it.
func (r *Runner) spawn(dir string, args []string) (*process, error) {
	path, err := exec.LookPath(r.cfg.QEMU)
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	out, err := os.OpenFile(filepath.Join(dir, fileLog), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	child, err := os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{
		Dir: dir,
		// The daemon's environment may hold credentials.
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	p, err := hold(child.Pid)
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, err
	}
	p.child = child
	return p, nil
}

// Open takes hold of the machine that runs in a folder, as after a restart of
// the daemon, and removes from QEMU what an interrupted snapshot left there.
// ErrNotRunning when its process is gone.
func (r *Runner) Open(ctx context.Context, dir string) (*Machine, error) {
	m, err := r.open(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("open machine in %s: %w", dir, err)
	}
	return m, nil
}

func (r *Runner) open(ctx context.Context, dir string) (*Machine, error) {
	p, err := adopt(dir)
	if errors.Is(err, ErrNotRunning) {
		// A QEMU that was killed along with the daemon left its traces.
		if serr := sweep(dir); serr != nil && !errors.Is(serr, fs.ErrNotExist) {
			return nil, errors.Join(err, serr)
		}
	}
	if err != nil {
		return nil, err
	}
	go p.supervise(dir)
	m, err := r.takeOver(ctx, dir, p)
	if err != nil {
		p.released.Store(true) // whoever opens it next sweeps
		return nil, err
	}
	return m, nil
}

// takeOver makes a Machine of a process that was adopted.
func (r *Runner) takeOver(ctx context.Context, dir string, p *process) (*Machine, error) {
	rec, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	rec.Spec.Dir = dir // the folder may have been moved while nothing ran
	ctx, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	m, err := connect(ctx, rec.Spec, rec.Accel, p, r.log)
	if err != nil {
		return nil, err
	}
	if err := m.clearSnapshots(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("clear an interrupted snapshot: %w", err), m.Release())
	}
	if err := m.leavePrelaunch(ctx); err != nil {
		return nil, errors.Join(err, m.Release())
	}
	if err := m.catchUp(ctx); err != nil {
		return nil, errors.Join(err, m.Release())
	}
	return m, nil
}

// connect dials QMP until it answers, the process ends or ctx does.
func connect(ctx context.Context, spec Spec, accel Accel, p *process, log *slog.Logger) (*Machine, error) {
	m := newMachine(spec, accel, p, log)
	path := filepath.Join(spec.Dir, fileQMP)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a QEMU that dies while it greets would else be waited for
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		c, err := qmp.Dial(ctx, path, m.onEvent)
		if err == nil {
			m.qmp = c
			go m.watch()
			return m, nil
		}
		select {
		case <-p.done:
			return nil, ErrNotRunning
		case <-ctx.Done():
			select {
			case <-p.done:
				return nil, ErrNotRunning
			default:
			}
			return nil, fmt.Errorf("control socket %s: %w", path, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
