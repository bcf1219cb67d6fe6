package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newShow(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "show NAME",
		Short: "Show a server, its disks and where they come from",
		Long: `Shows a server: its machine, its address, what it costs, its disks, and the
lineage of those as a tree: the image, its snapshot, the disk that was made of
it, the snapshots that were taken of that, and what came of them. A disk that
the server has now is marked with *. One of which only snapshots are left is
shown too.`,
		Example: `  stead show web
  stead show web -o json | jq -r .public_ip`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
	}, func(ctx context.Context, args []string) error { return a.show(ctx, args[0]) })
}

func (a *App) show(ctx context.Context, name string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := s.servers.Show(ctx, name)
	s.close()
	if err != nil {
		return err
	}
	return a.print(d, func(w io.Writer) {
		a.writeFacts(w, d.Server, fact{"schedule", scheduled(d.Schedules)})
		if len(d.Lineage) > 0 {
			fmt.Fprintln(w, "  lineage")
			a.writeLineage(w, d.Lineage)
		}
		writeWarnings(w, d.Server)
	})
}

// withServer connects, calls fn, and prints the server that it returns.
func (a *App) withServer(ctx context.Context, fn func(*session) (*server.Server, error)) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	v, err := fn(s)
	s.close()
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) { a.writeServer(w, v) })
}

// writeServer draws a server: its facts, then its disks as a tree.
func (a *App) writeServer(w io.Writer, v *server.Server) {
	a.writeFacts(w, v)
	writeWarnings(w, v)
}

func (a *App) writeFacts(w io.Writer, v *server.Server, more ...fact) {
	fmt.Fprintf(w, "%s  %s\n", v.Name, v.State)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, fact := range append(a.facts(v), more...) {
		if fact.value != "" {
			fmt.Fprintf(tw, "  %s\t%s\n", fact.name, fact.value)
		}
	}
	_ = tw.Flush() // w keeps the error
	if v.Root.VolumeID != "" || len(v.Data) > 0 {
		fmt.Fprintln(w, "  disks")
		writeDisks(w, disks(v))
	}
}

func writeWarnings(w io.Writer, v *server.Server) {
	for _, warning := range v.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", warning)
	}
}

type fact struct{ name, value string }

func (a *App) facts(v *server.Server) []fact {
	instance := v.InstanceID
	if v.LaunchTime != nil && instance != "" {
		instance += ", launched " + a.age(*v.LaunchTime) + " ago"
	}
	addr := v.PublicIP
	if addr != "" && v.ElasticIP != "" {
		addr += " (fixed)"
	}
	if v.PrivateIP != "" {
		addr = strings.TrimPrefix(addr+", private "+v.PrivateIP, ", ")
	}
	return []fact{
		{"instance", instance},
		{"type", strings.Join(nonEmpty(v.Type, v.Arch, v.BootMode, v.Zone), ", ")},
		{"image", v.ImageID},
		{"kernel", v.Kernel},
		{"address", addr},
		{"open", openPorts(v)},
		{"ssh", sshHint(v)},
		{"kept", kept(v)},
		{"protected", locked(v)},
		{"snapshot", newestSnapshot(a.snapshotAge(v))},
		{"a month", paid(v)},
	}
}

func kept(v *server.Server) string {
	if v.Protected || v.InstanceID == "" {
		return ""
	}
	return "no: terminating the instance by other tools would delete a disk"
}

// scheduled says when the cloud takes snapshots, and how many it keeps.
func scheduled(list []server.Schedule) string {
	var texts []string
	for k := range list {
		text := list[k].When() + ", keeps " + list[k].Kept()
		if list[k].State != "enabled" {
			text += ", " + list[k].State
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

func newestSnapshot(age string) string {
	if age == "" {
		return ""
	}
	return "newest set " + age + " old"
}

// paid is what the server costs a month as it is now.
func paid(v *server.Server) string {
	if v.Month == nil {
		return ""
	}
	return monthText(v.Month) + " " + strings.ReplaceAll(string(v.Month.Way), "_", " ") + ", without snapshots and traffic"
}

func locked(v *server.Server) string {
	if !v.Locked {
		return ""
	}
	return "it can't be stopped or terminated before: stead unprotect " + v.Name
}

// openPorts lists the open ports, and where those that were moved are found.
func openPorts(v *server.Server) string {
	s := strings.Join(v.Open, ", ")
	if s != "" && len(v.From) > 0 {
		s += " from " + strings.Join(v.From, ", ")
	}
	if len(v.Rules) > 0 {
		s = strings.TrimPrefix(s+", "+strings.ReplaceAll(strings.Join(v.Rules, ", "), "@", " from "), ", ")
	}
	if moved := forwards(v); moved != "" {
		s += " (" + moved + ")"
	}
	return s
}

// forwards tells which ports are found under another number.
func forwards(v *server.Server) string {
	var moved []string
	for _, port := range slices.Sorted(maps.Keys(v.Forwards)) {
		if to := strconv.Itoa(v.Forwards[port]); to != port {
			moved = append(moved, port+" is at "+to)
		}
	}
	return strings.Join(moved, ", ")
}

func sshHint(v *server.Server) string {
	if v.SSH.Host == "" || v.State != server.StateRunning {
		return ""
	}
	return "stead ssh " + v.Name
}

func disks(v *server.Server) []server.Disk {
	if v.Root.VolumeID == "" {
		return v.Data
	}
	return append([]server.Disk{v.Root}, v.Data...)
}

func writeDisks(w io.Writer, list []server.Disk) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, d := range list {
		branch := "├─"
		if i == len(list)-1 {
			branch = "└─"
		}
		fmt.Fprintf(tw, "  %s %s\t%s\t%s\t%s\t%s\n", branch, orDash(d.Device), orDash(d.Role), d.VolumeID, humanGiB(d.SizeGiB), d.State)
	}
	_ = tw.Flush() // w keeps the error
}

func nonEmpty(list ...string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

func itoa(n int) string { return strconv.Itoa(n) }
