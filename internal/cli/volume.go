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
		Short:   "Make, plug in, unplug, enlarge and delete data disks",
		Long:    "Data disks of servers. They are never deleted with an instance.",
		Example: `  stead volume create web 100G --mount /srv
  stead volume detach vol-0a1b2c3d
  stead volume attach vol-0a1b2c3d db`,
	}
	group(cmd)
	cmd.AddCommand(newVolumeCreate(a), newVolumeAttach(a), newVolumeDetach(a), newVolumeLs(a), newVolumeGrow(a), newVolumeRm(a))
	return cmd
}

func newVolumeCreate(a *App) *cobra.Command {
	var o server.VolumeOptions
	cmd := &cobra.Command{
		Use:   "create SERVER SIZE",
		Short: "Make a blank data disk and plug it into a server",
		Long: `Makes a blank data disk in the server's zone and plugs it in. It belongs to the
server from then on, so that a rescue takes it along.

With --mount it gets a file system, once, and is mounted there now and at each
boot: by its UUID and with nofail. A disk that holds anything is never
formatted.`,
		Example: `  stead volume create web 100G
  stead volume create web 100G --mount /srv --fs xfs`,
		Args:              exactly("SERVER", "SIZE"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.Device, "device", "", "`DEVICE` such as /dev/sdg (default the next free one)")
	f.StringVar(&o.Type, "type", "", "volume `TYPE` (default gp3)")
	f.StringVar(&o.Mount, "mount", "", "`PATH` to mount it at (default nowhere)")
	f.StringVar(&o.FS, "fs", "", "file `SYSTEM` to make on it: ext4 or xfs (default ext4)")
	_ = cmd.RegisterFlagCompletionFunc("fs", cobra.FixedCompletions([]string{"ext4", "xfs"}, cobra.ShellCompDirectiveNoFileComp))
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
	var device, mount string
	cmd := &cobra.Command{
		Use:   "attach VOLUME SERVER",
		Short: "Plug a volume into a server as a data disk",
		Long: `Plugs a volume into a server. It belongs to the server from then on, so that a
rescue takes it along. With --mount the file system on it is mounted, now and
at each boot; it is never formatted.`,
		Example: `  stead volume attach vol-0a1b2c3d web
  stead volume attach vol-0a1b2c3d web --mount /srv`,
		Args:              exactly("VOLUME", "SERVER"),
		ValidArgsFunction: a.completeVolumeThenServer,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&device, "device", "", "`DEVICE` such as /dev/sdg (default where it was, else the next free one)")
	cmd.Flags().StringVar(&mount, "mount", "", "`PATH` to mount it at (default nowhere)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withDisk(ctx, func(s *session) (*server.Disk, error) {
			d, err := s.servers.VolumeAttach(ctx, args[0], args[1], device)
			if err != nil || mount == "" {
				return d, err
			}
			_, err = s.servers.VolumeMount(ctx, args[0], mount)
			return d, err
		})
	})
}

func newVolumeDetach(a *App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach VOLUME",
		Short: "Unplug a data disk and take it out of its server",
		Long: `Unplugs a data disk and takes it out of its server. Its data stays. On a server
that runs it is unmounted first, and leaves the fstab; with --force it is
unplugged as it is: what the system hasn't written yet is lost, and its line
stays in the fstab until "stead doctor SERVER --fix" takes it out.`,
		Example:           "  stead volume detach vol-0a1b2c3d",
		Args:              exactly("VOLUME"),
		ValidArgsFunction: a.completeVolumeThenServer,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().BoolVar(&force, "force", false, "unplug it also where it can't be unmounted")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withDisk(ctx, func(s *session) (*server.Disk, error) { return s.servers.VolumeDetach(ctx, args[0], force) })
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
		Long:              "Lists the disks of a server, or all volumes. Those that a rescue or a restore\nsuperseded are shown too: stead volume rm deletes them.",
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
