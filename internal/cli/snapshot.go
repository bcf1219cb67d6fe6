package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newSnapshot(a *App) *cobra.Command {
	var o server.SnapshotOptions
	var noWait bool
	cmd := &cobra.Command{
		Use:   "snapshot NAME",
		Short: "Take a snapshot of all disks of a server",
		Long: `Takes a snapshot of every disk of a server at one instant, while it runs, and
waits until it is complete. Interrupted, the snapshot itself goes on.`,
		Example:           "  stead snapshot web --note 'before the upgrade'",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
	}
	cmd.Flags().StringVar(&o.Note, "note", "", "`TEXT` to remember it by")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "don't wait until it is complete")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.Wait = !noWait
		return a.snapshot(ctx, args[0], o)
	})
}

func (a *App) snapshot(ctx context.Context, name string, o server.SnapshotOptions) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	set, err := s.servers.Snapshot(ctx, name, o)
	s.close()
	if err != nil {
		return err
	}
	return a.print(set, func(w io.Writer) { a.writeSets(w, []server.SnapshotSet{*set}) })
}

func newSnapshots(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "snapshots [NAME]",
		Short: "List the snapshots of a server, or of all",
		Example: `  stead snapshots web
  stead snapshots -o json`,
		Args:              atMost("NAME"),
		ValidArgsFunction: a.completeServers,
	}, func(ctx context.Context, args []string) error {
		return a.snapshots(ctx, strings.Join(args, ""))
	})
}

func (a *App) snapshots(ctx context.Context, name string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	sets, err := s.servers.Snapshots(ctx, name)
	s.close()
	if err != nil {
		return err
	}
	return a.print(orEmpty(sets), func(w io.Writer) { a.writeSets(w, sets) })
}

func (a *App) writeSets(w io.Writer, sets []server.SnapshotSet) {
	t := table{
		heading: []string{"SET", "SERVER", "TAKEN", "STATE", "DISKS", "SNAPSHOTS", "NOTE"},
		empty:   "no snapshots yet; to take one: stead snapshot NAME",
	}
	for _, set := range sets {
		var ids, sizes []string
		for _, snap := range set.Snapshots {
			ids = append(ids, snap.SnapshotID)
			sizes = append(sizes, itoa(snap.SizeGiB))
		}
		state := set.State
		if !set.Complete && state == "completed" {
			state = "incomplete"
		}
		t.add(set.ID, set.Server, a.age(set.Started)+" ago", state, strings.Join(sizes, "+")+" GiB", strings.Join(ids, ","), set.Note)
	}
	t.write(w)
}
