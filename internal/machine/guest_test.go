package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is what a guest may take to come up; several may share two cores.
const bootTime = 60 * time.Second

// guestModules are loaded by testdata/guest in this order: each needs symbols of
// those before it.
var guestModules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk",
	"drivers/input/evdev", "drivers/acpi/button",
}

// skip says why a test can't run here; with STEAD_STRICT=1 that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatalf("STEAD_STRICT=1 and would skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// guest is a kernel and an initramfs that the tests boot.
type guest struct {
	kernel, initrd string
	err            error
}

// sharedGuest builds the guest once for all tests.
var sharedGuest = sync.OnceValue(func() guest {
	kernel, modules, err := findKernel()
	if err != nil {
		return guest{err: err}
	}
	dir, err := os.MkdirTemp("", "stead-guest-")
	if err != nil {
		return guest{err: err}
	}
	g := guest{kernel: kernel, initrd: filepath.Join(dir, "initrd")}
	g.err = buildInitrd(g.initrd, modules)
	return g
})

func TestMain(m *testing.M) {
	code := m.Run()
	if g := sharedGuestIfBuilt(); g != "" {
		_ = os.RemoveAll(filepath.Dir(g))
	}
	os.Exit(code)
}

// guestUsed is set when a test asked for the guest, so that TestMain doesn't
// build one only to remove it.
var guestUsed bool

func sharedGuestIfBuilt() string {
	if !guestUsed {
		return ""
	}
	return sharedGuest().initrd
}

// needGuest skips the test where no machine can be booted.
func needGuest(t *testing.T) guest {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine; not with -short")
	}
	if _, err := exec.LookPath(defaultQEMU); err != nil {
		skip(t, "%s is not installed: apt-get install qemu-system-x86", defaultQEMU)
	}
	guestUsed = true
	g := sharedGuest()
	if g.err != nil {
		skip(t, "no guest to boot: %v", g.err)
	}
	return g
}

// findKernel looks for a Debian cloud kernel and its modules: the one that
// STEAD_TEST_KERNEL names (…/boot/vmlinuz-VERSION), one fetched earlier, or one
// from the distribution's archive.
func findKernel() (kernel, modules string, err error) {
	pattern := os.Getenv("STEAD_TEST_KERNEL")
	if pattern == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", "", err
		}
		dir := filepath.Join(cache, "stead", "test-kernel")
		pattern = filepath.Join(dir, "boot", "vmlinuz-*")
		if found, _ := filepath.Glob(pattern); len(found) == 0 {
			if err := fetchKernel(dir); err != nil {
				return "", "", err
			}
		}
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", "", fmt.Errorf("no kernel at %s", pattern)
	}
	kernel = found[len(found)-1]
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	return kernel, filepath.Join(filepath.Dir(kernel), "..", "lib", "modules", version, "kernel"), nil
}

// fetchKernel unpacks the distribution's cloud kernel, without installing it.
func fetchKernel(dir string) error {
	names, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64").Output()
	if err != nil {
		return fmt.Errorf("find the cloud kernel's package (set STEAD_TEST_KERNEL instead): %w", err)
	}
	_, name, _ := strings.Cut(string(names), "Depends: ")
	name, _, _ = strings.Cut(name, "\n")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	script := `apt-get download "$1" && dpkg-deb -x ./*.deb root`
	cmd := exec.Command("sh", "-ec", script, "sh", name)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch %s: %w: %s", name, err, out)
	}
	if err := os.Rename(filepath.Join(tmp, "root"), dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// buildInitrd packs testdata/guest and the modules into an initramfs.
func buildInitrd(path, modules string) error {
	program := filepath.Join(filepath.Dir(path), "init")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest: %w: %s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	cpioEntry(&archive, "init", 0o100755, code)
	cpioEntry(&archive, "dev", 0o040755, nil)
	cpioEntry(&archive, "modules", 0o040755, nil)
	var order []string
	for _, m := range guestModules {
		b, err := os.ReadFile(filepath.Join(modules, m+".ko"))
		if errors.Is(err, os.ErrNotExist) {
			b, err = exec.Command("xz", "-dc", filepath.Join(modules, m+".ko.xz")).Output()
		}
		if err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
		name := filepath.Base(m) + ".ko"
		order = append(order, name)
		cpioEntry(&archive, "modules/"+name, 0o100644, b)
	}
	cpioEntry(&archive, "modules/order", 0o100644, []byte(strings.Join(order, "\n")))
	cpioEntry(&archive, "TRAILER!!!", 0, nil)
	return os.WriteFile(path, archive.Bytes(), 0o600)
}

// cpioEntry appends a file in cpio's newc format, which the kernel unpacks.
func cpioEntry(w *bytes.Buffer, name string, mode int, data []byte) {
	fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		w.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	w.WriteString(name + "\x00")
	pad := func() {
		for w.Len()%4 != 0 {
			w.WriteByte(0)
		}
	}
	pad()
	w.Write(data)
	pad()
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newSpec describes a machine in a short temporary folder that does what do says.
func newSpec(t *testing.T, do string, disks ...Disk) Spec {
	t.Helper()
	g := needGuest(t)
	return Spec{
		ID: "i-0123456789abcdef0", Dir: shortDir(t), CPUs: 1, MemoryMiB: 128,
		Kernel: g.kernel, Initrd: g.initrd, Cmdline: "console=ttyS0 panic=-1 quiet do=" + do,
		Disks: disks, Accel: AccelTCG,
		Product: "t3.micro", UUID: "ec2a1b2c-0000-4000-8000-000000000001", SerialNumber: "ec2a1b2c-0000-4000-8000-000000000001",
	}
}

// shortDir is a temporary folder whose name leaves room for socket paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newDisk makes a blank volume in a folder of its own.
func newDisk(t *testing.T, n int, size int64) Disk {
	t.Helper()
	d := Disk{VolumeID: fmt.Sprintf("vol-%017x", n)}
	d.Path = filepath.Join(shortDir(t), d.VolumeID+".raw")
	if err := os.WriteFile(d.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.Path, size); err != nil {
		t.Fatal(err)
	}
	return d
}

// start starts a machine and sees to its end.
func start(t *testing.T, spec Spec) *Machine {
	t.Helper()
	r := NewRunner(Config{}, testLog(t))
	m, err := r.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endMachine(t, spec.Dir) })
	return m
}

// endMachine kills whatever runs in a machine's folder.
func endMachine(t *testing.T, dir string) {
	t.Helper()
	p, err := adopt(dir)
	if errors.Is(err, ErrNotRunning) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	p.released.Store(true)
	go p.supervise(dir)
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := p.kill(ctx); err != nil {
		t.Error(err)
	}
}

// reopen lets go of a machine and adopts it, as a restart of the daemon does.
func reopen(t *testing.T, m *Machine) *Machine {
	t.Helper()
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := NewRunner(Config{}, testLog(t)).Open(t.Context(), m.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// waitFor polls a condition until it holds.
func waitFor(t *testing.T, what string, limit time.Duration, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// waitConsole waits until the guest has written a text.
func waitConsole(t *testing.T, m *Machine, text string) {
	t.Helper()
	deadline := time.Now().Add(bootTime)
	for !strings.Contains(console(t, m), text) {
		if time.Now().After(deadline) {
			t.Fatalf("guest has not written %q but:\n%.4000s\nQEMU: %s", text, console(t, m), tail(filepath.Join(m.spec.Dir, fileLog)))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func console(t *testing.T, m *Machine) string {
	t.Helper()
	b, err := os.ReadFile(m.ConsoleLog())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// noGuestErrors fails the test when the guest saw an error of any kind.
func noGuestErrors(t *testing.T, m *Machine) {
	t.Helper()
	lines := strings.Split(console(t, m), "\n")
	for i, line := range lines {
		if strings.Contains(line, "guest: ERROR") || strings.Contains(line, "I/O error") {
			t.Errorf("guest saw an error:\n%s", strings.Join(lines[max(0, i-5):min(len(lines), i+3)], "\n"))
			return
		}
	}
}

// nextEvent waits for an event of the machine.
func nextEvent(t *testing.T, m *Machine) Event {
	t.Helper()
	select {
	case e, ok := <-m.Events():
		if !ok {
			t.Fatal("events ended")
		}
		return e
	case <-time.After(bootTime):
		t.Fatal("no event")
		return nil
	}
}

// waitState waits until the machine is in a state.
func waitState(t *testing.T, m *Machine, want State) Status {
	t.Helper()
	var st Status
	waitFor(t, "state "+want.String(), bootTime, func() bool {
		var err error
		if st, err = m.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		return st.State == want
	})
	return st
}

// nodeNames lists QEMU's block nodes that are ours.
func nodeNames(t *testing.T, m *Machine) []string {
	t.Helper()
	nodes, err := m.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range nodes {
		if volumeOfNode(name) != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func itoa(n int) string { return fmt.Sprint(n) }
