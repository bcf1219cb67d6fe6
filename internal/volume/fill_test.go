package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A large volume comes out as it was written, by several at once, in pieces with
// and without the bounds of pages, from memory of any alignment; and the host's
// page cache isn't filled with it.
func TestFillOfALargeVolume(t *testing.T) {
	const piece = 512 << 10
	const size = keptInMemory + 128<<20 + 100 // its end is no page's
	d := open(t, t.TempDir())
	err := d.Fill(t.Context(), "vol-1", size, func(ctx context.Context, w Sink) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for at := int64(0); at < size; at += piece {
			group.Go(func() error {
				p := stamped(at, min(piece, size-at))
				cut := int64(0)
				if at/piece%16 == 3 {
					cut = 1000 // a page is written in two pieces
				}
				_, err := w.WriteAt(p[:cut], at)
				if err == nil && ctx.Err() == nil {
					_, err = w.WriteAt(p[cut:], at+cut)
				}
				return err
			})
		}
		return group.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(d.Path("vol-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Before it is read, which fills the cache.
	if kept := inMemory(t, f, size); direct(t, f) && kept > keptInMemory+32<<20 {
		t.Errorf("%d MiB are in the page cache, want %d", kept>>20, keptInMemory>>20)
	}
	got := make([]byte, piece)
	for at := int64(0); at < size; at += piece {
		want := stamped(at, min(piece, size-at))
		if _, err := f.ReadAt(got[:len(want)], at); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("what was written at %d is something else", at)
		}
	}
}

// stamped is size bytes whose every 4 KiB are at no other place of a volume. Now and
// then their memory has another alignment.
func stamped(at, size int64) []byte {
	p := make([]byte, size+1)
	if at>>19%16 == 5 {
		p = p[1:]
	}
	for n := int64(0); n+8 <= size; n += 4096 {
		binary.LittleEndian.PutUint64(p[n:], uint64(at+n)*0x9e3779b97f4a7c15)
	}
	return p[:size]
}

// direct tells if a file is on a filesystem that is known to write past the page
// cache when it is told to. Others, as tmpfs, only say so.
func direct(t *testing.T, f *os.File) bool {
	t.Helper()
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &on); err != nil {
		t.Fatal(err)
	}
	return on.Type == unix.EXT4_SUPER_MAGIC || on.Type == unix.XFS_SUPER_MAGIC
}

// inMemory is how much of a file the page cache has, bytes.
func inMemory(t *testing.T, f *os.File, size int) int64 {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	page := os.Getpagesize()
	there := make([]byte, (size+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&there[0]))); errno != 0 {
		t.Fatal(errno)
	}
	var pages int64
	for _, b := range there {
		pages += int64(b & 1)
	}
	return pages * int64(page)
}
