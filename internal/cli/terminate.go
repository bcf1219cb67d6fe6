package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

type terminateOptions struct {
	name string
	yes  bool
}

func newTerminate(a *App) *cobra.Command {
	var o terminateOptions
	cmd := &cobra.Command{
		Use:   "terminate NAME",
		Short: "Give a server's instance back and keep its disks",
		Long: `Ends the server's instance. First it makes sure that every disk is kept, and
only then lifts the protection against termination. The disks stay, detached;
"stead rescue NAME" puts them into a new instance.

What is lost is what no disk holds: the memory, instance store, and the
address, unless it is a fixed one.`,
		Example:           "  stead terminate web --yes",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	addYesFlag(cmd.Flags(), &o.yes)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.terminate(ctx, o)
	})
}

func (a *App) terminate(ctx context.Context, o terminateOptions) error {
	question := "Terminate the instance of " + o.name + "? Its disks stay."
	if err := a.confirm(o.yes, "terminate server "+o.name, question); err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	result, err := s.servers.Terminate(ctx, o.name)
	s.close()
	if err != nil {
		return err
	}
	result.Kept = orEmpty(result.Kept)
	return a.print(result, func(w io.Writer) {
		if result.InstanceID == "" {
			fmt.Fprintf(w, "%s has no instance; its disks:\n", o.name)
		} else {
			fmt.Fprintf(w, "%s: instance %s is terminated; the disks stay:\n", o.name, result.InstanceID)
		}
		writeDisks(w, result.Kept)
		fmt.Fprintf(w, "to bring it back: stead rescue %s\n", o.name)
	})
}
