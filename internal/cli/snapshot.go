package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type snapshotOptions struct {
	server.SnapshotOptions
	root, data, noWait bool
}

func newSnapshot(a *App) *cobra.Command {
	var o snapshotOptions
	cmd := &cobra.Command{
		Use:   "snapshot NAME",
		Short: "Take a snapshot of all disks of a server",
		Long: `Takes a snapshot of every disk of a server at one instant, while it runs, and
waits until it is complete. Disks without a machine are taken as they lie.
Interrupted, the snapshot itself goes on.

--root and --data take the system's disk or the data disks alone. Such a set
can bring that part back, but never the whole server.

The instant is as after a power failure, which file systems and databases are
made for. --freeze has the data disks' file systems written out and at rest
for that moment.

"stead schedule" has it done by the cloud.`,
		Example: `  stead snapshot web --note 'before the upgrade'
  stead snapshot web --data --freeze
  stead snapshot rm 20261122T204500Z-1f2e`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
	}
	f := cmd.Flags()
	f.StringVar(&o.Note, "note", "", "`TEXT` to remember it by")
	f.BoolVar(&o.root, "root", false, "the root disk alone")
	f.BoolVar(&o.data, "data", false, "the data disks alone")
	f.BoolVar(&o.Freeze, "freeze", false, "have the data disks' file systems stand still meanwhile")
	f.BoolVar(&o.Loose, "not-one-instant", false, "take a running server's disks one after the other where the cloud can't do better")
	f.BoolVar(&o.noWait, "no-wait", false, "don't wait until it is complete")
	a.command(cmd, func(ctx context.Context, args []string) error {
		if o.root && o.data {
			return usage("--root and --data: without either, both are taken")
		}
		if o.root {
			o.Part = server.RoleRoot
		}
		if o.data {
			o.Part = server.RoleData
		}
		o.Wait = !o.noWait
		return a.snapshot(ctx, args[0], o.SnapshotOptions)
	})
	cmd.AddCommand(newSnapshotRm(a))
	return cmd
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

func newSnapshotRm(a *App) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rm SET...",
		Short: "Delete snapshot sets",
		Long: `Deletes whole snapshot sets, by the IDs that "stead snapshots" shows. A set that
an image is made of stays. Other sets, and disks made of these, keep their data.`,
		Example:           "  stead snapshot rm 20261122T204500Z-1f2e --yes",
		Args:              atLeastOne("SET"),
		ValidArgsFunction: a.completeSets,
		Annotations:       map[string]string{resumable: "yes"},
	}
	addYesFlag(cmd.Flags(), &yes)
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.snapshotRm(ctx, args, yes) })
}

func (a *App) snapshotRm(ctx context.Context, ids []string, yes bool) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	sets, missing, err := s.servers.SetsNamed(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range missing {
		s.passedOver("set " + id)
	}
	if !yes {
		a.writeSets(a.Stderr, sets)
	}
	if err := a.confirm(yes, "delete "+plural(len(sets), "snapshot set"), "Delete "+plural(len(sets), "snapshot set")+" for good?"); err != nil {
		return err
	}
	gone, err := s.servers.RemoveSets(ctx, ids)
	s.close()
	if err != nil {
		return err
	}
	return a.print(gone, func(w io.Writer) {
		for _, set := range gone {
			fmt.Fprintf(w, "set %s of %s is deleted\n", set.ID, set.Server)
		}
	})
}

// passedOver says of one of several that are to be deleted that it is gone.
func (s *session) passedOver(what string) {
	s.progress.event(server.Event{State: server.StepWarning, Step: "delete", Resource: what, Detail: "there is none such (any more); going on without it"})
}

func newSnapshots(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "snapshots [NAME]",
		Short: "List the snapshots of a server, or of all",
		Long: `Lists the snapshot sets of a server, or of all servers, newest first: those that
you took, that its schedule took, and that a rescue took on its way. A server
comes back only from a set that is complete.`,
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
		heading: []string{"SET", "SERVER", "AGE", "STATE", "DISKS", "SIZE", "BY", "NOTE"},
		empty:   "no snapshots yet; to take one: stead snapshot NAME",
	}
	for _, set := range sets {
		t.add(set.ID, set.Server, a.age(set.Started), setState(&set), setDisks(&set), humanGiB(set.SizeGiB), set.By, set.Note)
	}
	t.write(w)
}

// setState says whether a set can be used, and if not, why.
func setState(set *server.SnapshotSet) string {
	switch {
	case !set.Complete && set.State == "completed":
		return "incomplete: " + set.Lacks
	case !set.OneInstant && set.State == "completed":
		return "completed, not of one instant"
	}
	return set.State
}

func setDisks(set *server.SnapshotSet) string {
	if set.Part != "" {
		return set.Part
	}
	data := 0
	for _, s := range set.Snapshots {
		if s.Role == server.RoleData {
			data++
		}
	}
	if data == 0 {
		return server.RoleRoot
	}
	return fmt.Sprintf("root + %d", data)
}
