package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/blocks"
)

// importedSnapshot is what an import prints.
type importedSnapshot struct {
	SnapshotID string `json:"snapshot_id"`
	Parent     string `json:"parent_snapshot_id,omitempty"`
	Format     string `json:"format"`
	SizeGiB    int    `json:"size_gib"`
	Blocks     int    `json:"blocks"` // of 512 KiB, that were put
	Checksum   string `json:"checksum"`
	Moved      int64  `json:"moved_bytes"`
	Reused     int64  `json:"reused_bytes"`
}

// blocksImportOptions are the flags of "blocks import".
type blocksImportOptions struct {
	blocks.ImportOptions
	format, size string
	tags         []string
}

func newBlocksImport(a *App) *cobra.Command {
	var o blocksImportOptions
	cmd := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Make a snapshot of a disk in a file",
		Long: `Makes a snapshot of a disk in a file or on a block device, raw or qcow2; "-"
reads it from standard input, and keeps it in the temporary folder until it is
imported. What holds nothing isn't sent, and neither is what is the same in
--parent. The snapshot is complete when the endpoint has checked it as a whole.

Interrupted, the same command goes on with the same snapshot: what is done is
noted in FILE.stead-done. If the file was changed meanwhile it begins anew. Of
standard input nothing is kept.

"stead image import" makes an image of a disk at once.`,
		Example: `  stead blocks import disk.raw
  stead blocks import disk.qcow2 --parent snap-0a1b2c3d4e5f60718
  zstd -d < web.raw.zst | stead blocks import - --description 'web, as it was'`,
		Args: exactly("FILE|-"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Annotations: map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.Parent, "parent", "", "`SNAPSHOT` to build on: what is the same there isn't sent")
	f.StringVar(&o.size, "size", "", "`SIZE` of the volume, such as 20G (default what the disk needs)")
	f.StringVar(&o.Description, "description", "", "`TEXT` to know it by")
	f.StringArrayVar(&o.tags, "tag", nil, "`KEY=VALUE` to tag it with; may be repeated")
	f.StringVar(&o.format, "format", "", "`FORMAT` of the file: raw or qcow2 (default by its first bytes)")
	completeFormats(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.Path = args[0]
		return a.blocksImport(ctx, o)
	})
}

// fill makes the library's options of the flags.
func (o *blocksImportOptions) fill(stdin io.Reader) error {
	var err error
	if o.Tags, err = tagFlags(o.tags); err != nil {
		return err
	}
	if o.size != "" {
		size, err := parseSize(o.size)
		if err != nil {
			return err
		}
		o.SizeGiB = int64(size)
	}
	o.Format = blocks.Format(o.format)
	if o.Path == "-" {
		if isTerminal(stdin) {
			return usage("a disk can't be read from a terminal")
		}
		o.Path, o.Reader = "", stdin
	}
	return nil
}

func (a *App) blocksImport(ctx context.Context, o blocksImportOptions) error {
	name := o.Path
	if err := o.fill(a.Stdin); err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	step := "import " + name
	o.Options = a.blockOptions(s, step)
	var made *blocks.Imported
	err = s.runBlocks(ctx, step, func(ctx context.Context) (err error) {
		made, err = blocks.Import(ctx, s.blockEndpoint(), o.ImportOptions)
		return err
	})
	s.close()
	if err != nil {
		return err
	}
	result := importedSnapshot{
		SnapshotID: made.Snapshot, Parent: made.Parent, Format: string(made.Format), SizeGiB: int(made.Size >> 30), Blocks: int(made.Blocks),
		Checksum: base64.StdEncoding.EncodeToString(made.Linear[:]), Moved: made.Progress.Moved, Reused: made.Progress.Reused,
	}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s (%s)\n", made.Snapshot, movedText(made.Size, made.Progress))
	})
}
