package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type rescueOptions struct {
	name, by string
	at       moment
	yes      bool
	server   server.RescueOptions
	wait     waitFlag
}

var rescueWays = []string{string(server.RescueAuto), string(server.RescueReplaceRoot), string(server.RescueSwap), string(server.RescueSnapshot)}

func newRescue(a *App) *cobra.Command {
	var o rescueOptions
	cmd := &cobra.Command{
		Use:   "rescue NAME",
		Short: "Bring a server back from its disks",
		Long: `Brings a server without an instance back, right where it left off: its disks on
their devices, its addresses, its name and host keys.

  --by auto          takes the quickest way that is safe, and says why
  --by swap          plugs the very same disks into a new instance while that is
                     stopped: nothing is copied
  --by replace-root  makes the very same root the root of a new instance that
                     runs, in one task of the cloud's; for a server without data
                     disks
  --by snapshot      snapshots the disks, registers a rescue image of them and
                     launches it: new disks; the old ones and the image stay

--set and --at bring it back as it was in a snapshot set: new disks take the
place of what there is, which stays too. If a disk is gone, the newest complete
set is offered, and taken only if you agree. --zone brings it back in another
zone, by snapshot.

Interrupted, the same command goes on from where it was.`,
		Example: `  stead rescue web
  stead rescue web --at '2026-11-22 20:45'
  stead rescue web --by snapshot --type t3.large --zone eu-central-1b`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.by, "by", string(server.RescueAuto), "`WAY`: auto, replace-root, swap or snapshot")
	f.StringVar(&o.server.Set, "set", "", "snapshot set `ID` to come back from; latest for the newest")
	addAtFlag(f, &o.at, "come back from the newest complete set of `TIME` or before")
	f.StringVar(&o.server.Zone, "zone", "", "availability `ZONE` to come back in (default where the disks are)")
	f.StringVar(&o.server.Image, "image", "", "image `ID` or alias that lends its machine in a swap (default the server's)")
	f.StringVar(&o.server.Type, "type", "", "instance `TYPE` (default the server's)")
	f.BoolVar(&o.server.WithoutLost, "without-lost", false, "go on without data disks that are gone")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(rescueWays, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("set", a.completeSetOf)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.rescue(ctx, o)
	})
}

func (a *App) rescue(ctx context.Context, o rescueOptions) error {
	if !slices.Contains(rescueWays, o.by) {
		return usage("--by %q: want auto, replace-root, swap or snapshot", o.by)
	}
	at, err := o.at.time(a.Now())
	if err != nil {
		return err
	}
	o.server.By, o.server.At = server.RescueBy(o.by), at
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.server.Wait, err = s.waitFor(o.wait); err != nil {
		return err
	}
	plan, err := s.servers.PlanRescue(ctx, o.name, o.server)
	if err != nil {
		return err
	}
	if plan.Consent {
		s.close()
		question := fmt.Sprintf("Of %s %s is gone. The newest complete set, %s, is %s old: come back from that?\nWhat was written since is lost, except on the disks that are left: they stay, detached.",
			o.name, plan.LostText(), plan.Set.ID, a.age(plan.Set.Started))
		if err := a.confirm(o.yes, "rescue server "+o.name+" from set "+plan.Set.ID+" of "+a.age(plan.Set.Started)+" ago", question); err != nil {
			return err
		}
		o.server.Set = plan.Set.ID
	}
	result, err := s.servers.Rescue(ctx, o.name, o.server)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		a.writeServer(w, result.Server)
		if result.Image != "" {
			fmt.Fprintf(w, "rescued from image %s\n", result.Image)
		}
		if result.OldPrivateIP != "" {
			fmt.Fprintf(w, "its private address is %s; what knows it as %s must be told\n", result.Server.PrivateIP, result.OldPrivateIP)
		}
		a.writeSuperseded(w, result.Superseded)
	})
}

// writeSuperseded tells of the old disks that are kept.
func (a *App) writeSuperseded(w io.Writer, list []server.Disk) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, "the old disks stay too; when you are sure: stead volume rm VOLUME")
	writeDisks(w, list)
}

// completeSetOf offers the complete sets of the server that is named.
func (a *App) completeSetOf(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeSets(cmd, nil, "")
	}
	var ids []string
	a.quietly(cmd.Context(), func(ctx context.Context, s *session) error {
		sets, err := s.servers.Snapshots(ctx, args[0])
		for _, set := range sets {
			if set.Complete {
				ids = append(ids, cobra.CompletionWithDesc(set.ID, joined(a.age(set.Started)+" old", set.Note)))
			}
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
