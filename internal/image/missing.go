package image

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Missing is something that this machine lacks.
type Missing struct {
	Name    string // the program or file
	Package string // the Debian package that has it
	Reason  string // what it is needed for
}

// MissingError says that an image can't be built because this machine lacks
// programs.
type MissingError struct {
	Missing []Missing
}

// Error names what is missing and the command that installs it on Debian.
func (e *MissingError) Error() string {
	var names, packages []string
	for _, m := range e.Missing {
		names = append(names, fmt.Sprintf("%s (%s)", m.Name, m.Reason))
		packages = append(packages, m.Package)
	}
	return fmt.Sprintf("missing %s: apt-get install %s",
		strings.Join(names, ", "), strings.Join(uniq(packages), " "))
}

// tool is a program that the build runs or puts into the image.
type tool struct {
	name, pkg, reason string
	static            bool // it must run without shared libraries
}

// guestPrograms are the programs that are put into the guest.
func guestPrograms() []tool {
	return []tool{
		{name: "busybox", pkg: "busybox-static", reason: "the guest's shell and tools", static: true},
		{name: "dropbear", pkg: "dropbear-bin", reason: "the guest's ssh server"},
		{name: "dropbearkey", pkg: "dropbear-bin", reason: "the guest's host keys"},
		{name: "mke2fs", pkg: "e2fsprogs", reason: "formatting disks"},
		{name: "resize2fs", pkg: "e2fsprogs", reason: "growing the guest's root"},
		{name: "mdadm", pkg: "mdadm", reason: "arrays of disks in the guest"},
		{name: "blkid", pkg: "util-linux", reason: "telling an empty disk in the guest"},
	}
}

// buildPrograms are those that the build itself runs, beyond the guest's.
func buildPrograms() []tool {
	return []tool{
		{name: "debugfs", pkg: "e2fsprogs", reason: "setting owners without being root"},
	}
}

// fetchPrograms are those that fetch a kernel where none is installed.
func fetchPrograms() []tool {
	return []tool{
		{name: "apt-get", pkg: "apt", reason: "fetching a kernel: none is installed"},
		{name: "apt-cache", pkg: "apt", reason: "finding a kernel: none is installed"},
		{name: "dpkg-deb", pkg: "dpkg", reason: "unpacking a kernel"},
	}
}

// MissingForTiny returns what this machine lacks for building the tiny image,
// nothing when it can be built. Whether a kernel can be fetched, where none is
// installed, shows only in the build.
func MissingForTiny() []Missing {
	wanted := append(guestPrograms(), buildPrograms()...)
	if _, err := installedKernel("/"); err != nil {
		wanted = append(wanted, fetchPrograms()...)
	}
	var missing []Missing
	for _, t := range wanted {
		if _, err := t.find(); err != nil {
			missing = append(missing, Missing{Name: t.name, Package: t.pkg, Reason: t.reason})
		}
	}
	return missing
}

// MissingForDebian returns what this machine lacks for building a Debian image.
func MissingForDebian() []Missing {
	const reason = "building a Debian image"
	var missing []Missing
	for _, t := range []tool{
		{name: "mmdebstrap", pkg: "mmdebstrap"},
		{name: "fakechroot", pkg: "fakechroot"},
		{name: "fakeroot", pkg: "fakeroot"},
		{name: "apt-get", pkg: "apt"},
		{name: "mke2fs", pkg: "e2fsprogs"},
		{name: "sfdisk", pkg: "fdisk"},
		{name: "mformat", pkg: "mtools"},
		{name: "mcopy", pkg: "mtools"},
		{name: "tar", pkg: "tar"},
	} {
		if _, err := t.find(); err != nil {
			missing = append(missing, Missing{Name: t.name, Package: t.pkg, Reason: reason})
		}
	}
	if !readable(debianKeyring) {
		missing = append(missing, Missing{Name: debianKeyring, Package: "debian-archive-keyring", Reason: reason})
	}
	return missing
}

// find returns the program's path. It looks where distributions put programs
// for root too: those folders aren't in everybody's PATH.
func (t tool) find() (string, error) {
	dirs := append(filepath.SplitList(os.Getenv("PATH")),
		"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	for _, dir := range dirs {
		path := filepath.Join(dir, t.name)
		if !filepath.IsAbs(path) {
			continue
		}
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if t.static && !isStatic(path) {
			continue
		}
		return path, nil
	}
	return "", fmt.Errorf("find %s: %w", t.name, exec.ErrNotFound)
}

// isStatic tells whether an ELF program runs without shared libraries.
func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// uniq drops repeated strings and keeps the order.
func uniq(list []string) []string {
	seen := make(map[string]bool, len(list))
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
