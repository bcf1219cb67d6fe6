package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

func newCloudStoreTrash(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "trash", Short: "List the deleted snapshots that can be had back",
		Example: "  stead cloud store trash", Args: exactly(),
	}, func(ctx context.Context, _ []string) error {
		var list []cloud.TrashedSnapshot
		err := a.storeVerb(ctx, "list the trash of", func(c *cloud.Control, _ *progress) (err error) {
			list, err = c.Trashed(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return a.print(list, func(w io.Writer) {
			if len(list) == 0 {
				fmt.Fprintln(w, "the trash is empty")
			}
			for _, s := range list {
				fmt.Fprintf(w, "%s  %s  %d GiB  until %s  %s\n", s.Snapshot, s.Region, s.SizeGiB, s.Until.Format("2006-01-02 15:04Z"), s.Description)
			}
		})
	})
}

func newCloudStoreUndelete(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "undelete SNAP", Short: "Bring a deleted snapshot back",
		Long: `Brings a deleted snapshot back as it was, with its ID, its description and its
tags, while the trash has it: for a week, or as many days as the local cloud was
started with (--trash-days). A schedule doesn't delete it again. An image that was
deregistered doesn't come back with its snapshots; register it anew.`,
		Example: `  stead cloud store trash
  stead cloud store undelete snap-0123456789abcdef0`,
		Args: exactly("SNAP"), ValidArgsFunction: a.completeTrash,
	}, func(ctx context.Context, args []string) error {
		var snap *cloud.TrashedSnapshot
		err := a.storeVerb(ctx, "bring "+args[0]+" back from the", func(c *cloud.Control, _ *progress) (err error) {
			snap, err = c.Undelete(ctx, args[0])
			return err
		})
		if e := (*server.Error)(nil); errors.As(err, &e) && e.Code == server.KindNotFound {
			e.Remedy = "stead cloud store trash"
		}
		if err != nil {
			return err
		}
		return a.print(snap, func(w io.Writer) { fmt.Fprintf(w, "%s is back in %s\n", snap.Snapshot, snap.Region) })
	})
}

// completeTrash offers the snapshots that can be had back.
func (a *App) completeTrash(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	dir, err := a.dataDir()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	control, err := cloud.Connect(dir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := control.Trashed(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, s := range list {
		ids = append(ids, s.Snapshot+"\t"+s.Description)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// emptied is what "cloud store empty" prints.
type emptied struct {
	Snapshots  []string `json:"snapshots"` // that are gone for good
	FreedBytes int64    `json:"freed_bytes"`
}

func newCloudStoreEmpty(a *App) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "empty", Short: "Free at once what lies in the store's trash",
		Long: `Deletes for good what lies in the store's trash, before its days are over. The
deleted snapshots in it can't be had back then; those that aren't deleted lose
nothing.`,
		Example: "  stead cloud store empty --yes", Args: exactly(),
	}
	addYesFlag(cmd.Flags(), &yes)
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.emptyTrash(ctx, yes) })
}

func (a *App) emptyTrash(ctx context.Context, yes bool) error {
	done := emptied{Snapshots: []string{}}
	var stats *cloud.StoreStats
	err := a.storeVerb(ctx, "look through the trash of", func(c *cloud.Control, _ *progress) error {
		list, err := c.Trashed(ctx)
		for _, s := range list {
			done.Snapshots = append(done.Snapshots, s.Snapshot)
		}
		if err == nil {
			stats, err = c.StoreStats(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	question := fmt.Sprintf("Free %s? %d deleted snapshots can't be had back then.", humanBytes(stats.TrashBytes), len(done.Snapshots))
	if err := a.confirm(yes, "empty the trash of the snapshot store", question); err != nil {
		return err
	}
	err = a.storeVerb(ctx, "empty the trash of", func(c *cloud.Control, _ *progress) (err error) {
		done.FreedBytes, err = c.EmptyTrash(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return a.print(done, func(w io.Writer) {
		fmt.Fprintf(w, "freed %s; %d snapshots are gone for good\n", humanBytes(done.FreedBytes), len(done.Snapshots))
	})
}
