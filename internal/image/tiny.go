package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
)

// TinyOptions says where and how large the tiny image is built.
type TinyOptions struct {
	// Dir is the output folder. It is made when absent; the files in it are
	// replaced atomically.
	Dir string
	// SizeBytes is the size of the root disk, a multiple of 1 MiB and at
	// least MinTinySize. Zero means DefaultTinySize. The file is sparse, and
	// the guest grows its file system to a larger disk by itself.
	SizeBytes int64
	// Cache keeps what is downloaded (a kernel package, when none is
	// installed) from one build to the next. Empty means a folder in Dir.
	Cache string
	// Log receives what the build does. Nil discards it.
	Log *slog.Logger
	// Progress, when set, is called as each step begins, and at the end.
	Progress func(Progress)
}

// Sizes of the tiny root disk in bytes. The default is that of the smallest
// volume there is.
const (
	DefaultTinySize = 1 << 30
	MinTinySize     = 32 << 20
)

// Progress tells how far a build is.
type Progress struct {
	Step        string // what is being done, in words
	Done, Total int64  // steps done and steps in all
}

// Tiny is a built tiny image.
type Tiny struct {
	Root, Kernel, Initrd string // paths of the files
	Cmdline              string // the kernel's command line
	KernelVersion        string // such as 6.1.0-49-cloud-amd64
	Size                 int64  // of the root disk, in bytes
	Architecture         string // in EC2's terms: x86_64
}

// The names of the files in the output folder.
const (
	rootName   = "root.img"
	kernelName = "kernel"
	initrdName = "initrd"
)

// tinyCmdline has the root on the first disk: by position and not by UUID,
// since in a rescue two disks with the same UUID can be attached. A panic
// restarts the machine after ten seconds.
const tinyCmdline = "console=ttyS0 quiet panic=10 root=/dev/vda rw"

// builder is one build under way.
type builder struct {
	opts        TinyOptions
	cache       string
	log         *slog.Logger
	done, total int64
}

// BuildTiny builds the tiny image: a root disk, a kernel and an initramfs. It
// takes about a second, plus the download of a kernel when none is installed.
// It returns a *MissingError when programs are missing. A build that is cut
// off leaves the files of an earlier one as they were.
func BuildTiny(ctx context.Context, opts TinyOptions) (*Tiny, error) {
	b, err := newBuilder(opts)
	if err != nil {
		return nil, fmt.Errorf("build tiny image: %w", err)
	}
	tiny, err := b.build(ctx)
	if err != nil {
		return nil, fmt.Errorf("build tiny image in %s: %w", opts.Dir, err)
	}
	return tiny, nil
}

func newBuilder(opts TinyOptions) (*builder, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("not possible on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
	}
	if missing := MissingForTiny(); len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	if opts.Dir == "" {
		return nil, errors.New("no output folder")
	}
	if opts.SizeBytes == 0 {
		opts.SizeBytes = DefaultTinySize
	}
	if opts.SizeBytes < MinTinySize || opts.SizeBytes%(1<<20) != 0 {
		return nil, fmt.Errorf("size %d: not a multiple of 1 MiB of at least %d MiB", opts.SizeBytes, MinTinySize>>20)
	}
	b := &builder{opts: opts, cache: opts.Cache, log: opts.Log, total: 4}
	if b.cache == "" {
		b.cache = filepath.Join(opts.Dir, "cache")
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

func (b *builder) build(ctx context.Context) (*Tiny, error) {
	for _, dir := range []string{b.opts.Dir, b.cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	tmp, err := os.MkdirTemp(b.opts.Dir, ".tiny-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)

	b.step("find a kernel")
	k, err := b.findKernel(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.buildBoot(ctx, k, tmp); err != nil {
		return nil, err
	}
	if err := b.buildRoot(ctx, tmp); err != nil {
		return nil, err
	}
	b.step("put in place")
	if err := publish(tmp, b.opts.Dir, rootName, kernelName, initrdName); err != nil {
		return nil, err
	}
	b.step("done")
	return &Tiny{
		Root:          filepath.Join(b.opts.Dir, rootName),
		Kernel:        filepath.Join(b.opts.Dir, kernelName),
		Initrd:        filepath.Join(b.opts.Dir, initrdName),
		Cmdline:       tinyCmdline,
		KernelVersion: k.version,
		Size:          b.opts.SizeBytes,
		Architecture:  "x86_64",
	}, nil
}

// step reports that a step begins, and with it that those before are done.
func (b *builder) step(name string) {
	if b.opts.Progress != nil {
		b.opts.Progress(Progress{Step: name, Done: b.done, Total: b.total})
	}
	b.done++
}

// buildBoot writes what QEMU boots: the kernel and the initramfs.
func (b *builder) buildBoot(ctx context.Context, k kernel, dir string) error {
	b.step("kernel " + k.version)
	image, err := b.kernelImage(ctx, k)
	if err != nil {
		return err
	}
	initramfs, err := b.buildInitramfs(ctx, k)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{kernelName: image, initrdName: initramfs} {
		if err := writeMode(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// buildRoot writes the root disk.
func (b *builder) buildRoot(ctx context.Context, dir string) error {
	b.step("root disk")
	stage := filepath.Join(dir, "root")
	if err := os.Mkdir(stage, 0o755); err != nil {
		return err
	}
	if err := b.stageRoot(ctx, stage); err != nil {
		return fmt.Errorf("lay out root disk: %w", err)
	}
	if err := makeExt4(ctx, filepath.Join(dir, rootName), stage, b.opts.SizeBytes); err != nil {
		return fmt.Errorf("make root disk: %w", err)
	}
	return nil
}

// publish moves finished files from one folder into another, each of them
// whole on the disk before it gets its name.
func publish(from, to string, names ...string) error {
	for _, name := range names {
		if err := syncPath(filepath.Join(from, name)); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return syncPath(to)
}

// syncPath flushes a file or a folder to the disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
