package volume

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filesystems have reflinks, and how they are made.
var filesystems = map[string][]string{
	"xfs":   {"mkfs.xfs", "-q", "-m", "reflink=1"},
	"btrfs": {"mkfs.btrfs", "-q"},
}

// mounted makes a filesystem of size bytes in a sparse file and mounts it.
func mounted(t *testing.T, kind string, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "only root can mount")
	}
	dir := fastDir(t) // synced all the time
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	mkfs := slices.Concat(filesystems[kind], []string{image})
	if out, err := exec.CommandContext(t.Context(), mkfs[0], mkfs[1:]...).CombinedOutput(); err != nil {
		skip(t, "making "+kind+": "+err.Error()+": "+string(out)+" (scripts/setup test installs what makes it)")
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		skip(t, "mounting "+kind+": "+err.Error()+": "+string(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return at
}

// onReflinks runs a test on each filesystem that has reflinks, in a folder on it.
func onReflinks(t *testing.T, size int64, test func(t *testing.T, path string)) {
	t.Helper()
	for kind := range filesystems {
		t.Run(kind, func(t *testing.T) { test(t, filepath.Join(mounted(t, kind, size), "volumes")) })
	}
}

// onOneReflink runs a test in a folder that has reflinks: the tests' own where it
// has, else on an XFS.
func onOneReflink(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	test(t, filepath.Join(mounted(t, "xfs", 320<<20), "volumes"))
}

// wantShared fails the test unless the files' first blocks are the same on the
// disk.
func wantShared(t *testing.T, paths ...string) {
	t.Helper()
	first := firstExtent(t, paths[0])
	for _, p := range paths[1:] {
		if at := firstExtent(t, p); at != first || at == 0 {
			t.Errorf("%s begins at %d on the disk, %s at %d", paths[0], first, p, at)
		}
	}
}

// firstExtent is where a file's first block lies, by FIEMAP of linux/fiemap.h.
func firstExtent(t *testing.T, path string) uint64 {
	t.Helper()
	const fiemap, flagSync = 0xc020660b, 1
	type extent struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
	req := struct {
		start, length        uint64
		flags, mapped, count uint32
		_                    uint32
		extents              [1]extent
	}{length: 1 << 20, flags: flagSync, count: 1}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatalf("extents of %s: %v", path, errno)
	}
	return req.extents[0].physical
}

func wantSparse(t *testing.T, d *Dir, id string, most int64) {
	t.Helper()
	info, err := d.Stat(id)
	if err != nil {
		t.Fatal(err)
	}
	if info.Allocated > most {
		t.Errorf("%s takes %d bytes, want %d at most", id, info.Allocated, most)
	}
}

// fillUp gives a file of holes blocks until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for at, chunk := int64(0), int64(64<<20); chunk >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, at, chunk); err != nil {
			chunk /= 2
			continue
		}
		if at += chunk; at >= info.Size() {
			t.Fatal("the file is too small to fill the disk")
		}
	}
}
