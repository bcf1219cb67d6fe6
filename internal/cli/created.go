package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// askAbove is the price a month above which a terminal is asked, in US dollars.
const askAbove = 100

// showPrice tells what is about to be bought, where that costs something. Where
// nobody can answer it goes on: making a server destroys nothing.
func (a *App) showPrice(ctx context.Context, s *session, opts server.CreateOptions, o createOptions) error {
	month, err := s.servers.Forecast(ctx, opts)
	if err != nil || month == nil {
		return err
	}
	count := max(o.count, 1)
	what := opts.Name
	if count > 1 {
		what = fmt.Sprintf("each of %d servers", count)
	}
	s.progress.line(fmt.Sprintf("%s costs about %s a month while it runs", what, monthText(month)))
	limit, err := price.ParseAmount(fmt.Sprint(askAbove))
	if err != nil || int64(month.High)*int64(count) <= int64(limit) || !isTerminal(a.Stdin) {
		return err
	}
	s.close() // the question needs the line
	return a.confirm(o.yes, "create server "+opts.Name, "Create it?")
}

// createMany makes several servers, and prints those that were made even when
// others weren't.
func (a *App) createMany(ctx context.Context, s *session, opts server.CreateOptions, count int) error {
	made, failed := s.servers.CreateMany(ctx, opts, count)
	s.close()
	for k := range made {
		if err := a.forgetHostKeys(s.context, &made[k]); err != nil {
			return err
		}
	}
	if failed != nil && len(made) == 0 {
		return failed
	}
	if err := a.print(made, func(w io.Writer) {
		t := table{heading: []string{"NAME", "STATE", "ADDRESS", "SSH", "A MONTH", "DISKS SURVIVE"}}
		for k := range made {
			v := &made[k]
			t.add(v.Name, v.State, v.PublicIP, sshHint(v), monthly(s, v), survival(v.Protected))
		}
		t.write(w)
	}); err != nil {
		return err
	}
	return failed
}

func survival(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// writeCreated ends what is told of a new server: whether its disks survive, as
// the cloud's API says of each, what it costs, and how to have it backed up.
func (a *App) writeCreated(w io.Writer, s *session, v *server.Server) {
	fmt.Fprintf(w, "  disks survive: %s\n", survival(v.Protected))
	if cost := monthly(s, v); cost != "" && v.Month == nil { // else it is among the facts
		fmt.Fprintf(w, "  a month: %s\n", cost)
	}
	fmt.Fprintf(w, "to have it snapshotted: stead schedule %s --every 24h --keep 7\n", v.Name)
}
