package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type binOptions struct {
	days int
	off  bool
}

func newBin(a *App) *cobra.Command {
	var o binOptions
	cmd := &cobra.Command{
		Use:   "bin",
		Short: "What was deleted and can be had back",
		Long: `Lists what was deleted and can be had back: snapshots, images and disks that are
in the Recycle Bin, and until when. It keeps what its rules say.

--days makes the rules: whatever is deleted of any server from now on, by
whatever tool, stays in the bin for so many days, disks for 7 at most. What is in
the bin costs what it cost before, and nothing gets it out early but a restore.`,
		Example: `  stead bin --days 14
  stead bin
  stead bin restore snap-0a1b2c3d4e5f60718
  stead bin --off`,
		Args:        exactly(),
		Annotations: map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.IntVar(&o.days, "days", 0, "keep what is deleted of servers for `N` days")
	f.BoolVar(&o.off, "off", false, "keep nothing from now on; what is in the bin stays")
	a.command(cmd, func(ctx context.Context, _ []string) error {
		if f.Changed("days") && (o.off || o.days < 1) {
			return usage("--days wants 1 to 365, and goes without --off")
		}
		return a.bin(ctx, o)
	})
	cmd.AddCommand(newBinRestore(a))
	return cmd
}

// binReport is what bin prints.
type binReport struct {
	Rules []server.BinRule `json:"rules"`
	Bin   []server.Binned  `json:"bin"`
}

func (a *App) bin(ctx context.Context, o binOptions) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	var report binReport
	if o.days > 0 || o.off {
		report.Rules, err = s.servers.KeepDeleted(ctx, o.days)
	} else {
		report.Rules, err = s.servers.BinRules(ctx)
	}
	if err != nil {
		return err
	}
	if report.Bin, err = s.servers.Bin(ctx); err != nil {
		return err
	}
	s.close()
	return a.print(report, func(w io.Writer) { writeBin(w, report) })
}

func writeBin(w io.Writer, r binReport) {
	for _, rule := range r.Rules {
		fmt.Fprintf(w, "deleted %s of servers are kept for %s\n", rule.Of, plural(rule.Days, "day"))
	}
	if len(r.Rules) == 0 {
		fmt.Fprintln(w, "what is deleted of servers is gone at once; to keep it for a while: stead bin --days 7")
	}
	t := table{heading: []string{"ID", "DELETED", "UNTIL", "WHAT"}, empty: "the recycle bin is empty"}
	const day = "2006-01-02 15:04"
	for _, b := range r.Bin {
		t.add(b.ID, b.Entered.Format(day), b.Exit.Format(day), orDash(b.About))
	}
	t.write(w)
}

func newBinRestore(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "restore ID...",
		Short: "Have deleted snapshots, images and disks back",
		Long: `Has deleted snapshots, images and disks back, as they were. An image needs its
snapshots: name them before it. A server comes back of its disks: stead rescue.`,
		Example: "  stead bin restore vol-0a1b2c3d4e5f60718", Args: atLeastOne("ID"),
		ValidArgsFunction: a.completeBin, Annotations: map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error {
		s, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		for _, id := range args {
			if err := s.servers.BinRestore(ctx, id); err != nil {
				return err
			}
		}
		s.close()
		return a.print(map[string]any{"restored": args}, func(w io.Writer) {
			for _, id := range args {
				fmt.Fprintf(w, "%s is back\n", id)
			}
		})
	})
}

// completeBin offers what is in the bin.
func (a *App) completeBin(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	s, err := a.open(cmd.Context())
	if err == nil {
		defer s.close()
		list, _ := s.servers.Bin(cmd.Context()) // none are offered then
		for _, b := range list {
			ids = append(ids, b.ID+"\t"+b.About)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
