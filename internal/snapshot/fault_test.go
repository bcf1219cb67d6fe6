package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
)

// stripes is a volume whose blocks each hold one byte value; 0 is a hole.
type stripes []byte

func (s stripes) Size() int64 { return int64(len(s)) * BlockSize }

func (s stripes) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); { // by the block
		at := off + int64(done)
		n := min(len(p)-done, int(BlockSize-at%BlockSize))
		copy(p[done:], bytes.Repeat([]byte{s[at/BlockSize]}, n))
		done += n
	}
	return len(p), nil
}

func (s stripes) NextData(off int64) (start, end int64, err error) {
	if off >= s.Size() {
		return 0, 0, io.EOF
	}
	return off, s.Size(), nil
}

// want fails the test unless the snapshot restores to s.
func (s stripes) want(t *testing.T, e *Engine, id string) {
	t.Helper()
	got := &buffer{b: make([]byte, s.Size())}
	if err := e.Restore(t.Context(), id, got, nil); err != nil {
		t.Fatal(err)
	}
	for i, v := range s {
		block := got.b[i*BlockSize : (i+1)*BlockSize]
		if n := bytes.Count(block, []byte{v}); n != BlockSize {
			t.Fatalf("snapshot %s: %d bytes of block %d are %d, want all", id, n, i, v)
		}
	}
}

type buffer struct{ b []byte }

func (b *buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b.b[off:], p), nil }

// faults fails the k-th change to the filesystem, and with crash every later
// one too, so that nothing is cleaned up, as if the process had been killed.
type faults struct {
	at, n atomic.Int64
	crash bool
	err   error
}

func (f *faults) before(string, string) error {
	n := f.n.Add(1)
	if n == f.at.Load() || f.crash && n > f.at.Load() {
		return f.err
	}
	return nil
}

// life is everything that changes a store.
func life(t *testing.T, e *Engine, fresh stripes) error {
	ctx := t.Context()
	if _, err := e.Create(ctx, "new", fresh, nil); err != nil {
		return err
	}
	if err := e.Delete(ctx, "gone"); err != nil {
		return err
	}
	_, err := e.Collect(ctx)
	return err
}

// TestFaultAtEveryWrite lets every single change to the filesystem fail once,
// alone or with all that follow, and then wants a store that is whole and in
// which the same can be done again.
func TestFaultAtEveryWrite(t *testing.T) {
	old, gone, fresh := stripes{1, 0, 2}, stripes{2, 3, 4}, stripes{0, 3, 5, 6, 7, 8, 6}
	quiet := slog.New(slog.DiscardHandler)
	open := func(path string, d disk) (*DirStore, *Engine) {
		s, err := openDir(path, quiet, d)
		if err != nil {
			t.Fatal(err)
		}
		s.batchSize = 3
		t.Cleanup(func() { _ = s.Close() })
		return s, New(s, quiet)
	}
	for _, crash := range []bool{false, true} {
		hit := true
		for k := int64(1); hit; k++ {
			t.Run(fmt.Sprintf("crash=%v/%d", crash, k), func(t *testing.T) {
				path := Scratch(t)
				f := &faults{crash: crash, err: syscall.ENOSPC}
				f.at.Store(1 << 40)
				s, e := open(path, disk{before: f.before})
				for id, v := range map[string]stripes{"old": old, "gone": gone} {
					if _, err := e.Create(t.Context(), id, v, nil); err != nil {
						t.Fatal(err)
					}
				}
				f.at.Store(f.n.Load() + k)
				err := life(t, e, fresh)
				hit = f.n.Load() >= f.at.Load()
				if err != nil && !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				_ = s.Close()

				_, e = open(path, disk{})
				report, err := e.Check(t.Context(), true)
				if err != nil || len(report.Problems) > 0 {
					t.Fatalf("check: %v %v", report.Problems, err)
				}
				old.want(t, e, "old")
				if err := life(t, e, fresh); err != nil {
					t.Fatalf("repeat: %v", err)
				}
				old.want(t, e, "old")
				fresh.want(t, e, "new")
				wantOnlyLive(t, e)
			})
		}
	}
}

// wantOnlyLive fails the test if blocks are left that no snapshot names.
func wantOnlyLive(t *testing.T, e *Engine) {
	t.Helper()
	live, err := e.liveBlocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = e.store.Blocks(t.Context(), func(b BlockInfo) error {
		if _, ok := live[b.ID]; !ok {
			t.Errorf("block %s is left over", b.ID)
		}
		delete(live, b.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range live {
		t.Errorf("block %s is lost", id)
	}
}

// TestFaultWhileOpening cuts off the making of a new store everywhere.
func TestFaultWhileOpening(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for k := int64(1); ; k++ {
		path := t.TempDir()
		f := &faults{crash: true, err: syscall.EIO}
		f.at.Store(k)
		s, err := openDir(path, quiet, disk{before: f.before})
		if err == nil {
			_ = s.Close()
			if k == 1 {
				t.Fatal("nothing was written")
			}
			return
		}
		s, err = openDir(path, quiet, disk{})
		if err != nil {
			t.Fatalf("after a fault at write %d: %v", k, err)
		}
		if _, err := New(s, quiet).Create(t.Context(), "s", stripes{1}, nil); err != nil {
			t.Errorf("after a fault at write %d: %v", k, err)
		}
		_ = s.Close()
	}
}

func TestFullStoreIsTyped(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	f := &faults{err: syscall.EDQUOT}
	f.at.Store(1 << 40)
	s, err := openDir(t.TempDir(), quiet, disk{before: f.before})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	f.at.Store(f.n.Load() + 2)
	if _, err := New(s, quiet).Create(t.Context(), "s", stripes{1, 2, 3}, nil); !errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
}

func FuzzManifest(f *testing.F) {
	m := &manifest{id: "snap-1", volumeSize: 5*BlockSize + 9, storedBytes: 77, blocks: []entry{
		{index: 0, sum: Digest{1}, id: BlockID(Digest{1}.String())},
		{index: 3, sum: Digest{2}, id: "sealed"},
		{index: 5, sum: Digest{3}, id: BlockID(Digest{3}.String())},
	}}
	raw := m.encode()
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Add((&manifest{id: "s", volumeSize: 1}).encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := decodeManifest(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("untyped error %v", err)
			}
			// Past the checksum, where a fuzzer can't go by itself.
			d := decoder{rest: raw}
			m = d.manifest()
			if m == nil {
				return
			}
		}
		for i, b := range m.blocks {
			if b.index < 0 || b.index*BlockSize >= m.volumeSize || i > 0 && b.index <= m.blocks[i-1].index {
				t.Fatalf("block %d has index %d in a volume of %d bytes", i, b.index, m.volumeSize)
			}
		}
		again, err := decodeManifest(m.encode())
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		if !bytes.Equal(again.encode(), m.encode()) || again.info() != m.info() {
			t.Fatal("a manifest changes when it is written again")
		}
	})
}

func FuzzBlock(f *testing.F) {
	c, err := newCodec()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.pack(nil, bytes.Repeat([]byte("text"), 1000)))
	f.Add(c.pack(nil, []byte{1, 2, 3}))
	buf := make([]byte, 0, BlockSize)
	f.Fuzz(func(t *testing.T, stored []byte) {
		if len(stored) >= blockHeader { // a fuzzer can't guess it
			binary.LittleEndian.PutUint32(stored[sumAt:], c.checksum(stored))
		}
		data, err := c.unpack(stored, buf)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("untyped error %v", err)
		}
		if err != nil || len(data) > BlockSize {
			return
		}
		again, err := c.unpack(c.pack(nil, data), nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("a block changes when it is stored again: %v", err)
		}
	})
}
