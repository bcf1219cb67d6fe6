package cloud

import (
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// fields names the filters of one Describe action and gives a record's values
// for each. A filter matches when any of its values matches any of these.
type fields[T any] map[string]func(T) []string

// matchTags gives the values of the filters that every resource with tags has,
// tag:KEY and tag-key; false for any other filter.
func matchTags(name string, tags map[string]string) ([]string, bool) {
	if name == "tag-key" {
		return sortedKeys(tags), true
	}
	if key, ok := strings.CutPrefix(name, "tag:"); ok {
		if v, has := tags[key]; has {
			return []string{v}, true
		}
		return nil, true
	}
	return nil, false
}

// filter keeps the records that match every filter. An unknown filter is an
// error, as in EC2: ignoring one would answer with what was not asked for.
func filter[T record](recs []T, filters []types.Filter, known fields[T]) ([]T, error) {
	for _, f := range filters {
		name := aws.ToString(f.Name)
		_, isTag := matchTags(name, nil)
		if _, ok := known[name]; !ok && !isTag {
			return nil, fail("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if len(f.Values) == 0 {
			return nil, fail("InvalidParameterValue", "The filter '%s' has no values", name)
		}
	}
	return slices.DeleteFunc(recs, func(rec T) bool {
		return slices.ContainsFunc(filters, func(f types.Filter) bool { return !matches(rec, f, known) })
	}), nil
}

func matches[T record](rec T, f types.Filter, known fields[T]) bool {
	name := aws.ToString(f.Name)
	values, ok := matchTags(name, rec.Common().Tags)
	if !ok {
		values = known[name](rec)
	}
	return slices.ContainsFunc(f.Values, func(pattern string) bool {
		return slices.ContainsFunc(values, func(v string) bool { return wildcard(pattern, v) })
	})
}

// wildcard matches EC2's filter patterns: * is any run of characters, ? any
// one, \ takes the next literally. Matching is case sensitive.
func wildcard(pattern, s string) bool {
	// Greedy with one backtracking point: linear in practice, no recursion.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == '\\' && p+1 < len(pattern) && pattern[p+1] == s[i]:
			p, i = p+2, i+1
		case p < len(pattern) && pattern[p] != '\\' && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// selectByID keeps the records named by ids, in their stored order, or all of
// them when none is named. An unknown ID is an error.
func selectByID[T record](recs []T, ids []string, k idKind) ([]T, error) {
	if len(ids) == 0 {
		return recs, nil
	}
	want := make(map[string]bool, len(ids))
	for _, id := range ids {
		if err := k.check(id); err != nil {
			return nil, err
		}
		want[id] = false
	}
	kept := make([]T, 0, len(ids))
	for _, rec := range recs {
		if _, ok := want[rec.Common().ID]; ok {
			want[rec.Common().ID] = true
			kept = append(kept, rec)
		}
	}
	for _, id := range ids {
		if !want[id] {
			return nil, k.missing(id)
		}
	}
	return kept, nil
}
