package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newProtect(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "protect NAME",
		Short: "Forbid to stop, terminate or purge a server",
		Long: `Forbids to stop and to terminate a server, by stead and by other tools, until
"stead unprotect". It is a fact of the server: after a rescue it is as before.

Without it, a server is still protected against termination by other tools,
and all its disks are kept in any case. EC2 can't protect spot instances.`,
		Example:           "  stead protect web",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) { return s.servers.Protect(ctx, args[0]) })
	})
}

func newUnprotect(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:               "unprotect NAME",
		Short:             "Allow to stop, terminate and purge a server again",
		Long:              `Takes back "stead protect". The disks stay kept on termination all the same.`,
		Example:           "  stead unprotect web",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) { return s.servers.Unprotect(ctx, args[0]) })
	})
}
