package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

const (
	indexMagic   = "steadidx"
	indexVersion = 1
	// footersAtOnce is how many packs' footers are read at a time.
	footersAtOnce = 16
	// tooManyFooters is how many footers may be read before the index is
	// written, to save it the next time.
	tooManyFooters = 64
	// tailGuess is how many of a pack's last bytes are read first: the footer of
	// most.
	tailGuess = 8 << 10
)

// index tells where blobs are.
type index struct {
	places map[id]place
	packs  []packInfo
	number map[string]uint32 // of a pack, by name
}

// place is a blob's in a pack.
type place struct {
	pack        uint32 // number
	off, stored uint32
}

type packInfo struct {
	name string
	size int64
	// entries are all the pack's blobs, whether the index leads to them or not.
	entries int
	gone    bool // moved to the trash
	unread  bool // a part of it can't be read, and may hold what isn't in the index
}

func newIndex() *index {
	return &index{places: make(map[id]place), number: make(map[string]uint32)}
}

// add enters a pack's blobs. Those that are elsewhere already stay there.
func (x *index) add(p packList, skip func(entry) bool) {
	n := uint32(len(x.packs))
	x.packs = append(x.packs, packInfo{name: p.name, size: p.size, entries: len(p.entries), unread: p.unread})
	x.number[p.name] = n
	for _, e := range p.entries {
		if _, ok := x.places[e.id]; !ok && !skip(e) {
			x.places[e.id] = place{pack: n, off: e.off, stored: e.stored}
		}
	}
}

// addSound enters a pack's blobs but for those that a note says are rotten, and
// returns these.
func (x *index) addSound(p packList, rot map[string]struct{}) map[id]*CorruptError {
	rotten := make(map[id]*CorruptError)
	x.add(p, func(e entry) bool {
		_, bad := rot[rotName(p.name, e.off)]
		if bad {
			rotten[e.id] = &CorruptError{Object: kindPacks + "/" + p.name, Digest: Digest(e.id), Reason: "it was found so before"}
		}
		return bad
	})
	return rotten
}

// load makes the index, unless it is there.
func (s *Store) load(ctx context.Context) error {
	s.mu.RLock()
	loaded := s.index != nil
	s.mu.RUnlock()
	if loaded {
		return nil
	}
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	s.mu.RLock()
	loaded = s.index != nil
	s.mu.RUnlock()
	if loaded {
		return nil
	}
	return s.reload(ctx)
}

// reload makes the index from what is in the store. sweeping is held.
func (s *Store) reload(ctx context.Context) error {
	rot, err := s.rotNotes(ctx)
	if err != nil {
		return fmt.Errorf("load index: %w", err)
	}
	known, stale, err := s.readIndexes(ctx)
	if err != nil {
		return fmt.Errorf("load index: %w", err)
	}
	packs, read, err := s.packsAndFooters(ctx, known)
	if err != nil {
		return fmt.Errorf("load index: %w", err)
	}
	x, rotten := newIndex(), make(map[id]*CorruptError)
	for _, p := range packs {
		maps.Copy(rotten, x.addSound(p, rot))
	}
	for i := range rotten {
		if _, healed := x.places[i]; healed {
			delete(rotten, i)
		}
	}
	if read >= tooManyFooters || len(stale) > 8 {
		s.writeIndex(ctx, packs, stale)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.rotten, s.trash = x, rotten, nil
	return nil
}

// Rest lets go of the index, which takes some 60 bytes a blob, if nothing needs
// it now. It is made again when it is needed.
func (s *Store) Rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.uploads) == 0 && len(s.sweeps) == 0 && len(s.pending) == 0 {
		s.index, s.trash = nil, nil
	}
}

func (s *Store) rotNotes(ctx context.Context) (map[string]struct{}, error) {
	notes := make(map[string]struct{})
	err := s.objs.List(ctx, kindRot, func(i objects.Info) error {
		notes[i.Name] = struct{}{}
		return nil
	})
	return notes, err
}

// packList is a pack and what is in it.
type packList struct {
	name    string
	size    int64
	entries []entry
	unread  bool // see packInfo
}

// packsAndFooters lists the packs and what is in them; read is how many weren't
// in known.
func (s *Store) packsAndFooters(ctx context.Context, known map[string]packList) (packs []packList, read int, err error) {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(footersAtOnce)
	var mu sync.Mutex
	err = s.objs.List(ctx, kindPacks, func(i objects.Info) error {
		name := strings.TrimPrefix(i.Name, kindPacks+"/")
		if p, ok := known[name]; ok && p.size == i.Size {
			mu.Lock()
			packs = append(packs, p)
			mu.Unlock()
			return nil
		}
		read++
		group.Go(func() error {
			entries, unread, err := s.entriesOf(gctx, kindPacks, name, i.Size)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			packs = append(packs, packList{name: name, size: i.Size, entries: entries, unread: unread})
			return nil
		})
		return nil
	})
	return packs, read, errors.Join(err, group.Wait())
}

// entriesOf reads a pack's footer; where it is damaged, the pack. unread says
// that parts of that can't be read.
func (s *Store) entriesOf(ctx context.Context, kind, name string, size int64) (entries []entry, unread bool, err error) {
	object := kind + "/" + name
	if i := strings.LastIndexByte(name, '.'); kind == kindTrash && i >= 0 {
		name = name[i+1:]
	}
	entries, err = s.footerOf(ctx, object, name, size)
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, objects.ErrDamaged) {
		return entries, false, err
	}
	s.log.Warn("reading a pack through, as its footer is damaged", "object", object, "error", err)
	what, unread, err := s.salvage(ctx, object, size)
	return scan(what), unread, err
}

// salvage reads what can be read of an object; the rest is zeros. unread says
// that there is such.
func (s *Store) salvage(ctx context.Context, object string, size int64) (what []byte, unread bool, err error) {
	const step = 64 << 10
	what = make([]byte, size)
	for at := int64(0); at < size; at += step {
		part := what[at:min(at+step, size)]
		n, err := s.objs.ReadAt(ctx, object, part, at)
		switch {
		case n == len(part):
		case errors.Is(err, objects.ErrDamaged):
			clear(part)
			unread = true
		default:
			return nil, unread, shortRead(err)
		}
	}
	return what, unread, nil
}

func (s *Store) footerOf(ctx context.Context, object, name string, size int64) ([]entry, error) {
	if size < packHeader+trailerLen {
		return nil, &CorruptError{Reason: "it is cut short"}
	}
	header := make([]byte, packHeader)
	if n, err := s.objs.ReadAt(ctx, object, header, 0); n < len(header) {
		return nil, shortRead(err)
	}
	if err := checkHeader(header); err != nil {
		return nil, err
	}
	tail, err := s.tail(ctx, object, size, tailGuess)
	if err != nil {
		return nil, err
	}
	n, err := footerSize(tail, size)
	if err != nil {
		return nil, err
	}
	if n > int64(len(tail)) {
		if tail, err = s.tail(ctx, object, size, n); err != nil {
			return nil, err
		}
	}
	return parseFooter(name, header, tail[int64(len(tail))-n:], size)
}

// tail reads an object's last n bytes.
func (s *Store) tail(ctx context.Context, object string, size, n int64) ([]byte, error) {
	buf := make([]byte, min(n, size))
	if got, err := s.objs.ReadAt(ctx, object, buf, size-int64(len(buf))); got < len(buf) {
		return nil, shortRead(err)
	}
	return buf, nil
}

// An index object has, for many packs, what is in their footers:
//
//	"steadidx", version, 3 zero bytes, number of packs (4)
//	for each pack: name (32), size (8), number of blobs (4), and for each blob
//	ID (32), offset (4), stored length (4)
//	SHA-256 of all before
//
// It is named after that SHA-256. Any number of them is right, none too.

// readIndexes returns what the index objects say, by pack, and their names. One
// that can't be read is as good as none.
func (s *Store) readIndexes(ctx context.Context) (known map[string]packList, names []string, err error) {
	known = make(map[string]packList)
	err = s.objs.List(ctx, kindIndex, func(i objects.Info) error {
		names = append(names, i.Name)
		return nil
	})
	for _, name := range names {
		raw, rerr := s.readAll(ctx, name)
		if rerr == nil {
			rerr = parseIndex(raw, known)
		}
		if rerr != nil && ctx.Err() == nil {
			s.log.Warn("an index can't be read; the packs' footers are", "object", name, "error", rerr)
		}
	}
	return known, names, errors.Join(err, ctx.Err())
}

func parseIndex(raw []byte, known map[string]packList) error {
	const head = len(indexMagic) + 8
	if len(raw) < head+sha256.Size || string(raw[:len(indexMagic)]) != indexMagic {
		return &CorruptError{Reason: "it isn't an index"}
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return &CorruptError{Reason: "its checksum doesn't match"}
	}
	if body[len(indexMagic)] != indexVersion {
		return fmt.Errorf("%w: index version %d", ErrVersion, body[len(indexMagic)])
	}
	const packLen, blobLen = 44, 40
	for rest := body[head:]; len(rest) > 0; {
		if len(rest) < packLen {
			return &CorruptError{Reason: "it is cut short"}
		}
		p := packList{name: hex.EncodeToString(rest[:32]), size: int64(binary.LittleEndian.Uint64(rest[32:]))}
		count := int64(binary.LittleEndian.Uint32(rest[40:]))
		if rest = rest[packLen:]; count*blobLen > int64(len(rest)) {
			return &CorruptError{Reason: "it is cut short"}
		}
		p.entries = make([]entry, count)
		for i := range p.entries {
			p.entries[i] = entry{
				id: id(rest[:32]), off: binary.LittleEndian.Uint32(rest[32:]), stored: binary.LittleEndian.Uint32(rest[36:]),
			}
			rest = rest[blobLen:]
		}
		known[p.name] = p
	}
	return nil
}

func encodeIndex(packs []packList) []byte {
	b := append([]byte(indexMagic), indexVersion, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packs)))
	for _, p := range packs {
		name, _ := hex.DecodeString(p.name)
		b = append(b, name...)
		b = binary.LittleEndian.AppendUint64(b, uint64(p.size))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p.entries)))
		for _, e := range p.entries {
			b = append(b, e.id[:]...)
			b = binary.LittleEndian.AppendUint32(b, e.off)
			b = binary.LittleEndian.AppendUint32(b, e.stored)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// writeIndex replaces the index objects by one. Nothing depends on it.
func (s *Store) writeIndex(ctx context.Context, packs []packList, stale []string) {
	fine := packs[:0:0]
	for _, p := range packs {
		if len(p.name) == 2*sha256.Size {
			fine = append(fine, p)
		}
	}
	raw := encodeIndex(fine)
	name := kindIndex + "/" + hex.EncodeToString(raw[len(raw)-sha256.Size:])
	if err := s.objs.Create(ctx, name, raw); err != nil && !errors.Is(err, objects.ErrExists) {
		s.log.Warn("writing the index failed", "error", err)
		return
	}
	for _, old := range stale {
		if old == name {
			continue
		}
		if err := s.objs.Delete(ctx, old); err != nil {
			s.log.Warn("deleting an old index failed", "object", old, "error", err)
		}
	}
}
