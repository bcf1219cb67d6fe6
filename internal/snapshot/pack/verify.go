package pack

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// Verify reads every pack through, in its order on the disk, on so many workers,
// and calls fn for each blob that the index leads to: with a nil error where its
// contents are right. fn isn't called concurrently. What is found rotten is
// noted, so that the next Put of it writes it anew.
func (s *Store) Verify(ctx context.Context, workers int, fn func(sum Digest, plain int, err error)) error {
	hold, err := s.Begin(ctx) // keeps the index
	if err != nil {
		return err
	}
	defer hold.Close()
	packs := s.byPack()
	var mu sync.Mutex // held while fn is called
	return s.readRuns(ctx, workers, func(yield func(run) bool) {
		for _, p := range packs {
			slices.SortFunc(p.blobs, func(a, b located) int { return cmp.Compare(a.off, b.off) })
			for _, r := range cut(p.name, p.blobs) {
				if !yield(r) {
					return
				}
			}
		}
	}, func(b located, data []byte, err error) error {
		if errors.Is(err, ErrNotFound) {
			return nil // swept since
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		fn(b.sum, len(data), err)
		return nil
	})
}

// packBlobs are a pack's blobs that the index leads to.
type packBlobs struct {
	name  string
	blobs []located
}

func (s *Store) byPack() []*packBlobs {
	s.mu.RLock()
	defer s.mu.RUnlock()
	packs := make([]*packBlobs, len(s.index.packs))
	for i, p := range s.index.places {
		b := packs[p.pack]
		if b == nil {
			b = &packBlobs{name: s.index.packs[p.pack].name}
			packs[p.pack] = b
		}
		b.blobs = append(b.blobs, located{sum: Digest(i), place: p})
	}
	return slices.DeleteFunc(packs, func(b *packBlobs) bool { return b == nil })
}

// Stats describes what a store takes.
type Stats struct {
	Packs, Blobs int
	Bytes        int64 // of all packs
	LiveBytes    int64 // of the blobs that the index leads to
	Rotten       int   // blobs known to be
	TrashPacks   int
	TrashBytes   int64
}

// Stats counts what is there.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	hold, err := s.Begin(ctx) // keeps the index
	if err != nil {
		return st, err
	}
	defer hold.Close()
	s.mu.RLock()
	st.Blobs, st.Rotten = len(s.index.places), len(s.rotten)
	for _, p := range s.index.places {
		st.LiveBytes += int64(blobHeader) + int64(p.stored)
	}
	s.mu.RUnlock()
	err = s.objs.List(ctx, kindPacks, func(o objects.Info) error {
		st.Packs++
		st.Bytes += o.Size
		return nil
	})
	if err != nil {
		return st, err
	}
	return st, s.objs.List(ctx, kindTrash, func(o objects.Info) error {
		st.TrashPacks++
		st.TrashBytes += o.Size
		return nil
	})
}

// Rebuild forgets the index and the index objects, and the notes of rot that
// aren't true any more, and makes the index again from the packs. The other notes
// stay: a blob that was stored anew since would else be looked for in its rotten
// copy again. ErrBusy says that uploads or sweeps are under
// way, which would be lost on it.
func (s *Store) Rebuild(ctx context.Context) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	s.mu.Lock()
	busy := len(s.uploads)+len(s.sweeps)+len(s.pending) > 0
	if !busy {
		s.index = nil // those that come now wait for sweeping
	}
	s.mu.Unlock()
	if busy {
		return ErrBusy
	}
	if err := s.objs.List(ctx, kindIndex, func(o objects.Info) error { return s.objs.Delete(ctx, o.Name) }); err != nil {
		return err
	}
	if err := s.reviseRot(ctx); err != nil {
		return err
	}
	return s.reload(ctx)
}

// reviseRot deletes the notes of rot in blobs that are whole, such as those that
// were once read from a disk that had a bad moment.
func (s *Store) reviseRot(ctx context.Context) error {
	notes, err := s.rotNotes(ctx)
	if err != nil {
		return err
	}
	for note := range notes {
		rotten, err := s.stillRotten(ctx, note)
		if err == nil && !rotten {
			err = s.objs.Delete(ctx, note)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stillRotten reads the blob that a note of rot is about.
func (s *Store) stillRotten(ctx context.Context, note string) (bool, error) {
	pack, off, ok := parseRotName(note)
	if !ok { // not a note of this version
		return true, nil
	}
	head := make([]byte, blobHeader)
	n, err := s.objs.ReadAt(ctx, kindPacks+"/"+pack, head, int64(off))
	switch {
	case errors.Is(err, objects.ErrNotFound): // the pack is gone, and its rot
		trashed, err := s.names(ctx, kindTrash)
		return slices.ContainsFunc(trashed, func(n string) bool { return strings.HasSuffix(n, "."+pack) }), err
	case errors.Is(err, objects.ErrDamaged):
		return true, nil
	case n < len(head) && err != nil && !errors.Is(err, io.EOF):
		return true, err
	case n < len(head):
		return true, nil
	}
	e := parseBlobHeader(head)
	if e.stored > MaxBlob {
		return true, nil
	}
	var mem []byte
	framed, err := s.readFramed(ctx, pack, place{off: off, stored: e.stored}, &mem)
	if err == nil {
		_, err = s.decode(pack, framed, off, Digest(e.id), nil)
	}
	if errors.Is(err, ErrCorrupt) {
		return true, nil
	}
	return err != nil, err
}
