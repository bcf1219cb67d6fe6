package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/pages"
)

//go:generate go run ../../cmd/stead man --markdown ../../docs/zz_commands

func newMan(a *App) *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "man FOLDER",
		Short: "Write the manual pages",
		Long: `Writes a manual page of each command into a folder, from the commands' own
help. Such a folder is read by man where it is called man1.`,
		Example: `  stead man ~/.local/share/man/man1
  man stead-rescue`,
		Args: exactly("FOLDER"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "write Markdown instead")
	return a.command(cmd, func(_ context.Context, args []string) error {
		return writePages(cmd.Root(), args[0], markdown)
	})
}

// writePages makes the folder if need be. Pages of commands that are no more
// go: a page is only as true as its command.
func writePages(root *cobra.Command, dir string, markdown bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write pages: %w", err)
	}
	pattern, file, page := root.Name()+"*.1", pages.ManFile, pages.Man
	if markdown {
		pattern, file, page = root.Name()+"*.md", pages.MarkdownFile, pages.Markdown
	}
	old, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return fmt.Errorf("write pages: %w", err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("write pages: %w", err)
		}
	}
	return pages.Tree(root, dir, file, page)
}
