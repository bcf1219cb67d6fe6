package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// orphanReport is what orphans prints as JSON.
type orphanReport struct {
	Orphans []server.Orphan `json:"orphans"`
	// Month is the sum over those that have a price; Unpriced is how many have
	// none.
	Month    price.Range `json:"month"`
	Currency string      `json:"currency"`
	Unpriced int         `json:"unpriced"`
}

func newOrphans(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "orphans",
		Short: "List what costs money and belongs to no server",
		Long: `Lists everything in the current cloud that costs money and belongs to no server:
disks that are plugged in nowhere or were replaced in a rescue, snapshots in no
server's set and no image, addresses that nothing uses, instances that are no
server's, images that no server was made from, and what unfinished work left
behind. Each comes with its age, its price where there is one, and the command
that removes it; nothing is removed by itself.

What a snapshot costs is a range: deleting it saves only what no other shares.
A server that was just made by other means isn't stead's, and is listed too:
"stead adopt" takes it in.`,
		Example: `  stead orphans
  stead orphans -o json | jq -r '.orphans[] | select(.kind=="volume").remove'`,
		Args: exactly(),
	}, func(ctx context.Context, _ []string) error { return a.orphans(ctx) })
}

func (a *App) orphans(ctx context.Context) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	list, err := s.servers.Orphans(ctx)
	s.close()
	if err != nil {
		return err
	}
	report := orphanReport{Orphans: orEmpty(list), Currency: "USD"}
	for _, o := range list {
		if o.Month == nil {
			report.Unpriced++
			continue
		}
		report.Month = report.Month.Plus(*o.Month)
	}
	return a.print(report, func(w io.Writer) { a.writeOrphans(w, s, &report) })
}

func (a *App) writeOrphans(w io.Writer, s *session, r *orphanReport) {
	t := table{
		heading: []string{"KIND", "ID", "NAME", "AGE", "SIZE", "$ A MONTH", "WHY", "TO REMOVE IT"},
		empty:   "nothing costs money without belonging to a server",
	}
	for _, o := range r.Orphans {
		age, size, month := "", "", ""
		if o.Created != nil {
			age = a.age(*o.Created)
		}
		if o.SizeGiB > 0 {
			size = humanGiB(o.SizeGiB)
		}
		if o.Month != nil {
			month = o.Month.Cents()
		}
		why := o.Reason
		if o.Finish != "" {
			why += " (or: " + o.Finish + ")"
		}
		t.add(o.Kind, o.ID, o.Name, age, size, month, why, o.Remove)
	}
	t.write(w)
	switch {
	case len(r.Orphans) == 0:
	case s.local != nil:
		remark(w, "\nThe local cloud costs nothing; what is listed takes up its disk.\n")
	case !s.charges:
		remark(w, "\nWhat this cloud charges isn't known.\n")
	default:
		without := ""
		if r.Unpriced > 0 {
			without = fmt.Sprintf(", without %d that there is no figure of (try: stead cost --refresh)", r.Unpriced)
		}
		remark(w, "\nTogether $%s a month%s.\n", r.Month.Cents(), without)
	}
}
