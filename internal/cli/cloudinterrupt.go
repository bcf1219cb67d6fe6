package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newCloudInterrupt(a *App) *cobra.Command {
	var back bool
	cmd := &cobra.Command{
		Use: "interrupt NAME", Short: "Take a spot instance's capacity back, as EC2 may at any time",
		Long: `Takes the capacity of a server's spot instance back, as EC2 may do at any time:
to see what then becomes of it. The local cloud has no market and does this to
nobody by itself. The instance is shut down and stopped, and only the return of
its capacity, --back, starts it again; "stead rescue" brings the server back in
another instance.`,
		Example: `  stead cloud interrupt web
  stead ls
  stead cloud interrupt web --back`,
		Args: exactly("NAME"), ValidArgsFunction: a.completeServers,
	}
	cmd.Flags().BoolVar(&back, "back", false, "give the capacity back")
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.cloudInterrupt(ctx, args[0], back) })
}

func (a *App) cloudInterrupt(ctx context.Context, name string, back bool) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if s.local == nil {
		return &server.Error{
			Code: server.KindUnsupported, Op: "interrupt", Resource: "server " + name,
			Reason: "context " + s.context.Name + " is not the local cloud", Remedy: "on AWS the Fault Injection Service interrupts spot instances",
		}
	}
	v, err := s.servers.Get(ctx, name)
	if err != nil {
		return err
	}
	if v.InstanceID == "" {
		return &server.Error{Code: server.KindExists, Op: "interrupt", Resource: "server " + name, Reason: "it has no instance", Remedy: "stead rescue " + name}
	}
	if err := s.local.control.Interrupt(ctx, s.local.info.Region, v.InstanceID, back); err != nil {
		return &server.Error{Code: server.KindOf(err), Op: "interrupt", Resource: "server " + name, Err: err}
	}
	want := server.StateStopped
	if back {
		want = server.StateRunning
	}
	v, err = s.servers.Wait(ctx, name, want)
	s.close()
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", name, v.State) })
}
