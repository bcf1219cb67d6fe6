package objects

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FS is every use that Dir makes of its filesystem, in one place, so that a test
// can fail any of them or take away what a power cut would. Errors are those of
// package os.
type FS interface {
	// Create opens a new file for writing.
	Create(path string) (File, error)
	// Open opens a file for reading.
	Open(path string) (File, error)
	// Publish renames, but fails with fs.ErrExist where something is at to.
	Publish(from, to string) error
	Remove(path string) error
	// Mkdir makes a folder for its owner alone.
	Mkdir(path string) error
	// SyncDir makes durable what was created, renamed and removed in a folder.
	SyncDir(path string) error
	ReadDir(path string) ([]fs.DirEntry, error)
	Stat(path string) (fs.FileInfo, error)
}

// File is an open file.
type File interface {
	io.Writer
	io.ReaderAt
	// Sync makes the contents durable. After an error they can't be trusted, not
	// even if a second Sync succeeds.
	Sync() error
	Close() error
}

// OS is the machine's filesystem.
type OS struct{}

// Create implements FS.
func (OS) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &steady{File: f}, nil
}

// steady has the disk take a new file piece by piece as it is written, one while
// the next is copied. Else all of it would go there at the sync, and whoever syncs a
// file of his own meanwhile, as guests do, would wait for it.
type steady struct {
	*os.File
	begun, at int64 // where the piece begins that the disk is taking, and ends
}

// piece is how much the disk is given at once, bytes.
const piece = 128 << 10

// Write implements io.Writer. After an error nothing of the file can be relied on:
// the kernel tells each failure of the disk once, and it may have been told here.
func (s *steady) Write(p []byte) (done int, err error) {
	for len(p) > 0 {
		n, err := s.File.Write(p[:min(piece, len(p))])
		done += n
		if err == nil {
			err = s.give(int64(n))
		}
		if err != nil {
			return done, err
		}
		p = p[n:]
	}
	return done, nil
}

// give has the disk begin with the bytes that were written last, and waits until it
// has the ones before. Nothing is durable by that: see sync_file_range(2).
func (s *steady) give(n int64) error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(s.Fd()), s.at, n, unix.SYNC_FILE_RANGE_WRITE)
	if err == nil && s.at > s.begun {
		err = unix.SyncFileRange(int(s.Fd()), s.begun, s.at-s.begun, wait)
	}
	s.begun, s.at = s.at, s.at+n
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // the sync does it all
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: s.Name(), Err: err}
	}
	return nil
}

// Open implements FS.
func (OS) Open(path string) (File, error) { return os.Open(path) }

// Publish implements FS.
func (OS) Publish(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A filesystem that can't: a second name, which also fails on a taken one.
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
		return err
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// Mkdir implements FS.
func (OS) Mkdir(path string) error { return os.Mkdir(path, 0o700) }

// SyncDir implements FS.
func (OS) SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ReadDir implements FS.
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// Stat implements FS.
func (OS) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }
