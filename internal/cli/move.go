package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type moveOptions struct {
	name, to, region string
	yes              bool
	server           server.MoveOptions
	wait             waitFlag
}

func newMove(a *App) *cobra.Command {
	var o moveOptions
	cmd := &cobra.Command{
		Use:   "move NAME --zone ZONE",
		Short: "Move a server to another zone",
		Long: `Moves a server to another availability zone of the region: it is shut down, its
disks get snapshots, and new disks of these run there, with the same fixed
address. Its private address changes. The old disks stay until --release
deletes them; until the server runs in the new zone, "stead rescue NAME" brings
it back in the old one.

Interrupted, the same command goes on from where it was.`,
		Example: `  stead move web --zone eu-central-1b
  stead move web --release`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.server.Zone, "zone", "", "availability `ZONE` to go to")
	f.StringVar(&o.region, "region", "", "`REGION` to go to (not possible yet)")
	f.StringVar(&o.to, "to", "", "`CONTEXT` to go to (not possible yet)")
	f.StringVar(&o.server.Type, "type", "", "instance `TYPE` (default the server's)")
	f.BoolVar(&o.server.Release, "release", false, "delete the old disks of a move that is done")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeContexts)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.move(ctx, o)
	})
}

// check tells what a move can't do, and what can be done instead.
func (o *moveOptions) check() error {
	e := &server.Error{Op: "move", Resource: "server " + o.name, Code: server.KindUnsupported}
	switch {
	case o.to != "":
		e.Reason = "a move to another context needs the EBS direct APIs on both sides, and stead doesn't speak them yet"
		e.Remedy = "copy the files: stead cp " + o.name + ":/path . here, and back with --context " + o.to
		return e
	case o.region != "":
		e.Reason = "a move to another region isn't possible yet"
		e.Remedy = "stead image durable " + o.name + ", then stead image copy ID --region " + o.region + ", and create from it there"
		return e
	case o.server.Release == (o.server.Zone != ""):
		return usage("either --zone ZONE or --release")
	}
	return nil
}

func (a *App) move(ctx context.Context, o moveOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	question := fmt.Sprintf("Move %s to %s? It is shut down meanwhile, and gets another private address. Its old disks stay.", o.name, o.server.Zone)
	what := "move server " + o.name
	if o.server.Release {
		question, what = "Delete the disks that "+o.name+" left where it was? Their snapshots stay.", "release the old disks of "+o.name
	}
	if err := a.confirm(o.yes, what, question); err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.server.Wait, err = s.waitFor(o.wait); err != nil {
		return err
	}
	result, err := s.servers.Move(ctx, o.name, o.server)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		a.writeServer(w, result.Server)
		if len(result.Released) > 0 {
			fmt.Fprintln(w, "deleted:")
			writeDisks(w, result.Released)
		}
		if len(result.Source) > 0 {
			fmt.Fprintf(w, "the old disks stay; when you are sure: stead move %s --release\n", o.name)
			writeDisks(w, result.Source)
		}
	})
}
