package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// guestModules are the drivers that the guest loads before its root is
// mounted. Those that a kernel has built in, or doesn't have and isn't
// required to, are left out.
func guestModules() (required, optional []string) {
	return []string{"virtio_pci", "virtio_blk", "virtio_net", "ext4"},
		[]string{"crc32c_generic", "virtio_rng", "evdev", "button"}
}

// spareModules are drivers that the guest can load when it needs them. One that
// a kernel doesn't have is left out.
func spareModules() []string { return []string{"raid0", "raid1", "raid10"} }

// module is a loadable kernel module.
type module struct {
	name    string
	data    []byte // the ELF file, unpacked
	depends []string
	aliases []string // other names that it is asked for by
}

// moduleTree finds modules below lib/modules/VERSION. It doesn't use
// modules.dep: that is made when a kernel is installed, and a package that
// was only unpacked has none.
type moduleTree struct {
	builtin map[string]bool
	paths   map[string]string
}

// openModules reads a folder lib/modules/VERSION.
func openModules(dir string) (*moduleTree, error) {
	t := &moduleTree{builtin: map[string]bool{}, paths: map[string]string{}}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read built-in modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), ".ko") {
			t.paths[moduleName(path)] = path
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	return t, nil
}

// moduleName returns the kernel's name for a module file: without folder and
// suffixes, and with underscores.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// resolve returns the modules and all that they depend on, each after those
// that it needs.
func (t *moduleTree) resolve(ctx context.Context, required, optional []string) ([]module, error) {
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if t.builtin[name] || seen[name] {
			return nil
		}
		seen[name] = true
		path, ok := t.paths[name]
		if !ok {
			return fmt.Errorf("kernel module %s: %w", name, fs.ErrNotExist)
		}
		m, err := readModule(ctx, path)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		for _, dep := range m.depends {
			if err := add(dep); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, name := range required {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	for _, name := range optional {
		if err := add(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

// readModule reads a module file, compressed or not.
func readModule(ctx context.Context, path string) (module, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return module{}, err
	}
	switch {
	case isXZ(data):
		data, err = unxz(ctx, data)
	case strings.HasSuffix(path, ".zst"):
		var zr *zstd.Decoder
		if zr, err = zstd.NewReader(bytes.NewReader(data)); err == nil {
			data, err = readBounded(zr)
			zr.Close()
		}
	}
	if err != nil {
		return module{}, err
	}
	m := module{name: moduleName(path), data: data}
	m.depends, m.aliases, err = moduleInfo(data)
	return m, err
}

// moduleInfo returns the modules that one says it needs, and its other names.
func moduleInfo(data []byte) (depends, aliases []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("no .modinfo section")
	}
	info, err := io.ReadAll(section.Open())
	if err != nil {
		return nil, nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "alias":
			aliases = append(aliases, value)
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					depends = append(depends, strings.ReplaceAll(name, "-", "_"))
				}
			}
		}
	}
	return depends, aliases, nil
}
