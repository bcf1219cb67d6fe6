package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// findMirrors returns the sources of a suite, as lines of a sources.list, from
// the mirrors of Debian that this machine is set to; none where it is set to
// none, and mmdebstrap then takes its own.
func findMirrors(ctx context.Context, suite string) ([]string, error) {
	out, err := run(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("ask apt for the mirror: %w", err)
	}
	main, security := mirrorsOf(string(out))
	if main == "" {
		return nil, nil
	}
	lines := []string{fmt.Sprintf("deb %s %s main", main, suite), fmt.Sprintf("deb %s %s-updates main", main, suite)}
	if security != "" {
		lines = append(lines, fmt.Sprintf("deb %s %s-security main", security, suite))
	}
	return lines, nil
}

// mirrorsOf finds Debian's archive and its security updates among a machine's
// sources, lines of address, release and component. Only addresses in Debian's
// own layout are taken: others may not hold the suite that is wanted. "" is one that
// isn't there.
func mirrorsOf(targets string) (main, security string) {
	seen := map[bool]bool{}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" {
			continue
		}
		u, err := url.Parse(strings.TrimSuffix(f[0], "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			continue
		}
		isSecurity := strings.HasSuffix(f[1], "-security")
		if base := u.Path[strings.LastIndex(u.Path, "/")+1:]; seen[isSecurity] || isSecurity && base != "debian-security" || !isSecurity && base != "debian" {
			continue
		}
		seen[isSecurity] = true
		if isSecurity {
			security = u.String()
		} else {
			main = u.String()
		}
	}
	return main, security
}

// debootstrapSteps tell how far mmdebstrap is by what it says.
func debootstrapSteps() []struct {
	says, step string
	percent    int64
} {
	return []struct {
		says, step string
		percent    int64
	}{
		{"running apt-get update", "look for packages", 1},
		{"downloading packages", "download packages", 5},
		{"extracting archives", "unpack packages", 20},
		{"installing essential packages", "install the base system", 25},
		{"installing remaining packages", "install packages", 35},
		{"running --customize-hook", "set up the system", 75},
		{"cleaning package lists", "set up the system", 76},
		{"creating tarball", "pack the system", 78},
	}
}

// debootstrap installs the packages and the image's own files, and leaves the
// system in the tree folder. Nothing in it needs root: fakechroot stands in for
// chroot, fakeroot for the owners of files.
func (b *debianBuild) debootstrap(ctx context.Context, mirrors []string) error {
	b.progress("begin", 0)
	args := []string{
		"--mode=fakechroot", "--variant=minbase", "--architectures=amd64", "--format=tar",
		"--include=" + strings.Join(debianPackages(), ","), "--keyring=" + debianKeyring,
		`--aptopt=Acquire::Languages "none"`, `--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
	}
	for _, line := range aptProxies(ctx) {
		args = append(args, "--aptopt="+line)
	}
	cache, err := b.packageCache()
	if err != nil {
		return err
	}
	// A package that is kept by its name and proves to be another is fetched
	// anew: apt checks the sum of each.
	args = append(args,
		"--skip=download/empty", "--skip=essential/unlink",
		`--setup-hook=mkdir -p "$1/var/cache/apt/archives" && find `+quote(cache)+` -name '*.deb' -exec cp -t "$1/var/cache/apt/archives" {} +`,
		// The initial file system is made when the kernel is installed.
		`--essential-hook=tar -C `+quote(b.overlay())+` -c ./etc/initramfs-tools | tar -C "$1" -x --no-same-owner --no-overwrite-dir`,
		`--customize-hook=cp "$1"/var/cache/apt/archives/*.deb `+quote(b.newCache()),
		`--customize-hook=tar -C `+quote(b.overlay())+` -c . | tar -C "$1" -x --no-same-owner --no-overwrite-dir`)
	for _, script := range b.setUp() {
		args = append(args, "--customize-hook="+script)
	}
	tarball := filepath.Join(b.tmp, "system.tar")
	args = append(append(args, b.opts.Suite, tarball), mirrors...)
	err = b.follow(ctx, "mmdebstrap", args...)
	if kerr := b.keepCache(cache); err != nil || kerr != nil {
		return errors.Join(err, kerr)
	}
	b.progress("unpack the system", 80)
	return os.Mkdir(b.tree(), 0o755)
}

// setUp are the shell commands that finish the system in "$1".
func (b *debianBuild) setUp() []string {
	return []string{
		`chroot "$1" systemctl -q enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service stead-identity.service ssh.service`,
		// What is a server's own is not in an image.
		`rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/etc/.resolv.conf* "$1"/var/lib/dbus/machine-id "$1"/var/lib/systemd/random-seed "$1"/boot/*.old "$1"/*.old "$1/etc/machine-id" "$1/etc/resolv.conf" "$1/etc/hosts" && : >"$1/etc/machine-id"`,
		`ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"`,
		`printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$1/etc/hosts"`,
		`for p in i386-pc x86_64-efi; do mkdir -p "$1/boot/grub/$p" && cp "$1"/usr/lib/grub/$p/*.mod "$1"/usr/lib/grub/$p/*.lst "$1/boot/grub/$p/"; done`,
		`chroot "$1" grub-mkimage -O i386-pc -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/i386-pc/core.img biosdisk ` + grubModules,
		`chroot "$1" grub-mkimage -O x86_64-efi -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/x86_64-efi/core.efi fat ` + grubModules,
		`cp "$1/usr/lib/grub/i386-pc/boot.img" "$1/boot/grub/i386-pc/"`,
	}
}

// aptProxies returns the proxy settings of this machine's apt.
func aptProxies(ctx context.Context) []string {
	out, err := run(ctx, "", "apt-config", "dump")
	if err != nil {
		return nil // none, then
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		key, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(key, "Acquire::http") && strings.Contains(key, "::Proxy") {
			lines = append(lines, strings.TrimSuffix(strings.TrimSpace(line), ";"))
		}
	}
	return lines
}

func (b *debianBuild) newCache() string { return filepath.Join(b.tmp, "debs") }

// packageCache makes the folder that packages are kept in, and the one that
// this build's are put into.
func (b *debianBuild) packageCache() (string, error) {
	if err := os.Mkdir(b.newCache(), 0o755); err != nil {
		return "", err
	}
	if b.opts.Cache == "" {
		return b.newCache(), nil
	}
	cache := filepath.Join(b.opts.Cache, "debs-"+b.opts.Suite)
	return cache, os.MkdirAll(cache, 0o755)
}

// keepCache has the cache hold this build's packages and no older ones.
func (b *debianBuild) keepCache(cache string) error {
	if b.opts.Cache == "" {
		return nil
	}
	fresh, err := os.ReadDir(b.newCache())
	if err != nil || len(fresh) == 0 { // the build failed before it had them
		return err
	}
	for _, f := range fresh {
		if err := moveFile(filepath.Join(b.newCache(), f.Name()), filepath.Join(cache, f.Name())); err != nil {
			return err
		}
	}
	kept, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	for _, f := range kept {
		if !slices.ContainsFunc(fresh, func(n fs.DirEntry) bool { return n.Name() == f.Name() }) {
			if err := os.Remove(filepath.Join(cache, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveFile renames a file, or copies it where it goes to another file system.
func moveFile(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// quote makes a word of text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// program is a line that a program prints, without the colours.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// follow runs a program in a process group of its own, so that all of it goes
// when the build is cancelled, and takes progress from what it says. An error
// holds the end of that.
func (b *debianBuild) follow(ctx context.Context, name string, args ...string) error {
	path, err := tool{name: name}.find()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = b.tmp
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TMPDIR="+b.tmp, "HOME="+b.tmp, "DEBIAN_FRONTEND=noninteractive",
		"PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	pr, pw := io.Pipe()
	cmd.Stderr, cmd.Stdout = pw, pw
	said := make(chan []byte)
	go func() { said <- b.listen(pr) }()
	err = cmd.Run()
	_ = pw.Close()
	end := <-said
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what outlived its parent
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, end)
	}
	return nil
}

// listen reads what a program says to its end, and returns the last lines.
func (b *debianBuild) listen(r io.Reader) []byte {
	const last = 12
	var tail [][]byte
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := colours.ReplaceAll(lines.Bytes(), nil)
		line = bytes.TrimSpace(line[bytes.LastIndexByte(line, '\r')+1:])
		if len(line) == 0 {
			continue
		}
		b.log.Debug("build Debian image", "says", string(line))
		for _, s := range debootstrapSteps() {
			if bytes.Contains(line, []byte(s.says)) && s.percent >= b.reach {
				b.progress(s.step, s.percent)
			}
		}
		if tail = append(tail, bytes.Clone(line)); len(tail) > last {
			tail = tail[1:]
		}
	}
	_, _ = io.Copy(io.Discard, r)
	return bytes.Join(tail, []byte("; "))
}
