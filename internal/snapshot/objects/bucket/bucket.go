package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// What a bucket answers, by the codes of S3.
var (
	errNoSuchKey    = errors.New("404 NoSuchKey")
	errPrecondition = errors.New("412 PreconditionFailed")
	errConflict     = errors.New("409 ConditionalRequestConflict")
	errInternal     = errors.New("500 InternalError")
	errSlowDown     = errors.New("503 SlowDown")
	errLost         = errors.New("the answer was lost")
	errRange        = errors.New("416 InvalidRange")
	errGone         = errors.New("the bucket can't be reached any more")
)

// Bucket is the service's side. Its methods may be called concurrently.
type Bucket struct {
	// Trouble is how many of a hundred calls go wrong, one way or another.
	Trouble int
	// Stale is how many changes a list may be behind.
	Stale int

	mu   sync.Mutex
	left int // calls until it is gone, and one; 0: it stays
	rng  *rand.Rand
	keys map[string][]byte
	past []map[string]int // the sizes by key, before each of the last changes
}

// New returns an empty bucket, whose trouble follows from seed.
func New(seed uint64) *Bucket {
	return &Bucket{rng: rand.New(rand.NewPCG(seed, 3)), keys: make(map[string][]byte)} //nolint:gosec // no secret
}

// Settle brings the lists up to date, as time does, and the bucket within reach.
func (b *Bucket) Settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past, b.left = nil, 0
}

// CutAfter has the bucket go after so many calls more.
func (b *Bucket) CutAfter(calls int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = calls + 1
}

// Keys returns all keys there are.
func (b *Bucket) Keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.keys))
}

// call does a request, or refuses it, or does it and loses the answer.
func (b *Bucket) call(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 1 {
		return errGone
	}
	b.left = max(0, b.left-1)
	if b.rng.IntN(100) >= b.Trouble {
		return do()
	}
	switch b.rng.IntN(4) {
	case 0:
		return errInternal
	case 1:
		return errSlowDown
	case 2:
		return errConflict
	}
	_ = do() // whatever came of it, nobody learns
	return errLost
}

// changing remembers what a list said until now. mu is held.
func (b *Bucket) changing() {
	if b.Stale == 0 {
		return
	}
	sizes := make(map[string]int, len(b.keys))
	for k, v := range b.keys {
		sizes[k] = len(v)
	}
	b.past = append(b.past, sizes)
	b.past = b.past[max(0, len(b.past)-b.Stale):]
}

func etag(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// put writes an object: with ifMatch "*" only where there is none (If-None-Match),
// with an ETag only over that one (If-Match).
func (b *Bucket) put(ctx context.Context, key string, data []byte, ifMatch string) error {
	return b.call(ctx, func() error {
		there, ok := b.keys[key]
		if ifMatch == "*" && ok || ifMatch != "*" && (!ok || etag(there) != ifMatch) {
			return errPrecondition
		}
		b.changing()
		b.keys[key] = bytes.Clone(data)
		return nil
	})
}

// get reads a range of an object; n < 0 is all of it.
func (b *Bucket) get(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	err = b.call(ctx, func() error {
		all, ok := b.keys[key]
		switch {
		case !ok:
			return errNoSuchKey
		case n >= 0 && off >= int64(len(all)):
			return errRange
		case n >= 0:
			all = all[off:min(off+n, int64(len(all)))]
		}
		data = bytes.Clone(all)
		return nil
	})
	return data, err
}

// head describes an object.
func (b *Bucket) head(ctx context.Context, key string) (size int64, tag string, err error) {
	err = b.call(ctx, func() error {
		data, ok := b.keys[key]
		if !ok {
			return errNoSuchKey
		}
		size, tag = int64(len(data)), etag(data)
		return nil
	})
	return size, tag, err
}

// remove deletes an object, be there one or not.
func (b *Bucket) remove(ctx context.Context, key string) error {
	return b.call(ctx, func() error {
		b.changing()
		delete(b.keys, key)
		return nil
	})
}

// keySize is an object in a list.
type keySize struct {
	key  string
	size int
}

// list returns a page of the keys with a prefix, after one of them, and whether
// there are more.
func (b *Bucket) list(ctx context.Context, prefix, after string) (page []keySize, more bool, err error) {
	const most = 7 // S3 gives a thousand; a few make tests turn pages
	err = b.call(ctx, func() error {
		sizes := make(map[string]int)
		for k, v := range b.keys {
			sizes[k] = len(v)
		}
		if len(b.past) > 0 && b.rng.IntN(2) == 0 {
			sizes = b.past[b.rng.IntN(len(b.past))]
		}
		for _, k := range slices.Sorted(maps.Keys(sizes)) {
			if len(k) < len(prefix) || k[:len(prefix)] != prefix || k <= after {
				continue
			}
			if more = len(page) == most; more {
				return nil
			}
			page = append(page, keySize{k, sizes[k]})
		}
		return nil
	})
	return page, more, err
}
