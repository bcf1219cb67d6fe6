package blocks

import (
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
)

// digests are those of a snapshot's blocks that are done. A page of them is
// about as large as the list of as many in a slice would be; a map of single
// ones is three times that, and a tebibyte has two million.
type digests struct {
	mu    sync.Mutex
	pages map[int32]*digestPage
	n     int32
}

const pageBlocks = 512

type digestPage struct {
	have [pageBlocks]bool
	sums [pageBlocks][sha256.Size]byte
}

func newDigests() *digests { return &digests{pages: map[int32]*digestPage{}} }

func (d *digests) set(index int32, sum [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pages[index/pageBlocks]
	if p == nil {
		p = &digestPage{}
		d.pages[index/pageBlocks] = p
	}
	if !p.have[index%pageBlocks] {
		p.have[index%pageBlocks] = true
		d.n++
	}
	p.sums[index%pageBlocks] = sum
}

func (d *digests) get(index int32) (sum [sha256.Size]byte, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pages[index/pageBlocks]
	if p == nil {
		return sum, false
	}
	return p.sums[index%pageBlocks], p.have[index%pageBlocks]
}

func (d *digests) count() int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}

// indices lists the blocks in order.
func (d *digests) indices() []int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]int32, 0, d.n)
	for _, page := range slices.Sorted(maps.Keys(d.pages)) {
		for k, have := range d.pages[page].have {
			if have {
				list = append(list, page*pageBlocks+int32(k))
			}
		}
	}
	return list
}

// linear is the digest over all digests in the order of their blocks.
func (d *digests) linear() [sha256.Size]byte {
	h := sha256.New()
	for _, index := range d.indices() {
		sum, _ := d.get(index)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}
