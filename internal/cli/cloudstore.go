package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

func newCloudStore(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "The local cloud's snapshot store: check, repair, stats, undelete, empty",
		Long: `The local cloud keeps snapshots as blocks, each once, however many snapshots
have it. What is deleted lies in the store's trash for a week, or for as many
days as the cloud was started with (--trash-days).`,
		Example: `  stead cloud store check --read-data
  stead cloud store undelete snap-0123456789abcdef0`,
	}
	group(cmd)
	cmd.AddCommand(newCloudStoreCheck(a), newCloudStoreRepair(a), newCloudStoreStats(a), newCloudStoreTrash(a), newCloudStoreUndelete(a), newCloudStoreEmpty(a))
	return cmd
}

// storeVerb runs work on the local cloud's store, whatever context is chosen,
// and closes the progress before anything is printed.
func (a *App) storeVerb(ctx context.Context, step string, work func(c *cloud.Control, p *progress) error) error {
	p := a.newProgress()
	defer p.close()
	local, err := a.openLocal(ctx, p, true)
	if err != nil {
		return err
	}
	if err := work(local.control, p); err != nil {
		return &server.Error{Code: server.KindOf(err), Op: step, Resource: "snapshot store", Err: err}
	}
	return nil
}

func newCloudStoreStats(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "stats", Short: "Tell what the snapshot store holds and takes",
		Long: `Tells what the snapshot store holds and takes: the data of all snapshots, each by
itself, against what is stored of it, and what lies in the trash.`,
		Example: "  stead cloud store stats -o json | jq .bytes", Args: exactly(),
	}, func(ctx context.Context, _ []string) error {
		var s *cloud.StoreStats
		err := a.storeVerb(ctx, "count", func(c *cloud.Control, _ *progress) (err error) {
			s, err = c.StoreStats(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return a.print(s, func(w io.Writer) { writeStoreStats(w, s) })
	})
}

func writeStoreStats(w io.Writer, s *cloud.StoreStats) {
	saved := ""
	if s.LiveBytes > 0 {
		saved = fmt.Sprintf(" (1 : %.1f)", float64(s.DataBytes)/float64(s.LiveBytes))
	}
	trash := fmt.Sprintf("%s, %d snapshots; kept %d days", humanBytes(s.TrashBytes), s.Trashed, s.TrashDays)
	if s.TrashDays == 0 {
		trash = "not kept"
	}
	for _, f := range []fact{
		{"snapshots", fmt.Sprintf("%d, with %s of data", s.Snapshots, humanBytes(s.DataBytes))},
		{"stored", humanBytes(s.LiveBytes) + saved},
		{"on disk", fmt.Sprintf("%s in %d packs, %d blocks and pages", humanBytes(s.Bytes), s.Packs, s.Blocks)},
		{"damaged", fmt.Sprintf("%d blocks that are known", s.Rotten)},
		{"trash", trash},
	} {
		fmt.Fprintf(w, "%-9s  %s\n", f.name, f.value)
	}
}
