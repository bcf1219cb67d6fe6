package cli

import (
	"testing"

	"github.com/spf13/cobra"
)

// TestDryRunOfEveryCommand holds whoever adds a command to say how it does
// under --dry-run.
func TestDryRunOfEveryCommand(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		if !cmd.HasParent() || cmd.HasSubCommands() || !cmd.IsAvailableCommand() || cmd.Name() == "help" {
			return
		}
		if how, why := dryRunOf(cmd.CommandPath()); how == dryRunRefused && why == unforeseen {
			t.Errorf("say in dryrunof.go how `%s` does under --dry-run", cmd.CommandPath())
		}
	}
	walk(newRoot(&App{Getenv: func(string) string { return "" }}))
}
