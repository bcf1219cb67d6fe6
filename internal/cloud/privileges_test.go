package cloud

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asRoot skips a test that only root can do.
func asRoot(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "needs root")
	}
	return &syscall.Credential{Uid: 61234, Gid: 61234} // nobody's
}

// openFolder is a folder that every user can reach.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stead-own-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		path := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Uid
}

func TestOwnFolder(t *testing.T) {
	cred := asRoot(t)
	dir := openFolder(t)
	fill(t, dir, "state.db", "volumes/vol-1.raw")
	outside := filepath.Join(filepath.Dir(dir), "outside")
	fill(t, outside, "secret")
	links := []string{filepath.Join(dir, "link"), filepath.Join(dir, "volumes", "link")}
	for i, to := range []string{outside, filepath.Join(outside, "secret")} {
		if err := os.Symlink(to, links[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := ownFolder(dir, cred); err != nil {
		t.Fatal(err)
	}
	for _, p := range append(links, dir, filepath.Join(dir, "state.db"), filepath.Join(dir, "volumes"), filepath.Join(dir, "volumes", "vol-1.raw")) {
		if got := ownerOf(t, p); got != cred.Uid {
			t.Errorf("%s belongs to %d", p, got)
		}
	}
	for _, p := range []string{outside, filepath.Join(outside, "secret")} {
		if got := ownerOf(t, p); got != 0 {
			t.Errorf("%s, outside of the folder, was given to %d", p, got)
		}
	}
}

// What the service user brings into its own folder is not given to it.
func TestOwnFolderOnce(t *testing.T) {
	cred := asRoot(t)
	dir := openFolder(t)
	fill(t, dir, "state.db")
	if err := ownFolder(dir, cred); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(filepath.Dir(dir), "secret")
	fill(t, filepath.Dir(dir), "secret")
	if err := os.Link(target, filepath.Join(dir, "mine")); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(dir, cred); err != nil {
		t.Fatal(err)
	}
	if got := ownerOf(t, target); got != 0 {
		t.Errorf("a file linked into the folder was given to %d", got)
	}
}

func TestOwnFolderRefuses(t *testing.T) {
	cred := asRoot(t)
	for name, c := range map[string]struct {
		files []string
		owner int
		want  string
	}{
		"another kind":   {[]string{"passwd"}, 0, "not a local cloud's data folder"},
		"another user's": {[]string{"state.db"}, 61235, "another user's"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := openFolder(t)
			fill(t, dir, c.files...)
			if err := os.Chown(dir, c.owner, -1); err != nil {
				t.Fatal(err)
			}
			err := ownFolder(dir, cred)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--data-dir") {
				t.Errorf("error %v, want %q and a remedy", err, c.want)
			}
			if got := ownerOf(t, filepath.Join(dir, c.files[0])); got != 0 {
				t.Errorf("%s was given to %d", c.files[0], got)
			}
		})
	}
}

// A data folder may be a link that root made, to where it would be given away
// by its own name.
func TestOwnFolderLinked(t *testing.T) {
	cred := asRoot(t)
	dir := openFolder(t)
	target := filepath.Join(filepath.Dir(dir), "target")
	fill(t, target, "passwd")
	if err := os.Symlink(target, dir); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(dir, cred); err == nil {
		t.Error("a folder of another kind was given away by a link")
	}
	if err := os.Rename(filepath.Join(target, "passwd"), filepath.Join(target, "state.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(dir, 61235, -1); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(dir, cred); err == nil {
		t.Error("another user's link was followed")
	}
	if err := errors.Join(os.Lchown(dir, 0, -1), ownFolder(dir, cred)); err != nil {
		t.Fatal(err)
	}
	if got := ownerOf(t, target); got != cred.Uid {
		t.Errorf("the folder behind root's link belongs to %d", got)
	}
}

func TestCloseFolder(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  fs.FileMode
	}{
		"empty":        {nil, 0o700},
		"ours":         {[]string{"state.db"}, 0o700},
		"another kind": {[]string{"notes"}, 0o755},
	} {
		t.Run(name, func(t *testing.T) {
			dir := openFolder(t)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			fill(t, dir, c.files...)
			if err := errors.Join(os.Chmod(dir, 0o755), closeFolder(dir)); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != c.want {
				t.Errorf("mode %v, %v; want %v", st.Mode(), err, c.want)
			}
		})
	}
}
