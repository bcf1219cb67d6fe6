// Package sshclient runs the system's ssh against a server: with stead's own
// key, its own known_hosts file and one alias per server, so that the user's
// ~/.ssh needs no entry and stays untouched. The user's ssh configuration is
// still read (agents, ciphers, jump hosts); what is set here goes before it.
package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Reasons why ssh itself failed, as far as its messages tell; to be found
// with errors.Is in what Run returns.
var (
	ErrNoClient    = errors.New("no ssh client on this machine")
	ErrHostKey     = errors.New("the host key is not the one that is known")
	ErrDenied      = errors.New("the server refused the key")
	ErrUnreachable = errors.New("no answer from the server")
	ErrFailed      = errors.New("ssh failed")
)

// failed is the exit code by which ssh says that it, and not the command on
// the server, failed.
const failed = 255

// Target is whom to connect to, and how to know it.
type Target struct {
	Host  string
	Port  int
	User  string
	Alias string // under which the host keys are known
	// Identities are the private keys to offer, beside those of an agent
	// unless OnlyThese is set.
	Identities []string
	OnlyThese  bool
	KnownHosts string // path
	// Pinned refuses a host key that isn't known yet; otherwise it is taken
	// at the first contact and kept.
	Pinned bool
}

// Stdio is what the command on the server reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	// Batch forbids every question to the user (a passphrase, a password).
	Batch bool
	// TTY asks for a terminal on the server also when a command is given.
	TTY bool
}

// Run connects and runs command, or a login shell if it is empty, and returns
// the exit code of what ran on the server. An error means that ssh itself
// failed or was interrupted.
func Run(ctx context.Context, t Target, stdio Stdio, command string) (int, error) {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoClient, err)
	}
	said := &tail{w: stdio.Err}
	cmd := exec.CommandContext(ctx, path, Args(t, stdio, command)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, said
	// ssh gets the time to put the terminal back in order.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("run ssh: %w", err)
	case exit.ExitCode() == failed:
		return 0, reason(said.String())
	case exit.ExitCode() < 0:
		return 0, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return exit.ExitCode(), nil
}

// Args returns ssh's arguments.
func Args(t Target, stdio Stdio, command string) []string {
	args := []string{
		"-p", strconv.Itoa(t.Port),
		"-l", t.User,
		"-o", "HostKeyAlias=" + t.Alias,
		"-o", "CheckHostIP=no",
		"-o", "HashKnownHosts=no",
		"-o", "UpdateHostKeys=no",
		"-o", "UserKnownHostsFile=" + quoteOption(t.KnownHosts),
		"-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=" + map[bool]string{true: "yes", false: "accept-new"}[t.Pinned],
		// A master connection would outlive the command and the rescue.
		"-o", "ControlMaster=no",
		"-o", "ControlPath=none",
		"-o", "ConnectTimeout=15",
		"-o", "ServerAliveInterval=15",
		"-o", "LogLevel=ERROR", // no "Permanently added …" among the output
	}
	for _, identity := range t.Identities {
		args = append(args, "-i", identity)
	}
	if t.OnlyThese {
		args = append(args, "-o", "IdentitiesOnly=yes")
	}
	if stdio.Batch {
		args = append(args, "-o", "BatchMode=yes")
	}
	if stdio.TTY {
		args = append(args, "-t")
	}
	args = append(args, "--", t.Host)
	if command != "" {
		args = append(args, command)
	}
	return args
}

// quoteOption protects spaces in a path within an option's value: ssh splits
// the value of UserKnownHostsFile into several files.
func quoteOption(path string) string { return `"` + path + `"` }

// Quote makes one command line for a POSIX shell out of args, each of which
// arrives there unchanged.
func Quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if arg == "" || strings.Trim(arg, plain) != "" {
			quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// plain are the characters that no shell gives a meaning to.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:,@%"

// reason sorts ssh's last words. They are in English whatever the locale.
func reason(said string) error {
	last := lastLine(said)
	for _, known := range []struct {
		text string
		err  error
	}{
		{"Host key verification failed", ErrHostKey},
		{"Permission denied (", ErrDenied},
		{"Connection refused", ErrUnreachable},
		{"Connection timed out", ErrUnreachable},
		{"Operation timed out", ErrUnreachable},
		{"No route to host", ErrUnreachable},
		{"Connection closed by", ErrUnreachable},
		{"Connection reset by", ErrUnreachable},
		{"not responding", ErrUnreachable},
	} {
		if strings.Contains(said, known.text) {
			return fmt.Errorf("%w: %s", known.err, last)
		}
	}
	if last == "" {
		return ErrFailed
	}
	return fmt.Errorf("%w: %s", ErrFailed, last)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	w   io.Writer
	end []byte
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if len(t.end) > tailSize {
		t.end = append(t.end[:0], t.end[len(t.end)-tailSize:]...)
	}
	return t.w.Write(p)
}

func (t *tail) String() string { return string(t.end) }
