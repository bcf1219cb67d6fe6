package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

// memory is a volume in memory; stretches of zero blocks are its holes.
type memory []byte

func (m memory) Size() int64                             { return int64(len(m)) }
func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }

func (m memory) NextData(off int64) (start, end int64, err error) {
	const page = 4096
	zero := func(at int64) bool {
		return bytes.Count(m[at:min(at+page, m.Size())], []byte{0}) == int(min(page, m.Size()-at))
	}
	for start = off; start < m.Size() && zero(start); start += page {
	}
	if start >= m.Size() {
		return 0, 0, io.EOF
	}
	for end = start; end < m.Size() && !zero(end); end += page {
	}
	return start, min(end, m.Size()), nil
}

// WriteAt makes it a target as well.
func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > m.Size() {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

// data returns size bytes of a disk that looks like one: text, noise, holes.
func data(t testing.TB, size int, seeds ...uint64) memory {
	t.Helper()
	seed := uint64(1)
	if len(seeds) > 0 {
		seed = seeds[0]
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	m := make(memory, size)
	for at := 0; at < size; {
		n := min(1+rng.IntN(900<<10), size-at)
		part := m[at : at+n]
		switch rng.IntN(3) {
		case 0:
			_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(at), byte(at >> 8), byte(at >> 16)}).Read(part)
		case 1:
			copy(part, bytes.Repeat(fmt.Appendf(nil, "line %d of %d\n", rng.IntN(1000), seed), n/10+1))
		}
		at += n
	}
	return m
}

func openStore(t testing.TB, path string, opts ...snapshot.Option) *snapshot.Engine {
	t.Helper()
	e, err := snapshot.OpenDir(t.Context(), path, slog.New(slog.DiscardHandler), append([]snapshot.Option{snapshot.WithTrash(-1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func snap(t testing.TB, store *snapshot.Engine, id string, src snapshot.Source) snapshot.Info {
	t.Helper()
	info, err := store.Create(t.Context(), id, src, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func wantRestored(t testing.TB, store *snapshot.Engine, id string, want memory) {
	t.Helper()
	got := make(memory, len(want))
	if err := store.Restore(t.Context(), id, got, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("snapshot %s isn't restored byte for byte", id)
	}
}

func wantClean(t testing.TB, store *snapshot.Engine) snapshot.Report {
	t.Helper()
	report, err := store.Check(t.Context(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("snapshot %s: %v", p.Snapshot, p.Err)
	}
	return report
}

func TestRoundTrip(t *testing.T) {
	const block = snapshot.BlockSize
	island := make(memory, 9*block) // data across a border, the rest holes
	copy(island[3*block-5:], "over the border")
	last := make(memory, 2*block+1)
	last[2*block] = 1
	tests := map[string]struct {
		volume memory
		blocks int
	}{
		"one byte":             {memory{1}, 1},
		"one zero":             {memory{0}, 0},
		"all zero":             {make(memory, 5*block), 0},
		"one block":            {bytes.Repeat([]byte("x"), block), 1},
		"a byte short":         {bytes.Repeat([]byte("x"), 2*block-1), 2},
		"last byte":            {last, 1},
		"island":               {island, 2},
		"mixed":                {data(t, 20*block), -1},
		"mixed, odd size":      {data(t, 20*block+12345), -1},
		"equal blocks, stored": {bytes.Repeat([]byte("y"), 7*block), 7},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, t.TempDir())
			info := snap(t, store, "snap-1", test.volume)
			if test.blocks >= 0 && info.Blocks != test.blocks {
				t.Errorf("%d blocks, want %d", info.Blocks, test.blocks)
			}
			if info.VolumeSize != test.volume.Size() {
				t.Errorf("volume size %d, want %d", info.VolumeSize, test.volume.Size())
			}
			wantRestored(t, store, "snap-1", test.volume)
			wantClean(t, store)

			larger := make(memory, len(test.volume)+block+100)
			if err := store.Restore(t.Context(), "snap-1", larger, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(larger[:len(test.volume)], test.volume) || len(bytes.Trim(larger[len(test.volume):], "\x00")) != 0 {
				t.Error("restoring to a larger volume isn't the data and then zeros")
			}
		})
	}
}

func TestZeroesCostNothing(t *testing.T) {
	path := t.TempDir()
	store := openStore(t, path)
	info := snap(t, store, "s", make(memory, 64<<20))
	if info.Blocks != 0 || info.StoredBytes != 0 || info.DataBytes != 0 {
		t.Errorf("%+v, want no data", info)
	}
	got := wroteNothing{t}
	if err := store.Restore(t.Context(), "s", got, nil); err != nil {
		t.Fatal(err)
	}
}

type wroteNothing struct{ t *testing.T }

func (w wroteNothing) WriteAt(p []byte, off int64) (int, error) {
	w.t.Errorf("wrote %d bytes at %d", len(p), off)
	return len(p), nil
}

func TestInfo(t *testing.T) {
	at := time.Date(2026, 3, 5, 12, 0, 0, 42, time.UTC)
	store := openStore(t, t.TempDir(), snapshot.WithClock(func() time.Time { return at }))
	e := store
	volume := data(t, 4<<20)
	made, err := e.Create(t.Context(), "snap-b", volume, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	read, err := e.Info(t.Context(), "snap-b")
	if err != nil {
		t.Fatal(err)
	}
	if read != made || !read.CreatedAt.Equal(at) {
		t.Errorf("made %+v, read %+v", made, read)
	}
	same, err := e.Create(t.Context(), "snap-a", volume, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if same.Digest != made.Digest || same.StoredBytes != 0 || same.DataBytes != made.DataBytes {
		t.Errorf("an equal volume: %+v after %+v", same, made)
	}
	list, err := e.List(t.Context())
	if err != nil || len(list) != 2 || list[0] != same || list[1] != made {
		t.Errorf("list %+v, %v", list, err)
	}
	volume[1<<20] ^= 1
	if other := snap(t, store, "snap-c", volume); other.Digest == made.Digest {
		t.Error("a changed volume has the same digest")
	}
	if _, err := e.Info(t.Context(), "snap-x"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if err := e.Restore(t.Context(), "snap-x", wroteNothing{t}, nil); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("restore of an absent one: %v", err)
	}
}

func TestCreateIsRepeatable(t *testing.T) {
	store := openStore(t, t.TempDir())
	volume := data(t, 3<<20)
	first := snap(t, store, "s", volume)
	// The volume went on; the repeat must not read it.
	again := snap(t, store, "s", failing{volume, 0, errors.New("read")})
	if again != first {
		t.Errorf("repeat %+v, first %+v", again, first)
	}
	wantRestored(t, store, "s", volume)
}

func TestConcurrentCreatesOfOneID(t *testing.T) {
	store := openStore(t, t.TempDir())
	volume := data(t, 6<<20)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := store.Create(t.Context(), "s", volume, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantRestored(t, store, "s", volume)
}

// failing is a volume whose reads from an offset on fail.
type failing struct {
	memory
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.memory.ReadAt(p, off)
}

func TestReadErrorFailsCreate(t *testing.T) {
	path := t.TempDir()
	store := openStore(t, path)
	volume := memory(bytes.Repeat([]byte("z"), 8<<20))
	broken := errors.New("sector is broken")
	for _, from := range []int64{0, 3 << 20, 8<<20 - 1} {
		_, err := store.Create(t.Context(), "s", failing{volume, from, broken}, nil, nil)
		if !errors.Is(err, broken) {
			t.Fatalf("error %v, want %v", err, broken)
		}
	}
	_, err := store.Create(t.Context(), "s", failing{volume, 3 << 20, io.EOF}, nil, nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a volume that ends early: %v", err)
	}
	if _, err := store.Info(t.Context(), "s"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("after failures: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(path, "tmp")); len(left) != 0 {
		t.Errorf("%d uploads left", len(left))
	}
}

// lying is a source that breaks its contract.
type lying struct{ memory }

func (l lying) NextData(off int64) (int64, int64, error) { return off, off, nil }

func TestSourceThatMakesNoProgress(t *testing.T) {
	store := openStore(t, t.TempDir())
	if _, err := store.Create(t.Context(), "s", lying{data(t, 2<<20)}, nil, nil); err == nil {
		t.Error("no error")
	}
}

func TestProgress(t *testing.T) {
	store := openStore(t, t.TempDir())
	volume := data(t, 11<<20+777)
	var last, total int64
	watch := func(done, of int64) {
		if done < last || done > of {
			t.Errorf("progress %d of %d after %d", done, of, last)
		}
		last, total = done, of
	}
	info, err := store.Create(t.Context(), "s", volume, nil, watch)
	if err != nil {
		t.Fatal(err)
	}
	if last != volume.Size() || total != volume.Size() {
		t.Errorf("create ended at %d of %d, want %d", last, total, volume.Size())
	}
	last = 0
	if err := store.Restore(t.Context(), "s", make(memory, len(volume)), watch); err != nil {
		t.Fatal(err)
	}
	if last != info.DataBytes || total != info.DataBytes {
		t.Errorf("restore ended at %d of %d, want %d", last, total, info.DataBytes)
	}
}

// limited counts how many of its blocks are read at a time, and has them read by
// threads alone that have yielded.
type limited struct {
	memory
	workers int

	mu       sync.Mutex
	now, top int
	yielded  map[int]bool // threads
}

var _ snapshot.Limited = (*limited)(nil)

func (l *limited) Workers() int { return l.workers }

func (l *limited) Yield() {
	runtime.LockOSThread()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.yielded[unix.Gettid()] = true
}

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	l.mu.Lock()
	if !l.yielded[unix.Gettid()] {
		l.mu.Unlock()
		return 0, errors.New("read by a thread that hasn't yielded")
	}
	l.now++
	l.top = max(l.top, l.now)
	l.mu.Unlock()
	time.Sleep(time.Millisecond) // for others to come, if they may
	defer func() {
		l.mu.Lock()
		l.now--
		l.mu.Unlock()
	}()
	return l.memory.ReadAt(p, off)
}

func TestSourceBoundsTheWork(t *testing.T) {
	e := openStore(t, t.TempDir(), snapshot.WithWorkers(4))
	for _, c := range []struct{ workers, most int }{{1, 1}, {2, 2}, {100, 4}} {
		src := &limited{memory: data(t, 16<<20, uint64(c.workers)), workers: c.workers, yielded: map[int]bool{}}
		if _, err := e.Create(t.Context(), fmt.Sprintf("snap-%d", c.workers), src, nil, nil); err != nil {
			t.Fatal(err)
		}
		if src.top > c.most || len(src.yielded) != c.most {
			t.Errorf("bounded by %d, %d workers read %d blocks at a time, want %d at most", c.workers, len(src.yielded), src.top, c.most)
		}
	}
}
