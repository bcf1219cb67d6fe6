package cli

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/steadcloud/stead/internal/server"
)

// errDeclined is the answer No to a question.
var errDeclined = errors.New("nothing was done")

func addYesFlag(f *pflag.FlagSet, yes *bool) {
	f.BoolVarP(yes, "yes", "y", false, "don't ask for confirmation")
}

// confirm asks whether to go on and takes anything but "y" or "yes" as No.
// Where nobody can answer it refuses and names the flag that answers.
func (a *App) confirm(yes bool, what, question string) error {
	if yes || a.flags.dryRun {
		return nil
	}
	if !isTerminal(a.Stdin) {
		return &server.Error{
			Code: server.KindUsage, Op: what, Reason: "needs a confirmation, and there is no terminal to ask on",
			Remedy: "add --yes",
		}
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(a.Stderr)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("%s: %w", what, errDeclined)
}
