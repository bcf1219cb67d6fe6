package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testOrigin is a snapshot in memory, which counts how often it is restored and
// compared.
type testOrigin struct {
	Origin
	content         []byte
	fills, verifies atomic.Int64
	filling         func() // called while it is restored
}

// newOrigin makes a snapshot with holes in it, whose size is no multiple of a
// block's.
func newOrigin(id string, seed byte) *testOrigin {
	content := make([]byte, 6<<20+1000)
	for _, at := range []int{0, 1 << 20, 5 << 20, len(content) - 100} {
		for i := range min(256<<10, len(content)-at) {
			content[at+i] = byte(i/7) + seed
		}
	}
	return originOf(id, content)
}

func originOf(id string, content []byte) *testOrigin {
	o := &testOrigin{content: content, filling: func() {}}
	o.Origin = Origin{ID: id, Digest: sha256.Sum256(o.content), Size: int64(len(o.content)), Fill: o.fill, Verify: o.verify}
	return o
}

func (o *testOrigin) fill(_ context.Context, w Sink) error {
	o.fills.Add(1)
	o.filling()
	for at := 0; at < len(o.content); at += 64 << 10 {
		part := o.content[at:min(at+64<<10, len(o.content))]
		if bytes.Count(part, []byte{0}) == len(part) {
			continue
		}
		if _, err := w.WriteAt(part, int64(at)); err != nil {
			return err
		}
	}
	return nil
}

func (o *testOrigin) verify(_ context.Context, r *Reader) error {
	o.verifies.Add(1)
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err == nil && !bytes.Equal(got, o.content) {
		err = errors.New("it differs")
	}
	return err
}

// make makes a volume of the snapshot and compares it.
func (o *testOrigin) make(t *testing.T, d *Dir, id string, size int64) {
	t.Helper()
	if err := d.FillFrom(t.Context(), id, size, o.Origin); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(d.Path(id))
	if err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Clone(o.content), make([]byte, size-o.Size)...); !bytes.Equal(got, want) {
		t.Fatalf("volume %s of %d bytes isn't as its snapshot", id, len(got))
	}
}

func (o *testOrigin) want(t *testing.T, fills, verifies int64) {
	t.Helper()
	if f, v := o.fills.Load(), o.verifies.Load(); f != fills || v != verifies {
		t.Fatalf("restored %d times and compared %d times, want %d and %d", f, v, fills, verifies)
	}
}

func TestCloneOfGolden(t *testing.T) {
	onReflinks(t, 400<<20, func(t *testing.T, path string) {
		d, o := open(t, path), newOrigin("snap-1", 1)
		for i, size := range []int64{o.Size, o.Size, 9 << 20, 9<<20 + 1} {
			o.make(t, d, "vol-"+string(rune('a'+i)), size)
		}
		o.want(t, 1, 0)
		wantShared(t, d.golden("snap-1"), d.Path("vol-a"), d.Path("vol-d"))
		wantSparse(t, d, "vol-d", 3<<20)
		// A volume's own life leaves the golden file alone.
		f, err := os.OpenFile(d.Path("vol-a"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("mine"), 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close(), d.Delete(t.Context(), "vol-b")); err != nil {
			t.Fatal(err)
		}
		// Nor does another daemon.
		d = open(t, path)
		o.make(t, d, "vol-e", o.Size)
		o.want(t, 1, 0)
		// What has changed of a clone is known as of any volume.
		r, err := d.Reader("vol-e")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Keep("snap-1"), r.Close()); err != nil {
			t.Fatal(err)
		}
		o.make(t, d, "vol-f", o.Size)
		if ch, err := d.Changes("vol-e"); err != nil || ch.Base != "snap-1" || bytes.Count(ch.Blocks, []byte{0}) != len(ch.Blocks) {
			t.Errorf("changes of a clone: %+v, %v", ch, err)
		}
		if err := d.DropGolden("snap-1"); err != nil {
			t.Fatal(err)
		}
		wantFiles(t, filepath.Join(path, goldenDir))
		o.make(t, d, "vol-g", o.Size)
		o.want(t, 2, 0)
	})
}

// TestGoldenIsNotTrusted alters a golden file in ways after which it is made anew.
func TestGoldenIsNotTrusted(t *testing.T) {
	alter := func(t *testing.T, path string, f func(*os.File) error) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(f(file), file.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// behind changes a golden file as a disk would, which changes no time, and
	// has its record say that it was last compared so long ago.
	behind := func(t *testing.T, d *Dir, id string, change []byte, ago time.Duration) {
		t.Helper()
		rec, err := d.readGoldenRecord(id)
		if err != nil {
			t.Fatal(err)
		}
		alter(t, d.golden(id), func(f *os.File) error {
			_, err := f.WriteAt(change, 0)
			return errors.Join(err, f.Sync())
		})
		f, err := os.Open(d.golden(id))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if rec.file, err = identify(f); err != nil {
			t.Fatal(err)
		}
		rec.verified = time.Now().Add(-ago).UnixNano()
		if err := os.WriteFile(d.goldenRecord(id), rec.encode(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := mounted(t, "xfs", 320<<20)
	for name, c := range map[string]struct {
		do              func(t *testing.T, d *Dir, o *testOrigin)
		fills, verifies int64
	}{
		"written": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			alter(t, d.golden(o.ID), func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 77); return err })
		}},
		"longer": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			alter(t, d.golden(o.ID), func(f *os.File) error { return f.Truncate(o.Size + 1) })
		}},
		"a copy of it": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			if err := os.Remove(d.golden(o.ID)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(d.golden(o.ID), o.content, 0o400); err != nil {
				t.Fatal(err)
			}
		}},
		"its record flipped": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			alter(t, d.goldenRecord(o.ID), func(f *os.File) error { _, err := f.WriteAt([]byte{1}, 50); return err })
		}},
		"its record gone": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			if err := os.Remove(d.goldenRecord(o.ID)); err != nil {
				t.Fatal(err)
			}
		}},
		"another snapshot's": {fills: 2, do: func(t *testing.T, d *Dir, o *testOrigin) {
			other := newOrigin("snap-2", 99)
			other.make(t, d, "vol-x", o.Size)
			for _, from := range []func(string) string{d.golden, d.goldenRecord} {
				if err := os.Rename(from("snap-2"), from(o.ID)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		"of another store": {fills: 1, do: func(_ *testing.T, _ *Dir, o *testOrigin) {
			o.content = newOrigin(o.ID, 50).content
			o.Digest = sha256.Sum256(o.content)
			o.fills.Store(0)
		}},
		"rotten, a day old": {fills: 2, verifies: 1, do: func(t *testing.T, d *Dir, o *testOrigin) {
			behind(t, d, o.ID, []byte("rot"), verifyEvery+time.Minute)
		}},
		"whole, a day old": {fills: 1, verifies: 1, do: func(t *testing.T, d *Dir, o *testOrigin) {
			behind(t, d, o.ID, o.content[:3], verifyEvery+time.Minute)
		}},
		"whole, of a clock that went back": {fills: 1, verifies: 1, do: func(t *testing.T, d *Dir, o *testOrigin) {
			behind(t, d, o.ID, o.content[:3], -time.Hour)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(at, name)
			d, o := open(t, path), newOrigin("snap-1", 1)
			o.make(t, d, "vol-1", o.Size)
			c.do(t, d, o)
			o.make(t, d, "vol-2", o.Size)
			o.want(t, c.fills, c.verifies)
			o.make(t, d, "vol-3", o.Size) // and then there is a good one
			o.want(t, c.fills, c.verifies)
			_ = open(t, path)
			wantFiles(t, filepath.Join(path, goldenDir), "snap-1.raw", "snap-1.record")
		})
	}
}

// TestGoldenOnce has many volumes made of a snapshot at once.
func TestGoldenOnce(t *testing.T) {
	onOneReflink(t, func(t *testing.T, path string) {
		d, o := open(t, path), newOrigin("snap-1", 1)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if err := d.FillFrom(t.Context(), "vol-"+string(rune('a'+i)), o.Size, o.Origin); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		o.want(t, 1, 0)
		// One that fails leaves the making to the next in line.
		o = newOrigin("snap-2", 2)
		ctx, cancel := context.WithCancel(t.Context())
		begun, second := make(chan struct{}), make(chan error, 1)
		o.filling = sync.OnceFunc(func() {
			close(begun)
			cancel()
		})
		go func() {
			<-begun
			second <- d.FillFrom(t.Context(), "vol-2", o.Size, o.Origin)
		}()
		wantErr(t, d.FillFrom(ctx, "vol-1", o.Size, o.Origin), context.Canceled)
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		o.make(t, d, "vol-2", o.Size)
		// One that waits can give up.
		o = newOrigin("snap-3", 3)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		o.filling = func() { wantErr(t, d.FillFrom(gone, "vol-4", o.Size, o.Origin), context.Canceled) }
		o.make(t, d, "vol-3", o.Size)
	})
}

// TestFullDiskDropsGoldens makes a volume where nothing but a golden file stands
// between the disk and its end.
func TestFullDiskDropsGoldens(t *testing.T) {
	onReflinks(t, 400<<20, func(t *testing.T, path string) {
		d, o := open(t, path), originOf("snap-1", bytes.Repeat([]byte("stead"), 5<<20))
		o.make(t, d, "vol-1", o.Size)
		if err := errors.Join(d.Delete(t.Context(), "vol-1"), syncFilesystem(path)); err != nil {
			t.Fatal(err)
		}
		create(t, d, "vol-big", 1<<30)
		fillUp(t, d.Path("vol-big"))
		other := originOf("snap-2", bytes.Repeat([]byte("again"), 2<<20))
		other.make(t, d, "vol-2", other.Size)
		if _, err := os.Stat(d.golden("snap-1")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the golden file: %v", err)
		}
	})
}

// TestGoldensAreBounded keeps golden files from taking more than what is free.
func TestGoldensAreBounded(t *testing.T) {
	onOneReflink(t, func(t *testing.T, path string) {
		d := open(t, path)
		for i, id := range []string{"snap-1", "snap-2", "snap-3"} {
			o := newOrigin(id, byte(i))
			o.make(t, d, "vol-"+id, o.Size)
		}
		o := newOrigin("snap-1", 0)
		o.make(t, d, "vol-again", o.Size) // the one used last
		all, err := d.listGoldens()
		if err != nil || len(all) != 3 || all[2].id != "snap-1" {
			t.Fatalf("golden files %+v, %v", all, err)
		}
		create(t, d, "vol-big", 1<<30)
		f, err := os.OpenFile(d.Path("vol-big"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		free, err := freeBytes(path)
		if err != nil {
			t.Fatal(err)
		}
		// Leave room for one of them.
		if err := unix.Fallocate(int(f.Fd()), 0, 0, free-2*all[0].allocated+all[0].allocated/2); err != nil {
			t.Fatal(err)
		}
		if err := d.BoundGoldens(); err != nil {
			t.Fatal(err)
		}
		wantFiles(t, filepath.Join(path, goldenDir), "snap-1.raw", "snap-1.record")
		if err := d.KeepGoldens(func(id string) bool { return id != "snap-1" }); err != nil {
			t.Fatal(err)
		}
		wantFiles(t, filepath.Join(path, goldenDir))
	})
}

// TestNoReflinks is where files can't share blocks: nothing but volumes is made.
func TestNoReflinks(t *testing.T) {
	for name, path := range map[string]string{"disk": filepath.Join(t.TempDir(), "volumes"), "memory": fastDir(t)} {
		t.Run(name, func(t *testing.T) {
			d, o := open(t, path), newOrigin("snap-1", 1)
			if can, err := d.Reflinks(); err != nil {
				t.Fatal(err)
			} else if can {
				t.Skip("this folder has reflinks") // and the tests of those run
			}
			o.make(t, d, "vol-1", o.Size)
			o.make(t, d, "vol-2", 9<<20)
			o.want(t, 2, 0)
			wantFiles(t, path, "vol-1.raw", "vol-2.raw")
			r, err := d.Reader("vol-1")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			err = d.Fill(t.Context(), "vol-3", o.Size, func(_ context.Context, w Sink) error {
				if cloned, err := r.CloneTo(w); cloned || err != nil {
					t.Errorf("cloned %v, %v", cloned, err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	o := newOrigin("snap-1", 1)
	wantErr(t, open(t, t.TempDir()).FillFrom(t.Context(), "vol-1", o.Size-1, o.Origin), ErrInvalid)
}

// TestCopyIsClone copies a volume that lies still.
func TestCopyIsClone(t *testing.T) {
	onOneReflink(t, func(t *testing.T, path string) {
		d, o := open(t, path), newOrigin("snap-1", 1)
		o.make(t, d, "vol-1", o.Size)
		r, err := d.Reader("vol-1")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Keep("snap-1"); err != nil {
			t.Fatal(err)
		}
		err = d.Fill(t.Context(), "vol-2", 9<<20, func(_ context.Context, w Sink) error {
			cloned, err := r.CloneTo(w)
			if !cloned {
				t.Error("it was not cloned")
			}
			return err
		})
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		wantShared(t, d.Path("vol-1"), d.Path("vol-2"))
		o.make(t, d, "vol-2", 9<<20) // which is there
		if _, err := d.Changes("vol-1"); err != nil {
			t.Errorf("being copied took from a volume what is known of it: %v", err)
		}
	})
}
