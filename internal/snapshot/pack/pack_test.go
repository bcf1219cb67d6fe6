package pack

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) time() time.Time { return c.now }

type fixture struct {
	*testing.T
	*Store
	path string
	time *clock
	objs objects.Store
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error %v, want %v", err, want)
	}
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, path: filepath.Join(t.TempDir(), "store"), time: &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	f.open()
	t.Cleanup(func() { f.shut() })
	return f
}

func (f *fixture) open() {
	f.Helper()
	objs, err := objects.OpenDir(f.path)
	f.ok(err)
	f.objs = objs
	f.Store, err = Open(f.Context(), objs, slog.New(slog.DiscardHandler), Options{PackSize: 64 << 10, Now: f.time.time})
	f.ok(err)
}

func (f *fixture) shut() {
	f.Helper()
	f.Close()
	f.ok(f.objs.Close())
}

func (f *fixture) reopen() {
	f.Helper()
	f.shut()
	f.open()
}

func (f *fixture) begin() *Upload {
	f.Helper()
	u, err := f.Begin(f.Context())
	f.ok(err)
	f.Cleanup(u.Close)
	return u
}

func (f *fixture) put(u *Upload, data []byte) (Digest, int64) {
	f.Helper()
	sum := Sum(data)
	n, err := u.Put(f.Context(), Block, sum, data)
	f.ok(err)
	return sum, n
}

// add stores blobs durably.
func (f *fixture) add(blobs ...[]byte) []Digest {
	f.Helper()
	u := f.begin()
	defer u.Close()
	var sums []Digest
	for _, b := range blobs {
		sum, _ := f.put(u, b)
		sums = append(sums, sum)
	}
	f.ok(u.Flush(f.Context()))
	return sums
}

func (f *fixture) want(blobs ...[]byte) {
	f.Helper()
	for i, b := range blobs {
		got, err := f.Get(context.Background(), Sum(b), nil)
		if err != nil || !bytes.Equal(got, b) {
			f.Fatalf("blob %d: %d bytes, %v; want the %d that were put", i, len(got), err, len(b))
		}
	}
}

func (f *fixture) sweep(live ...[]byte) Swept {
	f.Helper()
	w, err := f.BeginSweep(f.Context())
	f.ok(err)
	defer w.Close()
	done, err := w.Run(f.Context(), marked(live...))
	f.ok(err)
	return done
}

func marked(live ...[]byte) map[Digest]struct{} {
	m := make(map[Digest]struct{})
	for _, b := range live {
		m[Sum(b)] = struct{}{}
	}
	return m
}

func (f *fixture) files(kind string) []string {
	f.Helper()
	names, err := f.names(f.Context(), kind)
	f.ok(err)
	return names
}

func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func noises(from, n, size int) [][]byte {
	var list [][]byte
	for i := range n {
		list = append(list, noise(uint64(from+i), size))
	}
	return list
}

func TestBlobsComeBack(t *testing.T) {
	f := newFixture(t)
	blobs := [][]byte{{0}, {7}, bytes.Repeat([]byte("tape "), 20000), noise(1, 65537), make([]byte, MaxBlob), noise(2, MaxBlob)}
	f.add(blobs...)
	f.want(blobs...)
	f.reopen()
	f.want(blobs...)
	info, err := f.Stat(t.Context(), Sum(blobs[2]))
	f.ok(err)
	if info.Stored > 5000 {
		t.Errorf("100,000 bytes of repeated text take %d", info.Stored)
	}
	_, err = f.Get(t.Context(), Sum([]byte("absent")), nil)
	f.wantErr(err, ErrNotFound)
}

func TestEqualBlobsAreStoredOnce(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	u1, u2 := f.begin(), f.begin()
	if _, n := f.put(u1, a); n == 0 {
		t.Error("a new blob added nothing")
	}
	for _, u := range []*Upload{u1, u2} {
		if _, n := f.put(u, a); n != 0 {
			t.Errorf("a blob on its way added %d bytes", n)
		}
	}
	f.put(u2, b)
	f.ok(u2.Flush(t.Context()))
	f.want(a, b) // a too: it is u2's as well
	f.ok(u1.Flush(t.Context()))
	if st, err := f.Stats(t.Context()); err != nil || st.Blobs != 2 {
		t.Errorf("%d blobs, %v; want 2", st.Blobs, err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 150, 3000)
	uploads := []*Upload{f.begin(), f.begin()}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for _, b := range blobs {
				if _, err := uploads[i%2].Put(t.Context(), Block, Sum(b), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, u := range uploads {
		f.ok(u.Flush(t.Context()))
	}
	f.want(blobs...)
	if st, err := f.Stats(t.Context()); err != nil || st.Blobs != 150 || st.Bytes > 150*3200 {
		t.Errorf("%+v, %v; want 150 blobs, each stored once", st, err)
	}
}

func TestAbandonedUploadLeavesNothingPending(t *testing.T) {
	f := newFixture(t)
	a := noise(1, 5000)
	u := f.begin()
	f.put(u, a)
	u.Close()
	if _, err := f.Get(t.Context(), Sum(a), nil); !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	f.add(a)
	f.want(a)
}

func TestKeepOfAbsentFails(t *testing.T) {
	f := newFixture(t)
	u := f.begin()
	f.wantErr(u.Keep(t.Context(), Sum([]byte("absent"))), ErrNotFound)
	f.wantErr(u.Flush(t.Context()), ErrNotFound)
}

func TestRestAndBack(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 10, 1000)
	f.add(blobs...)
	u := f.begin()
	f.Rest()
	if f.index == nil {
		t.Fatal("the index was let go of under an upload")
	}
	u.Close()
	f.Rest()
	if f.index != nil {
		t.Fatal("the index wasn't let go of")
	}
	f.want(blobs...)
}
