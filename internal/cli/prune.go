package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

type pruneOptions struct {
	keep    int
	keepFor string
	yes     bool
}

func newPrune(a *App) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune NAME",
		Short: "Delete a server's old snapshots",
		Long: `Deletes a server's old snapshot sets, whoever took them: all but the newest, or
all that are older than some time; with neither flag, all but what its schedule
keeps. It names them first and asks.

A schedule itself deletes what it took of an instance only while that instance
is there. What it had taken before a rescue stays until it is pruned.

What stays in any case: the newest complete set; a set that an image is made
of, or that the server is coming back from; and one that has the newest snapshot
of a disk that was detached, deleted or replaced since. stead snapshot rm deletes
such a one. Only complete sets of all disks count as kept.`,
		Example: `  stead prune web
  stead prune web --keep 7
  stead prune web --keep-for 30d --yes`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.IntVar(&o.keep, "keep", 0, "keep the newest `N` complete sets")
	f.StringVar(&o.keepFor, "keep-for", "", "keep what is younger than `TIME`, like 30d, 8w or 36h")
	addYesFlag(f, &o.yes)
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.prune(ctx, args[0], o) })
}

func (a *App) prune(ctx context.Context, name string, o pruneOptions) error {
	rule := server.PruneOptions{Keep: o.keep}
	if o.keepFor != "" {
		var err error
		if rule.KeepFor, err = parseAge(o.keepFor); err != nil {
			return usage("--keep-for %s: %v", o.keepFor, err)
		}
	}
	if o.keep > 0 && rule.KeepFor > 0 || o.keep < 0 {
		return usage("give --keep N or --keep-for TIME, one of them; or neither, to go by the server's schedule")
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	plan, err := s.servers.PlanPrune(ctx, name, rule)
	if err != nil {
		return err
	}
	if len(plan.Delete) > 0 {
		if !o.yes {
			a.writeSets(a.Stderr, plan.Delete)
		}
		many := plural(len(plan.Delete), "snapshot set")
		if err := a.confirm(o.yes, "prune server "+name, "Delete "+many+" of "+name+" for good?"); err != nil {
			return err
		}
		rule.Only = []string{}
		for _, set := range plan.Delete {
			rule.Only = append(rule.Only, set.ID)
		}
		if plan, err = s.servers.Prune(ctx, name, rule); err != nil {
			return err
		}
	}
	s.close()
	return a.print(plan, func(w io.Writer) { writePrune(w, plan) })
}

func writePrune(w io.Writer, plan *server.PrunePlan) {
	for _, set := range plan.Delete {
		fmt.Fprintf(w, "set %s is deleted\n", set.ID)
	}
	if len(plan.Delete) == 0 {
		fmt.Fprintf(w, "%s has no snapshots to delete\n", plan.Server)
	}
	for _, set := range plan.Keep {
		fmt.Fprintf(w, "set %s is kept: %s\n", set.ID, set.Why)
	}
}

// parseAge reads a time like 36h, 30d or 8w.
func parseAge(s string) (time.Duration, error) {
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if text, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 36500 {
				return 0, fmt.Errorf("want a time like 36h, 30d or 8w")
			}
			return time.Duration(n) * d, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("want a time like 36h, 30d or 8w")
	}
	return d, nil
}
