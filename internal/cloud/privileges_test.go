package cloud

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Whatever links a data folder holds, root gives away the folder alone.
func TestOwnFolderFollowsNoLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	parent := t.TempDir()
	for _, p := range []string{filepath.Dir(parent), parent} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(parent, "outside")
	dir := filepath.Join(parent, "data")
	for _, p := range []string{filepath.Join(outside, "sub"), filepath.Join(dir, "volumes")} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{
		filepath.Join(dir, "relative"):            "../outside",
		filepath.Join(dir, "volumes", "absolute"): outside,
		filepath.Join(parent, "linked"):           outside,
	} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	cred := &syscall.Credential{Uid: 54321, Gid: 54321}
	for _, p := range []string{dir, filepath.Join(parent, "linked")} {
		if err := ownFolder(p, cred); err != nil {
			t.Fatal(err)
		}
	}
	owned := func(path string) bool {
		t.Helper()
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return belongsTo(st, cred)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !owned(path) {
			t.Errorf("%s was not given away", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{outside, filepath.Join(outside, "sub")} {
		if owned(p) {
			t.Errorf("%s was given away", p)
		}
	}
}
