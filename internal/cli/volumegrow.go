package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"
)

func newVolumeGrow(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "grow VOLUME SIZE",
		Short: "Enlarge a disk, and the file system on it",
		Long: `Enlarges a disk. On a server that runs, the partition and the file system on it
grow too, while they are in use. A disk can't be made smaller. Repeated, the
command does what isn't done yet.`,
		Example:           "  stead volume grow vol-0a1b2c3d 200G",
		Args:              exactly("VOLUME", "SIZE"),
		ValidArgsFunction: a.completeVolumeThenServer,
		Annotations:       map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error { return a.volumeGrow(ctx, args[0], args[1]) })
}

func (a *App) volumeGrow(ctx context.Context, volume, sizeText string) error {
	size, err := parseSize(sizeText)
	if err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	g, err := s.servers.VolumeGrow(ctx, volume, size)
	s.close()
	if err != nil {
		return err
	}
	return a.print(g, func(w io.Writer) { writeGrown(w, *g) })
}
