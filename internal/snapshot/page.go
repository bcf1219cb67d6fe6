package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

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

// walk calls fn for each block of a snapshot from an index on, in order.
func (e *Engine) walk(ctx context.Context, r *root, from int64, fn func(index int64, sum Digest) error) error {
	for _, ref := range r.pages {
		first := ref.number * pageBlocks
		if first+pageBlocks <= from {
			continue
		}
		p, err := e.loadPage(ctx, r, ref)
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
