package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// QEMU locks an image by single bytes with open-file-description locks (its
// block/file-posix.c): a read lock at permBase+n says "I use permission n", one
// at sharedBase+n "nobody else may". After taking its own it looks for the
// other side's. flock would pass unseen by it, so the same bytes are used here.
const (
	permBase   = 100
	sharedBase = 200

	permRead   = 0 // BLK_PERM_CONSISTENT_READ
	permWrite  = 1 // BLK_PERM_WRITE
	permResize = 3 // BLK_PERM_RESIZE
	permCount  = 64
)

// Lock takes the volume for one user alone: no machine can start on it, and no
// other Lock, Reader, Delete or Grow succeeds until release is called. It
// doesn't wait: ErrInUse says that somebody holds it. The lock belongs to the
// open file and so goes with the process, however that ends.
//
// Delete, Grow and Reader lock by themselves; don't call them under a Lock.
func (d *Dir) Lock(id string) (release func(), err error) {
	f, err := d.open(id, os.O_RDWR)
	if err != nil {
		return nil, wrap("lock", id, err)
	}
	// A write lock over both ranges collides with every byte of anybody's.
	if err := ofdLock(f, unix.F_WRLCK, permBase, sharedBase-permBase+permCount); err != nil {
		_ = f.Close()
		return nil, wrap("lock", id, err)
	}
	if err := d.current(id, f); err != nil {
		unlock(f)
		return nil, wrap("lock", id, err)
	}
	return sync.OnceFunc(func() { unlock(f) }), nil
}

// current says whether f still is the volume: a Delete may have come between
// the open and the lock.
func (d *Dir) current(id string, f *os.File) error {
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(d.Path(id))
	if err != nil {
		return err
	}
	if !os.SameFile(locked, named) {
		return ErrNotFound
	}
	return nil
}

// lockShared takes f as a reader that others may read with, but not write.
func lockShared(f *os.File) error {
	for _, at := range []int64{permBase + permRead, sharedBase + permWrite, sharedBase + permResize} {
		if err := ofdLock(f, unix.F_RDLCK, at, 1); err != nil {
			return err
		}
	}
	for _, at := range []int64{permBase + permWrite, permBase + permResize, sharedBase + permRead} {
		free, err := ofdFree(f, at)
		if err != nil {
			return err
		}
		if !free {
			return ErrInUse
		}
	}
	return nil
}

// unlock lets go at once; closing alone would wait for a child that is between
// fork and exec and still has the file.
func unlock(f *os.File) {
	_ = ofdLock(f, unix.F_UNLCK, 0, 0)
	_ = f.Close()
}

func ofdLock(f *os.File, kind int16, start, length int64) error {
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("lock bytes %d+%d: %w", start, length, err)
	}
	return nil
}

// ofdFree reports whether nobody else has any lock on the byte.
func ofdFree(f *os.File, at int64) (bool, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, fmt.Errorf("probe lock byte %d: %w", at, err)
	}
	return lk.Type == unix.F_UNLCK, nil
}
