package cloud

import "sync"

// idSet is a set of IDs for concurrent use; its zero value is empty.
type idSet struct{ m sync.Map }

func (s *idSet) add(id string)    { s.m.Store(id, struct{}{}) }
func (s *idSet) remove(id string) { s.m.Delete(id) }

func (s *idSet) has(id string) bool {
	_, ok := s.m.Load(id)
	return ok
}
