package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newWait(a *App) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "wait NAME",
		Short: "Wait until a server is in a state",
		Long: `Waits until a server is in a state, whichever command brings it there, and
prints it.

  --for ssh       it runs, and answers to ssh
  --for running   its instance runs
  --for stopped   it is shut down
  --for detached  its instance is gone, and the disks are free

What can't come any more by itself is an error at once. --timeout bounds the
wait; the exit code is then 6.`,
		Example: `  stead create web --wait none && stead wait web
  stead wait web --for stopped --timeout 5m`,
		Args: func(cmd *cobra.Command, args []string) error {
			err := exactly("NAME")(cmd, args)
			var e *server.Error
			if len(args) == 2 && slices.Contains(server.States(), args[1]) && errors.As(err, &e) {
				e.Remedy = "stead wait " + args[0] + " --for " + args[1]
			}
			return err
		},
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&state, "for", string(server.WaitSSH), "`STATE` to wait for: ssh, running, stopped or detached")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(server.States(), cobra.ShellCompDirectiveNoFileComp))
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			if s.withoutMachines() && state == string(server.WaitSSH) {
				return nil, noMachines("wait for", "ssh", "--for running")
			}
			return s.servers.Wait(ctx, args[0], state)
		})
	})
}
