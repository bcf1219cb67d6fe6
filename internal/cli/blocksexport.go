package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/dryrun"
)

// exportedSnapshot is what an export prints.
type exportedSnapshot struct {
	SnapshotID string `json:"snapshot_id"`
	Path       string `json:"path"`
	Format     string `json:"format"`
	SizeGiB    int    `json:"size_gib"`
	Blocks     int    `json:"blocks"` // of 512 KiB, that hold data
	Checksum   string `json:"checksum"`
	Moved      int64  `json:"moved_bytes"`
	Reused     int64  `json:"reused_bytes"`
}

func newBlocksExport(a *App) *cobra.Command {
	var format string
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "export SNAPSHOT FILE|-",
		Short: "Write a snapshot to a file",
		Long: `Writes the disk that a snapshot holds to a file, raw or as qcow2; "-" writes it
to standard output. A raw file has holes where the disk holds nothing.

The file is there when it is whole. Until then its data are in FILE.stead-part,
and what is done in FILE.stead-done: interrupted, the same command checks them
and goes on. Standard output can't be gone on with.`,
		Example: `  stead blocks export snap-0a1b2c3d4e5f60718 web.raw
  stead blocks export snap-0a1b2c3d4e5f60718 web.qcow2
  stead blocks export snap-0a1b2c3d4e5f60718 - | zstd > web.raw.zst`,
		Args: exactly("SNAPSHOT", "FILE|-"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		Annotations: map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&format, "format", "", "`FORMAT` of the file: raw or qcow2 (default by its name)")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace a file that is there")
	completeFormats(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.blocksExport(ctx, blocks.ExportOptions{Snapshot: args[0], Path: args[1], Format: blocks.Format(format), Overwrite: overwrite})
	})
}

// exportPlan is what an export would write, as a plan shows it.
type exportPlan struct {
	Snapshot string `json:"snapshot_id"`
	Path     string `json:"path"` // "-" is standard output
	Format   string `json:"format"`
	SizeGiB  int    `json:"size_gib"`
	Blocks   int    `json:"blocks"` // of 512 KiB, that hold data
	Moved    int64  `json:"moved_bytes"`
	Reused   int64  `json:"reused_bytes"` // that an earlier try has noted
}

// line is the command that does it.
func (p *exportPlan) line() []string {
	return []string{"blocks", "export", p.Snapshot, p.Path, "--format", p.Format}
}

// planExport plans the one change of an export: a file.
func (s *session) planExport(o blocks.ExportOptions, made *blocks.Exported) {
	path := made.Path
	if o.Writer != nil {
		path = "-"
	}
	s.plan.Add(dryrun.Step{Service: actorStead, Operation: "ExportSnapshot", Input: &exportPlan{
		Snapshot: made.Snapshot, Path: path, Format: string(made.Format), SizeGiB: int(made.Size >> 30), Blocks: int(made.Blocks),
		Moved: made.Progress.Moved, Reused: made.Progress.Reused,
	}})
}

func (a *App) blocksExport(ctx context.Context, o blocks.ExportOptions) error {
	stream := o.Path == "-"
	if stream {
		if isTerminal(a.Stdout) {
			return usage("a disk can't be printed on a terminal")
		}
		o.Path, o.Writer = "", a.Stdout
	}
	if o.Path == "" && !stream {
		return usage("no file is named")
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	step := "export " + o.Snapshot
	o.Options = a.blockOptions(s, step)
	var made *blocks.Exported
	err = s.runBlocks(ctx, step, func(ctx context.Context) (err error) {
		made, err = blocks.Export(ctx, s.blockEndpoint(), o)
		return err
	})
	s.close()
	if err == nil && s.plan != nil {
		s.planExport(o, made)
	}
	if err != nil || stream { // where the result would go, the disk went
		return err
	}
	result := exportedSnapshot{
		SnapshotID: made.Snapshot, Path: made.Path, Format: string(made.Format), SizeGiB: int(made.Size >> 30), Blocks: int(made.Blocks),
		Checksum: base64.StdEncoding.EncodeToString(made.Linear[:]), Moved: made.Progress.Moved, Reused: made.Progress.Reused,
	}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s is in %s (%s; %s)\n", made.Snapshot, made.Path, made.Format, movedText(made.Size, made.Progress))
	})
}
