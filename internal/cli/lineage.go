package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/steadcloud/stead/internal/server"
)

// shownSnapshots is how many snapshots of one disk are drawn that nothing came
// of; of the older ones their number is told.
const shownSnapshots = 5

// writeLineage draws where the disks come from as a tree.
func (a *App) writeLineage(w io.Writer, nodes []server.Node) {
	for _, n := range nodes {
		fmt.Fprintf(w, "  %s\n", a.nodeText(&n))
		a.writeBranches(w, n.Children, "  ")
	}
}

func (a *App) writeBranches(w io.Writer, nodes []server.Node, indent string) {
	shown, older := newestLeaves(nodes)
	if older > 0 {
		branch := "├─"
		if len(shown) == 0 {
			branch = "└─"
		}
		fmt.Fprintf(w, "%s%s %d older snapshots\n", indent, branch, older)
	}
	for i, n := range shown {
		branch, more := "├─", "│  "
		if i == len(shown)-1 {
			branch, more = "└─", "   "
		}
		fmt.Fprintf(w, "%s%s %s\n", indent, branch, a.nodeText(&n))
		a.writeBranches(w, n.Children, indent+more)
	}
}

// newestLeaves leaves out the older ones of many snapshots that nothing came
// of.
func newestLeaves(nodes []server.Node) (shown []server.Node, older int) {
	leaves := 0
	for _, n := range nodes {
		if n.Kind == server.NodeSnapshot && len(n.Children) == 0 {
			leaves++
		}
	}
	older = max(0, leaves-shownSnapshots)
	skip := older
	for _, n := range nodes {
		if skip > 0 && n.Kind == server.NodeSnapshot && len(n.Children) == 0 {
			skip--
			continue
		}
		shown = append(shown, n)
	}
	return shown, older
}

// nodeText is a node in a line.
func (a *App) nodeText(n *server.Node) string {
	parts := []string{n.ID}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch n.Kind {
	case server.NodeImage:
		add("image %s", n.Name)
	case server.NodeVolume:
		if n.Device != "" || n.Role != "" {
			parts = append(parts, nonEmpty(n.Device, n.Role)...)
		}
		if n.SizeGiB > 0 {
			parts = append(parts, humanGiB(n.SizeGiB))
		}
		parts = append(parts, nonEmpty(n.State)...)
		if n.SupersededBy != "" {
			add("superseded by %s", n.SupersededBy)
		}
	default:
		if n.Created != nil {
			add("%s ago", a.age(*n.Created))
		}
		if n.State != "" && n.State != "completed" {
			parts = append(parts, n.State)
		}
		if n.Set != "" {
			add("set %s", n.Set)
		}
		if n.Note != "" {
			add("%q", n.Note)
		}
		if len(n.Images) > 0 {
			add("registered as %s", strings.Join(n.Images, ", "))
		}
	}
	text := strings.Join(parts, "  ")
	if n.Current {
		text += "  *"
	}
	return text
}
