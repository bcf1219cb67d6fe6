package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// debianFiles are what the image has beside Debian's packages.
//
//go:embed all:debian
var debianFiles embed.FS

const debianRoot = "debian/rootfs"

// DebianOptions says where and how a Debian image is built.
type DebianOptions struct {
	// Dir is the output folder; it must exist. The disk in it is replaced
	// atomically.
	Dir string
	// Suite is the release's code name. Empty means DefaultSuite.
	Suite string
	// SizeBytes is the size of the disk, a multiple of 1 MiB and at least
	// MinDebianSize. Zero means DefaultDebianSize. The file is sparse, and the
	// guest grows its root to a larger disk by itself.
	SizeBytes int64
	// Cache keeps the packages from one build to the next. Empty means none
	// are kept.
	Cache string
	// Log receives what the programs say. Nil discards it.
	Log *slog.Logger
	// Progress, when set, is called as each step begins, and at the end. Done
	// and Total are hundredths.
	Progress func(Progress)
}

// What a Debian image is by default.
const (
	DefaultSuite            = "bookworm"
	DefaultDebianSize int64 = 4 << 30
	MinDebianSize     int64 = 2 << 30
)

// Debian is a built Debian image: a disk with a partition table that boots by
// BIOS and by UEFI.
type Debian struct {
	Disk         string // path of the file
	Size         int64  // of the disk, in bytes
	Suite        string // such as bookworm
	Release      string // such as 12
	Version      string // of Debian, such as 12.11
	Kernel       string // its version, such as 6.1.0-49-cloud-amd64
	Architecture string // in EC2's terms: x86_64
}

// debianName is the name of the disk in the output folder.
const debianName = "debian.img"

// debianPackages are those beyond what every Debian has.
func debianPackages() []string {
	return []string{
		"linux-image-cloud-amd64", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "initramfs-tools",
		"systemd-sysv", "systemd-resolved", "systemd-timesyncd", "libnss-myhostname", "libpam-systemd", "dbus", "udev",
		"cloud-init", "cloud-guest-utils", "fdisk", "openssh-server", "sudo", "ca-certificates",
		"e2fsprogs", "xfsprogs", "mdadm", "iproute2", "iputils-ping", "netbase", "less", "nano", "procps", "rsync", "unattended-upgrades",
	}
}

// debianBuild is one build under way.
type debianBuild struct {
	opts  DebianOptions
	log   *slog.Logger
	tmp   string // what is made on the way
	uuid  string // of the root file system
	reach int64  // how far the build is, in hundredths
}

var suiteGrammar = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// BuildDebian builds a Debian image from the packages of the mirror that this
// machine is set to. It takes a minute or two, and needs no root and no loop
// devices. It returns a *MissingError when programs are missing. A build that
// fails or is cut off leaves nothing but the packages in the cache.
func BuildDebian(ctx context.Context, opts DebianOptions) (*Debian, error) {
	b, err := newDebianBuild(opts)
	if err != nil {
		return nil, fmt.Errorf("build Debian image: %w", err)
	}
	defer func() { _ = os.RemoveAll(b.tmp) }()
	built, err := b.build(ctx)
	if ctx.Err() != nil {
		err = ctx.Err() // rather than what it did to a program
	}
	if err != nil {
		return nil, fmt.Errorf("build Debian image (%s): %w", b.opts.Suite, err)
	}
	return built, nil
}

func newDebianBuild(opts DebianOptions) (*debianBuild, error) {
	if missing := MissingForDebian(); len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	if opts.Suite == "" {
		opts.Suite = DefaultSuite
	}
	if opts.SizeBytes == 0 {
		opts.SizeBytes = DefaultDebianSize
	}
	switch {
	case !suiteGrammar.MatchString(opts.Suite):
		return nil, fmt.Errorf("%q is no release's code name, such as %s", opts.Suite, DefaultSuite)
	case opts.SizeBytes < MinDebianSize || opts.SizeBytes%mib != 0:
		return nil, fmt.Errorf("size %d: not a multiple of 1 MiB of at least %d MiB", opts.SizeBytes, MinDebianSize/mib)
	}
	b := &debianBuild{opts: opts, log: opts.Log, uuid: newUUID()}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	var err error
	b.tmp, err = os.MkdirTemp(opts.Dir, ".debian-")
	return b, err
}

func (b *debianBuild) build(ctx context.Context) (*Debian, error) {
	mirrors, err := findMirrors(ctx, b.opts.Suite)
	if err != nil {
		return nil, err
	}
	if err := b.stageFiles(); err != nil {
		return nil, err
	}
	if err := b.debootstrap(ctx, mirrors); err != nil {
		return nil, err
	}
	built := &Debian{Size: b.opts.SizeBytes, Suite: b.opts.Suite, Architecture: "x86_64", Disk: filepath.Join(b.opts.Dir, debianName)}
	if err := b.makeDisk(ctx); err != nil {
		return nil, err
	}
	if err := b.describe(built); err != nil {
		return nil, err
	}
	b.progress("put in place", 99)
	if err := publish(b.tmp, b.opts.Dir, debianName); err != nil {
		return nil, err
	}
	b.progress("done", 100)
	return built, nil
}

func (b *debianBuild) progress(step string, hundredths int64) {
	b.log.Debug("build Debian image", "step", step, "percent", hundredths)
	b.reach = max(b.reach, hundredths)
	if b.opts.Progress != nil {
		b.opts.Progress(Progress{Step: step, Done: b.reach, Total: 100})
	}
}

// describe reads from the tree what was installed.
func (b *debianBuild) describe(built *Debian) error {
	release, err := os.ReadFile(filepath.Join(b.tree(), "usr/lib/os-release"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_ID="); ok {
			built.Release = strings.Trim(v, `"`)
		}
	}
	version, err := os.ReadFile(filepath.Join(b.tree(), "etc/debian_version"))
	if err != nil {
		return err
	}
	built.Version = strings.TrimSpace(string(version))
	k, err := installedKernel(b.tree())
	built.Kernel = k.version
	return err
}

// tree is the folder with the unpacked system.
func (b *debianBuild) tree() string { return filepath.Join(b.tmp, "tree") }

// overlay is the folder with the image's own files.
func (b *debianBuild) overlay() string { return filepath.Join(b.tmp, "overlay") }

// stageFiles lays out the image's own files, those that depend on the build
// among them.
func (b *debianBuild) stageFiles() error {
	if err := os.Mkdir(b.overlay(), 0o755); err != nil {
		return err
	}
	err := fs.WalkDir(debianFiles, debianRoot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(b.overlay(), strings.TrimPrefix(path, debianRoot))
		if entry.IsDir() {
			return makeFolder(target, 0o755)
		}
		data, err := debianFiles.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(data, []byte("#!")) {
			mode = 0o755
		}
		return writeMode(target, data, mode)
	})
	if err != nil {
		return err
	}
	for name, text := range b.bootFiles() {
		target := filepath.Join(b.overlay(), name)
		if err := makeFolder(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := writeMode(target, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newUUID returns a random UUID.
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
