package dryrun

import (
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// shelf holds the resources of one kind that this run would have made,
// changed or deleted. All others are the endpoint's own.
type shelf[T any] struct {
	items map[string]*T // nil: deleted
	order []string
}

func newShelf[T any]() *shelf[T] { return &shelf[T]{items: map[string]*T{}} }

func (s *shelf[T]) put(id string, v *T) {
	if _, known := s.items[id]; !known {
		s.order = append(s.order, id)
	}
	s.items[id] = v
}

// narrow takes out of a query what the shelf answers. ask is false when
// nothing is left that the endpoint could find.
func (s *shelf[T]) narrow(ids *[]string, filters []types.Filter) (ask bool) {
	if len(*ids) > 0 {
		*ids = slices.DeleteFunc(*ids, func(id string) bool {
			_, known := s.items[id]
			return known || Placeholder(id)
		})
		if len(*ids) == 0 {
			return false
		}
	}
	for k := range filters {
		had := len(filters[k].Values)
		filters[k].Values = slices.DeleteFunc(filters[k].Values, Placeholder)
		if had > 0 && len(filters[k].Values) == 0 {
			return false
		}
	}
	return true
}

// search is what a query is after.
type search[T any] struct {
	ids      []string
	first    bool // of the pages: the shelf's items are on it
	match    func(*T) (bool, error)
	notFound string // the error code for an ID that isn't there
}

// overlay turns a page of the endpoint's answer into what it would be.
func (s *shelf[T]) overlay(listed []T, id func(*T) *string, q search[T]) ([]T, error) {
	list := slices.DeleteFunc(listed, func(v T) bool {
		_, known := s.items[aws.ToString(id(&v))]
		return known
	})
	if !q.first {
		return list, nil
	}
	for _, want := range q.ids {
		if v, known := s.items[want]; known && v == nil || !known && Placeholder(want) {
			return nil, refuse(q.notFound, "The ID '%s' does not exist", want)
		}
	}
	for _, key := range s.order {
		v := s.items[key]
		if v == nil || len(q.ids) > 0 && !slices.Contains(q.ids, key) {
			continue
		}
		ok, err := q.match(v)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, clone(*v))
		}
	}
	return list, nil
}
