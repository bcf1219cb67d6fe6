package image

import (
	"context"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// lacking skips a test for want of something, or fails it where skips are
// failures.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// testCache is where tests keep a downloaded kernel from one run to the next.
func testCache(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("STEAD_TEST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return t.TempDir()
	}
	return filepath.Join(dir, "stead", "test")
}

// buildTiny builds an image for a test, and skips the test where this machine
// can't.
func buildTiny(t *testing.T, opts TinyOptions) *Tiny {
	t.Helper()
	if missing := MissingForTiny(); len(missing) > 0 {
		lacking(t, "%v", &MissingError{Missing: missing})
	}
	opts.Cache = testCache(t)
	tiny, err := BuildTiny(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return tiny
}

// command runs a program and returns what it prints.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := tool{name: name}.find()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// checkTiny looks into a built image with the file system's own tools.
func checkTiny(t *testing.T, tiny *Tiny) {
	t.Helper()
	command(t, "e2fsck", "-fn", tiny.Root)
	for path, want := range map[string]string{
		"/":                       "0755",
		"/tmp":                    "0755",
		"/sbin/dropbear":          "0755",
		"/bin/busybox":            "0755",
		"/etc/init.d/rcS":         "0755",
		"/etc/shadow":             "0600",
		"/root/.ssh":              "0700",
		"/home/ec2-user/.ssh":     "0700",
		"/etc/fstab":              "0644",
		"/lib/stead/disks.sh":     "0644",
		"/etc/acpi/PWRF/00000080": "0755",
	} {
		stat := command(t, "debugfs", "-R", "stat "+path, tiny.Root)
		if !strings.Contains(stat, "Mode:  "+want) {
			t.Errorf("%s hasn't mode %s:\n%s", path, want, stat)
		}
		if fields := strings.Join(strings.Fields(stat), " "); !strings.Contains(fields, "User: 0 Group: 0") {
			t.Errorf("%s isn't root's:\n%s", path, stat)
		}
	}
	for _, dir := range []string{"/etc/dropbear", "/root/.ssh", "/var/lib/stead"} {
		if list := command(t, "debugfs", "-R", "ls -p "+dir, tiny.Root); strings.Count(list, "/\n") > 2 {
			t.Errorf("%s isn't empty: no image may carry keys:\n%s", dir, list)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(tiny.Root, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; st.Size != tiny.Size || used > 16<<20 {
		t.Errorf("root disk: %d bytes, %d used; want %d and at most 16 MiB used", st.Size, used, tiny.Size)
	}
}

func TestBuildTiny(t *testing.T) {
	dir := t.TempDir()
	var steps []Progress
	tiny := buildTiny(t, TinyOptions{Dir: dir, Progress: func(p Progress) { steps = append(steps, p) }})
	checkTiny(t, tiny)
	if last := steps[len(steps)-1]; last.Done != last.Total {
		t.Errorf("the last progress report is %+v", last)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("the output folder holds %v, want the three files alone", entries)
	}
	// QEMU enters a kernel of this kind directly; all of Debian's are.
	if f, err := elf.Open(tiny.Kernel); err != nil {
		t.Errorf("the kernel isn't unpacked: %v", err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestBuildTinyUnprivileged runs TestBuildTiny as a user with no rights at all.
func TestBuildTinyUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("TestBuildTiny is run as an ordinary user already")
	}
	dir, err := os.MkdirTemp("/tmp", "stead-image-test-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := copyProgram(self, filepath.Join(dir, "image.test")); err != nil {
		t.Fatal(err)
	}
	warm := buildTiny(t, TinyOptions{Dir: t.TempDir()})
	cache := filepath.Join(dir, "cache")
	if _, err := os.Stat(filepath.Join(testCache(t), "kernel")); err == nil {
		if err := os.CopyFS(filepath.Join(cache, "kernel"), os.DirFS(filepath.Join(testCache(t), "kernel"))); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		return os.Lchown(path, nobody, nobody)
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "image.test"), "-test.run=^TestBuildTiny$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "STEAD_TEST_CACHE="+cache, "STEAD_STRICT=1", "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestBuildTiny") {
		t.Fatalf("build kernel %s as nobody: %v\n%s", warm.KernelVersion, err, out)
	}
}

func TestBuildTinyRefuses(t *testing.T) {
	if missing := MissingForTiny(); len(missing) > 0 {
		lacking(t, "%v", &MissingError{Missing: missing})
	}
	for name, opts := range map[string]TinyOptions{
		"no folder":      {},
		"too small":      {Dir: t.TempDir(), SizeBytes: 1 << 20},
		"not whole MiBs": {Dir: t.TempDir(), SizeBytes: 1<<30 + 512},
	} {
		if _, err := BuildTiny(t.Context(), opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := BuildTiny(ctx, TinyOptions{Dir: t.TempDir(), Cache: testCache(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled build says %v", err)
	}
}

// A build that fails must leave the image of an earlier one alone.
func TestFailedBuildKeepsOldImage(t *testing.T) {
	dir := t.TempDir()
	tiny := buildTiny(t, TinyOptions{Dir: dir})
	before, err := os.Stat(tiny.Root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = BuildTiny(ctx, TinyOptions{Dir: dir, Cache: testCache(t), Progress: func(p Progress) {
		if p.Step == "root disk" {
			cancel()
		}
	}})
	if err == nil {
		t.Fatal("a cancelled build succeeded")
	}
	after, err := os.Stat(tiny.Root)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the old image is gone: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v (%v), want the three files alone", entries, err)
	}
}

// The archive must be one that other people's cpio reads.
func TestCPIO(t *testing.T) {
	busybox, err := tool{name: "busybox"}.find()
	if err != nil {
		lacking(t, "busybox is not installed")
	}
	r, pw := io.Pipe()
	go func() {
		w := newCPIO(pw)
		w.File("a/b/odd", 0o640, []byte("12345"))
		w.File("a/empty", 0o755, nil)
		w.Symlink("b/odd", "a/link")
		pw.CloseWithError(w.Close())
	}()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "a/link")); err != nil || string(data) != "12345" {
		t.Errorf("a/link reads %q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "a/b/odd")); err != nil || info.Mode() != 0o640 {
		t.Errorf("a/b/odd: %v, %v", info, err)
	}
}
