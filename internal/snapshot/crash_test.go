package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/objects/strictfs"
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

// want says why the snapshot doesn't restore to s.
func (s stripes) want(e *Engine, id string) error {
	got := &buffer{b: make([]byte, s.Size())}
	if err := e.Restore(context.Background(), id, got, nil); err != nil {
		return err
	}
	for i, v := range s {
		if n := bytes.Count(got.b[i*BlockSize:(i+1)*BlockSize], []byte{v}); n != BlockSize {
			return fmt.Errorf("snapshot %s: %d bytes of block %d are %d, want all", id, n, i, v)
		}
	}
	return nil
}

type buffer struct{ b []byte }

func (b *buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b.b[off:], p), nil }

var errCut = errors.New("power cut")

// TestPowerCut cuts the power at every change of the filesystem in a life of
// snapshots: made, made upon another, copied, deleted, collected, brought back,
// repaired, and the trash emptied. Whatever a cut may leave opens, holds all that
// was promised, checks clean, and lets the same life be lived again. With
// STEAD_SOAK set, every cut and all of what it may leave are tried, not only every
// fourth and the extremes.
func TestPowerCut(t *testing.T) {
	root, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	old, fresh, next := stripes{1, 0, 2, 3}, stripes{0, 3, 5, 6}, stripes{0, 3, 7, 6}
	open := func(disk *strictfs.FS) (*Engine, error) {
		dir, err := objects.OpenDirOn(disk, root)
		if err != nil {
			return nil, err
		}
		e, err := Open(context.Background(), dir, quiet, WithPackSize(150))
		if err != nil {
			_ = dir.Close()
		}
		return e, err
	}
	ctx, outcomes, most, step := context.Background(), 0, 2, 4
	if os.Getenv("STEAD_SOAK") != "" {
		most, step = 64, 1
	}
	for k, hit := 1, true; hit; k += step {
		disk, n := strictfs.New(root), 0
		e, err := open(disk)
		if err != nil {
			t.Fatal(err)
		}
		for id, v := range map[string]stripes{"old": old, "gone": {2, 3, 4, 8}} {
			if _, err := e.Create(ctx, id, v, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		disk.Before = func(string, string) error {
			if n++; n >= k {
				return errCut
			}
			return nil
		}
		promised := map[string]stripes{"old": old}
		life := func(e *Engine, promise map[string]stripes) error {
			steps := []func() error{
				func() error { _, err := e.Create(ctx, "fresh", fresh, nil, nil); return err },
				func() error {
					_, err := e.Create(ctx, "next", next, &Since{Base: "fresh", Changed: func(i int64) bool { return i == 2 }}, nil)
					return err
				},
				func() error { _, err := e.Copy(ctx, "next", "copy"); return err },
				func() error { return e.Delete(ctx, "gone") },
				func() error { _, err := e.Collect(ctx); return err },
				func() error { return e.Delete(ctx, "fresh") },
				func() error { _, err := e.Collect(ctx); return err },
				func() error { _, err := e.Undelete(ctx, "fresh"); return err },
				func() error { _, err := e.Repair(ctx, nil); return err },
				func() error { _, err := e.EmptyTrash(ctx); return err },
			}
			for i, step := range steps {
				if i == 5 {
					delete(promise, "fresh") // until it is back
				}
				if err := step(); err != nil {
					return fmt.Errorf("step %d: %w", i, err)
				}
				switch i {
				case 0, 7:
					promise["fresh"] = fresh
				case 1:
					promise["next"] = next
				case 2:
					promise["copy"] = next
				}
			}
			return nil
		}
		if err := life(e, promised); err != nil && !errors.Is(err, errCut) {
			t.Fatalf("cut at %d: %v", k, err)
		}
		_ = e.Close()
		hit = n >= k
		for left := range disk.Crashes(uint64(k), most) {
			outcomes++
			e, err := open(left)
			if err != nil {
				t.Fatalf("cut at %d: %v", k, err)
			}
			fail := func(err error) { t.Fatalf("cut at %d: %v, left:\n%s", k, err, left) }
			for id, v := range promised {
				if err := v.want(e, id); err != nil {
					fail(err)
				}
			}
			report, err := e.Check(ctx, true, nil)
			if err != nil || len(report.Problems) > 0 {
				fail(fmt.Errorf("check: %+v, %w", report.Problems, err))
			}
			if err := life(e, map[string]stripes{}); err != nil {
				fail(fmt.Errorf("again: %w", err))
			}
			for id, v := range map[string]stripes{"old": old, "fresh": fresh, "next": next, "copy": next} {
				if err := v.want(e, id); err != nil {
					fail(fmt.Errorf("again: %w", err))
				}
			}
			_ = e.Close()
		}
	}
	t.Logf("%d outcomes", outcomes)
	if outcomes < 40 {
		t.Errorf("only %d outcomes: the test has lost its teeth", outcomes)
	}
}

// small is a volume of a few bytes.
type small []byte

func (s small) Size() int64                             { return int64(len(s)) }
func (s small) ReadAt(p []byte, off int64) (int, error) { return copy(p, s[off:]), nil }
func (s small) NextData(off int64) (start, end int64, err error) {
	if off >= s.Size() {
		return 0, 0, io.EOF
	}
	return off, s.Size(), nil
}

// TestBlockThatLooksLikeAPage makes a volume whose bytes are those of another
// snapshot's page. What that page names is needed all the same.
func TestBlockThatLooksLikeAPage(t *testing.T) {
	e, err := OpenDir(t.Context(), Scratch(t), slog.New(slog.DiscardHandler), WithTrash(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	victim := stripes{1, 2, 3}
	if _, err := e.Create(t.Context(), "victim", victim, nil, nil); err != nil {
		t.Fatal(err)
	}
	r, err := e.loadRoot(t.Context(), "victim")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := e.store.Get(t.Context(), r.pages[0].sum, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Create(t.Context(), "a-double", small(raw), nil, nil); err != nil { // marked first
		t.Fatal(err)
	}
	if _, err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := victim.want(e, "victim"); err != nil {
		t.Error(err)
	}
}

func FuzzRoot(f *testing.F) {
	r := root{id: "snap-1", volumeSize: 3<<30 + 1, pages: []pageRef{{number: 1, blocks: 7}, {number: 6, blocks: 1}}, short: BlockSize - 1}
	f.Add(r.encode())
	f.Add(binary.AppendUvarint([]byte(rootMagic), 1<<62))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRoot(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if again := r.encode(); !bytes.Equal(again, raw) {
			t.Fatalf("%x is read and written as %x", raw, again)
		}
		_ = r.info()
	})
}

func FuzzPage(f *testing.F) {
	p := page{}
	p.there[3], p.sums[3] = true, Digest{1}
	f.Add(p.encode(), 1)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		p, wrong := decodePage(raw, n)
		if wrong == "" && !bytes.Equal(p.encode(), raw) {
			t.Fatal("a page isn't written as it was read")
		}
	})
}
