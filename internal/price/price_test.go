package price_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/price"
)

func TestAmountIsExact(t *testing.T) {
	for text, want := range map[string]string{
		"0.0104000000": "0.0104", "7": "7.00", "19.99": "19.99", "0.000001": "0.000001", "12.5": "12.50", "0": "0.00",
	} {
		a, err := price.ParseAmount(text)
		if err != nil || a.String() != want {
			t.Errorf("%s is %s, %v; want %s", text, a, err, want)
		}
		data, _ := json.Marshal(a)
		var back price.Amount
		if err := json.Unmarshal(data, &back); err != nil || back != a {
			t.Errorf("%s comes back from JSON %s as %s, %v", text, data, back, err)
		}
	}
	for _, text := range []string{"", "-1", "1e3", ".5", "0.0000001", "1,5", "99999999999999999999", "0x1", "NaN", "1.2.3", "+1"} {
		if a, err := price.ParseAmount(text); !errors.Is(err, price.ErrAmount) {
			t.Errorf("%q is read as %s, %v", text, a, err)
		}
	}
	for text, want := range map[string]string{"7.592": "7.59", "7.595": "7.60", "0.004": "<0.01", "0": "0.00", "1.999": "2.00"} {
		if a, _ := price.ParseAmount(text); a.Cents() != want {
			t.Errorf("%s in cents is %s, want %s", text, a.Cents(), want)
		}
	}
}

func FuzzParseAmount(f *testing.F) {
	f.Add("0.0104000000")
	f.Add("12")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := price.ParseAmount(s)
		if err != nil {
			return
		}
		if again, err := price.ParseAmount(a.String()); err != nil || again != a || a < 0 {
			t.Errorf("%q is %s, and that is %s, %v", s, a, again, err)
		}
	})
}

func book(t *testing.T, newer ...price.Figure) *price.Book {
	t.Helper()
	b, err := price.New(newer...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// total is a way's total in cents, "-" when there is none.
func total(b *price.Bill, w price.Way) string {
	r, ok := b.Total(w)
	if !ok {
		return "-"
	}
	return r.Cents()
}

// The example of a t4g.small with 20 GiB: 12.264 + 1.60 + 3.65, and 5.25 when
// it is stopped and keeps its address.
func TestMonthOfSmallServer(t *testing.T) {
	bill := book(t).Month(price.Spec{
		Region: "us-east-1", Type: "t4g.small", Addresses: 1,
		Volumes: []price.Volume{{ID: "vol-1", Type: "gp3", GiB: 20, IOPS: 3000, Throughput: 125}},
	})
	if got := total(bill, price.OnDemand); got != "17.51" {
		t.Errorf("a month is %s, want 17.51", got)
	}
	if got := total(bill, price.Stopped); got != "5.25" {
		t.Errorf("stopped it is %s, want 5.25", got)
	}
	if got := total(bill, price.Spot) + total(bill, price.ReservedNone); got != "--" {
		t.Errorf("without figures there are totals %s", got)
	}
	for _, l := range bill.Lines {
		if l.Figure.Date == "" || l.Figure.Source == "" {
			t.Errorf("%s has no date or source", l.Item)
		}
	}
}

// Every figure in the table has its date and source, and no region has figures
// that weren't looked up.
func TestTableIsDated(t *testing.T) {
	b := book(t)
	if !b.Knows(price.TableRegion) || b.Knows("eu-central-1") || b.Knows("") {
		t.Error("the table isn't of its region alone")
	}
	for _, o := range b.Offers(1, price.Range{}, true) {
		if o.Date == "" || o.Source == "" || !o.BilledStopped {
			t.Errorf("%s is %+v", o.Plan, o)
		}
	}
}

// No figure, no row, and the bill says what is in no total.
func TestNothingIsMadeUp(t *testing.T) {
	bill := book(t).Month(price.Spec{
		Region: "us-east-1", Type: "m7i.large", EgressGiB: 20000,
		Volumes: []price.Volume{{ID: "vol-1", Type: "io2", GiB: 10, IOPS: 100}, {ID: "vol-2", Type: "gp3", GiB: 10, IOPS: 5000}},
	})
	if got := total(bill, price.OnDemand); got != "-" {
		t.Errorf("an instance without a figure costs %s", got)
	}
	if got := total(bill, price.Stopped); got != "0.80" {
		t.Errorf("stopped it is %s, want 0.80", got)
	}
	for _, want := range []string{"m7i.large", "vol-1 of type io2", "2000 IOPS of disk vol-2"} {
		if !strings.Contains(strings.Join(bill.Missing, "; "), want) {
			t.Errorf("missing is %q, without %q", bill.Missing, want)
		}
	}
	elsewhere := book(t).Month(price.Spec{Region: "eu-north-1", Type: "t3.micro", Addresses: 1, Snapshots: price.Snapshots{Count: 1}, Volumes: []price.Volume{{ID: "vol-1", Type: "gp3", GiB: 10}}})
	if len(elsewhere.Lines) != 0 || len(elsewhere.Missing) != 4 {
		t.Errorf("a region without figures has lines %v, and lacks %q", elsewhere.Lines, elsewhere.Missing)
	}
}

func TestEgressTiers(t *testing.T) {
	tier := func(from, to int64, amount string) price.Figure {
		a, err := price.ParseAmount(amount)
		if err != nil {
			t.Fatal(err)
		}
		return price.Figure{Region: "us-east-1", Kind: price.KindEgress, Item: "internet", Unit: "GiB", FromGiB: from, ToGiB: to, Price: a, Currency: "USD", Date: "2027-01-01", Source: "test"}
	}
	tiers := book(t, tier(10240, 51200, "0.085"), tier(0, 10240, "0.09"), tier(51200, 0, "0.07"))
	for gib, want := range map[int64]string{100: "3.65", 101: "3.74", 10340: "925.25", 10341: "925.34", 100000: "7815.85"} {
		bill := tiers.Month(price.Spec{Region: "us-east-1", Type: "t3.micro", Addresses: 1, EgressGiB: gib, FreeGiB: price.FreeEgressGiB})
		sum := price.Range{}
		for _, l := range bill.Lines {
			if strings.HasPrefix(l.Item, "traffic") || strings.HasPrefix(l.Item, "public") && slices.Contains(l.Ways, price.OnDemand) {
				sum = sum.Plus(l.Month)
			}
		}
		if sum.Cents() != want || len(bill.Missing) > 0 {
			t.Errorf("%d GiB cost %s, want %s (missing %v)", gib, sum.Cents(), want, bill.Missing)
		}
	}
	// The table knows the first tier alone, and says what it leaves out.
	bill := book(t).Month(price.Spec{Region: "us-east-1", Type: "t3.micro", EgressGiB: 10440, FreeGiB: 100})
	if got := strings.Join(bill.Missing, ""); got != "100 GiB of traffic out" {
		t.Errorf("missing is %q", got)
	}
}

// A reservation's upfront is spread over its year, and a later figure takes the
// place of an earlier one.
func TestReservedAndNewerFigures(t *testing.T) {
	figure := func(kind price.Kind, zone, amount, upfront, date string) price.Figure {
		a, err1 := price.ParseAmount(amount)
		u, err2 := price.ParseAmount(upfront)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		return price.Figure{Region: "us-east-1", Kind: kind, Item: "t3.micro", Zone: zone, Unit: "hour", Price: a, Upfront: u, Currency: "USD", Date: date, Source: "test"}
	}
	b := book(t,
		figure(price.KindReservedAll, "", "0", "53", "2027-01-01"), figure(price.KindReservedPartial, "", "0.003", "26", "2027-01-01"),
		figure(price.KindSpot, "us-east-1a", "0.0031", "0", "2027-01-01"), figure(price.KindSpot, "us-east-1b", "0.0041", "0", "2027-01-01"),
		figure(price.KindInstance, "", "0.02", "0", "2020-01-01"))
	bill := b.Month(price.Spec{Region: "us-east-1", Zone: "us-east-1a", Type: "t3.micro"})
	for way, want := range map[price.Way]string{
		price.OnDemand: "7.59", price.ReservedNone: "-", price.ReservedPartial: "4.36", price.ReservedAll: "4.42", price.Spot: "2.26", price.Stopped: "0.00",
	} {
		if got := total(bill, way); got != want {
			t.Errorf("%s is %s, want %s", way, got, want)
		}
	}
	if f, ok := b.Spot("us-east-1", "us-east-1c", "t3.micro"); !ok || f.Zone != "us-east-1b" {
		t.Errorf("a zone without a figure takes %+v", f)
	}
	newer := b.With(figure(price.KindInstance, "", "0.01", "0", "2027-02-01"))
	if got := total(newer.Month(price.Spec{Region: "us-east-1", Type: "t3.micro"}), price.OnDemand); got != "7.30" {
		t.Errorf("with a newer figure it is %s", got)
	}
}

func TestOffersOfTheSameSize(t *testing.T) {
	dollars := func(n int64) price.Range { return price.Range{Low: price.Amount(n * 1e6), High: price.Amount(n * 1e6)} }
	offers := book(t).Offers(1000, dollars(7), true)
	got := map[string]price.Verdict{}
	for _, o := range offers {
		if o.RAMMiB < 1000 {
			t.Errorf("%s is too small", o.Plan)
		}
		got[o.Provider+" "+o.Name] = o.Verdict
	}
	for name, want := range map[string]price.Verdict{
		"Lightsail 1 GB": price.Same, "DigitalOcean 1 GB": price.Dearer, "Hetzner CPX12": price.Unlike, "Lightsail IPv6-only 1 GB": price.Unlike,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q (all: %v)", name, got[name], want, got)
		}
	}
	if s := price.Sentence(dollars(7), offers); s != "$7.00 a month is the same as Lightsail's 1 GB at $7.00, and dearer than DigitalOcean's 1 GB at $6.00" {
		t.Error(s)
	}
	wide := price.Range{Low: 1e6, High: 100e6}
	for _, o := range book(t).Offers(1024, wide, true) {
		if o.Verdict == price.Cheaper || o.Verdict == price.Dearer {
			t.Errorf("a range that has it inside is %s than %s", o.Verdict, o.Plan)
		}
	}
}

func TestSnapshotsAreARange(t *testing.T) {
	bill := book(t).Month(price.Spec{Region: "us-east-1", Snapshots: price.Snapshots{Count: 7, LowBytes: 8 << 30, HighBytes: 56 << 30}})
	if got := total(bill, price.Stopped); got != "0.40-2.80" {
		t.Errorf("snapshots cost %s", got)
	}
}
