package snapshot_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

// TestFullDisk fills a small filesystem while a snapshot is made.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		skip(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	path := filepath.Join(dir, "store")
	store := openStore(t, path)
	t.Cleanup(func() { _ = store.Close() })
	small := memory(noise(3 << 20))
	snap(t, store, "small", small)

	_, err := store.Create(t.Context(), "large", memory(noise(16<<20)), nil, nil)
	if !errors.Is(err, snapshot.ErrNoSpace) {
		t.Fatalf("error %v, want ErrNoSpace", err)
	}
	if left := files(t, filepath.Join(path, "tmp")); len(left) != 0 {
		t.Errorf("%d temporary files still take the space", len(left))
	}
	wantRestored(t, store, "small", small)
	if report := wantClean(t, store); report.Snapshots != 1 {
		t.Errorf("%d snapshots, want 1", report.Snapshots)
	}
	collect(t, store)
	fits := slices.Concat(noise(3 << 20)[:2<<20], bytesOf(7, 1<<20))
	snap(t, store, "fits", memory(fits))
	wantRestored(t, store, "fits", fits)
}

func noise(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func bytesOf(v byte, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = v
	}
	return b
}

// skip says why, and is a failure where nothing may be skipped.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
