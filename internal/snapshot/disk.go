package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is every change that a directory store makes to its filesystem, in one
// place so that a test can fail or cut off any one of them.
type disk struct {
	// before, where set, is asked first. Its error is the operation's.
	before func(op, path string) error
}

func (d disk) allow(op, path string) error {
	if d.before == nil {
		return nil
	}
	return d.before(op, path)
}

func (d disk) mkdir(path string) error {
	if err := d.allow("mkdir", path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

// create writes a new file and returns it open, not yet synced.
func (d disk) create(path string, data []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := d.allow("write", path); err != nil {
		_, _ = f.Write(data[:len(data)/2]) // as a full disk would leave it
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sync makes an open file durable and closes it. After an error the file can't
// be trusted, not even if a second sync succeeds.
func (d disk) sync(f *os.File) error {
	err := d.allow("sync", f.Name())
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// rename replaces what is at to.
func (d disk) rename(from, to string) error {
	if err := d.allow("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// publish renames, but fails with ErrExists where something is at to.
func (d disk) publish(from, to string) error {
	if err := d.allow("publish", to); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return ErrExists
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (d disk) remove(path string) error {
	if err := d.allow("remove", path); err != nil {
		return err
	}
	return os.Remove(path)
}

func (d disk) removeAll(path string) error {
	if err := d.allow("remove", path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

func (d disk) syncDir(path string) error {
	if err := d.allow("syncdir", path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeFile makes a whole, durable file at path or none: by a temporary in
// tmp, which is on the same filesystem.
func (d disk) writeFile(tmp, path string, data []byte) error {
	temp := filepath.Join(tmp, filepath.Base(path)+".new")
	f, err := d.create(temp, data)
	if err != nil {
		return err
	}
	if err := d.sync(f); err != nil {
		return err
	}
	if err := d.publish(temp, path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// full adds ErrNoSpace to a failed write's error where that is the cause.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// absent adds ErrNotFound to a failed read's error where that is the cause.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
