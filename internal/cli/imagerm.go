package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newImageRm(a *App) *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:     "rm AMI|NAME",
		Aliases: []string{"remove"},
		Short:   "Remove an image of yours and its snapshots",
		Long: `Deregisters an image and deletes those of its snapshots that nothing else uses:
no other image, and no server as a backup. Servers that were made from it keep
their disks, but a rescue launches it again: for those it needs --force.`,
		Example:           "  stead image rm ami-0123456789abcdef0",
		Args:              exactly("AMI|NAME"),
		ValidArgsFunction: a.completeImages,
		Annotations:       map[string]string{resumable: "yes"},
	}
	addYesFlag(cmd.Flags(), &yes)
	cmd.Flags().BoolVar(&force, "force", false, "also when servers were made from it")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		s, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		plan, err := s.servers.ImageRemovePlan(ctx, args[0])
		if err != nil {
			return err
		}
		if len(plan.Servers) == 0 || force {
			if err := a.confirm(yes, "remove image "+plan.ID, removalQuestion(plan)); err != nil {
				return err
			}
		}
		err = s.servers.ImageRemove(ctx, plan, force)
		s.close()
		if err != nil {
			return err
		}
		return a.print(plan, func(w io.Writer) { writeRemoval(w, plan) })
	})
}

// removalQuestion names what goes.
func removalQuestion(plan *server.ImageRemoval) string {
	what := "image " + plan.ID
	if plan.Image != nil {
		what += " (" + plan.Image.Name + ")"
	}
	var ids []string
	for _, s := range plan.Snapshots {
		ids = append(ids, fmt.Sprintf("%s (%d GiB)", s.ID, s.SizeGiB))
	}
	if len(ids) > 0 {
		what += " and delete its snapshots " + strings.Join(ids, ", ")
	}
	return "Remove " + what + "? They can't be had back."
}

func writeRemoval(w io.Writer, plan *server.ImageRemoval) {
	fmt.Fprintf(w, "removed   %s\n", plan.ID)
	for _, s := range plan.Snapshots {
		fmt.Fprintf(w, "deleted   %s  %d GiB\n", s.ID, s.SizeGiB)
	}
	for _, s := range plan.Kept {
		fmt.Fprintf(w, "kept      %s  %d GiB: %s\n", s.ID, s.SizeGiB, s.Reason)
	}
}

// completeImages offers the caller's own images for the first argument.
func (a *App) completeImages(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) == 0 {
		a.quietly(cmd.Context(), func(ctx context.Context, s *session) error {
			images, err := s.servers.ImageList(ctx)
			for _, i := range images {
				ids = append(ids, cobra.CompletionWithDesc(i.ID, i.Name))
			}
			return err
		})
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
