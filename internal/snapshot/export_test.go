package snapshot

import (
	"os"
	"testing"
)

// Scratch is a folder in memory where the system has one, for tests that make
// thousands of syncs and learn nothing from waiting for a disk.
func Scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stead-snapshot-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
