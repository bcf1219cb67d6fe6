// Package powercut is a disk for tests that remembers what a filesystem wrote to
// it and when it flushed, and gives the disks that a power cut at any moment may
// have left: with all that was flushed by then, and any part of the rest.
//
// qemu-storage-daemon logs the requests (blklogwrites) and offers the disk as a
// file (FUSE), which the kernel mounts. It needs root, and a kernel with FUSE
// and loop devices.
package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnable says that this machine can't: not root, or a program or a part of the
// kernel is missing.
var ErrUnable = errors.New("a disk can't be logged here")

// Disk is a disk whose requests are logged.
type Disk struct {
	dir    string // holds all files
	size   int64
	daemon *exec.Cmd
	said   bytes.Buffer // by the daemon
	gone   chan struct{}

	requests []request // once it is stopped
	applied  int       // of them, to the durable disk
	log      *os.File
}

// The files of a disk, in its folder.
const (
	freshName   = "fresh" // as the filesystem was made
	diskName    = "disk"  // what the daemon writes to
	logName     = "log"
	exportName  = "export" // the disk as the kernel sees it
	mountName   = "mounted"
	durableName = "durable" // the disk as of some flush
	leftName    = "left"    // what a power cut left
)

// New makes a disk of size bytes in an empty folder, with the filesystem that a
// command like mkfs.ext4 makes of the file that is its last argument, and mounts
// it. The caller calls Stop, or Close.
func New(ctx context.Context, dir string, size int64, mkfs ...string) (*Disk, error) {
	d := &Disk{dir: dir, size: size, gone: make(chan struct{})}
	if err := d.able(mkfs[0]); err != nil {
		return nil, err
	}
	if err := d.make(ctx, mkfs); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Disk) able(mkfs string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root mounts", ErrUnable)
	}
	for _, program := range []string{"qemu-storage-daemon", "mount", mkfs} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %w", ErrUnable, err)
		}
	}
	for _, node := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnable, err)
		}
		_ = f.Close()
	}
	return nil
}

func (d *Disk) file(name string) string { return filepath.Join(d.dir, name) }

func (d *Disk) make(ctx context.Context, mkfs []string) error {
	for name, size := range map[string]int64{freshName: d.size, logName: 0, exportName: 0} {
		if err := os.WriteFile(d.file(name), nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(d.file(name), size); err != nil {
			return err
		}
	}
	if err := os.Mkdir(d.file(mountName), 0o700); err != nil {
		return err
	}
	if err := run(ctx, append(mkfs, d.file(freshName))...); err != nil {
		return err
	}
	for _, name := range []string{diskName, durableName} {
		if err := copyFile(d.file(freshName), d.file(name)); err != nil {
			return err
		}
	}
	if err := d.start(); err != nil {
		return err
	}
	return run(ctx, "mount", "-o", "loop", d.file(exportName), d.Path())
}

// start has the daemon offer the disk. It ends with SIGTERM, in order.
func (d *Disk) start() error {
	d.daemon = exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=disk,filename="+d.file(diskName),
		"--blockdev", "driver=file,node-name=log,filename="+d.file(logName),
		"--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512",
		"--export", "type=fuse,id=export,node-name=logged,writable=on,mountpoint="+d.file(exportName))
	d.daemon.Stdout, d.daemon.Stderr = &d.said, &d.said
	if err := d.daemon.Start(); err != nil {
		d.daemon = nil
		return err
	}
	go func() {
		_ = d.daemon.Wait()
		close(d.gone)
	}()
	for {
		var at unix.Statfs_t
		if err := unix.Statfs(d.file(exportName), &at); err != nil {
			return err
		}
		if at.Type == unix.FUSE_SUPER_MAGIC {
			return nil
		}
		select {
		case <-d.gone: // one that was built without FUSE, say
			return fmt.Errorf("%w: qemu-storage-daemon: %s", ErrUnable, strings.TrimSpace(d.said.String()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Path is where the disk's filesystem is mounted.
func (d *Disk) Path() string { return d.file(mountName) }

// Mark is a moment. What the filesystem has answered by then comes before it.
type Mark int64

// Now is this moment.
func (d *Disk) Now() (Mark, error) {
	info, err := os.Stat(d.file(logName))
	if err != nil {
		return 0, err
	}
	return Mark(info.Size()), nil
}

// Stop unmounts the disk and ends the logging. From then on there are Cuts.
func (d *Disk) Stop(ctx context.Context) error {
	if err := d.shut(ctx); err != nil {
		return err
	}
	var err error
	if d.log, err = os.Open(d.file(logName)); err != nil {
		return err
	}
	info, err := d.log.Stat()
	if err != nil {
		return err
	}
	d.requests, err = readLog(d.log, info.Size())
	return err
}

func (d *Disk) shut(ctx context.Context) error {
	if d.daemon == nil {
		return nil
	}
	if mounted(d.Path()) {
		if err := run(ctx, "umount", d.Path()); err != nil {
			return err
		}
	}
	// Only now: the kernel would wait for the daemon for ever.
	_ = d.daemon.Process.Signal(syscall.SIGTERM)
	<-d.gone
	d.daemon = nil
	return nil
}

// Close ends all, in whatever state it is.
func (d *Disk) Close() error {
	err := d.shut(context.Background())
	if d.log != nil {
		err = errors.Join(err, d.log.Close())
		d.log = nil
	}
	return err
}

// Cut is a moment at which the power fails, and by Seed what of the requests
// that weren't flushed by then the disk has kept.
type Cut struct {
	At   Mark
	Seed uint64

	flushed, until int // requests: durable ones, and those of which some may be
}

// Cuts returns moments in order, one or more after each flush, at most about
// most in all, chosen by chance. With each comes another choice of what was kept.
func (d *Disk) Cuts(seed uint64, each, most int) []Cut {
	var flushes []int // how many requests are durable by each
	for i, r := range d.requests {
		if r.flush {
			flushes = append(flushes, i+1)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	var cuts []Cut
	for n, flushed := range flushes {
		next := len(d.requests)
		if n+1 < len(flushes) {
			next = flushes[n+1] - 1
		}
		for i := range each {
			if rng.IntN(len(flushes)*each) >= most {
				continue
			}
			until := flushed + rng.IntN(next-flushed+1)
			if i == 0 {
				until = flushed // exactly what was flushed
			}
			cuts = append(cuts, Cut{At: Mark(d.requests[until-1].end), Seed: rng.Uint64(), flushed: flushed, until: until})
		}
	}
	return cuts
}

// Left mounts what a cut leaves, and calls look with where. Cuts are to be given
// in their order.
func (d *Disk) Left(ctx context.Context, cut Cut, look func(path string)) error {
	if err := d.replay(cut); err != nil {
		return fmt.Errorf("replay %d requests: %w", cut.until, err)
	}
	if err := run(ctx, "mount", "-o", "loop", d.file(leftName), d.Path()); err != nil {
		return err
	}
	defer func() { _ = run(context.Background(), "umount", "-l", d.Path()) }() // where look has ended the test
	look(d.Path())
	return run(ctx, "umount", d.Path())
}

// replay writes what a cut leaves.
func (d *Disk) replay(cut Cut) error {
	if err := d.flushed(cut.flushed); err != nil {
		return err
	}
	// Another file each time: the last one's loop device stays for as long as
	// anybody looks at it, and mount would take it again, with what the kernel
	// still holds of the last cut.
	if err := os.Remove(d.file(leftName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := copyFile(d.file(durableName), d.file(leftName)); err != nil {
		return err
	}
	left, err := os.OpenFile(d.file(leftName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = left.Close() }()
	rng := rand.New(rand.NewPCG(cut.Seed, 1)) //nolint:gosec // no secret
	// By pages, as a disk that writes one may not get to the next.
	for _, r := range d.requests[cut.flushed:cut.until] {
		odds := rng.IntN(5) // of four
		if err := d.apply(left, r, func() bool { return r.durable || rng.IntN(4) < odds }); err != nil {
			return err
		}
	}
	return nil
}

// flushed brings the durable disk to a number of requests. It never goes back.
func (d *Disk) flushed(until int) error {
	durable, err := os.OpenFile(d.file(durableName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = durable.Close() }()
	for d.applied < until {
		if err := d.apply(durable, d.requests[d.applied], func() bool { return true }); err != nil {
			return err
		}
		d.applied++
	}
	return nil
}

// apply does a request, or of it the pages that keep wants.
func (d *Disk) apply(to *os.File, r request, keep func() bool) error {
	const page = 4096
	buf := make([]byte, page)
	for at := int64(0); at < r.size; at += page {
		part := buf[:min(page, r.size-at)]
		if !keep() {
			continue
		}
		if r.discard {
			clear(part)
		} else if _, err := d.log.ReadAt(part, r.data+at); err != nil {
			return err
		}
		if _, err := to.WriteAt(part, r.off+at); err != nil {
			return err
		}
	}
	return nil
}

// mounted says whether something is mounted on a folder.
func mounted(path string) bool {
	var here, above unix.Stat_t
	return unix.Stat(path, &here) == nil && unix.Stat(filepath.Dir(path), &above) == nil && here.Dev != above.Dev
}

// copyFile copies a file without its holes.
func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for off := int64(0); ; {
		start, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return err
		}
		off = end
	}
}

func run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
