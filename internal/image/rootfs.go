package image

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// guestFiles are the guest's own scripts and settings.
//
//go:embed all:tiny
var guestFiles embed.FS

const initramfsFiles, rootFiles = "tiny/initramfs", "tiny/rootfs"

// initramfsApplets are the busybox programs that the initramfs calls by name.
func initramfsApplets() []string {
	return []string{"sh", "mount", "modprobe", "findfs", "sleep", "poweroff", "switch_root", "cp"}
}

// buildInitramfs returns the initramfs for a kernel. It isn't compressed: two
// megabytes are read quicker than an emulated processor unpacks them.
func (b *builder) buildInitramfs(ctx context.Context, k kernel) ([]byte, error) {
	tree, err := openModules(k.modules)
	if err != nil {
		return nil, err
	}
	required, optional := guestModules()
	modules, err := tree.resolve(ctx, required, optional)
	if err != nil {
		return nil, err
	}
	spare, err := tree.resolve(ctx, nil, spareModules())
	if err != nil {
		return nil, err
	}
	busybox, err := readTool(guestPrograms()[0])
	if err != nil {
		return nil, err
	}
	init, err := guestFiles.ReadFile(initramfsFiles + "/init")
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := newCPIO(&buf)
	for _, dir := range []string{"dev", "proc", "sys", "new"} {
		w.Dir(dir)
	}
	w.CharDev("dev/console", 5, 1)
	w.File("init", 0o755, init)
	w.File("bin/busybox", 0o755, busybox)
	for _, name := range initramfsApplets() {
		w.Symlink("busybox", "bin/"+name)
	}
	addModules(w, "lib/modules/"+k.version, modules)
	var names []string
	for _, m := range modules {
		names = append(names, m.name)
	}
	w.File("etc/modules", 0o644, []byte(strings.Join(names, " ")+"\n"))
	addModules(w, "spare/"+k.version, spare)
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	return buf.Bytes(), nil
}

// addModules adds a folder of modules, with their index and their other names
// as modprobe reads them.
func addModules(w *cpioWriter, dir string, modules []module) {
	var index, aliases strings.Builder
	for _, m := range modules {
		w.File(dir+"/"+m.name+".ko", 0o644, m.data)
		fmt.Fprintf(&index, "%s.ko:", m.name)
		for _, dep := range m.depends {
			fmt.Fprintf(&index, " %s.ko", dep)
		}
		index.WriteByte('\n')
		for _, alias := range m.aliases {
			fmt.Fprintf(&aliases, "alias %s %s\n", alias, m.name)
		}
	}
	w.File(dir+"/modules.dep", 0o644, []byte(index.String()))
	w.File(dir+"/modules.alias", 0o644, []byte(aliases.String()))
}

func readTool(t tool) ([]byte, error) {
	path, err := t.find()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// stageRoot lays out the guest's root file system in a folder.
func (b *builder) stageRoot(ctx context.Context, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, mode := range guestFolders() {
		if err := makeFolder(filepath.Join(dir, name), mode); err != nil {
			return err
		}
	}
	if err := copyGuestFiles(dir); err != nil {
		return err
	}
	if err := stagePrograms(dir); err != nil {
		return err
	}
	return b.stageApplets(ctx, dir)
}

// guestFolders are those that hold nothing at first, or need a mode of their
// own.
func guestFolders() map[string]fs.FileMode {
	return map[string]fs.FileMode{
		"dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "tmp": 0o755, "mnt": 0o755,
		"bin": 0o755, "sbin": 0o755, "var/log": 0o755, "var/lib/stead": 0o755, "var/tmp": fs.ModeSticky | 0o777,
		"etc/dropbear": 0o700, "root/.ssh": 0o700, "home/ec2-user/.ssh": 0o700,
	}
}

// makeFolder makes a folder with just the mode given, whatever the umask.
func makeFolder(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// copyGuestFiles copies the embedded files. Scripts may be executed, and the
// shadow file is for root.
func copyGuestFiles(dir string) error {
	return fs.WalkDir(guestFiles, rootFiles, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(dir, strings.TrimPrefix(path, rootFiles))
		if entry.IsDir() {
			if _, err := os.Stat(target); err == nil {
				return nil // may have a mode of its own
			}
			return makeFolder(target, 0o755)
		}
		data, err := guestFiles.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		switch {
		case bytes.HasPrefix(data, []byte("#!")):
			mode = 0o755
		case entry.Name() == "shadow":
			mode = 0o600
		}
		return writeMode(target, data, mode)
	})
}

// writeMode writes a file with just the mode given, whatever the umask.
func writeMode(path string, data []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// stagePrograms copies the programs and the libraries that they need.
func stagePrograms(dir string) error {
	var dynamic []string
	for _, t := range guestPrograms() {
		path, err := t.find()
		if err != nil {
			return err
		}
		target := filepath.Join(dir, "sbin", t.name)
		if t.static {
			target = filepath.Join(dir, "bin", t.name)
		} else {
			dynamic = append(dynamic, path)
		}
		if err := copyProgram(path, target); err != nil {
			return err
		}
	}
	libraries, err := sharedLibraries(dynamic)
	if err != nil {
		return err
	}
	for target, path := range libraries {
		if err := copyProgram(path, filepath.Join(dir, target)); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return writeMode(to, data, 0o755)
}

// stageApplets adds a link for each program that busybox is, unless the guest
// has a fuller one of that name.
func (b *builder) stageApplets(ctx context.Context, dir string) error {
	list, err := run(ctx, "", "busybox", "--list")
	if err != nil {
		return err
	}
	for _, name := range append(strings.Fields(string(list)), "init") {
		if _, err := os.Lstat(filepath.Join(dir, "sbin", name)); err == nil {
			continue
		}
		folder, target := "bin", "busybox"
		if name == "init" || name == "acpid" {
			folder, target = "sbin", "../bin/busybox"
		}
		link := filepath.Join(dir, folder, name)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"etc/resolv.conf": "/run/resolv.conf", "etc/mtab": "/proc/mounts",
		"sbin/mkfs.ext4": "mke2fs",
		// What the kernel calls when it wants a driver, and where those are
		// that the initramfs brings along.
		"sbin/modprobe": "../bin/busybox", "lib/modules": "/run/modules",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	return nil
}
