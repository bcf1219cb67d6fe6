package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func create(t *testing.T, d *Dir, id string, size int64) {
	t.Helper()
	if err := d.Create(t.Context(), id, size); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// wantFiles fails the test unless the folder holds these names alone.
func wantFiles(t *testing.T, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

func writing(content string, off int64) func(context.Context, Sink) error {
	return func(_ context.Context, w Sink) error {
		_, err := w.WriteAt([]byte(content), off)
		return err
	}
}

func TestCreateIsBlankSparseAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volumes")
	d := open(t, path)
	const size = 40 << 30
	create(t, d, "vol-1", size)
	info, err := d.Stat("vol-1")
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != size || info.Allocated > 1<<20 {
		t.Errorf("%+v, want %d bytes, none allocated", info, int64(size))
	}
	for _, name := range []string{path, d.Path("vol-1")} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, st.Mode())
		}
	}
	r, err := d.Reader("vol-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.NextData(0); !errors.Is(err, io.EOF) {
		t.Errorf("a blank volume has data: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, path, "vol-1.raw")
}

func TestCreateIsRepeatable(t *testing.T) {
	d := open(t, t.TempDir())
	fill := writing("kept", 100)
	if err := d.Fill(t.Context(), "vol-1", 4096, fill); err != nil {
		t.Fatal(err)
	}
	create(t, d, "vol-1", 4096)
	again := func(context.Context, Sink) error { t.Error("a complete volume was filled again"); return nil }
	if err := d.Fill(t.Context(), "vol-1", 4096, again); err != nil {
		t.Fatal(err)
	}
	wantErr(t, d.Create(t.Context(), "vol-1", 8192), ErrExists)
	wantErr(t, d.Fill(t.Context(), "vol-1", 8192, again), ErrExists)
	raw, err := os.ReadFile(d.Path("vol-1"))
	if err != nil || string(raw[100:104]) != "kept" || len(raw) != 4096 {
		t.Errorf("the volume became %d bytes: %v", len(raw), err)
	}
}

// Of several that make a volume at once, all succeed and one file stays.
func TestConcurrentCreates(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := d.Fill(t.Context(), "vol-1", 1<<20, func(_ context.Context, w Sink) error {
				fills.Add(1)
				_, err := w.WriteAt([]byte("x"), 1<<20-1)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if fills.Load() == 0 {
		t.Error("nobody filled it")
	}
	wantFiles(t, path, "vol-1.raw")
}

// The second of two creates must not swap the file: a machine may have the
// first one's open by then.
func TestLateFillKeepsTheFile(t *testing.T) {
	d := open(t, t.TempDir())
	var first os.FileInfo
	err := d.Fill(t.Context(), "vol-1", 4096, func(ctx context.Context, _ Sink) error {
		if err := d.Create(ctx, "vol-1", 4096); err != nil {
			return err
		}
		var err error
		first, err = os.Stat(d.Path("vol-1"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.Stat(d.Path("vol-1"))
	if err != nil || !os.SameFile(first, now) {
		t.Errorf("the file was replaced: %v", err)
	}
	err = d.Fill(t.Context(), "vol-2", 4096, func(ctx context.Context, _ Sink) error {
		return d.Create(ctx, "vol-2", 8192)
	})
	wantErr(t, err, ErrExists)
}

func TestFailedFillLeavesNothing(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	broken := errors.New("source broke")
	err := d.Fill(t.Context(), "vol-1", 1<<20, func(ctx context.Context, w Sink) error {
		return errors.Join(writing("half", 0)(ctx, w), broken)
	})
	wantErr(t, err, broken)
	for _, off := range []int64{-1, 1<<20 - 3, 1 << 20, math.MaxInt64} {
		wantErr(t, d.Fill(t.Context(), "vol-1", 1<<20, writing("over", off)), ErrInvalid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = d.Fill(ctx, "vol-1", 1<<20, func(context.Context, Sink) error { cancel(); return nil })
	wantErr(t, err, context.Canceled)
	_, err = d.Stat("vol-1")
	wantErr(t, err, ErrNotFound)
	wantFiles(t, path)
}

func TestGrow(t *testing.T) {
	d := open(t, t.TempDir())
	if err := d.Fill(t.Context(), "vol-1", 4096, writing("data", 4092)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1 << 20, 1 << 20, 4096, 1} {
		if err := d.Grow(t.Context(), "vol-1", size); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(d.Path("vol-1"))
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) != 1<<20 || string(raw[4092:4096]) != "data" || len(bytes.Trim(raw[4096:], "\x00")) != 0 {
			t.Errorf("after growing to %d: %d bytes", size, len(raw))
		}
	}
	wantErr(t, d.Grow(t.Context(), "vol-2", 4096), ErrNotFound)
}

func TestDeleteAndList(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	for _, id := range []string{"vol-b", "vol-a", "vol-c"} {
		create(t, d, id, 512)
	}
	for _, name := range []string{"notes.txt", tempPrefix + "vol-z-1"} { // not volumes
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := d.Delete(t.Context(), "vol-b"); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := d.List()
	if err != nil || !slices.Equal(ids, []string{"vol-a", "vol-c"}) {
		t.Errorf("list %q, %v", ids, err)
	}
	open(t, path)
	wantFiles(t, path, "notes.txt", "vol-a.raw", "vol-c.raw")
}

func TestBadArguments(t *testing.T) {
	path := t.TempDir()
	d := open(t, filepath.Join(path, "volumes"))
	if err := os.WriteFile(filepath.Join(path, "x.raw"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".hidden", "a\x00b", "a b", strings.Repeat("x", 300)} {
		wantErr(t, d.Create(t.Context(), id, 512), ErrInvalid)
		wantErr(t, d.Delete(t.Context(), id), ErrInvalid)
		wantErr(t, d.Grow(t.Context(), id, 512), ErrInvalid)
		_, err := d.Stat(id)
		wantErr(t, err, ErrInvalid)
		_, err = d.Reader(id)
		wantErr(t, err, ErrInvalid)
		_, err = d.Lock(id)
		wantErr(t, err, ErrInvalid)
	}
	for _, size := range []int64{0, -1, math.MinInt64, math.MaxInt64} {
		wantErr(t, d.Create(t.Context(), "vol-1", size), ErrInvalid)
	}
	wantFiles(t, path, "volumes", "x.raw")
}

func TestReaderFindsData(t *testing.T) {
	d := open(t, t.TempDir())
	const size = 4<<20 + 100
	fill := func(ctx context.Context, w Sink) error {
		return errors.Join(writing("middle", 2<<20)(ctx, w), writing("end", size-3)(ctx, w))
	}
	if err := d.Fill(t.Context(), "vol-1", size, fill); err != nil {
		t.Fatal(err)
	}
	r, err := d.Reader("vol-1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if r.Size() != size {
		t.Errorf("size %d, want %d", r.Size(), size)
	}
	// What is found must hold all that isn't zero.
	got := make([]byte, size)
	found := int64(0)
	for off := int64(0); ; {
		start, end, err := r.NextData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || start < off || end <= start || end > size {
			t.Fatalf("next data after %d: %d to %d, %v", off, start, end, err)
		}
		if _, err := r.ReadAt(got[start:end], start); err != nil {
			t.Fatal(err)
		}
		found += end - start
		off = end
	}
	want, err := os.ReadFile(d.Path("vol-1"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("data outside of what NextData found: %v", err)
	}
	if found > 256<<10 {
		t.Errorf("%d bytes found, 9 were written: holes aren't used", found)
	}
	for _, off := range []int64{size, size + 1} {
		if _, _, err := r.NextData(off); !errors.Is(err, io.EOF) {
			t.Errorf("next data after %d: %v", off, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
		skip(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	d := open(t, path)
	fill := func(_ context.Context, w Sink) error {
		_, err := w.WriteAt(bytes.Repeat([]byte("x"), 4<<20), 0)
		return err
	}
	wantErr(t, d.Fill(t.Context(), "vol-1", 8<<20, fill), ErrNoSpace)
	wantFiles(t, path)
	if err := d.Fill(t.Context(), "vol-1", 8<<20, writing("fits", 0)); err != nil {
		t.Errorf("after the failure: %v", err)
	}
}

// skip says why, and is a failure where nothing may be skipped.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
