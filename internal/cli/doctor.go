package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
)

// check is one finding of doctor.
type check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warn or fail
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

// errUnhealthy makes doctor's exit code tell that something is wrong.
var errUnhealthy = errors.New("something is missing on this machine")

func newDoctor(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "doctor", Short: "Tell what this machine lacks",
		Long: `Looks at what stead and its local cloud need on this machine, and says how to
get what is missing. The exit code is 1 when something doesn't work without it.`,
		Example: "  stead doctor", Args: exactly(),
	}, func(ctx context.Context, _ []string) error { return a.doctor(ctx) })
}

func (a *App) doctor(ctx context.Context) error {
	dir, err := a.dataDir()
	if err != nil {
		return err
	}
	checks := []check{a.checkContexts(), checkSSH()}
	for _, c := range cloud.Doctor(ctx, dir) {
		checks = append(checks, check(c))
	}
	err = a.print(checks, func(w io.Writer) {
		for _, c := range checks {
			fmt.Fprintf(w, "%-4s  %s: %s\n", c.Status, c.Name, c.Detail)
			if c.Remedy != "" && c.Status != statusOK {
				fmt.Fprintf(w, "      try: %s\n", c.Remedy)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, c := range checks {
		if c.Status == statusFail {
			return errUnhealthy
		}
	}
	return nil
}

func checkSSH() check {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return check{Name: "ssh client", Status: statusFail, Detail: "not found", Remedy: "apt install openssh-client"}
	}
	return check{Name: "ssh client", Status: statusOK, Detail: path}
}

// checkContexts reads the contexts and sees that nobody else can change them.
func (a *App) checkContexts() check {
	c := check{Name: "contexts", Status: statusFail}
	store, err := a.contexts()
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	current, err := a.currentContext()
	if err != nil {
		c.Detail, c.Remedy = err.Error(), "stead context ls"
		return c
	}
	c.Status, c.Detail = statusOK, "using "+current.Name
	if info, err := os.Stat(store.Path()); err == nil && info.Mode().Perm()&0o022 != 0 {
		c.Status, c.Detail, c.Remedy = statusWarn, store.Path()+" can be changed by others", "chmod 600 "+store.Path()
	}
	return c
}
