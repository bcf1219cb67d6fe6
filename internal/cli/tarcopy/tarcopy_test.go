package tarcopy_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/cli/tarcopy"
)

// shells are those that servers have, with the tar that belongs to them.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	list := map[string][]string{"gnu": {"PATH=" + os.Getenv("PATH")}}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return list
	}
	bin := t.TempDir()
	for _, name := range strings.Fields("sh tar mktemp mv rm dirname basename chmod readlink sync") {
		if err := os.Symlink(busybox, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	list["busybox"] = []string{"PATH=" + bin}
	return list
}

func script(env []string, dir, text string, stdin []byte, args ...string) (stdout []byte, err error) {
	sh := "/bin/sh"
	if strings.Contains(env[0], "TestCopy") {
		sh = filepath.Join(strings.TrimPrefix(env[0], "PATH="), "sh")
	}
	cmd := exec.Command(sh, append([]string{"-c", text, "sh"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, env, bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err = cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout, err
}

// tree makes files of all kinds.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	long := strings.Repeat("long", 40)
	for name, content := range map[string]string{
		"a": "alpha", "-dash": "d", ".hidden": "h", "with space": "s", "grüße": "g",
		"sub/deep/" + long: long, "sub/run.sh": "#!/bin/sh\n", "empty": "",
	} {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(content), 0o640))
	}
	check(t, os.Chmod(filepath.Join(dir, "sub/run.sh"), 0o755))
	check(t, os.Symlink("../a", filepath.Join(dir, "sub/link")))
	check(t, os.Symlink("/nowhere/at/all", filepath.Join(dir, "sub/broken")))
	old := time.Unix(1_300_000_000, 0)
	check(t, os.Chtimes(filepath.Join(dir, "a"), old, old))
	check(t, os.Chmod(filepath.Join(dir, "sub"), 0o750))
	return dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// list describes a folder's content, for comparing.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		check(t, err)
		info, err := d.Info()
		check(t, err)
		rel, _ := filepath.Rel(dir, path)
		content, _ := os.Readlink(path)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			check(t, err)
			content = string(data)
		}
		if rel != "." {
			fmt.Fprintf(&out, "%s %s %q\n", rel, info.Mode(), content)
		}
		return nil
	}))
	return out.String()
}

func pack(t *testing.T, recursive bool, sources ...string) []byte {
	t.Helper()
	var archive bytes.Buffer
	_, err := tarcopy.Pack(&archive, sources, recursive, nil)
	check(t, err)
	return archive.Bytes()
}

func TestCopyThere(t *testing.T) {
	src := tree(t)
	for name, env := range shells(t) {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			send := func(archive []byte, dst string, several string) error {
				_, err := script(env, home, tarcopy.ReceiveScript, archive, dst, several)
				return err
			}
			folder := pack(t, true, src)
			check(t, send(folder, "new", "0"))
			if got := list(t, filepath.Join(home, "new")); got != list(t, src) {
				t.Errorf("a new folder has\n%s, want\n%s", got, list(t, src))
			}
			info, err := os.Stat(filepath.Join(home, "new", "a"))
			check(t, err)
			if info.ModTime().Unix() != 1_300_000_000 {
				t.Errorf("time is %v", info.ModTime())
			}
			// Into a folder that is there, and a second time over itself.
			for range 2 {
				check(t, send(folder, ".", "0"))
				if got := list(t, filepath.Join(home, "src")); got != list(t, src) {
					t.Errorf("merged: %s", got)
				}
			}
			check(t, os.WriteFile(filepath.Join(home, "src", "own"), nil, 0o600))
			check(t, send(folder, "", "0"))
			if _, err := os.Stat(filepath.Join(home, "src", "own")); err != nil {
				t.Errorf("a file that was there: %v", err)
			}
			// Files.
			check(t, send(pack(t, false, filepath.Join(src, "a")), "-b", "0"))
			check(t, send(pack(t, false, filepath.Join(src, "a"), filepath.Join(src, "-dash")), "new/sub/", "1"))
			for _, file := range []string{"-b", "new/sub/a", "new/sub/-dash"} {
				if _, err := os.Stat(filepath.Join(home, file)); err != nil {
					t.Error(err)
				}
			}
			for _, bad := range []struct{ dst, several string }{{"none/", "0"}, {"none", "1"}, {"none/x", "0"}, {"new/a/b", "0"}} {
				if err := send(pack(t, false, filepath.Join(src, "a")), bad.dst, bad.several); err == nil || !strings.Contains(err.Error(), "no such folder") {
					t.Errorf("to %s: %v", bad.dst, err)
				}
			}
			if err := send(pack(t, false, filepath.Join(src, "a")), "new/../src", "0"); err != nil {
				t.Error(err)
			}
			check(t, os.Mkdir(filepath.Join(home, "new", "empty2"), 0o755))
			leftovers(t, home)
		})
	}
}

func leftovers(t *testing.T, dir string) {
	t.Helper()
	if strings.Contains(list(t, dir), ".stead-cp") {
		t.Errorf("left over:\n%s", list(t, dir))
	}
}

// A copy that is cut off anywhere changes nothing.
func TestCopyThereCutOff(t *testing.T) {
	src := tree(t)
	archive := pack(t, true, src)
	for name, env := range shells(t) {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			check(t, os.WriteFile(filepath.Join(home, "src"), []byte("before"), 0o600))
			for cut := 0; cut < len(archive)-1024; cut += 512 {
				if _, err := script(env, home, tarcopy.ReceiveScript, archive[:cut], "src", "0"); err == nil {
					// The mark is the last entry: from there on all has come.
					if cut < len(archive)-2048 {
						t.Fatalf("cut off at %d of %d: no error", cut, len(archive))
					}
				} else if got, _ := os.ReadFile(filepath.Join(home, "src")); string(got) != "before" {
					t.Fatalf("cut off at %d: the file is %q", cut, got)
				}
			}
			leftovers(t, home)
		})
	}
}

func TestCopyHere(t *testing.T) {
	src := tree(t)
	for name, env := range shells(t) {
		t.Run(name, func(t *testing.T) {
			here := t.TempDir()
			fetch := func(path, root, target string) error {
				archive, err := script(env, src, tarcopy.SendScript, nil, "1", path, root)
				if err != nil {
					return err
				}
				in, err := tarcopy.Unpack(bytes.NewReader(archive), here, nil)
				if err != nil {
					return err
				}
				return in.Place(filepath.Join(here, target))
			}
			check(t, fetch(src, "", "all"))
			if got := list(t, filepath.Join(here, "all")); got != list(t, src) {
				t.Errorf("got\n%s, want\n%s", got, list(t, src))
			}
			check(t, fetch(".", "", "all")) // over itself
			check(t, fetch("sub/link", "", "file"))
			if data, err := os.ReadFile(filepath.Join(here, "file")); err != nil || string(data) != "alpha" {
				t.Errorf("a link that is named: %q, %v", data, err)
			}
			check(t, fetch("-dash", "", "all/sub/deep/dash"))
			if err := fetch("none", "", "x"); err == nil || !strings.Contains(err.Error(), "none: there is no such") {
				t.Errorf("a file that isn't there: %v", err)
			}
			if _, err := script(env, src, tarcopy.SendScript, nil, "0", "sub", ""); err == nil || !strings.Contains(err.Error(), "add -r") {
				t.Errorf("a folder without -r: %v", err)
			}
			// Absolute links on another system's disk stay on that disk.
			other := t.TempDir()
			check(t, os.MkdirAll(filepath.Join(other, "real"), 0o755))
			check(t, os.WriteFile(filepath.Join(other, "real/file"), []byte("theirs"), 0o644))
			check(t, os.Symlink("/real", filepath.Join(other, "alias")))
			check(t, fetch("/alias/file", other, "theirs"))
			if data, err := os.ReadFile(filepath.Join(here, "theirs")); err != nil || string(data) != "theirs" {
				t.Errorf("through an absolute link: %q, %v", data, err)
			}
			leftovers(t, here)
		})
	}
}

// An archive from a server that means ill stays in its folder.
func TestUnpackStaysInside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"parent":       {{Typeflag: tar.TypeReg, Name: "../evil"}},
		"absolute":     {{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeReg, Name: "/tmp/evil"}},
		"through link": {{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeSymlink, Name: "./l", Linkname: "../.."}, {Typeflag: tar.TypeReg, Name: "./l/evil"}},
		"hard link":    {{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeLink, Name: "./l", Linkname: "../../secret"}},
		"nothing":      {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600))
			check(t, os.Mkdir(filepath.Join(dir, "here"), 0o755))
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for _, h := range entries {
				check(t, w.WriteHeader(&h))
			}
			check(t, w.Close())
			if in, err := tarcopy.Unpack(&archive, filepath.Join(dir, "here"), nil); err == nil {
				in.Discard()
				t.Error("it was taken")
			}
			if got := list(t, dir); strings.Contains(got, "evil") || strings.Count(got, "\n") != 2 {
				t.Errorf("left:\n%s", got)
			}
		})
	}
}

func TestPackFails(t *testing.T) {
	src := tree(t)
	var sink bytes.Buffer
	if _, err := tarcopy.Pack(&sink, []string{src}, false, nil); !errors.Is(err, tarcopy.ErrFolder) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := tarcopy.Pack(&sink, []string{filepath.Join(src, "none")}, true, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if got := tarcopy.Size([]string{filepath.Join(src, "a"), filepath.Join(src, "sub/run.sh")}); got != 15 {
		t.Errorf("size %d", got)
	}
}

func TestTarget(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, tt := range []struct {
		dest, name string
		several    bool
		want       string
	}{
		{dir, "/srv/x", false, dir + "/x"},
		{dir, "x/", true, dir + "/x"},
		{dir, ".", false, dir},
		{dir, "a/..", false, dir},
		{dir, "", false, dir},
		{dir, "/", false, dir},
		{dir + "/new", "x", false, dir + "/new"},
		{dir + "/file", "x", false, dir + "/file"},
		{dir + "/new", "x", true, ""},
		{dir + "/new/", "x", false, ""},
	} {
		got, err := tarcopy.Target(tt.dest, tt.name, tt.several)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s to %s: %q, %v", tt.name, tt.dest, got, err)
		}
	}
}
