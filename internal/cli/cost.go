package cli

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// pricingRegion is where the AWS Price List API is for all regions.
const pricingRegion = "us-east-1"

type costOptions struct {
	name    string
	egress  int64
	refresh bool
}

// costReport is what cost prints as JSON.
type costReport struct {
	// Charged is false where the cloud itself charges nothing, or nobody knows
	// what: the figures are AWS's then, for comparison.
	Charged bool          `json:"charged"`
	Region  string        `json:"region"` // whose figures
	Servers []server.Cost `json:"servers"`
	Totals  []price.Total `json:"totals"` // over all servers
}

func newCost(a *App) *cobra.Command {
	var o costOptions
	cmd := &cobra.Command{
		Use:   "cost [NAME]",
		Short: "Tell what a server costs a month",
		Long: `Tells what a month of a server costs, or of all of them: running on demand, with
a reservation for a year, on spot, and stopped, next to virtual private servers
with as much memory. A month has 730 hours. Taxes and T3's surplus credits are
left out.

Each figure has its source and its date. In a context on AWS, spot prices and
reservations are asked for; the others come from a table that is part of stead,
and with --refresh from AWS's price list, which is kept in the cache folder.
What has no figure has no row. What snapshots cost is a range: EC2 tells how
much one refers to, and not how much of that no other has.

The local cloud costs nothing; the same on AWS is shown. 100 GiB of traffic out
are free each month, for all servers of an account together.`,
		Example: `  stead cost web
  stead cost --egress 500
  stead cost web --refresh -o json | jq '.servers[0].totals'`,
		Args:              atMost("NAME"),
		ValidArgsFunction: a.completeServers,
	}
	f := cmd.Flags()
	f.Int64Var(&o.egress, "egress", 0, "`GIB` a month that each server sends out to the internet")
	f.BoolVar(&o.refresh, "refresh", false, "fetch AWS's price list first (without credentials: some hundred MB)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = strings.Join(args, "")
		return a.cost(ctx, o)
	})
}

func (a *App) cost(ctx context.Context, o costOptions) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	region := s.region
	if !s.charges {
		region = price.TableRegion
	}
	if o.refresh {
		if err := a.refreshPrices(ctx, s, region); err != nil {
			return err
		}
	}
	book, err := a.priceBook(ctx, region)
	if err != nil {
		return err
	}
	costs, err := s.servers.Costs(ctx, server.CostOptions{Name: o.name, EgressGiB: o.egress, Prices: book, Region: region, Own: s.charges})
	s.close()
	if err != nil {
		return err
	}
	report := costReport{Charged: s.charges, Region: region, Servers: costs, Totals: sumTotals(costs)}
	return a.print(report, func(w io.Writer) { report.write(w, s, o) })
}

// refreshPrices fetches figures and keeps them.
func (a *App) refreshPrices(ctx context.Context, s *session, region string) error {
	bad := func(err error) error {
		return &server.Error{Op: "refresh", Resource: "prices of " + region, Err: err, Remedy: "leave --refresh away: the table that is part of stead is used then"}
	}
	dir, err := a.priceDir()
	if err != nil {
		return err
	}
	kinds, err := s.instanceTypes(ctx)
	if err != nil {
		return err
	}
	r := price.Refresher{HTTP: &http.Client{}, Now: a.Now, Log: a.log()}
	if s.charges {
		cfg, err := a.config(ctx, endpoint{context: s.context, region: pricingRegion})
		if err != nil {
			return err
		}
		r.Pricing = pricing.NewFromConfig(cfg)
	}
	return s.progress.run("refresh prices of "+region, func() error {
		figures, err := r.Refresh(ctx, region, kinds)
		if err != nil {
			return bad(err)
		}
		if s.plan != nil {
			return nil // a dry run keeps nothing
		}
		if err := price.WriteCache(dir, region, figures); err != nil {
			return bad(err)
		}
		return nil
	})
}

// instanceTypes are those whose prices are of interest.
func (s *session) instanceTypes(ctx context.Context) ([]string, error) {
	servers, err := s.servers.ListAll(ctx)
	kinds := []string{server.DefaultType}
	for i := range servers {
		if servers[i].Type != "" {
			kinds = append(kinds, servers[i].Type)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds), err
}

// sumTotals adds up the ways that every server with an instance type has, and
// what they cost stopped.
func sumTotals(costs []server.Cost) []price.Total {
	totals := []price.Total{}
	for _, way := range []price.Way{price.OnDemand, price.ReservedNone, price.ReservedPartial, price.ReservedAll, price.Spot, price.Stopped} {
		sum, all := price.Total{Way: way}, len(costs) > 0
		for i := range costs {
			r, known := costs[i].Total(way)
			if !known && costs[i].Type == "" {
				r, known = costs[i].Total(price.Stopped) // it has no instance to run
			}
			sum.Month, all = sum.Month.Plus(r), all && known
		}
		if all {
			totals = append(totals, sum)
		}
	}
	return totals
}

func (r *costReport) write(w io.Writer, s *session, o costOptions) {
	if len(r.Servers) == 0 {
		remark(w, "no servers, no cost\n")
		return
	}
	switch {
	case s.local != nil:
		remark(w, "The local cloud costs nothing. The same on AWS, in %s:\n\n", r.Region)
	case !r.Charged:
		remark(w, "What this cloud charges isn't known. The same on AWS, in %s:\n\n", r.Region)
	}
	if o.name == "" && len(r.Servers) > 1 {
		r.writeAll(w)
		return
	}
	writeCost(w, &r.Servers[0], o)
}

// writeAll is one line a server, and their sum.
func (r *costReport) writeAll(w io.Writer) {
	t := table{heading: []string{"$ A MONTH", "TYPE", "ON DEMAND", "RESERVED 1Y", "SPOT", "STOPPED"}}
	for i := range r.Servers {
		c := &r.Servers[i]
		cells := append([]string{c.Server, c.Type}, totalCells(c.Bill)...)
		t.add(append(cells, strings.Join(c.Missing, ", "))...)
	}
	t.add(append([]string{"all", ""}, totalCells(&price.Bill{Totals: r.Totals})...)...)
	t.write(w)
	remark(w, "\n")
	for i := range r.Servers {
		if c := &r.Servers[i]; c.Answer != "" {
			remark(w, "%s: %s.\n", c.Server, c.Answer)
		}
	}
}
