package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/machine"
)

// probeLimit is how long the look for a usable KVM may take.
const probeLimit = 5 * time.Second

// describeHost is the hardware and software that the figures belong to.
func describeHost(ctx context.Context) string {
	parts := []string{fmt.Sprintf("%d cores (%s)", runtime.NumCPU(), processor())}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		parts = append(parts, fmt.Sprintf("%d GiB", (info.Totalram*uint64(info.Unit)+1<<29)>>30))
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		parts = append(parts, "Linux "+unix.ByteSliceToString(name.Release[:]))
	}
	if out, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output(); err == nil {
		line, _, _ := bytes.Cut(out, []byte("\n"))
		version, _, _ := strings.Cut(strings.TrimPrefix(string(line), "QEMU emulator version "), " ")
		parts = append(parts, "QEMU "+version)
	}
	return strings.Join(append(parts, acceleration(), runtime.Version()), ", ")
}

// acceleration says whether machines run on KVM here.
func acceleration() string {
	if err := machine.Probe(probeLimit); err != nil {
		return "no usable KVM (TCG)"
	}
	return "KVM"
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer func() { _ = f.Close() }() // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// load is the load average of the last minute.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}
