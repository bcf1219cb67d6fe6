package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type resizeOptions struct {
	name, instanceType, disk string
	data                     []string
	yes                      bool
	wait                     waitFlag
}

func newResize(a *App) *cobra.Command {
	var o resizeOptions
	cmd := &cobra.Command{
		Use:   "resize NAME",
		Short: "Change a server's type, or enlarge its disks",
		Long: `Changes a server's instance type, or enlarges its disks, or both.

Another type needs the server to be stopped for a moment; it is started again
if it ran. Where the cloud has no room for the new type the server gets its old
one back.

Disks are enlarged while the server runs, and the file system on each with it.
A disk can't be made smaller. Repeated, the command does what isn't done yet.`,
		Example: `  stead resize web --type t3.large
  stead resize web --disk 40G
  stead resize db --data /dev/sdf=200G --yes`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.instanceType, "type", "", "instance `TYPE`")
	f.StringVar(&o.disk, "disk", "", "`SIZE` of the root disk")
	f.StringArrayVar(&o.data, "data", nil, "`[DISK=]SIZE` of a data disk, by device or volume ID; may be repeated")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.resize(ctx, o)
	})
}

// sizes reads the options.
func (o resizeOptions) sizes() (server.ResizeOptions, error) {
	opts := server.ResizeOptions{Type: o.instanceType}
	if o.instanceType == "" && o.disk == "" && len(o.data) == 0 {
		return opts, usage("nothing to resize: want --type, --disk or --data")
	}
	var err error
	if o.disk != "" {
		if opts.DiskGiB, err = parseSize(o.disk); err != nil {
			return opts, err
		}
	}
	for _, spec := range o.data {
		disk, size, found := strings.Cut(spec, "=")
		if !found {
			disk, size = "", spec
		}
		gib, err := parseSize(size)
		if err != nil {
			return opts, err
		}
		opts.Data = append(opts.Data, server.DiskSize{Disk: disk, GiB: gib})
	}
	return opts, nil
}

func (a *App) resize(ctx context.Context, o resizeOptions) error {
	opts, err := o.sizes()
	if err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if opts.Wait, err = s.waitFor(o.wait); err != nil {
		return err
	}
	if err := a.confirmRestart(ctx, s, o); err != nil {
		return err
	}
	result, err := s.servers.Resize(ctx, o.name, opts)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		if result.OldType != "" && result.OldType != result.Server.Type {
			fmt.Fprintf(w, "type: %s, was %s\n", result.Server.Type, result.OldType)
		}
		for _, g := range result.Disks {
			writeGrown(w, g)
		}
		a.writeServer(w, result.Server)
	})
}

// confirmRestart asks before another type stops a server that runs.
func (a *App) confirmRestart(ctx context.Context, s *session, o resizeOptions) error {
	if o.instanceType == "" || o.yes {
		return nil
	}
	v, err := s.servers.Get(ctx, o.name)
	if err != nil {
		return err
	}
	if v.State != server.StateRunning || v.Type == o.instanceType {
		return nil
	}
	return a.confirm(false, "resize server "+o.name, "Stop "+o.name+" for a moment, to make it a "+o.instanceType+"? Its disks and address stay.")
}

func writeGrown(w io.Writer, g server.Grown) {
	fmt.Fprintf(w, "%s %s: %s, was %s\n", g.VolumeID, orDash(g.Device), humanGiB(g.SizeGiB), humanGiB(g.OldGiB))
	if g.FileSystem != "" {
		fmt.Fprintf(w, "  %s", g.FileSystem)
		if g.Mount != "" {
			fmt.Fprintf(w, " on %s: %s", g.Mount, humanBytes(int64(g.FileSystemMiB)<<20))
		}
		fmt.Fprintln(w)
	}
	if g.Note != "" {
		fmt.Fprintf(w, "  note: %s\n", g.Note)
	}
}
