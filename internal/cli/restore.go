package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type restoreOptions struct {
	name            string
	root, data, yes bool
	at              moment
	server          server.RestoreOptions
	wait            waitFlag
}

func newRestore(a *App) *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore NAME --set ID|--at TIME",
		Short: "Put a server's disks back to a snapshot set",
		Long: `Puts a server's disks back to what a snapshot set shows, in place: its instance
and addresses stay. The server is shut down meanwhile. First the disks get
snapshots as they are, and they themselves stay too: nothing is lost.

Without an instance only the disks are exchanged; "stead rescue NAME" starts
the server from them. Interrupted, the same command goes on from where it was.`,
		Example: `  stead restore web --set 20261122T204500Z-1f2e
  stead restore web --at 2d --data --yes`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.server.Set, "set", "", "snapshot set `ID`; latest for the newest")
	addAtFlag(f, &o.at, "the newest complete set of `TIME` or before")
	f.BoolVar(&o.root, "root", false, "the root disk alone")
	f.BoolVar(&o.data, "data", false, "the data disks alone")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("set", a.completeSetOf)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.restore(ctx, o)
	})
}

func (a *App) restore(ctx context.Context, o restoreOptions) error {
	switch {
	case o.root && o.data:
		return usage("--root and --data each mean the one alone: leave both away for all disks")
	case o.server.Set != "" && o.at != "":
		return usage("--set and --at both name a set: give one of them")
	}
	at, err := o.at.time(a.Now())
	if err != nil {
		return err
	}
	o.server.At = at
	switch {
	case o.root:
		o.server.Part = server.RoleRoot
	case o.data:
		o.server.Part = server.RoleData
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.server.Wait, err = s.waitFor(o.wait); err != nil {
		return err
	}
	set, part, err := s.servers.RestoreSource(ctx, o.name, o.server)
	if err != nil {
		return err
	}
	s.close()
	what := "all disks"
	if part != "" {
		what = "the " + part
	}
	question := fmt.Sprintf("Put %s of %s back to set %s, of %s ago? It is shut down meanwhile if it runs.\nThe disks as they are now get snapshots, and stay too.", what, o.name, set.ID, a.age(set.Started))
	if err := a.confirm(o.yes, "restore server "+o.name+" to set "+set.ID, question); err != nil {
		return err
	}
	o.server.Set, o.server.At = set.ID, time.Time{} // what was agreed to, also when newer ones come
	result, err := s.servers.Restore(ctx, o.name, o.server)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		a.writeServer(w, result.Server)
		fmt.Fprintf(w, "restored from set %s\n", result.Set)
		if result.Before != "" {
			fmt.Fprintf(w, "as it was before: set %s\n", result.Before)
		}
		a.writeSuperseded(w, result.Superseded)
		if result.Server.State == server.StateDetached {
			fmt.Fprintf(w, "to start it from these disks: stead rescue %s\n", o.name)
		}
	})
}
