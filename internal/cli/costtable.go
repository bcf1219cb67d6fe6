package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// costColumn is a column of a bill.
type costColumn struct {
	heading string
	way     price.Way
}

// costColumns are those that a bill has a total for. Of the ways to reserve it
// is the one that is cheapest over the year.
func costColumns(b *price.Bill) []costColumn {
	_, reserved := b.Cheapest(price.ReservedNone, price.ReservedPartial, price.ReservedAll)
	columns := []costColumn{{"ON DEMAND", price.OnDemand}, {"RESERVED 1Y", reserved}, {"SPOT", price.Spot}, {"STOPPED", price.Stopped}}
	return slices.DeleteFunc(columns, func(c costColumn) bool { _, known := b.Total(c.way); return !known })
}

// totalCells are a bill's totals in the order of all columns.
func totalCells(b *price.Bill) []string {
	_, reserved := b.Cheapest(price.ReservedNone, price.ReservedPartial, price.ReservedAll)
	var cells []string
	for _, way := range []price.Way{price.OnDemand, reserved, price.Spot, price.Stopped} {
		cell := ""
		if r, known := b.Total(way); known {
			cell = r.Cents()
		}
		cells = append(cells, cell)
	}
	return cells
}

// writeCost draws one server's bill, and what others sell next to it.
func writeCost(w io.Writer, c *server.Cost, o costOptions) {
	about := []string{c.State, c.Type}
	if c.RAMMiB > 0 {
		about = append(about, price.GiB(c.RAMMiB)+" RAM")
	}
	if o.egress > 0 {
		about = append(about, fmt.Sprintf("%d GiB out a month", o.egress))
	}
	fmt.Fprintf(w, "%s  %s, %s\n", c.Server, strings.Join(nonEmpty(about...), ", "), c.Region)
	writeBill(w, c.Bill)
	for _, missing := range c.Missing {
		fmt.Fprintf(w, "no figure for %s; it is in no total (try: stead cost %s --refresh)\n", missing, c.Server)
	}
	writeReservations(w, c.Bill)
	if len(c.Offers) > 0 {
		fmt.Fprintln(w)
		writeOffers(w, c)
	}
	if c.Answer != "" {
		fmt.Fprintf(w, "\n%s%s.\n", strings.ToUpper(c.Answer[:1]), c.Answer[1:])
	}
}

// writeBill is a line an item and a column a way to pay.
func writeBill(w io.Writer, b *price.Bill) {
	columns := costColumns(b)
	t := table{heading: []string{"$ A MONTH"}}
	for _, c := range columns {
		t.heading = append(t.heading, c.heading)
	}
	t.heading = append(t.heading, "PRICE", "OF")
	var items []string
	for _, l := range b.Lines {
		if !slices.Contains(items, l.Item) {
			items = append(items, l.Item)
		}
	}
	for _, item := range items {
		row := []string{item}
		var shown *price.Line
		for _, c := range columns {
			l := lineOf(b, item, c.way)
			if l == nil {
				row = append(row, "")
				continue
			}
			if shown == nil {
				shown = l
			}
			row = append(row, l.Month.Cents())
		}
		if shown != nil {
			t.add(append(row, shown.Figure.Price.String()+" a "+shown.Figure.Unit, shown.Figure.Date)...)
		}
	}
	total := []string{"total"}
	for _, c := range columns {
		r, _ := b.Total(c.way)
		total = append(total, r.Cents())
	}
	t.add(append(total, "", "")...)
	t.write(w)
}

func lineOf(b *price.Bill, item string, way price.Way) *price.Line {
	for k := range b.Lines {
		if l := &b.Lines[k]; l.Item == item && slices.Contains(l.Ways, way) {
			return l
		}
	}
	return nil
}

// writeReservations tells what each way to reserve means.
func writeReservations(w io.Writer, b *price.Bill) {
	for _, l := range b.Lines {
		f := l.Figure
		text := map[price.Kind]string{
			price.KindReservedNone: "nothing upfront", price.KindReservedPartial: "part of it upfront", price.KindReservedAll: "all upfront",
		}[f.Kind]
		if text != "" {
			fmt.Fprintf(w, "reserved for a year, %s: $%s at once and $%s an hour, run or not (%s)\n", text, f.Upfront.Cents(), f.Price, f.Date)
		}
	}
}

// barWidth is how long the longest bar is.
const barWidth = 24

// writeOffers draws the server and the plans as bars of one scale. An amount in
// another currency has none.
func writeOffers(w io.Writer, c *server.Cost) {
	type row struct {
		name, ram, text, note string
		month                 price.Amount
	}
	var rows []row
	for _, column := range costColumns(c.Bill) {
		r, _ := c.Total(column.way)
		rows = append(rows, row{c.Server + ", " + strings.ToLower(column.heading), price.GiB(c.RAMMiB), "$" + r.Cents(), "", r.High})
	}
	for _, o := range c.Offers {
		r := row{o.Provider + " " + o.Name, o.RAM(), price.Symbol(o.Currency) + o.Month.Cents(), o.Date, o.Month}
		if o.Currency != c.Currency {
			r.month = 0
		}
		if o.IPv6Only {
			r.note += ", no IPv4"
		}
		if o.BilledStopped {
			r.note += ", billed when stopped"
		}
		rows = append(rows, r)
	}
	longest := price.Amount(1)
	for _, r := range rows {
		longest = max(longest, r.month)
	}
	t := table{heading: []string{"NEXT TO", "RAM", "A MONTH", " ", "AS OF"}}
	for _, r := range rows {
		t.add(r.name, r.ram, r.text, bar(r.month, longest), r.note)
	}
	t.write(w)
	fmt.Fprintln(w, "A plan has a disk and traffic of its own in its price, which may be more or less than this server's.")
}

// bar is n on a scale that ends with longest: what isn't nothing shows.
func bar(n, longest price.Amount) string {
	if n <= 0 {
		return " "
	}
	return strings.Repeat("█", max(1, int(n*barWidth/longest)))
}
