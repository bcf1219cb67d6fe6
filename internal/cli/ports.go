package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newOpen(a *App) *cobra.Command {
	return newPorts(a, &cobra.Command{
		Use:   "open NAME PORTS",
		Short: "Open ports of a server",
		Long: `Opens ports of a server: to the networks that its other ports are open to, or
to those of --from. What is open is a fact of the server, so a rescue opens it
again.`,
		Example: `  stead open web 80,443
  stead open db 5432 --from 10.0.0.0/8
  stead open game 27015-27020/udp`,
	}, (*server.Manager).Open)
}

func newClose(a *App) *cobra.Command {
	return newPorts(a, &cobra.Command{
		Use:   "close NAME PORTS",
		Short: "Close ports of a server",
		Long: `Closes ports of a server: to everybody, or to the networks of --from alone. A
range is closed as it was opened. Without port 22 nobody can log in any more.`,
		Example: `  stead close web 80
  stead close db 5432 --from 10.0.0.0/8`,
	}, (*server.Manager).Close)
}

// newPorts makes a verb that changes what is open.
func newPorts(a *App, cmd *cobra.Command, change func(*server.Manager, context.Context, string, []server.Port, []string) (*server.Server, error)) *cobra.Command {
	var from string
	cmd.Args = exactly("NAME", "PORTS")
	cmd.ValidArgsFunction = a.completeServers
	cmd.Annotations = map[string]string{resumable: "yes"}
	cmd.Flags().StringVar(&from, "from", "", "`CIDR`s, such as 203.0.113.0/24")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		ports, err := server.ParsePorts(args[1])
		if err != nil {
			return err
		}
		nets, err := server.ParseFrom(from)
		if err != nil {
			return err
		}
		return a.withServer(ctx, func(s *session) (*server.Server, error) {
			return change(s.servers, ctx, args[0], ports, nets)
		})
	})
}
