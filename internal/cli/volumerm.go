package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type volumeRmOptions struct {
	volumes       []string
	yes, snapshot bool
}

func newVolumeRm(a *App) *cobra.Command {
	var o volumeRmOptions
	cmd := &cobra.Command{
		Use:     "rm VOLUME...",
		Aliases: []string{"delete"},
		Short:   "Delete disks for good",
		Long: `Deletes disks and all that is on them. A disk that is plugged in, or a server's
root, is refused; one that was superseded in a rescue or a restore may go. With
--snapshot a last snapshot is taken first and kept.`,
		Example: `  stead volume rm vol-0a1b2c3d --snapshot
  stead volume rm vol-0a1b2c3d vol-4e5f6a7b --yes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return nil
			}
			return exactly("VOLUME")(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.volumeNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&o.snapshot, "snapshot", false, "take a last snapshot of each first")
	addYesFlag(cmd.Flags(), &o.yes)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.volumes = args
		return a.volumeRm(ctx, o)
	})
}

func (a *App) volumeRm(ctx context.Context, o volumeRmOptions) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.volumes, err = s.present(ctx, o.volumes); err != nil {
		return err
	}
	var losses []string
	for _, id := range o.volumes {
		d, err := s.servers.VolumeLoss(ctx, id)
		if err != nil {
			return err
		}
		losses = append(losses, describeLoss(d))
	}
	question := "Delete " + strings.Join(losses, " and ") + "? What is on it is lost; --snapshot keeps a copy."
	if o.snapshot {
		question = "Take a last snapshot of " + strings.Join(losses, " and ") + ", and delete it?"
	}
	if err := a.confirm(o.yes, "delete "+strings.Join(o.volumes, ", "), question); err != nil {
		return err
	}
	var gone []*server.VolumeRemoved
	for _, id := range o.volumes {
		r, err := s.servers.VolumeDelete(ctx, id, o.snapshot)
		if err != nil {
			return err
		}
		gone = append(gone, r)
	}
	s.close()
	return a.print(gone, func(w io.Writer) {
		for _, r := range gone {
			fmt.Fprintf(w, "%s is deleted", r.VolumeID)
			if r.SnapshotID != "" {
				fmt.Fprintf(w, "; its last snapshot is %s", r.SnapshotID)
			}
			if r.Set != "" {
				fmt.Fprintf(w, ": stead restore NAME --set %s brings it back", r.Set)
			}
			fmt.Fprintln(w)
		}
	})
}

// present are the volumes that there are: of several some may be gone, as when
// their deletion was cut off. It fails when all are.
func (s *session) present(ctx context.Context, volumes []string) ([]string, error) {
	var here []string
	var last error
	for _, id := range volumes {
		_, err := s.servers.VolumeLoss(ctx, id)
		if server.KindOf(err) == server.KindNotFound {
			last = err
			if len(volumes) > 1 {
				s.passedOver("volume " + id)
			}
			continue
		}
		here = append(here, id) // where it may not go, that is said later
	}
	if len(here) == 0 {
		return nil, last
	}
	return here, nil
}

// describeLoss names a disk by what a person knows of it.
func describeLoss(d *server.Disk) string {
	s := fmt.Sprintf("%s (%s", d.VolumeID, humanGiB(d.SizeGiB))
	switch {
	case d.SupersededBy != "":
		s += ", superseded disk of " + d.Server
	case d.Server != "":
		s += ", " + d.Role + " disk of " + d.Server
	default:
		s += ", no server's"
	}
	return s + ")"
}
