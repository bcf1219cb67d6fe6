package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newLs(a *App) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the servers",
		Long: `Lists the servers of the current cloud. One that has disks and no instance is
"detached": "stead rescue NAME" brings it back. With --all those are listed too
of which only snapshots are left ("snapshots-only"): they come back the same way.

SNAPSHOT is the age of the newest complete snapshot set. A MONTH is what the
server costs in its present state with its disks and its address, where the
price is known; "stead cost" has the rest. With -o json it is "month".`,
		Example: `  stead ls
  stead ls --all
  stead ls -o json | jq -r '.[] | select(.state=="detached").name'`,
		Args: exactly(),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also servers of which only snapshots are left")
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.ls(ctx, all) })
}

func (a *App) ls(ctx context.Context, all bool) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	servers, err := s.servers.ListAll(ctx)
	s.close()
	if err != nil {
		return err
	}
	total := len(servers)
	if !all {
		servers = slices.DeleteFunc(servers, func(v server.Server) bool { return v.State == server.StateSnapshots })
	}
	return a.print(orEmpty(servers), func(w io.Writer) {
		a.lsTable(s, servers).write(w)
		// Beside the table, which scripts read.
		for i := range servers {
			for _, warning := range servers[i].Warnings {
				fmt.Fprintf(a.Stderr, "warning: %s: %s\n", servers[i].Name, warning)
			}
		}
		if hidden := total - len(servers); hidden > 0 {
			fmt.Fprintf(a.Stderr, "of %d more only snapshots are left: stead ls --all\n", hidden)
		}
	})
}

func (a *App) lsTable(s *session, servers []server.Server) *table {
	t := &table{
		heading: []string{"NAME", "STATE", "TYPE", "ZONE", "ADDRESS", "DISKS", "INSTANCE", "SNAPSHOT", "A MONTH"},
		empty:   "no servers yet; to make one: stead create NAME",
	}
	for i := range servers {
		v := &servers[i]
		t.add(v.Name, v.State, v.Type, v.Zone, address(v), diskSizes(v), v.InstanceID, a.snapshotAge(v), monthly(s, v))
	}
	return t
}

// snapshotAge is how old the newest complete set is.
func (a *App) snapshotAge(v *server.Server) string {
	if v.NewestSnapshot == nil {
		return ""
	}
	return a.age(*v.NewestSnapshot)
}

// address is where the server answers, with the ports that were moved.
func address(v *server.Server) string {
	addr := v.PublicIP
	if addr == "" {
		addr = v.PrivateIP
	}
	if moved := forwards(v); addr != "" && moved != "" {
		addr += " (" + moved + ")"
	}
	return addr
}

// diskSizes is "8+10 GiB": the root disk, then the data disks.
func diskSizes(v *server.Server) string {
	if v.Root.VolumeID == "" && len(v.Data) == 0 {
		return ""
	}
	sizes := []string{itoa(v.Root.SizeGiB)}
	for _, d := range v.Data {
		sizes = append(sizes, itoa(d.SizeGiB))
	}
	return strings.Join(sizes, "+") + " GiB"
}
