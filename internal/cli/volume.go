package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newVolume(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "volume",
		Aliases: []string{"volumes", "disk"},
		Short:   "Make, plug in, unplug and list data disks",
		Long:    "Data disks of servers. They are never deleted with an instance.",
		Example: `  stead volume create web 100G
  stead volume detach vol-0a1b2c3d
  stead volume attach vol-0a1b2c3d db`,
	}
	group(cmd)
	cmd.AddCommand(newVolumeCreate(a), newVolumeAttach(a), newVolumeDetach(a), newVolumeLs(a))
	return cmd
}

func newVolumeCreate(a *App) *cobra.Command {
	var o server.VolumeOptions
	cmd := &cobra.Command{
		Use:               "create SERVER SIZE",
		Short:             "Make a blank data disk and plug it into a server",
		Example:           "  stead volume create web 100G",
		Args:              exactly("SERVER", "SIZE"),
		ValidArgsFunction: a.completeServers,
	}
	cmd.Flags().StringVar(&o.Device, "device", "", "`DEVICE` such as /dev/sdg (default the next free one)")
	cmd.Flags().StringVar(&o.Type, "type", "", "volume `TYPE` (default gp3)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		size, err := parseSize(args[1])
		if err != nil {
			return err
		}
		o.Server, o.SizeGiB = args[0], size
		return a.withDisk(ctx, func(s *session) (*server.Disk, error) { return s.servers.VolumeCreate(ctx, o) })
	})
}

func newVolumeAttach(a *App) *cobra.Command {
	var device string
	cmd := &cobra.Command{
		Use:               "attach VOLUME SERVER",
		Short:             "Plug a volume into a server as a data disk",
		Example:           "  stead volume attach vol-0a1b2c3d web",
		Args:              exactly("VOLUME", "SERVER"),
		ValidArgsFunction: a.completeVolumeThenServer,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&device, "device", "", "`DEVICE` such as /dev/sdg (default where it was, else the next free one)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withDisk(ctx, func(s *session) (*server.Disk, error) {
			return s.servers.VolumeAttach(ctx, args[0], args[1], device)
		})
	})
}

func newVolumeDetach(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "detach VOLUME",
		Short: "Unplug a data disk and take it out of its server",
		Long: `Unplugs a data disk and takes it out of its server. Its data stays. Unmount it
first: what the system on the server hasn't written yet is lost.`,
		Example:           "  stead volume detach vol-0a1b2c3d",
		Args:              exactly("VOLUME"),
		ValidArgsFunction: a.completeVolumeThenServer,
		Annotations:       map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error {
		return a.withDisk(ctx, func(s *session) (*server.Disk, error) { return s.servers.VolumeDetach(ctx, args[0]) })
	})
}

// withDisk connects, calls fn, and prints the disk that it returns.
func (a *App) withDisk(ctx context.Context, fn func(*session) (*server.Disk, error)) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := fn(s)
	s.close()
	if err != nil {
		return err
	}
	return a.print(d, func(w io.Writer) { writeVolumes(w, []server.Disk{*d}) })
}

func newVolumeLs(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:               "ls [SERVER]",
		Aliases:           []string{"list"},
		Short:             "List the disks of a server, or all volumes",
		Example:           "  stead volume ls web",
		Args:              atMost("SERVER"),
		ValidArgsFunction: a.completeServers,
	}, func(ctx context.Context, args []string) error {
		return a.volumeLs(ctx, strings.Join(args, ""))
	})
}

func (a *App) volumeLs(ctx context.Context, name string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	list, err := s.servers.VolumeList(ctx, name)
	s.close()
	if err != nil {
		return err
	}
	return a.print(orEmpty(list), func(w io.Writer) { writeVolumes(w, list) })
}

func writeVolumes(w io.Writer, list []server.Disk) {
	t := table{
		heading: []string{"VOLUME", "SERVER", "ROLE", "DEVICE", "SIZE", "STATE", "ZONE", "INSTANCE"},
		empty:   "no volumes",
	}
	for _, d := range list {
		role := d.Role
		if d.SupersededBy != "" {
			role = "superseded"
		}
		t.add(d.VolumeID, d.Server, role, d.Device, humanGiB(d.SizeGiB), d.State, d.Zone, d.InstanceID)
	}
	t.write(w)
}
