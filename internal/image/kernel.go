package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is a Linux kernel in the file system.
type kernel struct {
	version string // such as 6.1.0-49-cloud-amd64
	image   string // path of the bzImage
	modules string // path of lib/modules/VERSION
}

// errNoKernel means that no usable kernel is installed.
var errNoKernel = errors.New("no kernel with its modules found")

// kernelPackages are Debian's kernels in the order of preference: the cloud
// kernel is the smallest and boots the quickest.
func kernelPackages() []string { return []string{"linux-image-cloud-amd64", "linux-image-amd64"} }

// installedKernel returns the best kernel below root: a cloud kernel before
// others, then the newest. It must be readable and have its modules.
func installedKernel(root string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return kernel{}, fmt.Errorf("look for kernels in %s: %w", root, err)
	}
	slices.SortFunc(images, func(a, b string) int {
		if ca, cb := isCloud(a), isCloud(b); ca != cb {
			if ca {
				return -1
			}
			return 1
		}
		return -compareVersions(a, b)
	})
	for _, image := range images {
		if strings.Contains(image, "arm64") || !readable(image) {
			continue
		}
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		for _, lib := range []string{"lib", "usr/lib"} {
			dir := filepath.Join(root, lib, "modules", version)
			if _, err := os.Stat(filepath.Join(dir, "modules.builtin")); err == nil {
				return kernel{version: version, image: image, modules: dir}, nil
			}
		}
	}
	return kernel{}, errNoKernel
}

func isCloud(image string) bool { return strings.Contains(image, "-cloud-") }

// readable tells whether a file can be read: some distributions keep the
// kernel from ordinary users.
func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// compareVersions orders version strings with their numbers taken as numbers.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na != "" && nb != "" {
			ta, tb := strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
			if len(ta) != len(tb) {
				return len(ta) - len(tb)
			}
			if c := strings.Compare(ta, tb); c != 0 {
				return c
			}
			a, b = a[len(na):], b[len(nb):]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// digits returns the decimal digits that s begins with.
func digits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// findKernel returns an installed kernel, else one that was fetched into the
// cache before, else fetches the distribution's package.
func (b *builder) findKernel(ctx context.Context) (kernel, error) {
	if k, err := installedKernel("/"); err == nil {
		return k, nil
	}
	dir := filepath.Join(b.cache, "kernel")
	if k, err := installedKernel(dir); err == nil {
		return k, nil
	}
	if err := b.fetchKernel(ctx, dir); err != nil {
		return kernel{}, fmt.Errorf("fetch a kernel (none is installed in /boot): %w", err)
	}
	return installedKernel(dir)
}

// fetchKernel downloads the distribution's kernel package and unpacks it into
// dir. It needs no root: nothing is installed. apt checks the signatures.
func (b *builder) fetchKernel(ctx context.Context, dir string) error {
	pkg, err := b.kernelPackage(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(b.cache, ".kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b.log.InfoContext(ctx, "fetch kernel package", "package", pkg)
	args := []string{"download", pkg}
	if os.Geteuid() == 0 {
		// apt's own user can't write into a private folder.
		args = append([]string{"-o", "APT::Sandbox::User=root"}, args...)
	}
	if _, err := run(ctx, tmp, "apt-get", args...); err != nil {
		return fmt.Errorf("%w (does `apt-get update` help?)", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: got %d packages", pkg, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if _, err := run(ctx, tmp, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	if _, err := installedKernel(root); err != nil {
		return fmt.Errorf("package %s: %w", pkg, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// kernelPackage returns the name of the package that the distribution's
// newest kernel is in: the well-known names are only pointers to it.
func (b *builder) kernelPackage(ctx context.Context) (string, error) {
	var errs []error
	for _, meta := range kernelPackages() {
		out, err := run(ctx, "", "apt-cache", "depends", "--important", meta)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for line := range strings.Lines(string(out)) {
			name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
			if ok && strings.HasPrefix(name, "linux-image-") {
				return name, nil
			}
		}
		errs = append(errs, fmt.Errorf("package %s names no kernel", meta))
	}
	return "", errors.Join(errs...)
}

// run runs a program in dir and returns its standard output; an error holds
// what the program said.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	path, err := tool{name: name}.find()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
