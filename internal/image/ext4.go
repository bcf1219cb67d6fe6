package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// makeExt4 makes a file with an ext4 file system of size bytes that has the
// content of dir, all of it root's. It needs neither root nor a mount.
//
// The block size is given because mke2fs would take 1 KiB for a small disk,
// and the disk may grow. The file is known to be zero, so that neither mke2fs
// nor the guest need clear the inode tables: volumes made from the image stay
// small.
func makeExt4(ctx context.Context, file, dir string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if _, err := run(ctx, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "stead-root", "-m", "0",
		"-b", "4096", "-I", "256", "-i", "16384", "-J", "size=4",
		"-E", "assume_storage_prezeroed=1,nodiscard", "-d", dir, file); err != nil {
		return err
	}
	return giveToRoot(ctx, file, dir)
}

// giveToRoot makes root the owner of all files in the image file, where the
// files in dir that they were copied from are somebody else's.
func giveToRoot(ctx context.Context, file, dir string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	var commands strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
		fmt.Fprintf(&commands, "sif \"%s\" uid 0\nsif \"%s\" gid 0\n", name, name)
		return err
	})
	if err != nil {
		return err
	}
	script := file + ".owners"
	if err := os.WriteFile(script, []byte(commands.String()), 0o600); err != nil {
		return err
	}
	defer os.Remove(script)
	if _, err := run(ctx, "", "debugfs", "-w", "-f", script, file); err != nil {
		return fmt.Errorf("set owners: %w", err)
	}
	return nil
}
