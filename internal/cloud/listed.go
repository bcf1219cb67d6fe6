package cloud

import "github.com/steadcloud/stead/internal/state"

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
