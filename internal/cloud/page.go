package cloud

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

const pagePrefix = "after:"

// notPaged refuses to page through what was named, as EC2 does.
func notPaged(ids []string, limit *int32, set string) error {
	if len(ids) > 0 && limit != nil {
		return fail("InvalidParameterCombination", "The parameter %s cannot be used with the parameter maxResults", set)
	}
	return nil
}

// pageToken names the last record of a page.
func pageToken(id string) *string {
	return aws.String(base64.RawURLEncoding.EncodeToString([]byte(pagePrefix + id)))
}

// readToken gives the ID that a page begins after; empty for the first page.
func readToken(token *string) (after string, err error) {
	if token == nil || *token == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(*token)
	last, ok := strings.CutPrefix(string(raw), pagePrefix)
	if err != nil || !ok || last == "" {
		return "", fail("InvalidNextToken", "The token '%s' is invalid", *token)
	}
	return last, nil
}

// pageSize gives how many records a page has; 0 for all.
func pageSize(limit *int32) (int, error) {
	switch {
	case limit == nil || *limit == 0:
		return 0, nil
	case *limit < 1 || *limit > 10000:
		return 0, invalid(*limit, "MaxResults", "Expecting a value from 1 to 10000.")
	}
	return int(*limit), nil
}

// paginate cuts one page out of recs, which are ordered by ID. The token names
// the last record of the page before, so that records that come or go between
// two calls never make a page skip or repeat another.
func paginate[T record](recs []T, limit *int32, token *string) ([]T, *string, error) {
	after, err := readToken(token)
	if err != nil {
		return nil, nil, err
	}
	for after != "" && len(recs) > 0 && recs[0].Common().ID <= after {
		recs = recs[1:]
	}
	n, err := pageSize(limit)
	if err != nil {
		return nil, nil, err
	}
	if n > 0 && len(recs) > n {
		return recs[:n], pageToken(recs[n-1].Common().ID), nil
	}
	return recs, nil, nil
}

// readAtOnce is how many records are read together where a filter may leave
// few of them.
const readAtOnce = 1024

// readPage reads one page of a scope's records from where the one before ended,
// so that a long list costs its pages and not its length for each. see turns a
// batch of records into what is listed, leaving out what isn't asked for;
// filters are those by which see does so.
func readPage[T any, P interface {
	*T
	record
}, V record](tx *state.Tx, s state.Scope, limit *int32, token *string, filters []types.Filter, see func([]*T) ([]V, error)) ([]V, *string, error) {
	after, err := readToken(token)
	if err != nil {
		return nil, nil, err
	}
	n, err := pageSize(limit)
	if err != nil {
		return nil, nil, err
	}
	hints := tagHints(filters)
	batch := 0
	if n > 0 {
		batch = max(n+1, readAtOnce)
	}
	var page []V
	for {
		recs, more, err := state.ListAfter[T, P](tx, s, after, batch, hints...)
		if err != nil {
			return nil, nil, err
		}
		if more {
			after = P(recs[len(recs)-1]).Common().ID
		}
		seen, err := see(recs)
		if err != nil {
			return nil, nil, err
		}
		page = append(page, seen...)
		switch {
		case n > 0 && len(page) > n:
			return page[:n], pageToken(page[n-1].Common().ID), nil
		case !more:
			return page, nil, nil
		}
	}
}

// unknownRune may stand for bytes that aren't UTF-8, and those are stored in
// another way than the rune itself.
const unknownRune = "\uFFFD"

// tagHints spares decoding records without the tags that filters want.
func tagHints(filters []types.Filter) (hints []state.Hint) {
	for _, f := range filters {
		name := aws.ToString(f.Name)
		if strings.Contains(name, unknownRune) {
			continue
		}
		literal := !slices.ContainsFunc(f.Values, func(v string) bool { return strings.ContainsAny(v, `*?\`+unknownRune) })
		switch key, byValue := strings.CutPrefix(name, "tag:"); {
		case byValue && literal:
			hints = append(hints, state.MayHaveTag(key, f.Values...))
		case byValue:
			hints = append(hints, state.MayHaveKey(key))
		case name == "tag-key" && literal:
			hints = append(hints, state.MayHaveKey(f.Values...))
		}
	}
	return hints
}
