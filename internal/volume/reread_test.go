package volume

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident is how many pages of a file the host's memory holds.
func resident(t *testing.T, path string) (pages int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	there := make([]byte, (len(b)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&there[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range there {
		pages += int(p & 1)
	}
	return pages
}

func TestRereadForgetsWhatTheMemoryHolds(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("the folder of temporary files is in memory itself: set TMPDIR to one on a disk")
	}
	d := open(t, dir)
	const id = "vol-1"
	if err := d.Create(t.Context(), id, 1<<20); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 1<<20)
	f, err := os.OpenFile(d.Path(id), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveChanges(t.Context(), id, Changes{Base: "snap-1", Blocks: []byte{0}}); err != nil {
		t.Fatal(err)
	}
	if resident(t, d.Path(id)) == 0 {
		t.Fatal("what was just written isn't in the memory")
	}

	r, err := d.Reader(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Reread(t.Context(), id); !errors.Is(err, ErrInUse) {
		t.Errorf("while somebody reads it: %v, want ErrInUse", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Reread(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n := resident(t, d.Path(id)); n > 0 {
		t.Errorf("the memory still holds %d pages of it", n)
	}
	if _, err := d.Changes(id); !errors.Is(err, ErrNoChanges) {
		t.Errorf("changes: %v, want ErrNoChanges", err)
	}
	if got, err := os.ReadFile(d.Path(id)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("it holds something else (%v)", err)
	}
}
