package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// step is one of the things whose time is taken.
type step string

const (
	stepFull    step = "full"
	stepRestore step = "restore"
	stepBlocks  step = "blocks" // incremental, whole blocks changed
	stepPages   step = "pages"  // incremental, scattered pages changed
	stepCheck   step = "check"
	stepInit    step = "init" // not measured
)

// command is a program to run.
type command struct {
	args []string
	env  []string // added to the environment
	dir  string
	in   []byte
	sync string // a file that is to be on the disk when the time is taken
}

// usage is what a run took.
type usage struct {
	wall, cpu float64 // seconds
	memoryMiB float64
}

// run runs the program and returns its output.
func (c command) run(ctx context.Context) ([]byte, usage, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = append(os.Environ(), c.env...), c.dir, bytes.NewReader(c.in)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if err == nil && c.sync != "" {
		err = syncFile(c.sync)
	}
	took := time.Since(start)
	if err != nil {
		return nil, usage{}, fmt.Errorf("%s: %w: %.2000s", strings.Join(c.args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	used := usage{wall: took.Seconds(), cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		used.memoryMiB = float64(ru.Maxrss) / 1024
	}
	return stdout.Bytes(), used, nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only synced
	return f.Sync()
}

// archiver is a program that stead is held against. What it can't do has no
// command.
type archiver struct {
	name  string
	store string // where it keeps what it stored
	steps map[step]command
}

// archivers are Debian's, each with its store in a folder of its own. image is
// what they store; it is restored to the path that restored gives.
func archivers(dir, image, out string) []archiver {
	return []archiver{
		resticIn(filepath.Join(dir, "restic"), image, out),
		borgIn("borg", filepath.Join(dir, "borg"), image, out, "--chunker-params", "fixed,524288", "-C", "zstd,1", "--sparse"),
		only(borgIn("borg's defaults", filepath.Join(dir, "borg-defaults"), image, out), stepInit, stepFull, stepBlocks),
		qemuIn(filepath.Join(dir, "disk.qcow2"), image, out),
	}
}

// only leaves an archiver some of its steps, as a run shouldn't take too long.
func only(a archiver, steps ...step) archiver {
	maps.DeleteFunc(a.steps, func(s step, _ command) bool { return !slices.Contains(steps, s) })
	return a
}

func resticIn(dir, image, out string) archiver {
	env := []string{"RESTIC_REPOSITORY=" + filepath.Join(dir, "store"), "RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR=" + filepath.Join(dir, "cache")}
	of := func(args ...string) command {
		return command{args: append([]string{"restic", "-q"}, args...), env: env}
	}
	restore := of("restore", "latest", "--target", out)
	restore.sync = filepath.Join(out, image)
	return archiver{name: "restic", store: filepath.Join(dir, "store"), steps: map[step]command{
		stepInit: of("init"), stepFull: of("backup", image), stepBlocks: of("backup", image), stepPages: of("backup", image),
		stepRestore: restore, stepCheck: of("check", "--read-data"),
	}}
}

func borgIn(name, dir, image, out string, options ...string) archiver {
	store := filepath.Join(dir, "store")
	env := []string{"BORG_BASE_DIR=" + filepath.Join(dir, "base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"}
	of := func(args ...string) command { return command{args: append([]string{"borg"}, args...), env: env} }
	create := func(s step) command {
		return of(append(append([]string{"create"}, options...), store+"::"+string(s), image)...)
	}
	extract := of("extract", "--sparse", store+"::"+string(stepFull))
	extract.dir, extract.sync = out, filepath.Join(out, image)
	return archiver{name: name, store: store, steps: map[step]command{
		stepInit: of("init", "--encryption=none", "--make-parent-dirs", store), stepFull: create(stepFull), stepBlocks: create(stepBlocks),
		stepPages: create(stepPages), stepRestore: extract, stepCheck: of("check", "--verify-data", store),
	}}
}

// qemuIn has no second run: a conversion is always of the whole disk.
func qemuIn(store, image, out string) archiver {
	of := func(args ...string) command { return command{args: append([]string{"qemu-img"}, args...)} }
	back := of("convert", "-q", "-t", "writeback", "-f", "qcow2", "-O", "raw", store, filepath.Join(out, image))
	back.sync = filepath.Join(out, image)
	full := of("convert", "-q", "-t", "writeback", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", image, store)
	full.sync = store
	return archiver{name: "qemu-img", store: store, steps: map[step]command{
		stepFull: full, stepRestore: back, stepCheck: of("check", "-q", store),
	}}
}
