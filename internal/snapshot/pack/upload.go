package pack

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// Upload puts blobs. From its beginning to its end no sweep takes away a blob
// that it put or kept, even one that was there before.
type Upload struct {
	s      *Store
	needed map[id]struct{} // guarded by s.mu

	mu     sync.Mutex
	waits  []*ticket // for blobs that aren't durable yet
	tidy   int       // how many may wait before the settled ones are dropped
	err    error     // the first failure: then nothing of it can be relied on
	closed bool
}

// fewWaits is how many tickets an upload keeps before it looks which are settled.
const fewWaits = 4096

// ticket stands for a blob that is on its way to the disk.
type ticket struct {
	done chan struct{}
	err  error // once done is closed
}

// Begin opens the way to put blobs.
func (s *Store) Begin(ctx context.Context) (*Upload, error) {
	u := &Upload{s: s, needed: make(map[id]struct{}), tidy: fewWaits}
	// Registered first, so that the index isn't let go of once it is there.
	s.mu.Lock()
	s.uploads[u] = struct{}{}
	s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		u.Close()
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	return u, nil
}

// Put stores data, whose digest is sum, unless the store has it, and returns how
// many bytes that added. It may be called concurrently and doesn't keep data.
// The blob isn't promised to be durable or readable before Flush.
func (u *Upload) Put(ctx context.Context, kind Kind, sum Digest, data []byte) (stored int64, err error) {
	if len(data) == 0 || len(data) > MaxBlob {
		return 0, u.fail(fmt.Errorf("a blob of %d bytes", len(data)))
	}
	if err := ctx.Err(); err != nil {
		return 0, u.fail(err)
	}
	i := u.s.id(sum)
	mine, wait := u.need(i)
	u.waitFor(wait)
	if !mine {
		return 0, nil
	}
	mem := u.s.framed.Get().(*[]byte)
	defer u.s.framed.Put(mem)
	*mem = u.s.codec.pack(*mem, i, kind, data)
	// From here on nothing is cancelled: others may wait for the same blob.
	u.s.append(*mem, wait)
	return int64(len(*mem)), nil
}

// need protects a blob from sweeps. mine says that it isn't in the store and
// that the caller is to put it there and to settle wait, which is otherwise nil
// or another's.
func (u *Upload) need(i id) (mine bool, wait *ticket) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if _, ok := u.needed[i]; ok {
		return false, nil // by this upload, which waits for it already
	}
	u.needed[i] = struct{}{}
	if _, ok := u.s.index.places[i]; ok {
		return false, nil
	}
	if t := u.s.pending[i]; t != nil {
		return false, t
	}
	t := &ticket{done: make(chan struct{})}
	u.s.pending[i] = t
	return true, t
}

// Keep protects a blob that the store holds, as a Put of it would, without its
// contents: ErrNotFound where it isn't there, ErrCorrupt where it is rotten.
func (u *Upload) Keep(ctx context.Context, sum Digest) error {
	if err := ctx.Err(); err != nil {
		return u.fail(err)
	}
	i := u.s.id(sum)
	u.s.mu.Lock()
	u.needed[i] = struct{}{}
	_, ok := u.s.index.places[i]
	t, bad := u.s.pending[i], u.s.rotten[i]
	u.s.mu.Unlock()
	switch {
	case ok:
		return nil
	case t != nil:
		u.waitFor(t)
		return nil
	case bad != nil:
		return u.fail(bad)
	}
	return u.fail(fmt.Errorf("block %s: %w", sum, ErrNotFound))
}

func (u *Upload) waitFor(t *ticket) {
	if t == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.waits) >= u.tidy { // most are settled by now
		open := u.waits[:0]
		for _, t := range u.waits {
			select {
			case <-t.done:
				if t.err != nil && u.err == nil {
					u.err = t.err
				}
			default:
				open = append(open, t)
			}
		}
		// Not each time, where a pack has many more blobs than that.
		u.waits, u.tidy = open, max(fewWaits, 2*len(open))
	}
	u.waits = append(u.waits, t)
}

// fail remembers the first error.
func (u *Upload) fail(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
	return err
}

// Flush returns when all that was put and kept so far is durable. It fails where
// any Put or Keep failed.
func (u *Upload) Flush(ctx context.Context) error {
	if err := u.flush(ctx); err != nil {
		return fmt.Errorf("write blocks: %w", err)
	}
	return nil
}

func (u *Upload) flush(ctx context.Context) error {
	u.mu.Lock()
	waits, err := u.waits, u.err
	u.waits = nil
	if u.closed {
		err = errors.Join(err, errors.New("the upload is closed"))
	}
	u.mu.Unlock()
	if err != nil {
		return err
	}
	u.s.flush()
	for _, t := range waits {
		select {
		case <-t.done:
			if t.err != nil {
				return u.fail(t.err)
			}
		case <-ctx.Done():
			return u.fail(ctx.Err())
		}
	}
	return nil
}

// Close ends the upload. What it put and no snapshot needs is left to the next
// sweep. Closing twice is fine.
func (u *Upload) Close() {
	u.mu.Lock()
	closed := u.closed
	u.closed = true
	u.mu.Unlock()
	if closed {
		return
	}
	u.s.mu.Lock()
	delete(u.s.uploads, u)
	for w := range u.s.sweeps {
		w.ended = append(w.ended, u.needed)
	}
	last := len(u.s.uploads) == 0
	u.s.mu.Unlock()
	if last {
		u.s.abandon()
	}
}

// packer fills packs, which all uploads share.
type packer struct {
	slots chan struct{} // one for each pack being written

	mu  sync.Mutex
	cur *draft
}

// draft is a pack that isn't written yet, and who waits for its blobs.
type draft struct {
	builder
	mem     *[]byte   // where it is made
	tickets []*ticket // by entry
}

// append adds a framed blob to a pack, and has it written when it is full. It
// waits while too many are.
func (s *Store) append(framed []byte, t *ticket) {
	s.packer.mu.Lock()
	defer s.packer.mu.Unlock()
	d := s.packer.cur
	if d == nil {
		d = &draft{mem: s.packs.Get().(*[]byte)}
		d.reset(*d.mem)
		s.packer.cur = d
	}
	d.add(framed)
	d.tickets = append(d.tickets, t)
	if len(d.buf) >= s.opts.PackSize {
		s.packer.cur = nil
		s.packer.slots <- struct{}{}
		go s.write(d)
	}
}

// flush has the pack that isn't full written.
func (s *Store) flush() {
	s.packer.mu.Lock()
	defer s.packer.mu.Unlock()
	if d := s.packer.cur; d != nil {
		s.packer.cur = nil
		s.packer.slots <- struct{}{}
		go s.write(d)
	}
}

// abandon drops the pack that isn't full if nobody can be waiting for it.
func (s *Store) abandon() {
	s.packer.mu.Lock()
	defer s.packer.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.packer.cur
	if d == nil || len(s.uploads) > 0 {
		return
	}
	s.packer.cur = nil
	d.settle(s, errors.New("the upload was given up"))
	s.packs.Put(d.mem)
}

// write makes a pack durable and tells those who wait for it.
func (s *Store) write(d *draft) {
	defer func() { <-s.packer.slots }()
	defer s.packs.Put(d.mem) // written or not, nobody reads it any more
	name := d.finish()
	// No upload's context: the pack is of several.
	err := s.objs.Create(context.Background(), kindPacks+"/"+name, d.buf)
	if errors.Is(err, objects.ErrExists) {
		err = nil // an earlier attempt of ours: the salt lets no two packs have a name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.index != nil {
		s.index.add(packList{name: name, size: int64(len(d.buf))}, nil)
		s.index.packs[len(s.index.packs)-1].entries = len(d.entries)
		for _, e := range d.entries {
			// Also where there is one: this is the newer, and verified.
			s.index.places[e.id] = place{pack: uint32(len(s.index.packs) - 1), off: e.off, stored: e.stored}
			delete(s.rotten, e.id)
		}
	}
	d.settle(s, err)
}

// settle tells those who wait. s.mu is held.
func (d *draft) settle(s *Store, err error) {
	for n, e := range d.entries {
		if t := d.tickets[n]; t != nil {
			if s.pending[e.id] == t {
				delete(s.pending, e.id)
			}
			t.err = err
			close(t.done)
		}
	}
}
