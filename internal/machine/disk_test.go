package machine

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMachineHotPlug(t *testing.T) {
	root, data := newDisk(t, 1, 1<<20), newDisk(t, 2, 1<<20)
	m := start(t, newSpec(t, "idle", root))
	waitConsole(t, m, "DISKS [vol00000000000000001]")
	for round := 1; round <= 2; round++ {
		for range 2 { // the second time there is nothing to do
			if err := m.Attach(t.Context(), data); err != nil {
				t.Fatal(err)
			}
		}
		both := "DISKS [vol00000000000000001,vol00000000000000002]"
		waitFor(t, "the disk in the guest", bootTime, func() bool { return strings.Count(console(t, m), both) == round })
		if got, err := m.Disks(t.Context()); err != nil || fmt.Sprint(got) != fmt.Sprint([]string{root.VolumeID, data.VolumeID}) {
			t.Errorf("Disks: %v, %v", got, err)
		}
		for range 2 {
			if err := m.Detach(t.Context(), data.VolumeID, bootTime); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the disk gone from the guest", bootTime, func() bool {
			return strings.Count(console(t, m), "DISKS [vol00000000000000001]") == round+1
		})
		if nodes := nodeNames(t, m); len(nodes) != 2 {
			t.Errorf("nodes %v after the detachment, want the root's two", nodes)
		}
	}
	other := data
	other.Path = root.Path
	other.VolumeID = root.VolumeID
	other.Path += ".other"
	if err := m.Attach(t.Context(), other); err == nil || !strings.Contains(err.Error(), "attached already from") {
		t.Errorf("attaching another file as an attached volume: %v", err)
	}
	missing := Disk{VolumeID: "vol-00000000000000003", Path: "/nonexistent/disk.raw"}
	if err := m.Attach(t.Context(), missing); err == nil {
		t.Error("a missing file was attached")
	}
	if nodes := nodeNames(t, m); len(nodes) != 2 {
		t.Errorf("nodes %v after attachments that failed, want the root's two", nodes)
	}
	noGuestErrors(t, m)
}

// What an interrupted Attach or Detach leaves is completed by the next.
func TestMachineHalfAttachedIsCompleted(t *testing.T) {
	data := newDisk(t, 2, 1<<20)
	m := start(t, newSpec(t, "idle", newDisk(t, 1, 1<<20)))
	waitConsole(t, m, "READY idle")
	if err := m.execute(t.Context(), "blockdev-add", fileNode(data), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Attach(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	waitConsole(t, m, "vol00000000000000002")
	if err := m.unplugDevice(t.Context(), data.VolumeID, bootTime); err != nil {
		t.Fatal(err)
	}
	m = reopen(t, m)
	if err := m.Detach(t.Context(), data.VolumeID, bootTime); err != nil {
		t.Fatal(err)
	}
	if nodes := nodeNames(t, m); len(nodes) != 2 {
		t.Errorf("nodes %v, want the root's two", nodes)
	}
}

func TestMachineTakesNoMoreThanMaxDisks(t *testing.T) {
	var disks []Disk
	for n := range MaxDisks {
		disks = append(disks, newDisk(t, n+1, 1<<20))
	}
	m := start(t, newSpec(t, "idle", disks...))
	waitConsole(t, m, disks[MaxDisks-1].serial())
	err := m.Attach(t.Context(), newDisk(t, MaxDisks+1, 1<<20))
	if !errors.Is(err, ErrNoSlot) {
		t.Errorf("one more disk: %v, want ErrNoSlot", err)
	}
}

// A guest that isn't up can't let go of a disk; when it is, it does.
func TestMachineDetachBeforeTheGuestIsUp(t *testing.T) {
	data := newDisk(t, 2, 1<<20)
	m := start(t, newSpec(t, "idle", newDisk(t, 1, 1<<20), data))
	err := m.Detach(t.Context(), data.VolumeID, 100*time.Millisecond)
	if !errors.Is(err, ErrGuestHolds) {
		t.Fatalf("Detach from a guest that isn't up: %v, want ErrGuestHolds", err)
	}
	waitConsole(t, m, "READY idle")
	if err := m.Detach(t.Context(), data.VolumeID, bootTime); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the disk gone from the guest", bootTime, func() bool {
		text := console(t, m)
		return strings.HasSuffix(text, "DISKS [vol00000000000000001]\n")
	})
}

// A guest's fsync returns after fdatasync on the volume's file, and what it made
// durable is there after QEMU is killed.
func TestMachineFlushReachesTheFile(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		skip(t, "strace is not installed")
	}
	disk := newDisk(t, 1, 1<<20)
	m := start(t, newSpec(t, "fsync", disk))
	waitConsole(t, m, "guest: SYNCED 1\n")
	trace := filepath.Join(shortDir(t), "trace")
	tracer := exec.Command("strace", "-f", "-y", "-e", "trace=fdatasync,fsync,write,writev", "-o", trace, "-p", itoa(m.PID()))
	attached, err := tracer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	if !bufio.NewScanner(attached).Scan() {
		_ = tracer.Wait()
		skip(t, "strace can't attach to QEMU here")
	}
	// The first rounds may have begun before the tracer was there.
	var n int
	_, _ = fmt.Sscanf(lastLine(console(t, m), "guest: SYNCED "), "guest: SYNCED %d", &n)
	waitConsole(t, m, fmt.Sprintf("guest: SYNCED %d\n", n+3))
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = tracer.Wait() // ends with what it traces
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	checkFlush(t, string(b), disk.Path, n+2)
	data, err := os.ReadFile(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	var kept int
	if _, err := fmt.Sscanf(string(data[:16]), "durable %08d", &kept); err != nil || kept < n+3 {
		t.Errorf("the file holds %q after the kill, want what was durable at %d or later", data[:16], n+3)
	}
}

func lastLine(text, prefix string) string {
	at := strings.LastIndex(text, prefix)
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(text[at:], "\n")
	return line
}

// checkFlush looks, in a trace of QEMU, for a completed fdatasync of the file
// between what the guest writes to its serial port before and after its fsync.
func checkFlush(t *testing.T, trace, file string, round int) {
	t.Helper()
	var console strings.Builder
	before, after := fmt.Sprintf("SYNCING %d\r\n", round), fmt.Sprintf("SYNCED %d\r\n", round)
	begun, flushed := false, false
	pending := map[string]bool{} // threads within fdatasync of the file
	for line := range strings.Lines(trace) {
		thread, _, _ := strings.Cut(line, " ")
		switch {
		case strings.Contains(line, "serial.log") && strings.Contains(line, "write"):
			if _, quoted, ok := strings.Cut(line, `"`); ok {
				text, _, _ := strings.Cut(quoted, `"`)
				console.WriteString(strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(text))
			}
			begun = begun || strings.Contains(console.String(), before)
			if strings.Contains(console.String(), after) {
				if !flushed {
					t.Errorf("the guest's fsync returned without fdatasync on %s; trace:\n%s", file, trace)
				}
				return
			}
		case strings.Contains(line, "fdatasync(") && strings.Contains(line, file):
			pending[thread] = true
			fallthrough
		case pending[thread] && strings.Contains(line, "fdatasync"):
			flushed = flushed || begun && strings.Contains(line, "= 0")
		}
	}
	t.Errorf("the trace doesn't show the guest's round %d:\n%s", round, trace)
}

func TestMachineWaitsWhenTheHostDiskIsFull(t *testing.T) {
	dir := smallFilesystem(t, "4m")
	disk := Disk{VolumeID: "vol-00000000000000001", Path: filepath.Join(dir, "disk.raw")}
	if err := errors.Join(os.WriteFile(disk.Path, nil, 0o600), os.Truncate(disk.Path, 8<<20)); err != nil {
		t.Fatal(err)
	}
	m := start(t, newSpec(t, "fill", disk))
	want := IOError{VolumeID: disk.VolumeID, Reason: "No space left on device", NoSpace: true}
	if e := nextEvent(t, m); e != want {
		t.Fatalf("event %#v, want %#v", e, want)
	}
	if st := waitState(t, m, Paused); st.IOError == nil || *st.IOError != want {
		t.Errorf("status %+v, want the error", st)
	}
	m = reopen(t, m)
	if e, ok := nextEvent(t, m).(IOError); !ok || e.VolumeID != disk.VolumeID || !e.NoSpace {
		t.Errorf("event %#v after adoption, want the error", e)
	}
	if err := unix.Mount("stead", dir, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	if err := m.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := nextEvent(t, m); e != (ResumedEvent{}) {
		t.Errorf("event %#v, want ResumedEvent", e)
	}
	waitConsole(t, m, "guest: FILLED")
	noGuestErrors(t, m)
}

// wrapQEMU makes a program that does what script says when it is asked for KVM,
// and is QEMU otherwise.
func wrapQEMU(t *testing.T, script string) string {
	t.Helper()
	qemu, err := exec.LookPath(defaultQEMU)
	if err != nil {
		skip(t, "%s is not installed", defaultQEMU)
	}
	path := filepath.Join(shortDir(t), "qemu")
	code := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *'-accel kvm'*)\n%s\n;; esac\nexec %s \"$@\"\n", script, qemu)
	if err := os.WriteFile(path, []byte(code), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A machine that KVM fails runs under TCG, and later ones do so at once.
func TestMachineFallsBackToTCG(t *testing.T) {
	// A silent machine is a real QEMU with neither firmware's output nor kernel.
	silent := `for a; do last="$a"; case "$prev" in -pidfile) pid="$a";; -chardev) case "$a" in socket,*) qmp="$a";; esac;; esac; prev="$a"; done
exec qemu-system-x86_64 -machine none -accel tcg -nodefaults -display none -pidfile "$pid" -chardev "$qmp" -mon chardev=qmp,mode=control`
	for name, script := range map[string]string{
		"dies at its start": "echo 'error: failed to set MSR 0x10a to 0x0' >&2; exit 134",
		"is silent":         silent,
	} {
		t.Run(name, func(t *testing.T) {
			disk := newDisk(t, 1, 1<<20)
			disk.Since = &Since{Snapshot: "snap-1"}
			spec := newSpec(t, "idle", disk)
			spec.Accel = ""
			probes := 0
			r := NewRunner(Config{
				QEMU: wrapQEMU(t, script), FirstOutput: 300 * time.Millisecond,
				ProbeKVM: func() error { probes++; return nil },
			}, testLog(t))
			m, err := r.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { endMachine(t, spec.Dir) })
			if m.Accel() != AccelTCG {
				t.Errorf("runs under %s, want tcg", m.Accel())
			}
			waitConsole(t, m, "READY idle")
			// The first machine may have written to the disk.
			if nodes, err := m.nodes(t.Context()); err != nil || len(nodes[nodeFile(disk.VolumeID)].records()) != 0 {
				t.Errorf("records %v (%v), want none", nodes[nodeFile(disk.VolumeID)].records(), err)
			}
			if got := r.choose(AccelAuto); got != AccelTCG || probes != 1 {
				t.Errorf("the next machine would get %s after %d probes, want tcg after one", got, probes)
			}
		})
	}
}

// Forced to KVM, a machine that it fails is an error that says what QEMU said.
func TestMachineForcedToKVMDoesNotFallBack(t *testing.T) {
	spec := newSpec(t, "idle")
	spec.Accel = AccelKVM
	r := NewRunner(Config{QEMU: wrapQEMU(t, "echo 'failed to set MSR 0x10a' >&2; exit 134")}, testLog(t))
	m, err := r.Start(t.Context(), spec)
	if err == nil {
		_ = m.Kill(t.Context())
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), "failed to set MSR 0x10a") {
		t.Errorf("error %q doesn't say what QEMU said", err)
	}
}

func TestProbeAnswersInTime(t *testing.T) {
	const limit = 40 * time.Millisecond
	began := time.Now()
	err := Probe(limit)
	if took := time.Since(began); took > limit+2*time.Second {
		t.Errorf("took %s", took)
	}
	if err != nil && !errors.Is(err, ErrKVMUnusable) {
		t.Errorf("%v is not an ErrKVMUnusable", err)
	}
	t.Logf("KVM: %v", err)
}

// A disk that the guest doesn't let go of can be taken from it, and plugged in
// again once the guest has released what is left of it.
func TestMachineDiskIsTakenByForce(t *testing.T) {
	data := newDisk(t, 2, 1<<20)
	m := start(t, newSpec(t, "idle", newDisk(t, 1, 1<<20), data))
	if err := m.Detach(t.Context(), data.VolumeID, 100*time.Millisecond); !errors.Is(err, ErrGuestHolds) {
		t.Fatalf("Detach from a guest that isn't up: %v, want ErrGuestHolds", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := m.Seize(t.Context(), data.VolumeID); err != nil {
			t.Fatal(err)
		}
	}
	if disks, err := m.Disks(t.Context()); err != nil || len(disks) != 1 {
		t.Errorf("QEMU has %v open (%v), want the root alone", disks, err)
	}
	if err := m.Attach(t.Context(), data); !errors.Is(err, ErrGuestHolds) {
		t.Errorf("Attach of a disk that the guest holds: %v, want ErrGuestHolds", err)
	}
	waitConsole(t, m, "READY idle")
	waitFor(t, "the disk plugged in again", bootTime, func() bool {
		err := m.Attach(t.Context(), data)
		if err != nil && !errors.Is(err, ErrGuestHolds) {
			t.Fatal(err)
		}
		return err == nil
	})
	waitFor(t, "the disk in the guest", bootTime, func() bool {
		return strings.HasSuffix(console(t, m), "DISKS [vol00000000000000001,vol00000000000000002]\n")
	})
	noGuestErrors(t, m)
}
