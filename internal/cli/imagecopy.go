package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newImageCopy(a *App) *cobra.Command {
	var o server.ImageCopyOptions
	cmd := &cobra.Command{
		Use:   "copy AMI",
		Short: "Copy an image between regions",
		Long: `Copies an image, with its snapshots and its tags, from or to another region
than the context's, and waits until the copy can be launched. A durable image
stays durable. The copy is your own, also when the source is somebody else's.`,
		Example: `  stead image copy ami-0123456789abcdef0 --from eu-west-1
  stead image copy ami-0123456789abcdef0 --region us-west-2 --name base`,
		Args:              exactly("AMI"),
		ValidArgsFunction: a.completeImages,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&o.From, "from", "", "`REGION` that it is in (default the context's own)")
	cmd.Flags().StringVar(&o.To, "region", "", "`REGION` to copy it to (default the context's own)")
	cmd.Flags().StringVar(&o.Name, "name", "", "`NAME` of the copy (default derived)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.ID = args[0]
		s, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		made, err := s.servers.ImageCopy(ctx, o)
		s.close()
		if err != nil {
			return err
		}
		return a.print(made, func(w io.Writer) { writeImages(w, []server.Image{*made}) })
	})
}
