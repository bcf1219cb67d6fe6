package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

// waitFlag is how far a verb that boots something waits.
type waitFlag server.WaitFor

// String returns what is waited for where there are machines.
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

// waitFor is how far to wait: as asked, else for ssh, which never answers on a
// cloud without machines.
func (s *session) waitFor(w waitFlag) (server.WaitFor, error) {
	switch {
	case !s.withoutMachines():
		return server.WaitFor(w.String()), nil
	case w == waitFlag(server.WaitSSH):
		return "", noMachines("wait for", "ssh", "--wait running")
	case w == "":
		s.progress.event(server.Event{State: server.StepWarning, Step: "wait", Detail: "this cloud runs without machines, so ssh isn't waited for"})
		return server.WaitRunning, nil
	}
	return server.WaitFor(w), nil
}

// withoutMachines tells that instances of this cloud have states, and nothing
// runs in them.
func (s *session) withoutMachines() bool { return s.local != nil && s.local.info.Machines == "none" }

func noMachines(op, resource, remedy string) error {
	return &server.Error{
		Code: server.KindUnsupported, Op: op, Resource: resource,
		Reason: "this cloud runs without machines", Remedy: remedy,
	}
}

func addWaitFlag(cmd *cobra.Command, w *waitFlag) {
	cmd.Flags().Var(w, "wait", "wait for ssh, running or none; without machines for running")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"ssh", "running", "none"}, cobra.ShellCompDirectiveNoFileComp))
}
