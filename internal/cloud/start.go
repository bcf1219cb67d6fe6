package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// StartOptions say how a daemon is started that does not run yet.
type StartOptions struct {
	DataDir    string
	Listen     string
	Machines   string
	Accel      string
	Account    string
	Egress     bool
	TrashDays  *int // see Config
	Version    string
	Executable string // whose `cloud run` it is
}

const startTimeout = 20 * time.Second

// Ensure finds the daemon of a data folder, starting it if none answers. Two
// at once yield one daemon. A daemon of an older executable is replaced by one
// of this; its machines run on.
func Ensure(ctx context.Context, o StartOptions) (*Control, error) {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, err
	}
	o.DataDir = dir
	if c, err := current(ctx, o); c != nil || err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		ended, err := spawn(o)
		if err != nil {
			return nil, err
		}
		c, err := waitHealthy(ctx, Dir(dir), ended)
		if !errors.Is(err, errFreed) {
			return c, err
		}
	}
}

// current gives the daemon that answers, or nil when none does. An outdated one
// is ended first.
func current(ctx context.Context, o StartOptions) (*Control, error) {
	for {
		c, err := Connect(o.DataDir)
		if errors.Is(err, ErrNotRunning) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		info, err := c.Info(ctx)
		switch {
		case err == nil && !outdated(info, o):
			return c, nil
		case err == nil:
			err = c.stop(ctx, false, info.PID)
		}
		// Another tool may replace it at the same time, and has then ended it.
		if err != nil && !errors.Is(err, errOtherDaemon) && !wentAway(err) {
			return nil, fmt.Errorf("replace the daemon of version %s: %w", info.Version, err)
		}
		if err := waitGone(ctx, c.dir, info.PID); err != nil {
			return nil, err
		}
	}
}

// outdated says that a daemon runs an older build than the caller's.
func outdated(info Info, o StartOptions) bool {
	return info.Version != o.Version && executableTime().After(info.Built)
}

// spawn starts a daemon that outlives this process and logs to its folder.
func spawn(o StartOptions) (ended <-chan error, err error) {
	args := []string{"cloud", "run", "--data-dir", o.DataDir}
	for _, f := range []struct{ name, value string }{
		{"--listen", o.Listen}, {"--machines", o.Machines}, {"--accel", o.Accel}, {"--account-id", o.Account},
	} {
		if f.value != "" {
			args = append(args, f.name, f.value)
		}
	}
	args = append(args, "--egress="+strconv.FormatBool(o.Egress))
	if o.TrashDays != nil {
		args = append(args, "--trash-days", strconv.Itoa(*o.TrashDays))
	}
	cmd := exec.Command("/proc/self/exe", args...)
	if o.Executable != "" {
		cmd.Path = o.Executable
		cmd.Args[0] = filepath.Base(o.Executable)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := detachedDaemon(cmd, Dir(o.DataDir))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done, nil
}

// detachedDaemon has cmd run without root's rights and log to the data folder,
// which is made if need be.
func detachedDaemon(cmd *exec.Cmd, dir Dir) (log *os.File, err error) {
	if err := closeFolder(string(dir)); err != nil {
		return nil, err
	}
	if err := dropPrivileges(cmd, string(dir)); err != nil {
		return nil, err
	}
	log, err = appendLog(dir, cmd.SysProcAttr.Credential)
	if err != nil {
		return nil, err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	return log, nil
}

// errFreed says that the daemon which had the folder was ending, not starting.
var errFreed = errors.New("the data folder has become free")

// waitHealthy returns when a daemon answers: the one that was started, or
// another that was quicker. While one has the folder, it is about to answer, or
// to end: then the error is errFreed.
func waitHealthy(ctx context.Context, dir Dir, ended <-chan error) (*Control, error) {
	lost, taken := false, false
	for {
		if c, err := Connect(string(dir)); err == nil {
			return c, nil
		}
		if lost {
			unlock, err := lockFolder(dir)
			switch {
			case errors.Is(err, ErrInUse):
				taken = true
			case err != nil:
				return nil, err
			default:
				unlock()
				if taken {
					return nil, errFreed
				}
				return nil, notStarted(dir)
			}
		}
		select {
		case <-ended: // why, the log says
			ended, lost = nil, true
		case <-ctx.Done():
			return nil, notStarted(dir)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func notStarted(dir Dir) error {
	return fmt.Errorf("the local cloud did not start; the end of its log:\n%s", logEnd(dir))
}

// RunUnprivileged runs the daemon as Run does, but never as root: root starts
// it again as the user stead and passes signals on.
func RunUnprivileged(ctx context.Context, cfg Config) error {
	if os.Geteuid() != 0 {
		if err := forgoPrivileges(); err != nil {
			return err
		}
		return Run(ctx, cfg)
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if err := closeFolder(cfg.DataDir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := dropPrivileges(cmd, cfg.DataDir); err != nil {
		return err
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() != nil && exit.ExitCode() == 0 {
		return nil
	}
	if errors.As(err, &exit) {
		return &ExitError{Code: exit.ExitCode()}
	}
	return err
}

// ExitError is the exit code of a daemon that has said why it ended itself.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("the daemon ended with code %d", e.Code) }
