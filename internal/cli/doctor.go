package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

// check is one finding of doctor: about this machine, or about a server.
type check struct {
	Name     string `json:"name"`
	Status   string `json:"status"` // ok, hint, warn or fail
	Detail   string `json:"detail"`
	Remedy   string `json:"remedy,omitempty"`
	Server   string `json:"server,omitempty"`
	Resource string `json:"resource,omitempty"` // what of the server it is about
	Fixable  bool   `json:"fixable,omitempty"`  // --fix mends it
	Fixed    bool   `json:"fixed,omitempty"`    // and did
}

const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

// errUnhealthy makes doctor's exit code tell that something is wrong.
var errUnhealthy = errors.New("something isn't as it should be")

func newDoctor(a *App) *cobra.Command {
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor [NAME]",
		Short: "Tell what this machine and the servers lack",
		Long: `Looks at what stead and its local cloud need on this machine, and at each server
of the current cloud; with NAME at that server alone. Says what is wrong, how
bad it is, and the command that mends it:

  fail  data or the server is at risk, or work isn't finished: a disk that would
        go with the instance, no protection against termination, a shutdown that
        terminates, tags that contradict what is so, a data disk that isn't
        plugged in, a RAID that lacks a disk, a mount in fstab without nofail
  warn  it will be missed some day: no snapshot for a week, no schedule, no fixed
        address, a mount by device name, or of a disk that isn't there any more
  hint  it may be meant so: ssh open to all, a disk of the older type gp2

--fix makes the repairs that put nothing at risk and cost nothing: flags, tags
and protection, plugging in the server's own disks, and fstab (what was there is
kept as /etc/fstab.before-stead). Inside a server it looks over ssh.

The exit code is 1 when there is a fail that wasn't mended, else 0.`,
		Example: `  stead doctor
  stead doctor web --fix
  stead doctor -o json | jq '.[] | select(.status=="fail")'`,
		Args:              atMost("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "make the safe repairs")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.doctor(ctx, server.DoctorOptions{Name: strings.Join(args, ""), Fix: fix})
	})
}

func (a *App) doctor(ctx context.Context, o server.DoctorOptions) error {
	checks := []check{}
	if o.Name == "" {
		var err error
		if checks, err = a.machineChecks(ctx); err != nil {
			return err
		}
	}
	found, err := a.serverChecks(ctx, o)
	if err != nil {
		return err
	}
	checks = append(checks, found...)
	if err := a.print(checks, func(w io.Writer) { writeChecks(w, checks) }); err != nil {
		return err
	}
	for _, c := range checks {
		if c.Status == statusFail && !c.Fixed {
			return errUnhealthy
		}
	}
	return nil
}

// machineChecks look at this machine.
func (a *App) machineChecks(ctx context.Context) ([]check, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	checks := []check{a.checkContexts(), checkSSH()}
	for _, c := range cloud.Doctor(ctx, dir) {
		checks = append(checks, check{Name: c.Name, Status: c.Status, Detail: c.Detail, Remedy: c.Remedy})
	}
	return checks, nil
}

// serverChecks look at servers. Where all are asked for, a cloud that can't be
// reached is a finding, and the local one isn't started for it.
func (a *App) serverChecks(ctx context.Context, o server.DoctorOptions) ([]check, error) {
	c, err := a.currentContext()
	if err != nil {
		if o.Name == "" {
			return nil, nil // checkContexts has told
		}
		return nil, err
	}
	var found []server.Finding
	s, err := a.openContext(ctx, c, o.Name != "" && !a.flags.dryRun)
	if err == nil {
		defer s.close()
		found, err = s.servers.Doctor(ctx, o)
		s.close()
	}
	switch {
	case err != nil && (o.Name != "" || ctx.Err() != nil):
		return nil, err
	case err != nil && c.Kind == contexts.KindLocal && s == nil:
		return []check{{Name: "servers", Status: statusOK, Detail: "the local cloud doesn't run; no server was looked at"}}, nil
	case err != nil:
		return []check{{Name: "servers", Status: statusFail, Detail: a.message(err), Remedy: remedy(err)}}, nil
	case len(found) == 0:
		return []check{{Name: strings.TrimSpace("servers " + o.Name), Status: statusOK, Detail: "nothing is wrong"}}, nil
	}
	var checks []check
	for _, f := range found {
		checks = append(checks, check{
			Name: f.Check, Status: string(f.Severity), Detail: f.Reason, Remedy: f.Remedy,
			Server: f.Server, Resource: f.Resource, Fixable: f.Fixable, Fixed: f.Fixed,
		})
	}
	return checks, nil
}

func writeChecks(w io.Writer, checks []check) {
	for _, c := range checks {
		about, status := c.Name, c.Status
		if c.Server != "" {
			about = c.Server + ": " + c.Name
			if c.Resource != c.Server {
				about += ": " + c.Resource
			}
		}
		if c.Fixed {
			status = "done"
		}
		fmt.Fprintf(w, "%-4s  %s: %s\n", status, about, c.Detail)
		if c.Remedy != "" && c.Status != statusOK && !c.Fixed {
			fmt.Fprintf(w, "      try: %s\n", c.Remedy)
		}
	}
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
