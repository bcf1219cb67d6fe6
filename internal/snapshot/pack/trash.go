package pack

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// untrash brings the pack of a blob back from the trash, where a blob that
// something needs should never be.
func (s *Store) untrash(ctx context.Context, i id) (found bool, err error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	object, err := s.findTrash(ctx, i)
	if err != nil || object == "" {
		return false, err
	}
	s.log.Error("a block that is needed was swept: bringing its pack back from the trash; please report this", "block", Digest(i), "object", object)
	return true, s.bringBack(ctx, object)
}

// Recover brings back from the trash what of these blobs is there; those that
// are nowhere are ErrNotFound, but for those that are known to be rotten. It is
// for a root that is to be restored.
func (s *Store) Recover(ctx context.Context, sums []Digest) error {
	hold, err := s.Begin(ctx) // keeps the index
	if err != nil {
		return err
	}
	defer hold.Close()
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	for _, sum := range sums {
		i := s.id(sum)
		s.mu.RLock()
		_, there := s.index.places[i]
		bad := s.rotten[i]
		s.mu.RUnlock()
		if there {
			continue
		}
		object, err := s.findTrash(ctx, i)
		if err != nil {
			return err
		}
		if object == "" && bad != nil {
			continue // that it is rotten is known; the rest is worth having
		}
		if object == "" {
			return fmt.Errorf("block %s: %w", sum, ErrNotFound)
		}
		if err := s.bringBack(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// findTrash returns the object in the trash that holds a blob, or "". sweeping
// is held.
func (s *Store) findTrash(ctx context.Context, i id) (string, error) {
	s.mu.RLock()
	known := s.trash
	s.mu.RUnlock()
	if known == nil {
		known = make(map[id]string)
		err := s.objs.List(ctx, kindTrash, func(o objects.Info) error {
			entries, _, err := s.entriesOf(ctx, kindTrash, o.Name[len(kindTrash)+1:], o.Size)
			for _, e := range entries {
				known[e.id] = o.Name
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("look through the trash: %w", err)
		}
		s.mu.Lock()
		s.trash = known
		s.mu.Unlock()
	}
	return known[i], nil
}

// bringBack puts a pack in the trash back to the others. sweeping is held.
func (s *Store) bringBack(ctx context.Context, object string) error {
	_, name, ok := parseStamp(object[len(kindTrash)+1:])
	if !ok {
		return fmt.Errorf("%w: %q in the trash", objects.ErrInvalid, object)
	}
	if err := s.objs.Rename(ctx, object, kindPacks+"/"+name); err != nil && !errors.Is(err, objects.ErrExists) {
		return fmt.Errorf("bring back %s: %w", object, err)
	}
	info, err := s.objs.Stat(ctx, kindPacks+"/"+name)
	if err != nil {
		return err
	}
	entries, unread, err := s.entriesOf(ctx, kindPacks, name, info.Size)
	if err != nil {
		return err
	}
	rot, err := s.rotNotes(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trash = nil
	if s.index == nil {
		return nil
	}
	if n, ok := s.index.number[name]; ok && !s.index.packs[n].gone {
		delete(s.index.number, name) // the same pack, under a new number
	}
	rotten := s.index.addSound(packList{name: name, size: info.Size, entries: entries, unread: unread}, rot)
	for _, e := range entries {
		delete(s.rotten, e.id)
	}
	maps.Copy(s.rotten, rotten)
	return nil
}

// emptyTrash deletes for good what has been in the trash long enough, or all of
// it. sweeping is held.
func (s *Store) emptyTrash(ctx context.Context, all bool) (freed int64, err error) {
	now := s.opts.Now()
	for _, kind := range []string{kindDeleted, kindTrash} { // roots first
		err := s.objs.List(ctx, kind, func(o objects.Info) error {
			at, name, ok := parseStamp(o.Name[len(kind)+1:])
			if !ok || !all && now.Sub(at) < s.opts.Trash {
				return nil
			}
			freed += o.Size
			if err := s.objs.Delete(ctx, o.Name); err != nil || kind != kindTrash {
				return err
			}
			return s.forgetRot(ctx, name)
		})
		if err != nil {
			return freed, fmt.Errorf("empty the trash: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trash = nil
	return freed, nil
}
