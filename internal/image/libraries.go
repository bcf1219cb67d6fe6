package image

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// sharedLibraries returns the files that the programs need to run, by the
// path at which the loader looks for them: the loader itself and all
// libraries, also those that libraries need. Nothing is run for it.
func sharedLibraries(programs []string) (map[string]string, error) {
	files := map[string]string{}
	queue := append([]string{}, programs...)
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		interp, needed, err := dynamicLinks(path)
		if err != nil {
			return nil, fmt.Errorf("read libraries of %s: %w", path, err)
		}
		if interp != "" {
			files[interp] = interp
		}
		for _, name := range needed {
			lib, err := findLibrary(name)
			if err != nil {
				return nil, fmt.Errorf("program %s: %w", path, err)
			}
			target := filepath.Join("/lib/x86_64-linux-gnu", name)
			if strings.HasPrefix(name, "ld-linux") || files[target] != "" {
				continue
			}
			files[target] = lib
			queue = append(queue, lib)
		}
	}
	return files, nil
}

// dynamicLinks returns the loader and the libraries that an ELF file names.
func dynamicLinks(path string) (interp string, needed []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err != nil {
				return "", nil, err
			}
			interp = strings.TrimRight(string(data), "\x00")
		}
	}
	needed, err = f.ImportedLibraries()
	return interp, needed, err
}

// findLibrary looks for a library where the loader would.
func findLibrary(name string) (string, error) {
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find library %s: %w", name, os.ErrNotExist)
}
