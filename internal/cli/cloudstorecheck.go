package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

func newCloudStoreCheck(a *App) *cobra.Command {
	var readData bool
	cmd := &cobra.Command{
		Use: "check", Short: "Verify that every snapshot is whole",
		Long: `Verifies that every snapshot's tree can be read and that every block is where the
index says. With --read-data each block is read, too, and compared with its
digest: that finds what a dying disk has changed.

What is damaged is named by snapshot and block, and remembered: the next snapshot
that has such a block stores it anew, and that heals all others that have it.`,
		Example: `  stead cloud store check
  stead cloud store check --read-data -o json`, Args: exactly(),
	}
	cmd.Flags().BoolVar(&readData, "read-data", false, "read and verify every block")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		return a.storeReport(ctx, "check", func(c *cloud.Control, progress func(done, total int64)) (*cloud.StoreReport, error) {
			return c.CheckStore(ctx, readData, progress)
		})
	})
}

func newCloudStoreRepair(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "repair", Short: "Make the store's index again, and name what is damaged",
		Long: `Makes the store's index again from the blocks themselves, and then reads and
verifies every block, as "check --read-data" does. It takes nothing away. What is
damaged stays so until a snapshot stores it anew.`,
		Example: "  stead cloud store repair", Args: exactly(),
	}, func(ctx context.Context, _ []string) error {
		return a.storeReport(ctx, "repair", func(c *cloud.Control, progress func(done, total int64)) (*cloud.StoreReport, error) {
			return c.RepairStore(ctx, progress)
		})
	})
}

// storeReport prints what a check found. Damage is an error, too.
func (a *App) storeReport(ctx context.Context, verb string, find func(*cloud.Control, func(done, total int64)) (*cloud.StoreReport, error)) error {
	var r *cloud.StoreReport
	err := a.storeVerb(ctx, verb, func(c *cloud.Control, p *progress) error {
		step := verb + " snapshot store"
		return p.run(step, func() (err error) {
			r, err = find(c, func(done, total int64) {
				e := server.Event{State: server.StepWaiting, Step: step}
				if total > 0 {
					e.Detail = fmt.Sprintf("%d of %d blocks, %d%%", done, total, done*100/total)
				}
				p.event(e)
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	if err := a.print(r, func(w io.Writer) { writeStoreReport(w, r) }); err != nil || len(r.Problems) == 0 {
		return err
	}
	return &server.Error{
		Code: server.KindFailed, Op: verb, Resource: "snapshot store", Reason: fmt.Sprintf("%d snapshots are damaged", damaged(r)),
		Remedy: "take a new snapshot of each of their volumes: it stores what is damaged anew",
	}
}

func damaged(r *cloud.StoreReport) int {
	seen := map[string]bool{}
	for _, p := range r.Problems {
		seen[p.Snapshot] = true
	}
	return len(seen)
}

func writeStoreReport(w io.Writer, r *cloud.StoreReport) {
	for _, p := range r.Problems {
		where := "its tree"
		if p.Block != nil {
			where = fmt.Sprintf("block %d", *p.Block)
		}
		fmt.Fprintf(w, "damaged  %s  %s  %s: %s\n", p.Snapshot, p.Volume, where, p.Reason)
	}
	read := ""
	if r.BytesRead > 0 {
		read = ", " + humanBytes(r.BytesRead) + " read and verified"
	}
	fmt.Fprintf(w, "checked  %d snapshots, %d blocks%s\n", r.Snapshots, r.Blocks, read)
}
