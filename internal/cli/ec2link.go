package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/ec2tools"
	"github.com/steadcloud/stead/internal/server"
)

func newEC2Link(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "link DIR",
		Short: "Link this program to the EC2 API tools' names",
		Long: `Makes a symbolic link to this program in DIR for each name of the EC2 API
tools, short and long. Links that are there already are renewed; anything else
of such a name is left alone, and nothing is linked then.`,
		Example: `  stead ec2 link ~/.local/bin
  sudo stead ec2 link /usr/local/bin`,
		Args: exactly("DIR"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}, func(_ context.Context, args []string) error { return a.linkEC2Tools(args[0]) })
}

// linked is a link that was made.
type linked struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Target string `json:"target"`
}

func (a *App) linkEC2Tools(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("link: find this program: %w", err)
	}
	var names []string
	for _, tool := range ec2tools.Tools() {
		names = append(names, tool.Names()...)
	}
	if err := linkable(dir, names); err != nil {
		return err
	}
	links := make([]linked, len(names))
	for k, name := range names {
		links[k] = linked{Name: name, Path: filepath.Join(dir, name), Target: self}
		if err := replaceLink(self, links[k].Path); err != nil {
			return &server.Error{Op: "link", Resource: links[k].Path, Err: err, Remedy: "choose a folder that you may write to"}
		}
	}
	return a.print(links, func(w io.Writer) {
		fmt.Fprintf(w, "%d commands in %s lead to %s\n", len(links), dir, self)
	})
}

// linkable checks that the folder is there, and that no name in it is taken by
// anything but a link.
func linkable(dir string, names []string) error {
	refuse := func(path, reason, remedy string, err error) error {
		return &server.Error{Op: "link", Resource: path, Code: server.KindUsage, Reason: reason, Remedy: remedy, Err: err}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return refuse(dir, "no such folder", "mkdir -p "+dir, nil)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return refuse(path, "", "", err)
		case info.Mode()&fs.ModeSymlink == 0:
			return refuse(path, "it is there, and no link", "move it away, or choose another folder", nil)
		}
	}
	return nil
}

// replaceLink makes or renews a link in one step.
func replaceLink(target, path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
