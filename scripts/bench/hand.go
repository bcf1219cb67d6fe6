package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

const (
	bootLimit    = 3 * time.Minute
	poweroffTime = time.Minute
	// bannerLimit bounds one try for a guest's ssh banner. QEMU's user network
	// accepts connections before the guest does, so a try that hangs is given
	// up and begun anew.
	bannerLimit = 300 * time.Millisecond
)

// qemuArgs is QEMU's plain command line, as one would type it, for a guest
// like one that stead runs: same accelerator, processor, memory and kernel.
type qemuArgs struct {
	machine, accel, cpu, smp, memory string
	kernel, initrd, cmdline          string
}

// likeMachine reads from a running machine of stead's what a guest started by
// hand has in common with it.
func likeMachine(pidFile string) (qemuArgs, error) {
	var a qemuArgs
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return a, err
	}
	raw, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline"))
	if err != nil {
		return a, err
	}
	into := map[string]*string{
		"-machine": &a.machine, "-accel": &a.accel, "-cpu": &a.cpu, "-smp": &a.smp, "-m": &a.memory,
		"-kernel": &a.kernel, "-initrd": &a.initrd, "-append": &a.cmdline,
	}
	words := strings.Split(string(bytes.TrimRight(raw, "\x00")), "\x00")
	for i := range len(words) - 1 {
		if field := into[words[i]]; field != nil {
			*field = words[i+1]
		}
	}
	if a.kernel == "" || a.memory == "" {
		return a, fmt.Errorf("no command line of QEMU: %q", words)
	}
	return a, nil
}

// byHand is a QEMU that was started by hand.
type byHand struct {
	cmd     *exec.Cmd
	dir     string
	address string // where the guest's ssh is
	stderr  bytes.Buffer
	started time.Time
}

// start boots a guest from raw files, its root first.
func (a qemuArgs) start(ctx context.Context, dir string, disks ...string) (*byHand, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	h := &byHand{dir: dir, address: address}
	args := []string{
		"-nodefaults", "-display", "none", "-machine", a.machine, "-accel", a.accel, "-cpu", a.cpu, "-smp", a.smp, "-m", a.memory,
		"-kernel", a.kernel, "-initrd", a.initrd, "-append", a.cmdline,
		"-serial", "file:" + h.serial(), "-qmp", "unix:" + h.socket() + ",server=on,wait=off",
		"-netdev", "user,id=net,restrict=on,hostfwd=tcp:" + address + "-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng",
	}
	for _, disk := range disks {
		args = append(args, "-drive", "if=virtio,format=raw,discard=unmap,file="+disk)
	}
	if err := os.RemoveAll(h.serial()); err != nil {
		return nil, err
	}
	h.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	h.cmd.Stderr = &h.stderr
	h.started = time.Now()
	return h, h.cmd.Start()
}

func (h *byHand) serial() string { return filepath.Join(h.dir, "serial.log") }
func (h *byHand) socket() string { return filepath.Join(h.dir, "qmp.sock") }

// waitSSH waits for the banner and gives the time since the start. It first
// waits for the guest to say that it is ready: a connection during the boot
// would slow down QEMU's user network, and with it what stead is held against.
func (h *byHand) waitSSH(ctx context.Context) (time.Duration, error) {
	err := until(ctx, bootLimit, "the guest's boot", func() (bool, error) {
		log, err := os.ReadFile(h.serial())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		return bytes.Contains(log, []byte("STEAD ready")), nil
	})
	if err == nil {
		err = until(ctx, bootLimit, "the guest's ssh", func() (bool, error) { return banner(h.address), nil })
	}
	if err != nil {
		log, _ := os.ReadFile(h.serial())
		return 0, fmt.Errorf("QEMU by hand: %w: %s%s", err, h.stderr.Bytes(), log)
	}
	return time.Since(h.started), nil
}

func banner(address string) bool {
	conn, err := net.DialTimeout("tcp", address, bannerLimit)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }() // only read
	if err := conn.SetDeadline(time.Now().Add(bannerLimit)); err != nil {
		return false
	}
	var start [4]byte
	_, err = conn.Read(start[:])
	return err == nil && string(start[:]) == "SSH-"
}

// powerOff shuts the guest down by its power button and gives the time that it
// took.
func (h *byHand) powerOff(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), poweroffTime)
	defer cancel()
	start := time.Now()
	control, err := qmp.Dial(ctx, h.socket(), nil)
	if err != nil {
		return 0, errors.Join(err, h.kill())
	}
	defer func() { _ = control.Close() }() // QEMU is gone
	if err := control.Execute(ctx, "system_powerdown", nil, nil); err != nil {
		return 0, errors.Join(err, h.kill())
	}
	select {
	case <-control.Done():
		return time.Since(start), h.cmd.Wait()
	case <-ctx.Done():
		return 0, errors.Join(fmt.Errorf("the guest doesn't power off: %w", ctx.Err()), h.kill())
	}
}

func (h *byHand) kill() error {
	err := h.cmd.Process.Kill()
	_ = h.cmd.Wait() // it was killed
	return err
}

// ssh runs a command in the guest with stead's own key.
func (h *byHand) ssh(ctx context.Context, key, command string) (string, error) {
	host, port, err := net.SplitHostPort(h.address)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "ssh", "-i", key, "-p", port, "-F", "none", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@"+host, command)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ssh: %w: %s", err, stderr.Bytes())
	}
	return stdout.String(), nil
}
