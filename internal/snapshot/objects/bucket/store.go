package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// leaseKey is no object's name, so no list has it.
const leaseKey = "lease"

// Store keeps objects in a bucket. One process at a time has it: it holds a lease,
// an object that says until when, which it writes anew before that.
type Store struct {
	bucket *Bucket
	now    func() time.Time
	term   time.Duration

	mu    sync.Mutex
	lease []byte // as this one wrote it last
	until time.Time
	// own is what this one has created, with its size, and deleted, as -1. Lists
	// may not show it yet; and only this one writes.
	own map[string]int
}

// Open takes the lease of a bucket for a term: ErrLocked where another has it.
func Open(ctx context.Context, b *Bucket, now func() time.Time, term time.Duration) (*Store, error) {
	s := &Store{bucket: b, now: now, term: term, own: make(map[string]int)}
	held, err := b.get(ctx, leaseKey, 0, -1)
	condition := "*"
	switch {
	case err == nil && now().Before(leaseEnd(held)):
		return nil, objects.ErrLocked
	case err == nil: // it has run out
		condition = etag(held)
	case !errors.Is(err, errNoSuchKey):
		return nil, answer(err)
	}
	if err := s.renew(ctx, condition); err != nil {
		return nil, err
	}
	return s, nil
}

// A lease is when it ends, and by whom: no two are alike.
func newLease(until time.Time) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(until.UnixNano())), rand.Text()...)
}

func leaseEnd(lease []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(lease)))
}

// renew writes the lease, if it is as condition says. Where the answer is lost, to
// read it tells whose it is.
func (s *Store) renew(ctx context.Context, condition string) error {
	until := s.now().Add(s.term)
	lease := newLease(until)
	err := s.bucket.put(ctx, leaseKey, lease, condition)
	for tries := 0; err != nil && tries < 20; tries++ {
		there, gerr := s.bucket.get(ctx, leaseKey, 0, -1)
		switch {
		case gerr == nil && bytes.Equal(there, lease):
			err = nil
		case errors.Is(err, errPrecondition):
			return objects.ErrLocked
		case gerr == nil || errors.Is(gerr, errNoSuchKey):
			return answer(err) // it wasn't done
		}
	}
	if err == nil {
		s.lease, s.until = lease, until
	}
	return answer(err)
}

// writes sees to it that the lease holds. One that ran out is never renewed:
// somebody else may have had it meanwhile.
func (s *Store) writes(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.until.Sub(s.now())
	if left <= 0 || s.lease == nil {
		return objects.ErrLocked
	}
	if left > s.term/2 {
		return nil
	}
	return s.renew(ctx, etag(s.lease))
}

// answer tells what of a bucket's answers means the same as the contract's errors.
func answer(err error) error {
	for code, means := range map[error]error{
		errNoSuchKey: objects.ErrNotFound, errPrecondition: objects.ErrExists,
		errConflict: objects.ErrUnavailable, errInternal: objects.ErrUnavailable, errSlowDown: objects.ErrUnavailable, errLost: objects.ErrUnavailable,
	} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: %w", means, err)
		}
	}
	return err
}

func (s *Store) note(key string, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[key] = size
}

var (
	validKind = regexp.MustCompile(`^[a-z]{1,32}$`)
	validName = regexp.MustCompile(`^[a-z]{1,32}/[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)
)

func begin(ctx context.Context, names ...string) error {
	for _, name := range names {
		if !validName.MatchString(name) {
			return fmt.Errorf("%w: %q", objects.ErrInvalid, name)
		}
	}
	return ctx.Err()
}

// Create implements objects.Store.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if err := begin(ctx, name); err != nil {
		return err
	}
	if err := s.writes(ctx); err != nil {
		return err
	}
	err := s.bucket.put(ctx, name, data, "*")
	if err == nil || errors.Is(err, errPrecondition) {
		// Also where it was there: an attempt whose answer was lost may be what
		// put it there.
		size, _, herr := s.bucket.head(ctx, name)
		if err == nil {
			size, herr = int64(len(data)), nil
		}
		if herr != nil {
			return answer(herr)
		}
		s.note(name, int(size))
	}
	return answer(err)
}

// ReadAt implements objects.Store.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := begin(ctx, name); err != nil {
		return 0, err
	}
	data, err := s.bucket.get(ctx, name, off, int64(len(p)))
	switch {
	case errors.Is(err, errRange):
		return 0, io.EOF
	case err != nil:
		return 0, answer(err)
	case copy(p, data) < len(p):
		return len(data), io.EOF
	}
	return len(p), nil
}

// Stat implements objects.Store.
func (s *Store) Stat(ctx context.Context, name string) (objects.Info, error) {
	if err := begin(ctx, name); err != nil {
		return objects.Info{}, err
	}
	size, _, err := s.bucket.head(ctx, name)
	return objects.Info{Name: name, Size: size}, answer(err)
}

// List implements objects.Store: what the bucket lists, put right by what this one
// knows better.
func (s *Store) List(ctx context.Context, kind string, fn func(objects.Info) error) error {
	if !validKind.MatchString(kind) {
		return fmt.Errorf("%w: kind %q", objects.ErrInvalid, kind)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	known := make(map[string]int)
	for key, size := range s.own {
		if len(key) > len(kind) && key[:len(kind)+1] == kind+"/" {
			known[key] = size
		}
	}
	s.mu.Unlock()
	for after, more := "", true; more; {
		var page []keySize
		var err error
		if page, more, err = s.bucket.list(ctx, kind+"/", after); err != nil {
			return answer(err)
		}
		for _, k := range page {
			after = k.key
			if _, ok := known[k.key]; ok {
				continue
			}
			if err := fn(objects.Info{Name: k.key, Size: int64(k.size)}); err != nil {
				return err
			}
		}
	}
	for key, size := range known {
		if size < 0 {
			continue
		}
		if err := fn(objects.Info{Name: key, Size: int64(size)}); err != nil {
			return err
		}
	}
	return nil
}

// Rename implements objects.Store: a conditional copy, and then the end of the
// original. Interrupted between the two both are there, with the same bytes, and
// the next attempt goes on.
func (s *Store) Rename(ctx context.Context, from, to string) error {
	if err := begin(ctx, from, to); err != nil {
		return err
	}
	if err := s.writes(ctx); err != nil {
		return err
	}
	data, err := s.bucket.get(ctx, from, 0, -1)
	if errors.Is(err, errNoSuchKey) {
		size, _, err := s.bucket.head(ctx, to)
		if err == nil {
			s.note(from, -1)
			s.note(to, int(size))
		}
		return answer(err)
	}
	if err != nil {
		return answer(err)
	}
	err = s.bucket.put(ctx, to, data, "*")
	if errors.Is(err, errPrecondition) {
		_, tag, herr := s.bucket.head(ctx, to)
		if herr != nil {
			return answer(herr)
		}
		if tag != etag(data) {
			return answer(err)
		}
		err = nil
	}
	if err != nil {
		return answer(err)
	}
	s.note(to, len(data))
	return s.delete(ctx, from)
}

// Delete implements objects.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return err
	}
	if err := s.writes(ctx); err != nil {
		return err
	}
	return s.delete(ctx, name)
}

func (s *Store) delete(ctx context.Context, name string) error {
	if err := s.bucket.remove(ctx, name); err != nil {
		return answer(err)
	}
	s.note(name, -1)
	return nil
}

// Close gives the lease back, if it can.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil
	}
	_ = s.bucket.put(context.Background(), leaseKey, newLease(s.now()), etag(s.lease)) // else it runs out
	s.lease = nil
	return nil
}
