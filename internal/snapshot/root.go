package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// BlockSize is the unit of a snapshot in bytes, that of the EBS direct APIs. A
// volume's last block is shorter if its size isn't a multiple.
const BlockSize = pack.MaxBlob

// A root is:
//
//	"steadsnp", version, flags
//	snapshot ID              uvarint length, bytes
//	block size, volume size  uvarint, bytes
//	created                  varint, nanoseconds since 1970
//	bytes stored for it      uvarint
//	bytes that its last      uvarint: 0 but for a short last block
//	block is shorter by
//	number of pages          uvarint
//	for each page in order:
//	    empty pages before   uvarint
//	    blocks in it         uvarint
//	    digest of the page   32 bytes
//	SHA-256 of all before    32 bytes
const (
	rootMagic   = "steadsnp"
	rootVersion = 2
	minPageRef  = 2 + sha256.Size
)

// root is the top of a snapshot's tree.
type root struct {
	id          string
	volumeSize  int64
	createdAt   time.Time
	storedBytes int64
	pages       []pageRef // by number, ascending; empty ones are left out
	short       int64     // by how many bytes the volume's last block is shorter, if it is there
}

// pageRef leads to a page.
type pageRef struct {
	number int64 // of the page: that of its first block / pageBlocks
	blocks int   // in it
	sum    Digest
}

// blockLen is BlockSize for all blocks but perhaps the last.
func (r *root) blockLen(index int64) int64 {
	return min(BlockSize, r.volumeSize-index*BlockSize)
}

// blocks is how many blocks the volume has.
func (r *root) blocks() int64 { return (r.volumeSize-1)/BlockSize + 1 }

// page finds the page of a number.
func (r *root) page(number int64) (pageRef, bool) {
	lo, hi := 0, len(r.pages)
	for lo < hi {
		mid := (lo + hi) / 2
		if r.pages[mid].number < number {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(r.pages) && r.pages[lo].number == number {
		return r.pages[lo], true
	}
	return pageRef{}, false
}

func (r *root) encode() []byte {
	b := make([]byte, 0, 128+len(r.pages)*(minPageRef+4))
	b = append(b, rootMagic...)
	b = append(b, rootVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(r.id)))
	b = append(b, r.id...)
	b = binary.AppendUvarint(b, BlockSize)
	b = binary.AppendUvarint(b, uint64(r.volumeSize))
	b = binary.AppendVarint(b, r.createdAt.UnixNano())
	b = binary.AppendUvarint(b, uint64(r.storedBytes))
	b = binary.AppendUvarint(b, uint64(r.short))
	b = binary.AppendUvarint(b, uint64(len(r.pages)))
	next := int64(0)
	for _, p := range r.pages {
		b = binary.AppendUvarint(b, uint64(p.number-next))
		next = p.number + 1
		b = binary.AppendUvarint(b, uint64(p.blocks))
		b = append(b, p.sum[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeRoot returns a *CorruptError without a snapshot, or ErrVersion, for what
// it can't read.
func decodeRoot(raw []byte) (*root, error) {
	head := len(rootMagic) + 2
	if len(raw) < head+sha256.Size || string(raw[:len(rootMagic)]) != rootMagic {
		return nil, &CorruptError{Index: -1, Reason: "its root isn't one"}
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, &CorruptError{Index: -1, Reason: "its root's checksum doesn't match"}
	}
	if raw[head-2] != rootVersion || raw[head-1] != 0 {
		return nil, fmt.Errorf("%w: root version %d, flags %#x", ErrVersion, raw[head-2], raw[head-1])
	}
	d := decoder{rest: body[head:]}
	r := d.root()
	if d.err == nil && len(d.rest) != 0 {
		d.fail("bytes follow its last page")
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

// decoder reads a root's fields; after the first error all are zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) root() *root {
	r := &root{id: string(d.bytes(d.size()))}
	if size := d.size(); size != BlockSize {
		d.fail(fmt.Sprintf("its blocks are of %d bytes", size))
	}
	if r.volumeSize = d.size(); r.volumeSize == 0 {
		d.fail("its volume has no bytes")
	}
	r.createdAt = time.Unix(0, d.varint()).UTC()
	r.storedBytes = d.size()
	if r.short = d.size(); r.short != 0 && r.short != r.blocks()*BlockSize-r.volumeSize {
		d.fail("its last block has a wrong size")
	}
	count := d.size()
	if count > int64(len(d.rest)/minPageRef) {
		d.fail("it is too short for its pages")
	}
	if d.err != nil {
		return nil
	}
	end, next := (r.blocks()-1)/pageBlocks+1, int64(0)
	r.pages = make([]pageRef, 0, count)
	for range count {
		p := pageRef{number: next}
		if gap := d.size(); gap < end-next {
			p.number += gap
		} else {
			d.fail("a page lies past the volume's end")
		}
		next = p.number + 1
		n := d.size()
		if n < 1 || n > min(pageBlocks, r.blocks()-p.number*pageBlocks) {
			d.fail("a page has a wrong number of blocks")
		}
		p.blocks = int(n)
		copy(p.sum[:], d.bytes(sha256.Size))
		if d.err != nil {
			return nil
		}
		r.pages = append(r.pages, p)
	}
	return r
}

func (d *decoder) fail(reason string) {
	if d.err == nil {
		d.err = &CorruptError{Index: -1, Reason: reason}
	}
}

// size reads a number that is a length, a size or a count.
func (d *decoder) size() int64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > math.MaxInt64-BlockSize {
		d.fail("it has a bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return int64(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("it has a bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes(n int64) []byte {
	if n > int64(len(d.rest)) {
		d.fail("it is cut short")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// loadRoot reads and verifies the root of a snapshot.
func (e *Engine) loadRoot(ctx context.Context, id string) (*root, error) {
	raw, err := e.store.Root(ctx, id)
	if errors.Is(err, pack.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return parseRoot(id, raw)
}

// parseRoot is decodeRoot for the root that should be a snapshot's.
func parseRoot(id string, raw []byte) (*root, error) {
	r, err := decodeRoot(raw)
	if err == nil && r.id != id {
		err = &CorruptError{Index: -1, Reason: fmt.Sprintf("its root is that of %q", r.id)}
	}
	var bad *CorruptError
	if errors.As(err, &bad) {
		bad.Snapshot = id
	}
	return r, err
}

// digest stands for the contents: equal for equal volumes, as a page's bytes
// follow from its blocks.
func (r *root) digest() (sum Digest) {
	h := sha256.New()
	buf := binary.BigEndian.AppendUint64(nil, uint64(r.volumeSize))
	for _, p := range r.pages {
		buf = binary.BigEndian.AppendUint64(buf, uint64(p.number))
		buf = append(buf, p.sum[:]...)
	}
	h.Write(buf)
	h.Sum(sum[:0])
	return sum
}
