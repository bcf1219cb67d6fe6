package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

const (
	// wasteLimit is how many dead bytes may stay, a hundred of them live. To get
	// at them the packs' other blobs are written anew.
	wasteLimit = 5
	// smallPacks is how many packs that are less than half full may stay.
	smallPacks = 8
)

// Sweep takes away blobs that nothing needs.
type Sweep struct {
	s *Store
	// ended holds what uploads needed that ended during the sweep. Their roots
	// may have come too late for the caller to see. Guarded by s.mu.
	ended []map[id]struct{}
}

// Swept is what a sweep did.
type Swept struct {
	Trashed   int   // packs put into the trash
	Rewritten int   // of them, those whose other blobs were written anew
	Bytes     int64 // that will be free when the trash is emptied
	Freed     int64 // that are free, from what was in the trash long enough
}

// BeginSweep opens the way to a sweep. It must come before the caller reads the
// roots that tell it what is needed.
func (s *Store) BeginSweep(ctx context.Context) (*Sweep, error) {
	w := &Sweep{s: s}
	// Registered first, so that the index isn't let go of once it is there.
	s.mu.Lock()
	s.sweeps[w] = struct{}{}
	s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		w.Close()
		return nil, fmt.Errorf("begin sweep: %w", err)
	}
	return w, nil
}

// Close ends the sweep. Closing twice is fine.
func (w *Sweep) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	delete(w.s.sweeps, w)
	w.ended = nil
}

// Run puts packs into the trash of which nothing is live, nor needed by an upload
// that was open when the sweep began or that began later. Packs that are dead in
// part are rewritten when there is too much of that. Then it deletes for good
// what was in the trash long enough.
func (w *Sweep) Run(ctx context.Context, live map[Digest]struct{}) (Swept, error) {
	var done Swept
	w.s.sweeping.Lock()
	defer w.s.sweeping.Unlock()
	dead, rewrite := w.condemn(live)
	err := w.discard(ctx, dead, &done)
	if err == nil {
		err = w.rewrite(ctx, rewrite, &done)
	}
	if err != nil {
		return done, fmt.Errorf("sweep: %w", err)
	}
	done.Freed, err = w.s.emptyTrash(ctx, false)
	return done, err
}

// EmptyTrash deletes for good all that is in the trash and returns the bytes
// that it took.
func (s *Store) EmptyTrash(ctx context.Context) (freed int64, err error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	return s.emptyTrash(ctx, true)
}

// ExpireTrash deletes for good what has been in the trash long enough, as every
// sweep does, and returns the bytes that it took.
func (s *Store) ExpireTrash(ctx context.Context) (freed int64, err error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	return s.emptyTrash(ctx, false)
}

// victim is a pack to be taken away, and the blobs in it that must stay.
type victim struct {
	number     uint32
	name       string
	size       int64
	live, dead int64
	keep       []id
	copied     int // of keep, those that were written to another pack
}

// condemn chooses packs and takes what is dead in them out of the index: from
// then on an upload that comes with such a blob stores it anew.
func (w *Sweep) condemn(live map[Digest]struct{}) (dead, rewrite []*victim) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	packs := make([]victim, len(s.index.packs))
	needed := func(i id) bool {
		_, ok := live[Digest(i)]
		return ok || w.needed(i)
	}
	var condemned []id
	for i, p := range s.index.places {
		if needed(i) {
			packs[p.pack].live += int64(blobHeader) + int64(p.stored)
		} else {
			condemned = append(condemned, i)
		}
	}
	spared := s.rottenPacks(needed)
	dead, rewrite = choose(s.index.packs, packs, spared, s.opts.PackSize)
	chosen := make(map[uint32]*victim)
	for _, v := range append(dead, rewrite...) {
		chosen[v.number] = v
	}
	for _, i := range condemned {
		if _, ok := chosen[s.index.places[i].pack]; ok {
			delete(s.index.places, i)
		}
	}
	if len(rewrite) > 0 {
		for i, p := range s.index.places {
			if v, ok := chosen[p.pack]; ok {
				v.keep = append(v.keep, i)
			}
		}
	}
	return dead, rewrite
}

// needed says whether an upload protects a blob. s.mu is held.
func (w *Sweep) needed(i id) bool {
	for u := range w.s.uploads {
		if _, ok := u.needed[i]; ok {
			return true
		}
	}
	for _, needed := range w.ended {
		if _, ok := needed[i]; ok {
			return true
		}
	}
	return false
}

// rottenPacks are the packs with rotten blobs that are needed and nowhere else:
// the last that is left of them. s.mu is held.
func (s *Store) rottenPacks(needed func(id) bool) map[string]bool {
	spared := make(map[string]bool)
	for i, bad := range s.rotten {
		if needed(i) {
			spared[strings.TrimPrefix(bad.Object, kindPacks+"/")] = true
		}
	}
	return spared
}

// choose picks the packs of which nothing is live, and those worth rewriting.
func choose(infos []packInfo, packs []victim, spared map[string]bool, packSize int) (dead, rewrite []*victim) {
	var some, small []*victim
	var live, waste int64
	for n := range packs {
		info, v := infos[n], &packs[n]
		if info.gone || info.unread || spared[info.name] {
			continue
		}
		v.number, v.name, v.size = uint32(n), info.name, info.size
		v.dead = info.size - v.live - packHeader - trailerLen - int64(info.entries)*entryLen
		live += v.live
		switch {
		case v.live == 0:
			dead = append(dead, v)
			continue
		case v.dead > 0:
			some = append(some, v)
			waste += v.dead
		}
		if info.size < int64(packSize)/2 {
			small = append(small, v)
		}
	}
	// The emptiest first: they give most for what must be written.
	slices.SortFunc(some, func(a, b *victim) int { return cmp.Compare(a.live*b.size, b.live*a.size) })
	for _, v := range some {
		if waste*100 <= live*wasteLimit {
			break
		}
		rewrite = append(rewrite, v)
		waste -= v.dead
	}
	if len(small) > smallPacks {
		for _, v := range small {
			if !slices.Contains(rewrite, v) {
				rewrite = append(rewrite, v)
			}
		}
	}
	return dead, rewrite
}

// discard puts packs into the trash.
func (w *Sweep) discard(ctx context.Context, packs []*victim, done *Swept) error {
	s := w.s
	for _, v := range packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.discard(ctx, v); err != nil {
			return err
		}
		done.Trashed++
		done.Bytes += v.size
	}
	return nil
}

func (s *Store) discard(ctx context.Context, v *victim) error {
	object := kindPacks + "/" + v.name
	var err error
	// Of a pack that is elsewhere blob by blob there is nothing to have back.
	forGood := s.opts.Trash < 0 || v.copied > 0 && v.copied == s.entries(v)
	if forGood {
		err = s.objs.Delete(ctx, object)
	} else {
		err = s.rename(ctx, object, kindTrash, v.name)
	}
	if err != nil && !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	s.mu.Lock()
	s.trash = nil
	s.index.packs[v.number].gone = true
	delete(s.index.number, v.name)
	s.mu.Unlock()
	if forGood {
		return s.forgetRot(ctx, v.name)
	}
	return nil // it may come back, and its rot with it
}

// entries is how many blobs a pack has, needed or not.
func (s *Store) entries(v *victim) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.packs[v.number].entries
}

// forgetRot deletes the notes of rot in a pack that is gone for good: what was
// deleted may have been a second name of it, left by an interrupted sweep.
func (s *Store) forgetRot(ctx context.Context, pack string) error {
	if _, err := s.objs.Stat(ctx, kindPacks+"/"+pack); !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	return s.objs.List(ctx, kindRot, func(o objects.Info) error {
		if strings.HasPrefix(o.Name, kindRot+"/"+pack) {
			return s.objs.Delete(ctx, o.Name)
		}
		return nil
	})
}

// rewrite writes what must stay of packs into new ones and then puts the old
// ones into the trash.
func (w *Sweep) rewrite(ctx context.Context, packs []*victim, done *Swept) error {
	if len(packs) == 0 {
		return nil
	}
	u, err := w.s.Begin(ctx)
	if err != nil {
		return err
	}
	defer u.Close()
	var whole []*victim
	for _, v := range packs {
		ok, err := w.copyBlobs(ctx, u, v)
		if err != nil {
			return err
		}
		if ok {
			whole = append(whole, v)
		}
	}
	if err := u.Flush(ctx); err != nil {
		return err
	}
	for _, v := range whole {
		if err := w.s.discard(ctx, v); err != nil {
			return err
		}
		done.Trashed++
		done.Rewritten++
		done.Bytes += v.size - v.live
	}
	return nil
}

// copyBlobs adds what must stay of a pack to others. ok says that all of it
// could be read.
func (w *Sweep) copyBlobs(ctx context.Context, u *Upload, v *victim) (ok bool, err error) {
	s, mem := w.s, new([]byte)
	for _, i := range v.keep {
		s.mu.RLock()
		p, there := s.index.places[i]
		s.mu.RUnlock()
		if !there || p.pack != v.number {
			continue // written anew since, or found rotten
		}
		framed, err := s.readFramed(ctx, v.name, p, mem)
		if err == nil {
			e := parseBlobHeader(framed)
			e.off = p.off
			if wrong := checkBlob(framed, e); wrong != "" || e.id != i {
				err = &CorruptError{Object: kindPacks + "/" + v.name, Digest: Digest(i), Reason: cmp.Or(wrong, "another block is in its place")}
			}
		}
		var bad *CorruptError
		if errors.As(err, &bad) {
			s.noteRot(ctx, i, p, v.name, bad)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		t := &ticket{done: make(chan struct{})}
		s.append(framed, t)
		u.waitFor(t)
		v.copied++
	}
	return true, nil
}
