package server

import (
	"context"
	_ "embed"
	"maps"
	"slices"
	"strings"
)

// The scripts that run inside a server's own system. Each is preceded by
// diskScript, and by its variables.
var (
	//go:embed guest/disk.sh
	diskScript string
	//go:embed guest/grow.sh
	growScript string
	//go:embed guest/mount.sh
	mountScript string
	//go:embed guest/unmount.sh
	unmountScript string
	//go:embed guest/open.sh
	openScript string
	//go:embed guest/tape.sh
	tapeScript string
	//go:embed guest/close.sh
	closeScript string
	//go:embed guest/fstab.sh
	fstabScript string
)

// guestScript puts a script together with its variables.
func guestScript(vars map[string]string, script string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		b.WriteString(name + "=" + shellQuote(vars[name]) + "\n")
	}
	return b.String() + diskScript + script
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// inGuest runs a script in a server's own system. It tells whether there is a
// way in at all: a server that doesn't run has none.
func (m *Manager) inGuest(ctx context.Context, s *Server, vars map[string]string, script string) (out string, reached bool, err error) {
	if m.guest == nil || s.State != StateRunning {
		return "", false, nil
	}
	out, err = m.guest.Run(ctx, s, guestScript(vars, script))
	return out, true, err
}

// lookInGuest is inGuest for a script that changes nothing.
func (m *Manager) lookInGuest(ctx context.Context, s *Server, vars map[string]string, script string) (out string, reached bool, err error) {
	l, looks := m.guest.(Looker)
	if !looks || s.State != StateRunning {
		return m.inGuest(ctx, s, vars, script)
	}
	out, err = l.Look(ctx, s, guestScript(vars, script))
	return out, true, err
}

// guestLines reads what a script said: lines of a word, a tab and text.
func guestLines(out string) map[string][]string {
	said := map[string][]string{}
	for line := range strings.Lines(out) {
		if word, text, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "\t"); ok {
			said[word] = append(said[word], text)
		}
	}
	return said
}
