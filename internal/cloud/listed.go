package cloud

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// listed lets what is derived from records, or from a table, go through the
// same filters and pages as stored resources. It is never stored itself.
type listed struct{ state.Meta }

// listedAs gives an entry of a list its ID, by which the list is ordered, so
// that a page's token can name the last entry of the page.
func listedAs(id string) listed { return listed{state.Meta{ID: id}} }

// Kind implements state.Record.
func (*listed) Kind() string { return "" }

// Version implements state.Record.
func (*listed) Version() int { return 0 }

// one makes a filter of a function that gives exactly one value.
func one[T any](f func(T) string) func(T) []string {
	return func(rec T) []string { return []string{f(rec)} }
}

// always makes a filter of what is the same for every record.
func always[T any](value string) func(T) []string {
	return func(T) []string { return []string{value} }
}

// none makes a filter of what no record here ever has.
func none[T any](T) []string { return nil }

// choose is what every paged Describe does: it keeps the records that are
// named and that the filters match, and cuts a page out of them. recs must be
// ordered by ID.
func choose[T record](recs []T, ids []string, k idKind, filters []types.Filter, known fields[T], limit *int32, token *string) ([]T, *string, error) {
	recs, err := selectByID(recs, ids, k)
	if err != nil {
		return nil, nil, err
	}
	if recs, err = filter(recs, filters, known); err != nil {
		return nil, nil, err
	}
	return paginate(recs, limit, token)
}

// listNamed reads the records with the IDs, or all of the scope when none is
// named, ordered by ID. An unknown ID is an error.
func listNamed[T any, P interface {
	*T
	record
}](tx *state.Tx, s state.Scope, k idKind, ids []string) ([]*T, error) {
	if len(ids) == 0 {
		return state.List[T, P](tx, s)
	}
	for _, id := range ids {
		if err := k.check(id); err != nil {
			return nil, err
		}
	}
	recs := make([]*T, 0, len(ids))
	for _, id := range ids {
		rec, err := find[T, P](tx, s, k, id)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	byID := func(a, b *T) int { return strings.Compare(P(a).Common().ID, P(b).Common().ID) }
	slices.SortFunc(recs, byID)
	return slices.CompactFunc(recs, func(a, b *T) bool { return byID(a, b) == 0 }), nil
}

// selectByName keeps the records with one of the names, or all of them when
// none is named. A name that none has is the error that missing makes.
func selectByName[T any](recs []T, names []string, nameOf func(T) string, missing func(string) *apiError) ([]T, error) {
	if len(names) == 0 {
		return recs, nil
	}
	seen := make(map[string]bool, len(names))
	for _, n := range names {
		seen[n] = false
	}
	kept := make([]T, 0, len(names))
	for _, rec := range recs {
		if _, ok := seen[nameOf(rec)]; ok {
			seen[nameOf(rec)] = true
			kept = append(kept, rec)
		}
	}
	for _, n := range names {
		if !seen[n] {
			return nil, missing(n)
		}
	}
	return kept, nil
}

// optional gives nil for what a client sees as absent.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// arn names a resource of EC2's across services.
func arn(s state.Scope, kind, id string) string {
	return "arn:aws:ec2:" + s.Region + ":" + s.Account + ":" + kind + "/" + id
}
