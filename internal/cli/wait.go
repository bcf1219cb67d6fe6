package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

// waitFlag is how far a verb that boots something waits.
type waitFlag server.WaitFor

// String returns what is waited for.
func (w *waitFlag) String() string {
	if *w == "" {
		return string(server.WaitSSH)
	}
	return string(*w)
}

// Set reads what to wait for.
func (w *waitFlag) Set(s string) error {
	switch server.WaitFor(s) {
	case server.WaitSSH, server.WaitRunning, server.WaitNone:
		*w = waitFlag(s)
		return nil
	}
	return fmt.Errorf("%q is neither ssh nor running nor none", s)
}

// Type names the value in help texts.
func (w *waitFlag) Type() string { return "WHAT" }

func (w *waitFlag) value() server.WaitFor { return server.WaitFor(w.String()) }

func addWaitFlag(cmd *cobra.Command, w *waitFlag) {
	cmd.Flags().Var(w, "wait", "wait for ssh, running or none")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"ssh", "running", "none"}, cobra.ShellCompDirectiveNoFileComp))
}
