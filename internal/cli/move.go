package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type moveOptions struct {
	name, to string
	yes      bool
	server   server.MoveOptions
	wait     waitFlag
}

func newMove(a *App) *cobra.Command {
	var o moveOptions
	cmd := &cobra.Command{
		Use:   "move NAME {--zone ZONE | --region REGION | --to CONTEXT}",
		Short: "Move a server to another zone, region or cloud",
		Long: `Moves a server to another availability zone of the region: it is shut down, its
disks get snapshots, and new disks of these run there, with the same fixed
address. Its private address changes. The old disks stay until --release
deletes them; until the server runs in the new zone, "stead rescue NAME" brings
it back in the old one.

With --region the snapshots are copied to the other region, and the server runs
there with an address of its own. All stays here, stopped, so that "stead start
NAME" brings it back as it was, until --release with the same --region deletes
instance, disks and address; the snapshots stay. Its schedules are to be set up
anew there. Whether the region can run it is seen before anything is changed.

With --to it goes to the cloud of another context, from this machine to AWS or
back. Its disks are copied while it runs; then it is shut down, what has changed
since is copied, and it runs there: it stands still for as long as the last
changes and a boot take. Each block is checked on the way. All stays here as
after a move to a region, until --release with the same --to.

Interrupted, the same command goes on from where it was.`,
		Example: `  stead move web --zone eu-central-1b
  stead move web --release
  stead move web --region eu-west-1
  stead move web --region eu-west-1 --release
  stead move web --to prod`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.server.Zone, "zone", "", "availability `ZONE` to go to (with --region or --to default its first)")
	f.StringVar(&o.server.Region, "region", "", "`REGION` to go to, of the same context")
	f.StringVar(&o.to, "to", "", "`CONTEXT` to go to: another cloud")
	f.StringVar(&o.server.Type, "type", "", "instance `TYPE` (default the server's)")
	f.BoolVar(&o.server.Release, "release", false, "delete what a move that is done left behind")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeContexts)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.move(ctx, o)
	})
}

// check tells what a move can't do.
func (o *moveOptions) check() error {
	switch {
	case o.to != "" && o.server.Region != "":
		return usage("--to and --region: a context has its own region")
	case o.server.Release && o.server.Zone != "", !o.server.Release && o.server.Zone == "" && o.server.Region == "" && o.to == "":
		return usage("either --zone ZONE, --region REGION, --to CONTEXT or --release")
	}
	return nil
}

func (a *App) move(ctx context.Context, o moveOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if !o.server.Release { // what that asks is known already
		if err := a.confirmMove(&o, nil); err != nil {
			return err
		}
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	there := s
	if o.to != "" {
		if there, err = a.openDestination(ctx, s, &o); err != nil {
			return err
		}
	}
	if o.server.Release {
		left, err := s.servers.MoveLeft(ctx, o.name, o.server)
		if err != nil {
			return err
		}
		if err := a.confirmMove(&o, left); err != nil {
			return err
		}
	}
	if o.server.Wait, err = there.waitFor(o.wait); err != nil {
		return err
	}
	result, err := s.servers.Move(ctx, o.name, o.server)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) { a.writeMove(w, &o, result) })
}

// openDestination connects to the cloud that a server goes to.
func (a *App) openDestination(ctx context.Context, s *session, o *moveOptions) (*session, error) {
	store, err := a.contexts()
	if err != nil {
		return nil, err
	}
	c, err := store.Get(o.to)
	if err != nil {
		return nil, err
	}
	if c.Name == s.context.Name {
		return nil, usage("it is in context %s already", c.Name)
	}
	there, err := a.openShown(ctx, c, s.plan == nil, s.progress)
	if err != nil {
		return nil, err
	}
	o.server.To, o.server.There = c.Name, there.servers
	return there, nil
}

// writeMove tells what a move has come to.
func (a *App) writeMove(w io.Writer, o *moveOptions, result *server.MoveResult) {
	stays, where := "the old disks stay", ""
	switch {
	case o.to != "":
		stays, where = "it stays in context "+result.From+", stopped", " --to "+o.to
	case o.server.Region != "":
		stays, where = "it stays in "+result.From+", stopped", " --region "+o.server.Region
	}
	a.writeServer(w, result.Server)
	if result.Downtime > 0 {
		fmt.Fprintf(w, "it was down for %s\n", time.Duration(result.Downtime*float64(time.Second)).Round(100*time.Millisecond))
	}
	if len(result.Released) > 0 {
		fmt.Fprintln(w, "deleted:")
		writeDisks(w, result.Released)
	}
	if len(result.Source) > 0 {
		fmt.Fprintf(w, "%s; when you are sure: stead move %s%s --release\n", stays, o.name, where)
		writeDisks(w, result.Source)
	}
}

// confirmMove asks, and names the disks that a release deletes.
func (a *App) confirmMove(o *moveOptions, left []server.Disk) error {
	what, question := o.question()
	if o.server.Release && len(left) > 0 {
		var names []string
		for k := range left {
			names = append(names, left[k].VolumeID)
		}
		what += " (" + strings.Join(names, ", ") + ")"
		if !o.yes {
			writeDisks(a.Stderr, left)
		}
	}
	return a.confirm(o.yes, what, question)
}

// question asks what is to be done.
func (o *moveOptions) question() (what, question string) {
	switch {
	case o.server.Release && o.to != "":
		return "release what " + o.name + " left behind", "Delete the instance, the disks and the address that " + o.name + " left here? It must run in context " + o.to + ". Their snapshots stay."
	case o.server.Release && o.server.Region != "":
		return "release what " + o.name + " left behind", "Delete the instance, the disks and the address that " + o.name + " left here? It must run in " + o.server.Region + ". Their snapshots stay."
	case o.server.Release:
		return "release the old disks of " + o.name, "Delete the disks that " + o.name + " left where it was? Their snapshots stay."
	case o.to != "":
		return "move server " + o.name, fmt.Sprintf("Move %s to context %s? It is shut down here once its disks are copied, and gets other addresses there. All that is here stays.", o.name, o.to)
	case o.server.Region != "":
		return "move server " + o.name, fmt.Sprintf("Move %s to %s? It is shut down here, and gets other addresses there. All that is here stays.", o.name, o.server.Region)
	}
	return "move server " + o.name, fmt.Sprintf("Move %s to %s? It is shut down meanwhile, and gets another private address. Its old disks stay.", o.name, o.server.Zone)
}
