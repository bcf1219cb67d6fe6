package price

import (
	"cmp"
	_ "embed" // the table
	"encoding/json"
	"fmt"
	"slices"
)

//go:embed table.json
var table []byte

// TableRegion is the region that the program's own table has figures of.
const TableRegion = "us-east-1"

// Kind is what a figure is the price of.
type Kind string

// What has a price, with the units of Figure.Unit.
const (
	KindInstance         Kind = "instance"               // hour, on demand
	KindSpot             Kind = "spot"                   // hour
	KindReservedNone     Kind = "reserved-1y-no-upfront" // hour, of a year paid for
	KindReservedPartial  Kind = "reserved-1y-partial-upfront"
	KindReservedAll      Kind = "reserved-1y-all-upfront"
	KindVolume           Kind = "volume"            // GiB-month
	KindVolumeIOPS       Kind = "volume-iops"       // IOPS-month
	KindVolumeThroughput Kind = "volume-throughput" // MiB/s-month
	KindSnapshot         Kind = "snapshot"          // GiB-month of blocks that are stored
	KindAddress          Kind = "address"           // hour, of a public IPv4 address
	KindEgress           Kind = "egress"            // GiB, out to the internet
)

// Items of kinds that have the same in every region.
const (
	itemStandard = "standard" // of snapshots: not the archive
	itemInUse    = "in-use"   // of addresses
	itemIdle     = "idle"
	itemInternet = "internet" // of egress
)

// Units of figures.
const (
	unitHour      = "hour"
	unitGiBMonth  = "GiB-month"
	unitIOPSMonth = "IOPS-month"
	unitMiBsMonth = "MiB/s-month"
	unitGiB       = "GiB"
)

// Figure is one price, with where it comes from and of when it is.
type Figure struct {
	Region string `json:"region"`
	Kind   Kind   `json:"kind"`
	Item   string `json:"item"`           // instance type, volume type
	Zone   string `json:"zone,omitempty"` // of spot prices
	Unit   string `json:"unit"`
	Price  Amount `json:"price"`
	// Upfront is what a reservation costs at once, for its year.
	Upfront  Amount `json:"upfront,omitempty"`
	Currency string `json:"currency"`
	// FromGiB and ToGiB bound a tier of egress; ToGiB 0 is no bound.
	FromGiB int64  `json:"from_gib,omitempty"`
	ToGiB   int64  `json:"to_gib,omitempty"`
	Date    string `json:"date"` // YYYY, YYYY-MM or YYYY-MM-DD
	Source  string `json:"source"`
}

// Plan is a virtual private server that is sold for a price a month, with some
// disk and traffic of its own.
type Plan struct {
	Provider      string `json:"provider"`
	Name          string `json:"name"`
	RAMMiB        int64  `json:"ram_mib"`
	Month         Amount `json:"month"`
	Currency      string `json:"currency"`
	BilledStopped bool   `json:"billed_stopped"`
	IPv6Only      bool   `json:"ipv6_only,omitempty"`
	Date          string `json:"date"`
	Source        string `json:"source"`
}

// document is the form of the table and of the cache.
type document struct {
	Version int      `json:"version"`
	Figures []Figure `json:"figures"`
	Plans   []Plan   `json:"plans,omitempty"`
}

const documentVersion = 1

// Book looks prices up. It is not changed once it is in use.
type Book struct {
	figures map[bookKey][]Figure // of egress a tier each, of spot a zone each, else one
	plans   []Plan
}

type bookKey struct {
	region string
	kind   Kind
	item   string
}

// New returns a Book of the program's own table and of newer figures, such as
// ReadCache returns. Of two figures for the same, the later dated counts.
func New(newer ...Figure) (*Book, error) {
	var d document
	if err := json.Unmarshal(table, &d); err != nil {
		return nil, fmt.Errorf("read the table of prices: %w", err)
	}
	b := &Book{figures: map[bookKey][]Figure{}, plans: d.Plans}
	b.add(d.Figures)
	b.add(newer)
	return b, nil
}

// With returns a Book that has newer figures too.
func (b *Book) With(newer ...Figure) *Book {
	c := &Book{figures: map[bookKey][]Figure{}, plans: b.plans}
	for key, list := range b.figures {
		c.figures[key] = slices.Clone(list)
	}
	c.add(newer)
	return c
}

// add takes figures in, all tiers or zones of one thing together.
func (b *Book) add(figures []Figure) {
	groups := map[bookKey][]Figure{}
	for _, f := range figures {
		if f.Currency != "USD" || f.Price < 0 || f.Upfront < 0 {
			continue // no other currency is ever summed with these
		}
		key := bookKey{f.Region, f.Kind, f.Item}
		groups[key] = append(groups[key], f)
	}
	for key, list := range groups {
		have := b.figures[key]
		if len(have) > 0 && newest(have) > newest(list) {
			continue
		}
		slices.SortFunc(list, func(a, b Figure) int {
			return cmp.Or(cmp.Compare(a.FromGiB, b.FromGiB), cmp.Compare(a.Zone, b.Zone))
		})
		b.figures[key] = list
	}
}

// newest is the latest date of a list. Dates of this form sort as text.
func newest(list []Figure) string {
	date := ""
	for _, f := range list {
		date = max(date, f.Date)
	}
	return date
}

func (b *Book) one(region string, kind Kind, item string) (Figure, bool) {
	list := b.figures[bookKey{region, kind, item}]
	if len(list) != 1 {
		return Figure{}, false
	}
	return list[0], true
}

// Instance is an hour of an instance type, on demand, with Linux.
func (b *Book) Instance(region, instanceType string) (Figure, bool) {
	return b.one(region, KindInstance, instanceType)
}

// Reserved is a year's reservation of an instance type, paid in the way that
// kind says: KindReservedNone, KindReservedPartial or KindReservedAll.
func (b *Book) Reserved(region string, kind Kind, instanceType string) (Figure, bool) {
	return b.one(region, kind, instanceType)
}

// Spot is an hour of an instance type on spot: in the zone, or in the region's
// dearest zone where zone is "" or has no figure.
func (b *Book) Spot(region, zone, instanceType string) (Figure, bool) {
	var dearest Figure
	list := b.figures[bookKey{region, KindSpot, instanceType}]
	for _, f := range list {
		if f.Zone == zone && zone != "" {
			return f, true
		}
		if f.Price >= dearest.Price {
			dearest = f
		}
	}
	return dearest, len(list) > 0
}

// Volume is a GiB-month of a volume type.
func (b *Book) Volume(region, volumeType string) (Figure, bool) {
	return b.one(region, KindVolume, volumeType)
}

// Snapshot is a GiB-month of stored snapshot blocks.
func (b *Book) Snapshot(region string) (Figure, bool) {
	return b.one(region, KindSnapshot, itemStandard)
}

// Address is an hour of a public IPv4 address, in use or idle.
func (b *Book) Address(region string, inUse bool) (Figure, bool) {
	if inUse {
		return b.one(region, KindAddress, itemInUse)
	}
	return b.one(region, KindAddress, itemIdle)
}

// Egress is the tiers of traffic out to the internet, the first one first.
func (b *Book) Egress(region string) []Figure {
	return b.figures[bookKey{region, KindEgress, itemInternet}]
}

// Knows tells whether there is any figure of a region.
func (b *Book) Knows(region string) bool {
	for key := range b.figures {
		if key.region == region {
			return true
		}
	}
	return false
}
