package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
	Version    string
	Executable string // whose `cloud run` it is
}

const startTimeout = 20 * time.Second

// Ensure finds the daemon of a data folder, starting it if none answers. Two
// at once yield one daemon. A daemon of an older executable is replaced by one
// of this; its machines run on.
func Ensure(ctx context.Context, o StartOptions) (*Control, error) {
	if c, err := Connect(o.DataDir); err == nil {
		info, err := c.Info(ctx)
		if err != nil || !outdated(info, o) {
			return c, err
		}
		if err := c.Stop(ctx, false); err != nil {
			return nil, fmt.Errorf("replace the daemon of version %s: %w", info.Version, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ended, err := spawn(o)
	if err != nil {
		return nil, fmt.Errorf("start the local cloud: %w", err)
	}
	return waitHealthy(ctx, o.DataDir, ended)
}

// outdated says that a daemon runs an older build than the caller's.
func outdated(info Info, o StartOptions) bool {
	return info.Version != o.Version && executableTime().After(info.Built)
}

// spawn starts a daemon that outlives this process and logs to its folder.
func spawn(o StartOptions) (ended <-chan error, err error) {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(Dir(dir).LogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	args := []string{"cloud", "run", "--data-dir", dir}
	for _, f := range []struct{ name, value string }{
		{"--listen", o.Listen}, {"--machines", o.Machines}, {"--accel", o.Accel}, {"--account-id", o.Account},
	} {
		if f.value != "" {
			args = append(args, f.name, f.value)
		}
	}
	args = append(args, "--egress="+strconv.FormatBool(o.Egress))
	cmd := exec.Command("/proc/self/exe", args...)
	if o.Executable != "" {
		cmd.Path = o.Executable
		cmd.Args[0] = filepath.Base(o.Executable)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := dropPrivileges(cmd, dir); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done, nil
}

// waitHealthy returns when a daemon answers: the one that was started, or
// another that was quicker.
func waitHealthy(ctx context.Context, dataDir string, ended <-chan error) (*Control, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		if c, err := Connect(dataDir); err == nil {
			return c, nil
		}
		select {
		case <-ended: // why, the log says
			// It may have lost a race: the winner is about to answer.
			ended = nil
			time.AfterFunc(3*time.Second, cancel)
		case <-ctx.Done():
			return nil, fmt.Errorf("the local cloud did not start; the end of its log:\n%s", logEnd(dataDir))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func logEnd(dataDir string) string {
	raw, _, err := tail(Dir(dataDir).LogFile(), 2000)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// RunUnprivileged runs the daemon as Run does, but never as root: root starts
// it again as the user stead and passes signals on.
func RunUnprivileged(ctx context.Context, cfg Config) error {
	if os.Geteuid() != 0 {
		return Run(ctx, cfg)
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
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
