package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newClone(a *App) *cobra.Command {
	var o server.CloneOptions
	var at moment
	var wait waitFlag
	cmd := &cobra.Command{
		Use:   "clone NAME NEW",
		Short: "Make a new server of another one's disks",
		Long: `Makes a new server of a snapshot set of another one: with the same disks and the
same type, and with an address, host keys, a machine ID and a host name of its
own. The set is taken now, of one instant, unless one is named; the source runs
on. Interrupted, the same command goes on from where it was.`,
		Example: `  stead clone web web-test
  stead clone web web-old --at 2d --type t3.small`,
		Args:              exactly("NAME", "NEW"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.Set, "set", "", "snapshot set `ID` to make it of; latest for the newest")
	addAtFlag(f, &at, "of the newest complete set of `TIME` or before")
	f.StringVar(&o.Type, "type", "", "instance `TYPE` (default the source's)")
	f.StringVar(&o.Zone, "zone", "", "availability `ZONE` (default the source's)")
	addWaitFlag(cmd, &wait)
	_ = cmd.RegisterFlagCompletionFunc("set", a.completeSetOf)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		var err error
		if o.At, err = at.time(a.Now()); err != nil {
			return err
		}
		o.Name = args[1]
		return a.clone(ctx, args[0], o, wait)
	})
}

func (a *App) clone(ctx context.Context, source string, o server.CloneOptions, wait waitFlag) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.Wait, err = s.waitFor(wait); err != nil {
		return err
	}
	result, err := s.servers.Clone(ctx, source, o)
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		a.writeServer(w, result.Server)
		fmt.Fprintf(w, "a clone of %s, set %s\n", source, result.Set)
	})
}
