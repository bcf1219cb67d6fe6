package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// pageBlocks is how many blocks a page stands for: 512 MiB of a volume.
const pageBlocks = 1024

// A page is a bitmap of pageBlocks bits, the lowest bit of the first byte for
// the first block, and the digests, in order, of the blocks that it shows. One
// that would be all zero isn't stored.
const pageBitmap = pageBlocks / 8

// page is the part of a snapshot's tree that names blocks.
type page struct {
	there [pageBlocks]bool // which blocks aren't zero
	sums  [pageBlocks]Digest
}

func (p *page) count() (n int) {
	for _, t := range p.there {
		if t {
			n++
		}
	}
	return n
}

func (p *page) encode() []byte {
	b := make([]byte, pageBitmap, pageBitmap+p.count()*sha256.Size)
	for n, t := range p.there {
		if t {
			b[n/8] |= 1 << (n % 8)
			b = append(b, p.sums[n][:]...)
		}
	}
	return b
}

// decodePage says why what it can't read isn't a page.
func decodePage(b []byte, blocks int) (*page, string) {
	if len(b) < pageBitmap {
		return nil, "a page is cut short"
	}
	n := 0
	for _, m := range b[:pageBitmap] {
		n += bits.OnesCount8(m)
	}
	if n != blocks || len(b) != pageBitmap+n*sha256.Size {
		return nil, "a page has a wrong number of blocks"
	}
	p, rest := &page{}, b[pageBitmap:]
	for n := range p.there {
		if b[n/8]&(1<<(n%8)) != 0 {
			p.there[n] = true
			copy(p.sums[n][:], rest)
			rest = rest[sha256.Size:]
		}
	}
	return p, ""
}

// loadPage reads a page of a snapshot.
func (e *Engine) loadPage(ctx context.Context, r *root, ref pageRef) (*page, error) {
	raw, err := e.store.Get(ctx, ref.sum, nil)
	return r.readPage(ref, raw, err)
}

// readPage makes a page of what was read for it.
func (r *root) readPage(ref pageRef, raw []byte, err error) (*page, error) {
	if err != nil {
		if err := inSnapshot(r.id, -1, Digest{}, err); errors.Is(err, ErrCorrupt) {
			return nil, fmt.Errorf("page %d: %w", ref.number, err)
		}
		return nil, fmt.Errorf("read page %d: %w", ref.number, err)
	}
	p, wrong := decodePage(raw, ref.blocks)
	if wrong != "" {
		return nil, &CorruptError{Snapshot: r.id, Index: -1, Reason: wrong}
	}
	return p, nil
}

// recentPage is loadPage for those who come for one block or a few of a page
// again and again. What is in memory is right, as its digest was; whether the
// store still has it is no matter to who reads, but is to who builds upon it,
// collects or checks.
func (e *Engine) recentPage(ctx context.Context, r *root, ref pageRef) (*page, error) {
	if p := e.recent.get(ref.sum); p != nil && p.count() == ref.blocks {
		return p, nil
	}
	p, err := e.loadPage(ctx, r, ref)
	if err == nil {
		e.recent.put(ref.sum, p)
	}
	return p, err
}

// recentPages are the pages that were used last. They don't change.
type recentPages struct {
	mu    sync.Mutex
	clock int64
	pages map[Digest]*recentOne
}

type recentOne struct {
	*page
	used int64
}

// maxRecentPages is 32 GiB of volumes, in 2 MiB of memory.
const maxRecentPages = 64

func (c *recentPages) get(sum Digest) *page {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.pages[sum]
	if one == nil {
		return nil
	}
	c.clock++
	one.used = c.clock
	return one.page
}

func (c *recentPages) put(sum Digest, p *page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages == nil {
		c.pages = make(map[Digest]*recentOne)
	}
	if len(c.pages) >= maxRecentPages {
		var oldest Digest
		least := c.clock + 1
		for s, one := range c.pages {
			if one.used < least {
				oldest, least = s, one.used
			}
		}
		delete(c.pages, oldest)
	}
	c.clock++
	c.pages[sum] = &recentOne{p, c.clock}
}

// clear lets go of all.
func (c *recentPages) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages = nil
}

// walk calls fn for each block of a snapshot from an index on, in order.
func (e *Engine) walk(ctx context.Context, r *root, from int64, fn func(index int64, sum Digest) error) error {
	for _, ref := range r.pages {
		first := ref.number * pageBlocks
		if first+pageBlocks <= from {
			continue
		}
		p, err := e.recentPage(ctx, r, ref)
		if err != nil {
			return err
		}
		for n := max(0, from-first); n < pageBlocks; n++ {
			if !p.there[n] {
				continue
			}
			if err := fn(first+n, p.sums[n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// putPage stores a page, unless it is empty.
func putPage(ctx context.Context, up *pack.Upload, number int64, p *page) (ref pageRef, stored int64, err error) {
	ref = pageRef{number: number, blocks: p.count()}
	if ref.blocks == 0 {
		return ref, 0, nil
	}
	raw := p.encode()
	ref.sum = pack.Sum(raw)
	stored, err = up.Put(ctx, pack.Page, ref.sum, raw)
	return ref, stored, err
}
