package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/server"
)

func newRename(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Give a server another name",
		Long: `Gives a server another name: its instance, disks, snapshots, images, address,
firewall and schedule get it, while it runs on. Its host keys stay known. The
host name inside is the system's own affair, and stays.

Interrupted, the same command goes on from where it was.`,
		Example:           "  stead rename web shop",
		Args:              exactly("OLD", "NEW"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}, func(ctx context.Context, args []string) error {
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			v, err := s.servers.Rename(ctx, args[0], args[1])
			if err != nil || a.flags.dryRun {
				return v, err
			}
			dir, err := a.configDir()
			if err != nil {
				return nil, err
			}
			return v, sshclient.OpenKnownHosts(dir).Rename(hostAlias(s.context, args[0]), hostAlias(s.context, args[1]))
		})
	})
}
