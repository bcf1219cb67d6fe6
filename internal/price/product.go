package price

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// product is an entry of the AWS Price List, as far as it matters here. The
// Price List API and the public offer files have the same form.
type product struct {
	SKU        string            `json:"sku"`
	Family     string            `json:"productFamily"`
	Attributes map[string]string `json:"attributes"`
}

// term is one way to buy a product.
type term struct {
	Dimensions map[string]dimension `json:"priceDimensions"`
	Attributes struct {
		Length  string `json:"LeaseContractLength"`
		Payment string `json:"PurchaseOption"`
		Class   string `json:"OfferingClass"`
	} `json:"termAttributes"`
}

type dimension struct {
	Unit  string            `json:"unit"`
	Begin string            `json:"beginRange"`
	End   string            `json:"endRange"`
	Price map[string]string `json:"pricePerUnit"`
}

// terms are a product's ways to buy it, by how it is called and a code.
type terms map[string]map[string]term

const (
	termsOnDemand = "OnDemand"
	termsReserved = "Reserved"
)

// parseProduct reads one text of GetProducts' PriceList and returns the figures
// of region that are in it. It has none of what is of no interest here.
func parseProduct(text, region, source string) ([]Figure, error) {
	var p struct {
		Product   product `json:"product"`
		Terms     terms   `json:"terms"`
		Published string  `json:"publicationDate"`
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("read a product of the price list: %w", err)
	}
	return p.Product.figures(region, p.Terms, stamp{day(p.Published), source}), nil
}

// stamp is where figures come from, and of which day they are.
type stamp struct{ date, source string }

// day is the date of a timestamp, "" when it is none.
func day(timestamp string) string {
	date, _, _ := strings.Cut(timestamp, "T")
	if len(date) != len("2006-01-02") {
		return ""
	}
	return date
}

// figures are the prices that a product's terms hold.
func (p *product) figures(region string, t terms, s stamp) []Figure {
	kind, item, ok := p.classify(region)
	if !ok || s.date == "" {
		return nil
	}
	base := Figure{Region: region, Kind: kind, Item: item, Currency: "USD", Date: s.date, Source: s.source}
	var list []Figure
	for _, one := range t[termsOnDemand] {
		list = append(list, one.onDemand(base)...)
	}
	if kind != KindEgress && len(list) > 1 {
		list = nil // tiers, or terms that contradict each other: no one price
	}
	if kind == KindInstance {
		for _, one := range t[termsReserved] {
			if f, ok := one.reserved(base); ok {
				list = append(list, f)
			}
		}
	}
	slices.SortFunc(list, func(a, b Figure) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.FromGiB, b.FromGiB))
	})
	return list
}

// classify tells what a product is: the very one that a Linux server in the
// region pays for, or nothing that matters.
func (p *product) classify(region string) (Kind, string, bool) {
	a := p.Attributes
	if t := a["locationType"]; t != "" && t != "AWS Region" {
		return "", "", false // Outposts, local zones
	}
	if a["transferType"] == "AWS Outbound" {
		ok := a["toLocation"] == "External" && a["fromRegionCode"] == region
		return KindEgress, itemInternet, ok
	}
	if a["regionCode"] != region {
		return "", "", false
	}
	volume, usage := a["volumeApiName"], a["usagetype"]
	switch {
	case strings.HasPrefix(p.Family, "Compute Instance"):
		ok := a["operatingSystem"] == "Linux" && a["tenancy"] == "Shared" && a["preInstalledSw"] == "NA" &&
			a["capacitystatus"] == "Used" && (a["operation"] == "" || a["operation"] == "RunInstances")
		return KindInstance, a["instanceType"], ok && a["instanceType"] != ""
	case p.Family == "Storage":
		return KindVolume, volume, volume != ""
	case p.Family == "System Operation":
		return KindVolumeIOPS, volume, volume != "" && a["group"] == "EBS IOPS"
	case p.Family == "Provisioned Throughput":
		return KindVolumeThroughput, volume, volume != ""
	case p.Family == "Storage Snapshot":
		return KindSnapshot, itemStandard, strings.HasSuffix(usage, "EBS:SnapshotUsage")
	case a["group"] == "VPCPublicIPv4Address" && strings.Contains(usage, "InUseAddress"):
		return KindAddress, itemInUse, true
	case a["group"] == "VPCPublicIPv4Address" && strings.Contains(usage, "IdleAddress"):
		return KindAddress, itemIdle, true
	}
	return "", "", false
}

// onDemand returns a figure of each dimension, in the unit that Figure has for
// the kind. One that isn't understood is left out.
func (t *term) onDemand(base Figure) []Figure {
	var list []Figure
	for _, d := range t.Dimensions {
		f := base
		var ok bool
		if f.Price, f.Unit, ok = d.price(base.Kind); !ok {
			continue
		}
		if f.Kind == KindEgress {
			if f.FromGiB, f.ToGiB, ok = d.tier(); !ok {
				continue
			}
		}
		list = append(list, f)
	}
	return list
}

// unitsOf are the price list's names of a kind's unit, and how many of ours one
// is.
func unitsOf(kind Kind) (name string, theirs map[string]int64) {
	switch kind {
	case KindInstance, KindAddress:
		return unitHour, map[string]int64{"hrs": 1}
	case KindVolume, KindSnapshot:
		return unitGiBMonth, map[string]int64{"gb-mo": 1}
	case KindVolumeIOPS:
		return unitIOPSMonth, map[string]int64{"iops-mo": 1}
	case KindVolumeThroughput:
		return unitMiBsMonth, map[string]int64{"mibps-mo": 1, "gibps-mo": 1024}
	case KindEgress:
		return unitGiB, map[string]int64{"gb": 1}
	default:
		return "", nil // not of the price list's on-demand terms
	}
}

func (d *dimension) price(kind Kind) (Amount, string, bool) {
	name, theirs := unitsOf(kind)
	n := theirs[strings.ToLower(d.Unit)]
	a, err := ParseAmount(d.Price["USD"])
	if err != nil || n == 0 || int64(a)%n != 0 {
		return 0, "", false
	}
	return a / Amount(n), name, true
}

func (d *dimension) tier() (from, to int64, ok bool) {
	from, err := strconv.ParseInt(cmp.Or(d.Begin, "0"), 10, 64)
	if err != nil || from < 0 {
		return 0, 0, false
	}
	if d.End == "" || d.End == "Inf" {
		return from, 0, true
	}
	to, err = strconv.ParseInt(d.End, 10, 64)
	return from, to, err == nil && to > from
}

// reserved is a standard reservation for a year.
func (t *term) reserved(base Figure) (Figure, bool) {
	kind, ok := reservedKind(t.Attributes.Payment)
	if !ok || t.Attributes.Length != "1yr" || t.Attributes.Class != "standard" {
		return Figure{}, false
	}
	f := base
	f.Kind, f.Unit = kind, unitHour
	for _, d := range t.Dimensions {
		a, err := ParseAmount(d.Price["USD"])
		switch {
		case err != nil:
			return Figure{}, false
		case strings.EqualFold(d.Unit, "hrs"):
			f.Price = a
		case strings.EqualFold(d.Unit, "quantity"):
			f.Upfront = a
		default:
			return Figure{}, false
		}
	}
	return f, f.Price+f.Upfront > 0
}

// reservedKind is the kind of a way to pay for a reservation.
func reservedKind(payment string) (Kind, bool) {
	switch payment {
	case "No Upfront":
		return KindReservedNone, true
	case "Partial Upfront":
		return KindReservedPartial, true
	case "All Upfront":
		return KindReservedAll, true
	}
	return "", false
}
