package price

import (
	"fmt"
	"math"
	"slices"
)

// Hours is how many hours a month has, as AWS computes it.
const Hours = 730

// FreeEgressGiB is the traffic out that AWS gives an account each month. It is
// the account's, not the server's.
const FreeEgressGiB = 100

// What gp3 has at no extra cost.
const (
	gp3IOPS       = 3000
	gp3Throughput = 125 // MiB/s
	// io2TierIOPS is up to where the first price of io2's IOPS holds.
	io2TierIOPS = 32000
)

// Way is a way to have a server for a month.
type Way string

// The ways. Whoever reserves pays whether the server runs or not.
const (
	OnDemand        Way = "on_demand"
	ReservedNone    Way = "reserved_no_upfront"
	ReservedPartial Way = "reserved_partial_upfront"
	ReservedAll     Way = "reserved_all_upfront"
	Spot            Way = "spot"
	Stopped         Way = "stopped" // or without an instance
)

// Spec is what is to be paid for.
type Spec struct {
	Region, Zone string
	Type         string // instance type; "" for disks without an instance
	Volumes      []Volume
	Snapshots    Snapshots
	// Addresses are public IPv4 addresses that are kept, LooseAddresses those
	// that the server has only while it runs.
	Addresses, LooseAddresses int
	EgressGiB                 int64 // a month, while it runs
	// FreeGiB is what of that costs nothing: see FreeEgressGiB.
	FreeGiB int64
}

// Volume is a disk that is paid for.
type Volume struct {
	ID         string // what to call it; each of a Spec another
	Type       string
	GiB        int64
	IOPS       int64 // 0: what the type comes with
	Throughput int64 // MiB/s; 0: what the type comes with
}

// Snapshots is how much snapshots may store. EC2 tells how much a snapshot
// refers to, and not how much of that only this one keeps.
type Snapshots struct {
	Count               int
	LowBytes, HighBytes int64
}

// Line is one position of a bill.
type Line struct {
	Item string `json:"item"`
	// Quantity is how many of the figure's unit, and of snapshots how many.
	Quantity int64  `json:"quantity"`
	Figure   Figure `json:"figure"`
	// Ways are the columns that the line belongs to.
	Ways  []Way `json:"ways"`
	Month Range `json:"month"`
}

// Total is the sum of one way's lines.
type Total struct {
	Way   Way   `json:"way"`
	Month Range `json:"month"`
}

// Bill is what a Spec costs a month.
type Bill struct {
	Region   string  `json:"region"`
	Currency string  `json:"currency"`
	Lines    []Line  `json:"lines"`
	Totals   []Total `json:"totals"`
	// Missing names what there is no figure of. It is in no total.
	Missing []string `json:"missing"`
}

// Total returns the total of a way. There is none for a way whose instance has
// no figure.
func (b *Bill) Total(w Way) (Range, bool) {
	for _, t := range b.Totals {
		if t.Way == w {
			return t.Month, true
		}
	}
	return Range{}, false
}

// Cheapest returns the lowest total among ways, and which way it is; "" when
// none of them has a total.
func (b *Bill) Cheapest(ways ...Way) (Range, Way) {
	var lowest Range
	var way Way
	for _, w := range ways {
		if r, ok := b.Total(w); ok && (way == "" || r.Low < lowest.Low) {
			lowest, way = r, w
		}
	}
	return lowest, way
}

// Month computes a month of s. What has no figure has no line.
func (b *Book) Month(s Spec) *Bill {
	bill := &Bill{Region: s.Region, Currency: "USD", Lines: []Line{}, Totals: []Total{}, Missing: []string{}}
	running := b.billInstance(bill, s)
	always := append(slices.Clone(running), Stopped)
	for _, v := range s.Volumes {
		b.billVolume(bill, s.Region, v, always)
	}
	b.billSnapshots(bill, s, always)
	b.billAddresses(bill, s, running)
	if s.EgressGiB > 0 && s.Type != "" {
		b.billEgress(bill, s, running)
	}
	for _, w := range always {
		t := Total{Way: w}
		for _, l := range bill.Lines {
			if slices.Contains(l.Ways, w) {
				t.Month = t.Month.Plus(l.Month)
			}
		}
		bill.Totals = append(bill.Totals, t)
	}
	return bill
}

func (b *Bill) add(item string, f Figure, quantity int64, ways []Way) {
	if len(ways) > 0 {
		b.Lines = append(b.Lines, Line{Item: item, Quantity: quantity, Figure: f, Ways: ways, Month: exactly(f.Price.times(quantity, 1))})
	}
}

func (b *Bill) lacks(format string, args ...any) {
	b.Missing = append(b.Missing, fmt.Sprintf(format, args...))
}

// billInstance bills the instance in every way that there is a figure of, and
// returns those ways.
func (b *Book) billInstance(bill *Bill, s Spec) []Way {
	if s.Type == "" {
		return nil
	}
	var ways []Way
	add := func(w Way, f Figure, found bool) {
		if !found {
			return
		}
		ways = append(ways, w)
		l := Line{Item: "instance " + s.Type, Quantity: Hours, Figure: f, Ways: []Way{w}}
		l.Month = exactly(f.Price.times(Hours, 1).plus(f.Upfront.times(1, 12)))
		bill.Lines = append(bill.Lines, l)
	}
	f, found := b.Instance(s.Region, s.Type)
	if add(OnDemand, f, found); !found {
		bill.lacks("instance type %s on demand", s.Type)
	}
	for way, kind := range reservations() {
		f, found = b.Reserved(s.Region, kind, s.Type)
		add(way, f, found)
	}
	f, found = b.Spot(s.Region, s.Zone, s.Type)
	add(Spot, f, found)
	return ways
}

// reservations goes over the ways to reserve and the figures of each.
func reservations() func(func(Way, Kind) bool) {
	return func(yield func(Way, Kind) bool) {
		_ = yield(ReservedNone, KindReservedNone) && yield(ReservedPartial, KindReservedPartial) && yield(ReservedAll, KindReservedAll)
	}
}

func (b *Book) billVolume(bill *Bill, region string, v Volume, ways []Way) {
	if f, ok := b.Volume(region, v.Type); ok {
		bill.add(fmt.Sprintf("disk %s, %s", v.ID, v.Type), f, v.GiB, ways)
	} else {
		bill.lacks("disk %s of type %s", v.ID, v.Type)
		return
	}
	iops, throughput := v.extras()
	for _, extra := range []struct {
		kind  Kind
		n     int64
		what  string
		bound int64
	}{
		{KindVolumeIOPS, iops, "IOPS", io2TierIOPS},
		{KindVolumeThroughput, throughput, "MiB/s", math.MaxInt64},
	} {
		f, ok := b.one(region, extra.kind, v.Type)
		switch {
		case extra.n <= 0:
		case !ok || v.Type == "io2" && extra.n > extra.bound:
			bill.lacks("%d %s of disk %s", extra.n, extra.what, v.ID)
		default:
			bill.add(fmt.Sprintf("disk %s, %s", v.ID, extra.what), f, extra.n, ways)
		}
	}
}

// extras is what a volume has beyond what its type's price includes.
func (v Volume) extras() (iops, throughput int64) {
	switch v.Type {
	case "gp3":
		return v.IOPS - gp3IOPS, v.Throughput - gp3Throughput
	case "io1", "io2":
		return v.IOPS, 0
	}
	return 0, 0
}

func (b *Book) billSnapshots(bill *Bill, s Spec, ways []Way) {
	if s.Snapshots.Count == 0 {
		return
	}
	f, ok := b.Snapshot(s.Region)
	if !ok {
		bill.lacks("snapshots")
		return
	}
	bill.Lines = append(bill.Lines, Line{
		Item: "snapshots", Quantity: int64(s.Snapshots.Count), Figure: f, Ways: ways,
		Month: SnapshotMonth(f, s.Snapshots.LowBytes, s.Snapshots.HighBytes),
	})
}

// SnapshotMonth is what snapshots cost that store between low and high bytes.
func SnapshotMonth(f Figure, low, high int64) Range {
	return Range{f.Price.times(low, 1<<30), f.Price.times(max(low, high), 1<<30)}
}

func (b *Book) billAddresses(bill *Bill, s Spec, running []Way) {
	for _, one := range []struct {
		n     int
		inUse bool
		ways  []Way
	}{{s.Addresses + s.LooseAddresses, true, running}, {s.Addresses, false, []Way{Stopped}}} {
		if one.n == 0 || len(one.ways) == 0 {
			continue
		}
		f, ok := b.Address(s.Region, one.inUse)
		if !ok {
			bill.lacks("public IPv4 address")
			return
		}
		bill.add("public IPv4", f, int64(one.n)*Hours, one.ways)
	}
}

// billEgress bills traffic beyond what is free, a line a tier.
func (b *Book) billEgress(bill *Bill, s Spec, ways []Way) {
	left := s.EgressGiB - s.FreeGiB
	if left <= 0 {
		return
	}
	done := int64(0)
	for _, f := range b.Egress(s.Region) {
		if f.FromGiB != done {
			break
		}
		n := left - done
		if f.ToGiB > 0 {
			n = min(n, f.ToGiB-f.FromGiB)
		}
		bill.add(fmt.Sprintf("traffic out, beyond %d GiB", done+s.FreeGiB), f, n, ways)
		if done += n; done == left {
			return
		}
	}
	bill.lacks("%d GiB of traffic out", left-done)
}
