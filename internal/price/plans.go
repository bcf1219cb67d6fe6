package price

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Verdict is how a month of a server compares with a plan's.
type Verdict string

// The verdicts, from the server's side.
const (
	Cheaper   Verdict = "cheaper"
	Dearer    Verdict = "dearer"
	Same      Verdict = "same"
	Undecided Verdict = "undecided" // the plan's price lies in the server's range
	Unlike    Verdict = "unlike"    // another currency, or no IPv4 address
)

// Offer is a plan next to a server.
type Offer struct {
	Plan
	Verdict Verdict `json:"verdict"`
}

// Offers returns of each provider the smallest plan that has at least ramMiB of
// memory, compared with a month that costs r dollars, the server with or
// without a public IPv4 address.
func (b *Book) Offers(ramMiB int64, r Range, ipv4 bool) []Offer {
	best := map[string]Plan{}
	for _, p := range b.plans {
		have, seen := best[p.Provider]
		if p.RAMMiB >= ramMiB && ramMiB > 0 && (!seen || p.RAMMiB < have.RAMMiB) {
			best[p.Provider] = p
		}
	}
	offers := []Offer{}
	for _, p := range best {
		offers = append(offers, Offer{p, p.verdict(r, ipv4)})
	}
	slices.SortFunc(offers, func(a, b Offer) int {
		return cmp.Or(cmp.Compare(a.Currency, b.Currency)*-1, cmp.Compare(a.Month, b.Month), cmp.Compare(a.Provider, b.Provider))
	})
	return offers
}

func (p Plan) verdict(r Range, ipv4 bool) Verdict {
	switch {
	case p.Currency != "USD" || p.IPv6Only && ipv4:
		return Unlike
	case r == exactly(p.Month):
		return Same
	case r.High < p.Month:
		return Cheaper
	case r.Low > p.Month:
		return Dearer
	}
	return Undecided
}

// Sentence says in one sentence how a month that costs r compares with offers:
// "$11.24 a month is cheaper than ... and dearer than ...".
func Sentence(r Range, offers []Offer) string {
	var parts []string
	for _, one := range []struct {
		verdict Verdict
		word    string
	}{{Cheaper, "cheaper than"}, {Same, "the same as"}, {Dearer, "dearer than"}, {Undecided, "cheaper or dearer, as the snapshots turn out, than"}} {
		var names []string
		for _, o := range offers {
			if o.Verdict == one.verdict {
				names = append(names, o.String())
			}
		}
		if len(names) > 0 {
			parts = append(parts, one.word+" "+list(names))
		}
	}
	if len(parts) == 0 {
		return "$" + r.Cents() + " a month; there is no plan of that size to compare it with"
	}
	return "$" + r.Cents() + " a month is " + strings.Join(parts, ", and ")
}

// String is the plan with its price: "Lightsail's 1 GB at $7.00".
func (p Plan) String() string {
	return p.Provider + "'s " + p.Name + " at " + Symbol(p.Currency) + p.Month.Cents()
}

// RAM is the plan's memory for people: 0.5 GiB, 2 GiB.
func (p Plan) RAM() string { return GiB(p.RAMMiB) }

// GiB writes a number of MiB in GiB.
func GiB(mib int64) string {
	return strconv.FormatFloat(float64(mib)/1024, 'f', -1, 64) + " GiB"
}

func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
