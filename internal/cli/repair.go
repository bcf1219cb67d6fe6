package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/dryrun"
	"github.com/steadcloud/stead/internal/server"
)

type repairOptions struct {
	name, command string
	fix           string
	image, kind   string
	finish, hold  bool
	force, yes    bool
	wait          waitFlag
}

func newRepair(a *App) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair NAME [-- COMMAND...]",
		Short: "Reach the disk of a server that doesn't boot or let you in",
		Long: `Opens a root shell on the root disk of a server that no longer boots, or lets
nobody in: because of its fstab, its sshd, a full disk.

The server is stopped and its root disk plugged into a small helper instance
that has booted already, mounted there, and entered by chroot where the disk
has a shell that runs. When the shell ends the disk is put back, the server
started again if it ran, and the helper removed. With a command that runs
instead of a shell, and its exit code is the one of this command.

--fix runs one of these instead of a shell. Each can be repeated, keeps what it
changes beside it, and deletes no file of yours:
  fstab      gives the disks in /etc/fstab nofail, but for the system's own
  sshd       puts the permissions of /etc/ssh right, and where sshd refuses its
             configuration, sets the part aside that it refuses, or has it take
             the one of its package
  disk-full  drops packages that were fetched and old journals, and names the
             biggest folders
  all        disk-full where there is hardly any room, then fstab and sshd

Interrupted, the same command goes on, and --finish puts all back. Until then
the server can't be started.`,
		Example: `  stead repair web
  stead repair web --fix all
  stead repair web --yes -- sed -i 's/^UUID=dead/#&/' /etc/fstab
  stead repair web --finish`,
		Args: func(cmd *cobra.Command, args []string) error {
			return exactly("NAME")(cmd, args[:min(1, len(args))])
		},
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "image `ID` or alias of the helper (default the server's)")
	f.StringVar(&o.kind, "type", "", "instance `TYPE` of the helper (default a small one)")
	f.StringVar(&o.fix, "fix", "", "mend `WHAT` instead of a shell: fstab, sshd, disk-full or all")
	f.BoolVar(&o.finish, "finish", false, "put the disk back, after an interruption or --hold")
	f.BoolVar(&o.hold, "hold", false, "leave the disk at the helper when the shell ends")
	f.BoolVar(&o.force, "force", false, "switch a server off that doesn't shut down; go on where the helper doesn't unmount")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	cmd.MarkFlagsMutuallyExclusive("finish", "hold")
	cmd.MarkFlagsMutuallyExclusive("finish", "fix")
	_ = cmd.RegisterFlagCompletionFunc("fix", cobra.FixedCompletions(server.Fixes(), cobra.ShellCompDirectiveNoFileComp))
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name, o.command = args[0], strings.Join(args[1:], " ")
		if len(args) > 2 {
			o.command = sshclient.Quote(args[1:])
		}
		return a.repair(ctx, o)
	})
}

func (a *App) repair(ctx context.Context, o repairOptions) error {
	if o.finish && o.command != "" {
		return usage("--finish takes no command")
	}
	if o.fix != "" {
		if o.command != "" {
			return usage("--fix takes no command")
		}
		if err := server.CheckFix(o.fix); err != nil {
			return err
		}
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if s.withoutMachines() {
		return noMachines("repair", "server "+o.name, "stead cloud stop, then stead cloud start --machines auto")
	}
	code := 0
	if !o.finish {
		if code, err = a.repairBegin(ctx, s, o); err != nil {
			return err
		}
		if o.hold {
			return a.exitWith(code)
		}
	}
	wait, err := s.waitFor(o.wait)
	if err != nil {
		return err
	}
	v, err := s.servers.RepairFinish(ctx, o.name, o.force, wait)
	s.close()
	if err != nil {
		return err
	}
	if o.runs() {
		return a.exitWith(code) // stdout is the command's
	}
	return a.print(v, func(w io.Writer) { a.writeServer(w, v) })
}

// runs tells that something else than a shell is run.
func (o *repairOptions) runs() bool { return o.command != "" || o.fix != "" }

func (a *App) exitWith(code int) error {
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// repairBegin opens the disk, and runs the shell or command on it.
func (a *App) repairBegin(ctx context.Context, s *session, o repairOptions) (int, error) {
	if !o.runs() && !o.hold && !isTerminal(a.Stdin) && s.plan == nil {
		return 0, usage("a shell needs a terminal; name a command: stead repair %s -- COMMAND", o.name)
	}
	v, err := s.servers.Get(ctx, o.name)
	if err != nil {
		return 0, err
	}
	if v.State == server.StateRunning {
		if err := a.confirm(o.yes, "repair server "+o.name, "Stop "+o.name+" and take its root disk out for the time of the repair?"); err != nil {
			return 0, err
		}
	}
	key, err := a.ownPublicKey()
	if err != nil {
		return 0, err
	}
	if s.plan != nil {
		return 0, a.planRepair(ctx, s, o, key)
	}
	r, err := s.servers.RepairBegin(ctx, o.name, server.RepairOptions{
		HelperOptions: server.HelperOptions{Image: o.image, Type: o.kind, Key: key}, Force: o.force,
	})
	if err != nil || r.Ending {
		return 0, err
	}
	t, err := a.targetOf(ctx, s, r.Helper, sshOptions{})
	if err != nil {
		return 0, err
	}
	defer a.forgetHelper(t.Alias)
	s.progress.close()
	a.greet(o, r)
	if !o.runs() && !isTerminal(a.Stdin) {
		return 0, nil // --hold alone
	}
	line := r.CommandLine(o.command)
	if o.fix != "" {
		line = r.FixLine(o.fix)
	}
	code, err := sshclient.Run(ctx, t, sshclient.Stdio{
		In: a.Stdin, Out: a.Stdout, Err: a.Stderr, Batch: !isTerminal(a.Stdin), TTY: !o.runs(),
	}, rootShell(t.User, line))
	if err != nil {
		return 0, &server.Error{
			Op: "ssh to", Resource: "helper " + r.Helper.InstanceID, Err: err, Code: sshKind(ctx, err),
			Remedy: "stead repair " + o.name + ", or with --finish to put the disk back",
		}
	}
	return code, nil
}

// planRepair plans what opens the disk and what runs on it. How the disk is
// entered is only seen there: the plan shows it as it is with a disk that has a
// shell.
func (a *App) planRepair(ctx context.Context, s *session, o repairOptions, key []byte) error {
	r, err := s.servers.RepairBegin(ctx, o.name, server.RepairOptions{
		HelperOptions: server.HelperOptions{Image: o.image, Type: o.kind, Key: key}, Force: o.force,
	})
	if err != nil || r.Ending || !o.runs() && o.hold {
		return err
	}
	r.Mount, r.Shell = server.RepairMount(o.name), "/bin/sh"
	line := r.CommandLine(o.command)
	if o.fix != "" {
		line = r.FixLine(o.fix)
	}
	s.plan.Add(dryrun.Step{Service: actorGuest, Operation: "Run", Input: guestScript{r.Helper.Name, line}})
	return nil
}

// greet says where the disk is found. It goes to stderr: stdout is the
// command's.
func (a *App) greet(o repairOptions, r *server.Repair) {
	switch {
	case a.flags.quiet || o.runs() && r.Problem == "":
		return
	case r.Problem != "":
		fmt.Fprintf(a.Stderr, "warning: %s\nThis is the helper; the disk is %s and isn't mounted.\n", r.Problem, r.Device)
	case r.Shell != "":
		fmt.Fprintf(a.Stderr, "This is the root disk of %s, in a helper.\n", o.name)
	default:
		fmt.Fprintf(a.Stderr, "The root disk of %s is at %s in this helper; it has no shell that runs.\n", o.name, r.Mount)
	}
	if o.hold {
		fmt.Fprintf(a.Stderr, "It stays out until: stead repair %s --finish\n", o.name)
	} else {
		fmt.Fprintln(a.Stderr, "exit puts it back.")
	}
}

// ownPublicKey is the key that stead's own instances let in.
func (a *App) ownPublicKey() ([]byte, error) {
	dir, err := a.configDir()
	if err != nil {
		return nil, err
	}
	key, err := sshclient.OwnKey(dir)
	if err != nil {
		return nil, err
	}
	return key.AuthorizedLine(), nil
}

// forgetHelper drops the host keys of an instance that won't come again.
func (a *App) forgetHelper(alias string) {
	if dir, err := a.configDir(); err == nil {
		_ = sshclient.OpenKnownHosts(dir).Replace(alias, "", nil) // a line too many does no harm
	}
}
