package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/server"
)

func newBlocks(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "blocks",
		Short: "Bring snapshots into files, and files into snapshots",
		Long: `Brings the contents of a snapshot into a file, and a disk in a file into a
snapshot, by the EBS direct APIs. Only blocks that hold data are moved, many at
once, and each is checked on the way.`,
		Example: `  stead blocks export snap-0a1b2c3d4e5f60718 web.qcow2
  stead blocks import disk.raw --tag project=web`,
	}
	group(cmd)
	cmd.AddCommand(newBlocksExport(a), newBlocksImport(a))
	return cmd
}

// completeFormats completes --format of files.
func completeFormats(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{string(blocks.Raw), string(blocks.QCOW2)}, cobra.ShellCompDirectiveNoFileComp))
}

// blockEndpoint is the session's cloud as the direct APIs' package takes it.
func (s *session) blockEndpoint() blocks.Endpoint {
	name := "context " + s.context.Name
	if s.region != "" {
		name += ", " + s.region
	}
	return blocks.Endpoint{Blocks: s.blocks, EC2: s.api, Name: name}
}

// blockOptions are those of a transfer that is shown as a step.
func (a *App) blockOptions(s *session, step string) blocks.Options {
	show := s.progress.transfer(step)
	return blocks.Options{
		Log: a.log(), Poll: pollMax(s.local != nil), Plan: s.plan != nil,
		Progress: func(p blocks.Progress) { show("", p.At, p.Size) },
	}
}

// newBlocksClient makes the client of the direct APIs.
func newBlocksClient(cfg aws.Config) *ebs.Client {
	return ebs.NewFromConfig(cfg, func(o *ebs.Options) { o.BaseEndpoint = cfg.BaseEndpoint })
}

// journals is the folder for the notes of copies between clouds, "" where none
// can be made: they can be done without.
func (a *App) journals() string {
	dir, err := a.cacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "copies")
}

// tagFlags reads KEY=VALUE pairs.
func tagFlags(list []string) (map[string]string, error) {
	tags := map[string]string{}
	for _, pair := range list {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usage("--tag %q: want KEY=VALUE", pair)
		}
		tags[key] = value
	}
	return tags, nil
}

// runBlocks shows a transfer as one step.
func (s *session) runBlocks(ctx context.Context, step string, fn func(context.Context) error) error {
	return s.progress.run(step, func() error { return server.BlocksError(fn(ctx)) })
}

// movedText tells how much of a snapshot was moved.
func movedText(size int64, p blocks.Progress) string {
	text := fmt.Sprintf("%s, %s moved", humanGiB(int(size>>30)), humanBytes(p.Moved))
	if p.Reused > 0 {
		text += ", " + humanBytes(p.Reused) + " there already"
	}
	return text
}
