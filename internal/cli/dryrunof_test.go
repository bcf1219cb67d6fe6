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

// each calls f with the commands that do something, but for those that cobra
// and the EC2 API tools bring along.
func each(cmd *cobra.Command, f func(path, example string)) {
	for _, c := range cmd.Commands() {
		switch c.Name() {
		case "help", "completion":
			continue
		}
		each(c, f)
	}
	if cmd.HasParent() && !cmd.HasSubCommands() && cmd.IsAvailableCommand() && !cmd.DisableFlagParsing {
		f(cmd.CommandPath(), cmd.Example)
	}
}
