package upload

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Contents are the blocks of an upload, in order of their indices.
type Contents struct {
	blocks   []named
	data     *os.File
	doubtful bool
}

// named is a block as the journal names it.
type named struct {
	index int64
	slot  uint32
	sum   Digest
}

// Contents gives the blocks as they are. They can be read for as long as the
// upload is sealed and open.
func (u *Upload) Contents() (*Contents, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.contents()
}

// contents reads the digests from the journal, which are too many to keep.
func (u *Upload) contents() (*Contents, error) {
	c := &Contents{blocks: make([]named, 0, len(u.latest)), data: u.data, doubtful: u.doubtful}
	count, _, err := scan(u.journal, func(n uint32, r record) {
		if slot, ok := u.slots[n]; ok {
			c.blocks = append(c.blocks, named{r.index, slot, r.sum})
		}
	})
	if err != nil {
		return nil, err
	}
	if count != u.records || len(c.blocks) != len(u.latest) {
		return nil, fmt.Errorf("%s: %d of %d records can be read: %w", u.journal.Name(), count, u.records, ErrDamaged)
	}
	slices.SortFunc(c.blocks, func(a, b named) int { return cmp.Compare(a.index, b.index) })
	return c, nil
}

// Doubtful says that the machine has lost power, or was reset, while blocks were
// put that were not on its disk: any of them may be missing or old, and the
// journal with them. Only a digest over all of them can tell.
func (c *Contents) Doubtful() bool { return c.doubtful }

// Len is how many blocks there are.
func (c *Contents) Len() int { return len(c.blocks) }

// Sum is the SHA-256 over the digests of all blocks in order of their indices.
func (c *Contents) Sum() (sum Digest) {
	h := sha256.New()
	for _, b := range c.blocks {
		h.Write(b.sum[:])
	}
	h.Sum(sum[:0])
	return sum
}

func (c *Contents) find(index int64) (int, bool) {
	return slices.BinarySearchFunc(c.blocks, index, func(b named, i int64) int { return cmp.Compare(b.index, i) })
}

// Has says whether a block was put, be it zeros.
func (c *Contents) Has(index int64) bool {
	_, ok := c.find(index)
	return ok
}

// NextData returns the index of the first block from one on that isn't zero,
// and false where there is none.
func (c *Contents) NextData(index int64) (int64, bool) {
	at, _ := c.find(index)
	for ; at < len(c.blocks); at++ {
		if c.blocks[at].slot != noSlot {
			return c.blocks[at].index, true
		}
	}
	return 0, false
}

// Read reads a block, of BlockSize bytes, into buf, and verifies it: ErrDamaged
// where it isn't what was put.
func (c *Contents) Read(index int64, buf []byte) error {
	at, ok := c.find(index)
	if !ok {
		return fmt.Errorf("read block %d: it was not put", index)
	}
	b := c.blocks[at]
	if b.slot == noSlot {
		clear(buf)
		return nil
	}
	n, err := c.data.ReadAt(buf, int64(b.slot)*BlockSize)
	switch {
	case n == len(buf) && sha256.Sum256(buf) == b.sum:
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("read block %d: %w", index, err)
	}
	return fmt.Errorf("block %d isn't what was put: %w", index, ErrDamaged)
}
