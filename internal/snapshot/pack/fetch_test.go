package pack

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// countedReads counts the reads of packs.
type countedReads struct {
	objects.Store
	reads atomic.Int64
}

func (c *countedReads) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	c.reads.Add(1)
	return c.Store.ReadAt(ctx, name, p, off)
}

// fetch gets blobs all at once.
func (f *fixture) fetch(blobs ...[]byte) map[int]error {
	f.Helper()
	sums := make([]Digest, len(blobs))
	for n, b := range blobs {
		sums[n] = Sum(b)
	}
	var mu sync.Mutex
	said := map[int]error{}
	f.ok(f.Fetch(f.Context(), sums, 3, func(n int, data []byte, err error) error {
		if err == nil && !bytes.Equal(data, blobs[n]) {
			err = errors.New("another blob")
		}
		mu.Lock()
		defer mu.Unlock()
		if _, twice := said[n]; twice {
			f.Errorf("blob %d came twice", n)
		}
		said[n] = err
		return nil
	}))
	if len(said) != len(blobs) {
		f.Errorf("%d of %d blobs came", len(said), len(blobs))
	}
	return said
}

// TestFetch reads blobs of several packs in any order, with repetitions, in few
// reads; a bad one among them harms none of its neighbours.
func TestFetch(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 40, 5000) // some packs of 64 KiB
	f.add(blobs...)
	objs := &countedReads{Store: f.objs}
	f.Store.objs = objs
	_, err := f.Stat(t.Context(), Sum(blobs[0])) // has the index read
	f.ok(err)
	objs.reads.Store(0)
	wanted := [][]byte{blobs[39], blobs[0], blobs[17], blobs[0], blobs[18], blobs[1], blobs[39]}
	for _, err := range f.fetch(append(wanted, blobs...)...) {
		f.ok(err)
	}
	if n, packs := objs.reads.Load(), len(f.files(kindPacks)); n != int64(packs) || packs < 3 {
		t.Errorf("%d reads of %d packs, want one each", n, packs)
	}
	p, name, err := f.find(t.Context(), id(Sum(blobs[17])))
	f.ok(err)
	f.flip(kindPacks+"/"+name, (int64(p.off)+200)*8)
	absent := noise(99, 100)
	for n, err := range f.fetch(append([][]byte{absent}, blobs...)...) {
		switch n {
		case 0:
			f.wantErr(err, ErrNotFound)
		case 18:
			f.wantErr(err, ErrCorrupt)
		default:
			f.ok(err)
		}
	}
	if _, err := f.Stat(t.Context(), Sum(blobs[17])); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the rot isn't known: %v", err)
	}
	stop := errors.New("stop")
	f.wantErr(f.Fetch(t.Context(), []Digest{Sum(blobs[0]), Sum(blobs[1])}, 2, func(int, []byte, error) error { return stop }), stop)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f.wantErr(f.Fetch(ended, []Digest{Sum(blobs[0])}, 2, func(int, []byte, error) error { return nil }), context.Canceled)
}

// TestFetchOfWhatIsMoved reads blobs whose packs are rewritten by a sweep
// meanwhile.
func TestFetchOfWhatIsMoved(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 24, 5000)
	f.add(blobs...)
	var moved sync.Once
	sums := make([]Digest, 0, 12)
	for n := 0; n < len(blobs); n += 2 {
		sums = append(sums, Sum(blobs[n]))
	}
	got := 0
	f.ok(f.Fetch(t.Context(), sums, 1, func(n int, data []byte, err error) error {
		moved.Do(func() {
			keep := make([][]byte, 0, 12)
			for n := 0; n < len(blobs); n += 2 {
				keep = append(keep, blobs[n])
			}
			f.sweep(keep...)
		})
		if err == nil && !bytes.Equal(data, blobs[2*n]) {
			err = errors.New("another blob")
		}
		got++
		return err
	}))
	if got != len(sums) {
		t.Errorf("%d of %d blobs came", got, len(sums))
	}
}

// TestRuns cuts a pack where too much would be read at once, or for nothing.
func TestRuns(t *testing.T) {
	at := func(off, stored uint32) located { return located{place: place{off: off, stored: stored}} }
	const head = uint32(blobHeader)
	for name, c := range map[string]struct {
		blobs []located
		want  []int // blobs by run
	}{
		"one":        {[]located{at(32, 100)}, []int{1}},
		"neighbours": {[]located{at(32, 100), at(132+head, 100)}, []int{2}},
		"the same":   {[]located{at(32, MaxBlob), at(32, MaxBlob), at(32, MaxBlob)}, []int{3}},
		"small gap":  {[]located{at(32, 100), at(132+head+runGap, 100)}, []int{2}},
		"large gap":  {[]located{at(32, 100), at(133+head+runGap, 100)}, []int{1, 1}},
		"many": {[]located{
			at(0, MaxBlob), at(MaxBlob+head, MaxBlob), at(2*(MaxBlob+head), MaxBlob), at(3*(MaxBlob+head), MaxBlob),
		}, []int{3, 1}},
	} {
		var got []int
		for _, r := range cut("pack", c.blobs) {
			got = append(got, len(r.blobs))
			if off, size := r.span(); off != int64(r.blobs[0].off) || size > runSize || off+size != r.blobs[len(r.blobs)-1].end() {
				t.Errorf("%s: a run of %d bytes at %d", name, size, off)
			}
		}
		if len(got) != len(c.want) || got[0] != c.want[0] {
			t.Errorf("%s: runs of %v blobs, want %v", name, got, c.want)
		}
	}
}
