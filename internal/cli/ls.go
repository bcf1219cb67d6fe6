package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newLs(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the servers",
		Long: `Lists the servers of the current cloud. One that has disks and no instance is
"detached": "stead rescue NAME" brings it back.`,
		Example: `  stead ls
  stead ls -o json | jq -r '.[] | select(.state=="detached").name'`,
		Args: exactly(),
	}, func(ctx context.Context, _ []string) error { return a.ls(ctx) })
}

func (a *App) ls(ctx context.Context) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	servers, err := s.servers.List(ctx)
	s.close()
	if err != nil {
		return err
	}
	return a.print(orEmpty(servers), func(w io.Writer) {
		t := table{
			heading: []string{"NAME", "STATE", "TYPE", "ZONE", "ADDRESS", "DISKS", "INSTANCE"},
			empty:   "no servers yet; to make one: stead create NAME",
		}
		for i := range servers {
			v := &servers[i]
			t.add(v.Name, v.State, v.Type, v.Zone, address(v), diskSizes(v), v.InstanceID)
		}
		t.write(w)
		// Beside the table, which scripts read.
		for i := range servers {
			for _, warning := range servers[i].Warnings {
				fmt.Fprintf(a.Stderr, "warning: %s: %s\n", servers[i].Name, warning)
			}
		}
	})
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
