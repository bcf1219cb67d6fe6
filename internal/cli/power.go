package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newStart(a *App) *cobra.Command {
	var wait waitFlag
	cmd := &cobra.Command{
		Use:   "start NAME",
		Short: "Start a stopped server",
		Long: `Starts a stopped server and waits for it. On a running one it only waits. A
server without an instance needs "stead rescue".`,
		Example:           "  stead start web",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	addWaitFlag(cmd, &wait)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			waitFor, err := s.waitFor(wait)
			if err != nil {
				return nil, err
			}
			return s.servers.Start(ctx, args[0], waitFor)
		})
	})
}

func newStop(a *App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "Shut a server down",
		Long: `Shuts a server down and waits until it is stopped. Its disks and its fixed
address stay. With --force the machine is switched off without asking the
system on it, as if by pulling the plug.`,
		Example:           "  stead stop web",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().BoolVar(&force, "force", false, "switch off without a clean shutdown")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			return s.servers.Stop(ctx, args[0], force)
		})
	})
}

func newReboot(a *App) *cobra.Command {
	var wait waitFlag
	cmd := &cobra.Command{
		Use:               "reboot NAME",
		Short:             "Restart a running server",
		Example:           "  stead reboot web",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
	}
	addWaitFlag(cmd, &wait)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			waitFor, err := s.waitFor(wait)
			if err != nil {
				return nil, err
			}
			return s.servers.Reboot(ctx, args[0], waitFor)
		})
	})
}
