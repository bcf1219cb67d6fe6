package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newPurge(a *App) *cobra.Command {
	var o server.PurgeOptions
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge NAME",
		Short: "Really delete a server, its disks and its address",
		Long: `Deletes a server for good: its instance, all its disks, superseded ones too, its
fixed address and its security group. Before that it is shut down, and a last
snapshot set of its disks is taken and seen to be complete; "stead rescue NAME
--set ID" brings the server back from that. The snapshots and the rescue images
stay, unless --snapshots deletes them too.

It names what will be deleted and wants the server's name to be typed.
Interrupted, the same command goes on from where it was.`,
		Example: `  stead purge web
  stead purge test --no-snapshot --yes
  stead purge test --snapshots      # nothing is left`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.BoolVar(&o.NoSnapshot, "no-snapshot", false, "take no last snapshot set")
	f.BoolVar(&o.Snapshots, "snapshots", false, "delete all snapshots and rescue images of it too")
	addYesFlag(f, &yes)
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.purge(ctx, args[0], o, yes) })
}

func (a *App) purge(ctx context.Context, name string, o server.PurgeOptions, yes bool) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	plan, err := s.servers.PlanPurge(ctx, name, o)
	if err != nil {
		return err
	}
	s.close()
	if err := a.confirmPurge(yes, plan, o); err != nil {
		return err
	}
	result, err := s.servers.Purge(ctx, name, o)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s is deleted: %s\n", name, goes(result))
		if result.Set != "" {
			fmt.Fprintf(w, "to bring it back: stead rescue %s --set %s\n", name, result.Set)
		}
	})
}

// confirmPurge names what goes, and wants the server's name.
func (a *App) confirmPurge(yes bool, plan *server.PurgeResult, o server.PurgeOptions) error {
	what := "purge server " + plan.Name
	if yes || a.flags.dryRun || !isTerminal(a.Stdin) {
		return a.confirm(yes, what, "")
	}
	fmt.Fprintf(a.Stderr, "This deletes %s: %s.\n", plan.Name, goes(plan))
	switch {
	case o.Snapshots:
		fmt.Fprintln(a.Stderr, "Nothing is left to bring it back from.")
	case o.NoSnapshot:
		fmt.Fprintln(a.Stderr, "What was written since its newest snapshots is lost.")
	default:
		fmt.Fprintln(a.Stderr, "It is shut down, and its disks get a last snapshot set, which stays.")
	}
	fmt.Fprintf(a.Stderr, "Type its name to go on: ")
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(a.Stderr)
	}
	if strings.TrimSpace(answer) != plan.Name {
		return fmt.Errorf("%s: %w", what, errDeclined)
	}
	return nil
}

// goes says what a purge deletes.
func goes(r *server.PurgeResult) string {
	var parts []string
	if r.InstanceID != "" {
		parts = append(parts, "instance "+r.InstanceID)
	}
	for _, d := range r.Disks {
		text := "disk " + d.VolumeID + " (" + humanGiB(d.SizeGiB)
		if d.SupersededBy != "" {
			text += ", superseded"
		}
		parts = append(parts, text+")")
	}
	if r.PublicIP != "" {
		parts = append(parts, "address "+r.PublicIP)
	}
	if n := len(r.Snapshots); n > 0 {
		parts = append(parts, itoa(n)+" snapshots")
	}
	if n := len(r.Images); n > 0 {
		parts = append(parts, itoa(n)+" images")
	}
	return strings.Join(parts, ", ")
}
