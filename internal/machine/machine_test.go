package machine

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMachineIsAdoptedAndItsDeathSeen(t *testing.T) {
	spec := newSpec(t, "idle")
	m := start(t, spec)
	if _, err := NewRunner(Config{}, testLog(t)).Start(t.Context(), spec); !errors.Is(err, ErrRunning) {
		t.Errorf("second Start in the folder: %v, want ErrRunning", err)
	}
	sid, err := unix.Getsid(m.PID())
	if err != nil || sid != m.PID() {
		t.Errorf("session of process %d is %d (%v), want its own", m.PID(), sid, err)
	}
	if fds := inheritedFiles(t, m.PID()); len(fds) > 0 {
		t.Errorf("QEMU has our files open: %v", fds)
	}
	pid := m.PID()
	m = reopen(t, m)
	if m.PID() != pid || m.Accel() != AccelTCG || m.ID() != spec.ID {
		t.Errorf("adopted %s, process %d, %s; want %s, %d, tcg", m.ID(), m.PID(), m.Accel(), spec.ID, pid)
	}
	if st := waitState(t, m, Running); st.IOError != nil {
		t.Errorf("status %+v", st)
	}
	waitConsole(t, m, "READY idle")
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Done():
	case <-time.After(killTimeout):
		t.Fatal("the death of the process was not noticed")
	}
	if e := nextEvent(t, m); e != (ExitedEvent{}) {
		t.Errorf("event %#v, want ExitedEvent", e)
	}
	if st, err := m.Status(t.Context()); err != nil || st.State != Exited {
		t.Errorf("status %+v, %v; want exited", st, err)
	}
	if _, err := NewRunner(Config{}, testLog(t)).Open(t.Context(), spec.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Open of a dead machine: %v, want ErrNotRunning", err)
	}
	onlyFiles(t, spec.Dir, fileRecord, fileConsole, fileLog)
}

// inheritedFiles are files of this test that a process has open.
func inheritedFiles(t *testing.T, pid int) []string {
	t.Helper()
	links, err := filepath.Glob(filepath.Join("/proc", itoa(pid), "fd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.Contains(to, ".test") {
			found = append(found, to)
		}
	}
	return found
}

// onlyFiles fails when a folder holds anything else.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	allowed := strings.Join(want, " ")
	for _, e := range entries {
		if !strings.Contains(allowed, e.Name()) {
			t.Errorf("%s was left in the machine's folder", e.Name())
		}
	}
}

// A process that merely has the number in the pid file is not the machine.
func TestStalePIDFileIsNotAMachine(t *testing.T) {
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, filePID), []byte(itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRunner(Config{}, testLog(t)).Open(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Open: %v, want ErrNotRunning", err)
	}
	onlyFiles(t, dir)
}

func TestMachineShutsDownByPowerButton(t *testing.T) {
	m := start(t, newSpec(t, "idle", newDisk(t, 1, 1<<20)))
	waitConsole(t, m, "READY idle")
	if err := m.Shutdown(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Done():
	default:
		t.Error("the process is there after Shutdown")
	}
	if !strings.Contains(console(t, m), "guest: POWEROFF") {
		t.Error("the guest was not asked")
	}
	for e := range m.Events() {
		if e == (GuestShutdownEvent{}) {
			t.Error("a shutdown that was asked for was reported as the guest's own")
		}
	}
	onlyFiles(t, m.spec.Dir, fileRecord, fileConsole, fileLog)
}

func TestMachineShutsDownByForceAfterGrace(t *testing.T) {
	m := start(t, newSpec(t, "ignore"))
	waitConsole(t, m, "READY ignore")
	const grace = 300 * time.Millisecond
	began := time.Now()
	if err := m.Shutdown(t.Context(), grace); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("took %s, less than the grace", took)
	}
	if _, err := adopt(m.spec.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("the process is there after Shutdown: %v", err)
	}
}

func TestMachinePowersItselfOff(t *testing.T) {
	m := start(t, newSpec(t, "poweroff", newDisk(t, 1, 1<<20)))
	if e := nextEvent(t, m); e != (GuestShutdownEvent{}) {
		t.Fatalf("event %#v, want GuestShutdownEvent", e)
	}
	waitState(t, m, GuestShutdown)
	m = reopen(t, m)
	if e := nextEvent(t, m); e != (GuestShutdownEvent{}) {
		t.Errorf("event %#v after adoption, want GuestShutdownEvent", e)
	}
	if err := m.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for e := nextEvent(t, m); e != (GuestShutdownEvent{}); e = nextEvent(t, m) {
		// The firmware resets the machine again on its way.
		if e != (ResumedEvent{}) && e != (GuestResetEvent{}) {
			t.Errorf("event %#v after Reset", e)
		}
	}
	if n := strings.Count(console(t, m), "READY poweroff"); n != 2 {
		t.Errorf("the guest came up %d times, want 2", n)
	}
	if err := m.Shutdown(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

func TestMachineReboots(t *testing.T) {
	m := start(t, newSpec(t, "idle"))
	waitConsole(t, m, "READY idle")
	if err := m.Reboot(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "second boot", bootTime, func() bool { return strings.Count(console(t, m), "READY idle") == 2 })
	if !strings.Contains(console(t, m), "guest: POWEROFF") {
		t.Error("the guest was reset without being asked")
	}
}

func TestMachineBootsByUEFI(t *testing.T) {
	spec := newSpec(t, "idle", newDisk(t, 1, 1<<20))
	spec.UEFI, spec.MemoryMiB = true, 512 // the firmware itself takes more than 128
	if _, _, err := findFirmware(NewRunner(Config{}, testLog(t)).cfg.Firmware); err != nil {
		skip(t, "%v", err)
	}
	m := start(t, spec)
	waitConsole(t, m, "DISKS [vol00000000000000001]")
}

func TestMachineStartErrors(t *testing.T) {
	good := newSpec(t, "idle", newDisk(t, 1, 1<<20))
	for _, tc := range []struct {
		name  string
		spoil func(*Spec)
		want  string
	}{
		{"missing disk", func(s *Spec) { s.Disks[0].Path = "/nonexistent/disk.raw" }, "/nonexistent/disk.raw"},
		{"missing kernel", func(s *Spec) { s.Kernel = "/nonexistent/vmlinuz" }, "/nonexistent/vmlinuz"},
		{"long path", func(s *Spec) { s.Dir = "/tmp/" + strings.Repeat("x", 100) }, "the limit is 107"},
		{"nothing to boot", func(s *Spec) { s.Kernel, s.Initrd, s.Cmdline, s.Disks = "", "", "", nil }, "neither a kernel nor a disk"},
		{"long serial", func(s *Spec) { s.Disks[0].VolumeID = "vol-0123456789abcdef01" }, "at most 20"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := good
			spec.Disks = append([]Disk(nil), good.Disks...)
			tc.spoil(&spec)
			m, err := NewRunner(Config{}, testLog(t)).Start(t.Context(), spec)
			if err == nil {
				_ = m.Kill(t.Context())
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q, want %q in it", err, tc.want)
			}
			if pid, _ := lockHolder(good.Dir); pid != 0 {
				t.Errorf("process %d was left", pid)
			}
		})
	}
}

func TestUEFIWithoutFirmware(t *testing.T) {
	_, _, err := findFirmware([]string{t.TempDir()})
	if !errors.Is(err, ErrNoFirmware) {
		t.Errorf("%v, want ErrNoFirmware", err)
	}
}

// The network's side dials QEMU, and dials again after it was restarted.
func TestMachineTakesTheNetworkAgain(t *testing.T) {
	spec := newSpec(t, "idle")
	spec.NIC = &NIC{MAC: "02:00:00:00:00:01", MTU: 9001}
	m := start(t, spec)
	for range 2 {
		var conn net.Conn
		// EAGAIN until QEMU has noticed that the earlier one is gone.
		waitFor(t, "a connection", bootTime, func() bool {
			var err error
			conn, err = net.Dial("unix", m.NetSocket())
			return err == nil
		})
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, spec.Dir, fileRecord, fileConsole, fileLog)
}
