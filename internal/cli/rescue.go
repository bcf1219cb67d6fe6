package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type rescueOptions struct {
	name, by, image, instanceType string
	wait                          waitFlag
}

func newRescue(a *App) *cobra.Command {
	var o rescueOptions
	cmd := &cobra.Command{
		Use:   "rescue NAME",
		Short: "Bring a server back from its disks",
		Long: `Brings a server without an instance back, right where it left off.

  --by swap      plugs the very same disks into a new instance: nothing is
                 copied
  --by snapshot  snapshots the disks, registers a rescue image of them and
                 launches it; the old disks stay too
  --by auto      swaps if the disks are there, and otherwise takes the newest
                 complete snapshot set

Interrupted, the same command goes on from where it was.`,
		Example: `  stead rescue web
  stead rescue web --by snapshot --type t3.large`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.by, "by", string(server.RescueAuto), "`WAY`: auto, swap or snapshot")
	f.StringVar(&o.image, "image", "", "image `ID` or alias that lends its machine in a swap (default the server's)")
	f.StringVar(&o.instanceType, "type", "", "instance `TYPE` (default the server's)")
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions([]string{"auto", "swap", "snapshot"}, cobra.ShellCompDirectiveNoFileComp))
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.rescue(ctx, o)
	})
}

func (a *App) rescue(ctx context.Context, o rescueOptions) error {
	by := server.RescueBy(o.by)
	switch by {
	case server.RescueAuto, server.RescueSwap, server.RescueSnapshot:
	default:
		return usage("--by %q: want auto, swap or snapshot", o.by)
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	waitFor, err := s.waitFor(o.wait)
	if err != nil {
		return err
	}
	result, err := s.servers.Rescue(ctx, o.name, server.RescueOptions{
		By: by, Image: o.image, Type: o.instanceType, Wait: waitFor,
	})
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		a.writeServer(w, result.Server)
		if result.Image != "" {
			fmt.Fprintf(w, "rescued from image %s\n", result.Image)
		}
		if len(result.Superseded) > 0 {
			fmt.Fprintln(w, "the old disks stay too:")
			writeDisks(w, result.Superseded)
		}
	})
}
