package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/cli/privatefile"
	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/server"
)

// sshConfigName is the file that ~/.ssh/config may include.
const sshConfigName = "ssh_config"

func newSSHConfig(a *App) *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Let plain ssh, scp and rsync know the servers by name",
		Long: `Prints an entry for each server of the context, in the form of ssh's own
configuration: address, user, key, and the host keys that stead keeps.

With --write it keeps them in a file of its own, and says which line in
~/.ssh/config includes that; ~/.ssh/config itself is never touched. Once the
file is there, the commands that change a server's address or name keep it up
to date. It holds the servers of every context that it was written for: each is
called NAME.CONTEXT, and NAME where no other context has one of that name
before it.`,
		Example: `  stead ssh-config --write
  ssh web uptime
  rsync -a ./site/ web:/srv/www/`,
		Args: exactly(),
	}
	cmd.Flags().BoolVar(&write, "write", false, "keep the entries in a file that ~/.ssh/config can include")
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.sshConfig(ctx, write) })
}

// sshConfigFile is the verb's result.
type sshConfigFile struct {
	Path    string `json:"path"`
	Include string `json:"include"` // the line for ~/.ssh/config
	Config  string `json:"config"`  // the entries of this context
}

func (a *App) sshConfig(ctx context.Context, write bool) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	entries, err := a.sshEntries(ctx, s)
	if err != nil {
		return err
	}
	s.close()
	path, err := a.sshConfigPath()
	if err != nil {
		return err
	}
	result := sshConfigFile{Path: path, Include: "Include " + quoteSSH(path), Config: entries}
	if write {
		if err := a.writeSSHConfig(path, s.context.Name, entries); err != nil {
			return err
		}
	}
	return a.print(result, func(w io.Writer) {
		if !write {
			fmt.Fprint(w, entries)
			return
		}
		fmt.Fprintf(w, "%s is written.\nPut this line at the top of ~/.ssh/config, once:\n\n  %s\n", path, result.Include)
	})
}

func (a *App) sshConfigPath() (string, error) {
	dir, err := a.configDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, sshConfigName), nil
}

// sshEntries are those of the context's servers that have an address.
func (a *App) sshEntries(ctx context.Context, s *session) (string, error) {
	list, err := s.servers.List(ctx)
	if err != nil {
		return "", err
	}
	dir, err := a.configDir()
	if err != nil {
		return "", err
	}
	identities, err := a.identities(dir, "")
	if err != nil {
		return "", err
	}
	hosts := sshclient.OpenKnownHosts(dir)
	var b strings.Builder
	for k := range list {
		v := &list[k]
		if v.SSH.Host == "" {
			continue
		}
		pinned, err := s.knowsHostKeys(ctx, hosts, v)
		if err != nil {
			return "", err
		}
		writeSSHEntry(&b, s.context, v, identities, hosts.Path(), pinned)
	}
	return b.String(), nil
}

// knowsHostKeys is learnHostKeys for a server that may not run.
func (s *session) knowsHostKeys(ctx context.Context, hosts sshclient.KnownHosts, v *server.Server) (bool, error) {
	alias := hostAlias(s.context, v.Name)
	if v.State != server.StateRunning || s.withoutMachines() {
		return hosts.Has(alias)
	}
	return s.learnHostKeys(ctx, hosts, alias, v)
}

func writeSSHEntry(w io.Writer, c contexts.Context, v *server.Server, identities []string, knownHosts string, pinned bool) {
	checking := map[bool]string{true: "yes", false: "accept-new"}[pinned]
	fmt.Fprintf(w, "Host %s %s.%s\n", v.Name, v.Name, c.Name)
	for _, line := range [][2]string{
		{"HostName", v.SSH.Host},
		{"Port", itoa(v.SSH.Port)},
		{"User", v.SSH.User},
		{"HostKeyAlias", hostAlias(c, v.Name)},
		{"UserKnownHostsFile", quoteSSH(knownHosts)},
		{"StrictHostKeyChecking", checking},
		{"CheckHostIP", "no"},
		{"UpdateHostKeys", "no"},
	} {
		fmt.Fprintf(w, "  %s %s\n", line[0], line[1])
	}
	for _, path := range identities {
		fmt.Fprintf(w, "  IdentityFile %s\n", quoteSSH(path))
	}
}

// quoteSSH protects spaces in a value of ssh's configuration, and the percent
// signs that it would expand.
func quoteSSH(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if strings.ContainsAny(path, " \t") {
		return `"` + path + `"`
	}
	return path
}

const (
	sshSectionBegin = "# context "
	sshConfigHead   = "# Written by stead ssh-config --write. Changes made here are lost.\n"
)

// writeSSHConfig replaces one context's part of the file. The current
// context's comes first: ssh takes the first entry that fits.
func (a *App) writeSSHConfig(path, name, entries string) error {
	unlock, err := privatefile.Lock(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	parts := sshSections(string(old))
	parts[name] = entries
	first := name
	if store, err := a.contexts(); err == nil {
		if c, err := store.Current("", a.Getenv("STEAD_CONTEXT")); err == nil {
			first = c.Name
		}
	}
	var names []string
	for n := range parts {
		names = append(names, n)
	}
	slices.SortFunc(names, func(x, y string) int {
		if (x == first) != (y == first) {
			if x == first {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	var b bytes.Buffer
	b.WriteString(sshConfigHead)
	for _, n := range names {
		fmt.Fprintf(&b, "%s%s\n%s", sshSectionBegin, n, parts[n])
	}
	if bytes.Equal(b.Bytes(), old) {
		return nil
	}
	return privatefile.Write(path, b.Bytes())
}

// sshSections splits the file into the parts of its contexts.
func sshSections(text string) map[string]string {
	parts := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, sshSectionBegin); ok {
			name = strings.TrimSpace(n)
			parts[name] = ""
		} else if name != "" {
			parts[name] += line
		}
	}
	return parts
}

// movesServers tells a command after which servers may have other names or
// addresses.
func movesServers(verb string) bool {
	return slices.Contains([]string{
		"create", "adopt", "rename", "start", "terminate", "rescue", "restore", "clone", "purge", "move", "resize", "repair",
	}, verb)
}

// sshConfigPatience bounds what a command does for the file beyond its own
// work.
const sshConfigPatience = 10 * time.Second

// refreshSSHConfig brings the file up to date, if the user has one. What goes
// wrong is a warning: the command itself was done.
func (a *App) refreshSSHConfig(ctx context.Context) {
	path, err := a.sshConfigPath()
	if err != nil {
		return
	}
	if _, err := os.Stat(path); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sshConfigPatience)
	defer cancel()
	c, err := a.currentContext()
	if err != nil {
		return
	}
	s, err := a.openContext(ctx, c, false)
	if err == nil {
		defer s.close()
		var entries string
		if entries, err = a.sshEntries(ctx, s); err == nil {
			err = a.writeSSHConfig(path, c.Name, entries)
		}
	}
	if err != nil && !a.flags.quiet {
		fmt.Fprintf(a.Stderr, "warning: %s isn't up to date: %v; stead ssh-config --write makes it so\n", path, err)
	}
}
