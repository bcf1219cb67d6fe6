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

type scheduleOptions struct {
	server.ScheduleOptions
	every, keepFor string
	off            bool
}

func newSchedule(a *App) *cobra.Command {
	var o scheduleOptions
	cmd := &cobra.Command{
		Use:   "schedule NAME",
		Short: "Have the cloud take a server's snapshots by itself",
		Long: `Has the cloud take snapshots of a server by itself, and delete them again: all
disks at one instant, for as long as the server has an instance. With no flag
it shows the schedule. Given again with others, it changes what they say.

It is a policy of the Data Lifecycle Manager, which the local cloud has too:
it needs no computer of yours to be on. What was missed while the local cloud
was off is made up for once. On AWS the snapshots are taken in the hour after
the time, by a role that "aws dlm create-default-role" makes.

A terminated server keeps its schedule: it goes on with the rescue. Between
the two, nothing writes to the disks.

Times are UTC. --cron takes a crontab's five fields, or the six of EventBridge.`,
		Example: `  stead schedule web --every 24h --at 03:00 --keep 7
  stead schedule web --cron '0 3 * * SUN' --keep-for 8w
  stead schedule web
  stead schedule web --off`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.every, "every", "", "`TIME` between snapshots: 1h, 2h, 3h, 4h, 6h, 8h, 12h or 24h")
	f.StringVar(&o.Cron, "cron", "", "cron `EXPRESSION` instead")
	f.StringVar(&o.At, "at", "", "`HH:MM` in UTC that --every counts from (default: the cloud chooses)")
	f.IntVar(&o.Keep, "keep", 0, "keep the newest `N`")
	f.StringVar(&o.keepFor, "keep-for", "", "keep each for a `TIME` like 14d, 8w, 6m or 1y instead")
	f.StringVar(&o.Role, "role", "", "`ARN` of the role that takes the snapshots")
	f.BoolVar(&o.off, "off", false, "end the schedule; its snapshots stay")
	_ = cmd.RegisterFlagCompletionFunc("every", cobra.FixedCompletions([]string{"1h", "2h", "3h", "4h", "6h", "8h", "12h", "24h"}, cobra.ShellCompDirectiveNoFileComp))
	a.command(cmd, func(ctx context.Context, args []string) error {
		if f.Changed("keep") && o.Keep < 1 {
			return usage("--keep %d: want how many to keep, 1 to 1000", o.Keep)
		}
		return a.schedule(ctx, args[0], o)
	})
	cmd.AddCommand(newScheduleLs(a))
	return cmd
}

// read turns the flags into options and tells whether any was given.
func (o *scheduleOptions) read() (given bool, err error) {
	if o.every != "" {
		d, err := parseAge(o.every)
		if err != nil || d%time.Hour != 0 {
			return false, usage("--every %s: want 1h, 2h, 3h, 4h, 6h, 8h, 12h or 24h", o.every)
		}
		o.Every = int(d / time.Hour)
	}
	if o.keepFor != "" {
		units := map[string]string{"d": "DAYS", "w": "WEEKS", "m": "MONTHS", "y": "YEARS"}
		n, err := strconv.Atoi(o.keepFor[:len(o.keepFor)-1])
		o.KeepFor, o.KeepUnit = n, units[o.keepFor[len(o.keepFor)-1:]]
		if err != nil || n < 1 || o.KeepUnit == "" {
			return false, usage("--keep-for %s: want a time like 14d, 8w, 6m or 1y", o.keepFor)
		}
	}
	given = o.ScheduleOptions != server.ScheduleOptions{}
	if given && o.off {
		return false, usage("--off ends the schedule, and goes without other flags")
	}
	return given, nil
}

func (a *App) schedule(ctx context.Context, name string, o scheduleOptions) error {
	given, err := o.read()
	if err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if o.off {
		return a.scheduleOff(ctx, s, name)
	}
	var result *server.Schedule
	if given {
		result, err = s.servers.Schedule(ctx, name, o.ScheduleOptions)
	} else {
		result, err = s.servers.ScheduleOf(ctx, name)
	}
	s.close()
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s: snapshots %s, kept %s\n", result.Server, result.When(), strings.TrimSpace(result.Kept()))
		if result.State != "enabled" {
			fmt.Fprintf(w, "it is %s: %s\n", result.State, orDash(result.Message))
		}
	})
}

func (a *App) scheduleOff(ctx context.Context, s *session, name string) error {
	had, err := s.servers.ScheduleOf(ctx, name)
	if err != nil && server.KindOf(err) != server.KindFailed { // one that can't run can be ended
		return err
	}
	err = s.servers.DropSchedules(ctx, name)
	s.close()
	if err != nil {
		return err
	}
	return a.print(map[string]any{"server": name, "ended": had}, func(w io.Writer) {
		fmt.Fprintf(w, "the schedule of %s has ended; its snapshots stay: stead snapshots %s\n", name, name)
	})
}

func newScheduleLs(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:     "ls",
		Short:   "List the schedules of all servers",
		Example: "  stead schedule ls",
		Args:    exactly(),
	}, func(ctx context.Context, _ []string) error {
		s, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		list, err := s.servers.Schedules(ctx)
		s.close()
		if err != nil {
			return err
		}
		return a.print(orEmpty(list), func(w io.Writer) {
			t := table{heading: []string{"SERVER", "WHEN", "KEPT", "STATE", "POLICY"}, empty: "no schedules yet; to make one: stead schedule NAME --every 24h --keep 7"}
			for _, v := range list {
				t.add(v.Server, v.When(), v.Kept(), v.State, v.PolicyID)
			}
			t.write(w)
		})
	})
}
