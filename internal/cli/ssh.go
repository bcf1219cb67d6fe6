package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/server"
)

type sshOptions struct {
	name, user, key string
	command         string // "" for a login shell
	tty             bool
	newHostKey      bool
}

func (o *sshOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "`PATH` of the key to log in with (default stead's own, then yours)")
	f.StringVar(&o.user, "user", "", "`NAME` to log in as (default the server's)")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&o.newHostKey, "new-host-key", false, "forget the server's host key and take the one that it shows now")
}

func newSSH(a *App) *cobra.Command {
	var o sshOptions
	cmd := &cobra.Command{
		Use:   "ssh NAME [-- COMMAND...]",
		Short: "Log in to a server, or run a command line on it",
		Long: `Logs in with the system's ssh. Host keys are kept per server in a file of
stead's own: learned from the machine's console where the cloud shows it, else
at the first contact, and kept across a rescue.

A command goes to the login shell on the server as ssh passes it: words joined
by spaces. Use "stead exec" to run a program with exactly these arguments.`,
		Example: `  stead ssh web
  stead ssh web -- 'df -h / && uptime'`,
		Args: func(cmd *cobra.Command, args []string) error {
			return exactly("NAME")(cmd, args[:min(1, len(args))])
		},
		ValidArgsFunction: a.completeServers,
	}
	o.addFlags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name, o.command = args[0], strings.Join(args[1:], " ")
		return a.ssh(ctx, o)
	})
}

func newExec(a *App) *cobra.Command {
	var o sshOptions
	cmd := &cobra.Command{
		Use:   "exec NAME -- COMMAND...",
		Short: "Run a program on a server and exit with its code",
		Long: `Runs a program on a server over ssh, with standard input and output, and exits
with its exit code. The arguments arrive as they are given; a single argument
is a command line for the shell there. When ssh itself fails the exit code is 1.`,
		Example: `  stead exec web -- uname -a
  tar c . | stead exec web -- tar x -C /srv
  stead exec web -- 'echo hello > /srv/file'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= 2 {
				return nil
			}
			return exactly("NAME", "--", "COMMAND")(cmd, args)
		},
		ValidArgsFunction: a.completeServers,
	}
	o.addFlags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name, o.command = args[0], args[1]
		if len(args) > 2 {
			o.command = sshclient.Quote(args[1:])
		}
		return a.ssh(ctx, o)
	})
}

func (a *App) ssh(ctx context.Context, o sshOptions) error {
	target, err := a.target(ctx, o)
	if err != nil {
		return err
	}
	code, err := sshclient.Run(ctx, target, sshclient.Stdio{
		In: a.Stdin, Out: a.Stdout, Err: a.Stderr,
		Batch: !isTerminal(a.Stdin), TTY: o.tty,
	}, o.command)
	if err != nil {
		return &server.Error{Op: "ssh to", Resource: "server " + o.name, Err: err, Code: sshKind(ctx, err), Remedy: sshRemedy(o.name, err)}
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// sshKind sorts why ssh failed. The exit code stays 1 but for what stopped it
// from outside: ssh's own failures have no code of their own.
func sshKind(ctx context.Context, err error) server.Kind {
	if ctx.Err() != nil {
		return server.KindOf(err)
	}
	return server.KindFailed
}

func sshRemedy(name string, err error) string {
	switch {
	case errors.Is(err, sshclient.ErrHostKey):
		return "if you know why it changed: stead ssh " + name + " --new-host-key"
	case errors.Is(err, sshclient.ErrDenied):
		return "stead ssh " + name + " --key PATH, or --user NAME"
	case errors.Is(err, sshclient.ErrNoClient):
		return "apt install openssh-client"
	}
	return "stead show " + name
}

// target finds the server and all that ssh needs to reach and to know it.
func (a *App) target(ctx context.Context, o sshOptions) (sshclient.Target, error) {
	s, err := a.open(ctx)
	if err != nil {
		return sshclient.Target{}, err
	}
	defer s.close()
	v, err := s.servers.Get(ctx, o.name)
	if err != nil {
		return sshclient.Target{}, err
	}
	return a.targetOf(ctx, s, v, o)
}

// targetOf is target for a server that was looked up already.
func (a *App) targetOf(ctx context.Context, s *session, v *server.Server, o sshOptions) (sshclient.Target, error) {
	dir, err := a.configDir()
	if err != nil {
		return sshclient.Target{}, err
	}
	if err := reachable(v); err != nil {
		return sshclient.Target{}, err
	}
	if s.withoutMachines() {
		return sshclient.Target{}, noMachines("ssh to", "server "+v.Name, "stead cloud stop, then stead cloud start --machines auto")
	}
	hosts := sshclient.OpenKnownHosts(dir)
	alias := hostAlias(s.context, v.Name)
	if o.newHostKey {
		if err := hosts.Replace(alias, "", nil); err != nil {
			return sshclient.Target{}, err
		}
	}
	t := sshclient.Target{Host: v.SSH.Host, Port: v.SSH.Port, User: v.SSH.User, Alias: alias, KnownHosts: hosts.Path()}
	if o.user != "" {
		t.User = o.user
	}
	if t.Pinned, err = s.learnHostKeys(ctx, hosts, alias, v); err != nil {
		return sshclient.Target{}, err
	}
	t.Identities, err = a.identities(dir, o.key)
	t.OnlyThese = o.key != ""
	return t, err
}

func reachable(v *server.Server) error {
	if v.State == server.StateRunning && v.SSH.Host != "" {
		return nil
	}
	e := &server.Error{
		Code: server.KindExists, Op: "ssh to", Resource: "server " + v.Name,
		Reason: "it is " + v.State, Remedy: "stead start " + v.Name,
	}
	switch v.State {
	case server.StateRepairing:
		e.Remedy = "stead repair " + v.Name + ", or with --finish to put the disk back"
	case server.StateDetached, server.StateRescuing:
		e.Remedy = "stead rescue " + v.Name
	case server.StateRunning:
		e.Reason, e.Remedy = "it has no address yet", "stead start "+v.Name
	}
	return e
}

// hostAlias is the name that a server's host keys are known under.
func hostAlias(c contexts.Context, name string) string { return "stead-" + c.Name + "-" + name }

// learnHostKeys tells whether the server's host keys are known, after looking
// for them on the console if they aren't, or if the server has another root
// disk than when they were learned there.
func (s *session) learnHostKeys(ctx context.Context, hosts sshclient.KnownHosts, alias string, v *server.Server) (bool, error) {
	known, err := hosts.Has(alias)
	if err != nil {
		return false, err
	}
	note, err := hosts.Note(alias)
	if err != nil {
		return false, err
	}
	if known && (note == "" || note == v.Root.VolumeID) {
		return true, nil
	}
	console, err := s.servers.ConsoleOf(ctx, v.InstanceID)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		return known, nil //nolint:nilerr // not every cloud shows a console
	}
	keys := sshclient.ConsoleHostKeys(console)
	if len(keys) == 0 {
		return known, nil
	}
	return true, hosts.Replace(alias, v.Root.VolumeID, keys)
}

// identities are the private keys to offer: the one named, else stead's own
// and the user's.
func (a *App) identities(configDir, path string) ([]string, error) {
	if path != "" {
		key, err := sshclient.ReadKey(path)
		if err == nil && key.PrivatePath != "" {
			return []string{key.PrivatePath}, nil
		}
		return []string{path}, nil // ssh knows more forms of keys, and tells what is wrong
	}
	own, err := sshclient.OwnKey(configDir)
	if err != nil {
		return nil, err
	}
	paths := []string{own.PrivatePath}
	for _, key := range sshclient.UserKeys(a.Getenv("HOME")) {
		paths = append(paths, key.PrivatePath)
	}
	return paths[:min(len(paths), maxIdentities)], nil
}

// maxIdentities stays below the attempts that sshd allows, six by default.
const maxIdentities = 5
