package objects

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The names in a folder: each kind is a folder, with the objects as its files.
const (
	lockName = "lock" // held by the process that has the store open
	tmpName  = "tmp"  // what is being written; emptied when the store is opened
)

// openFiles is how many objects are kept open for reading. A pack is read many
// times in a row.
const openFiles = 16

// Dir is a Store in a folder, a file an object.
type Dir struct {
	path string
	fs   FS
	lock *os.File
	temp atomic.Int64 // numbers the files in tmp
	read readers

	mu    sync.Mutex
	kinds map[string]bool // folders that are there
}

// OpenDir opens the store in the folder at path, and makes it, for its owner
// alone, where there is none. ErrLocked says that another process has it open.
func OpenDir(path string) (*Dir, error) { return OpenDirOn(OS{}, path) }

// OpenDirOn is OpenDir on another filesystem than the machine's; the lock, which
// a crash releases, is always the machine's.
func OpenDirOn(on FS, path string) (_ *Dir, err error) {
	d := &Dir{path: path, fs: on, kinds: make(map[string]bool)}
	d.read = readers{open: on.Open, files: make(map[string]*reader)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", path, errors.Join(full(err), d.Close()))
		}
	}()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := d.emptyTemp(); err != nil {
		return nil, err
	}
	if err := d.settle(); err != nil {
		return nil, err
	}
	return d, nil
}

// takeLock goes with the process, however that ends.
func (d *Dir) takeLock() error {
	f, err := os.OpenFile(filepath.Join(d.path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return fmt.Errorf("lock: %w", err)
	}
	d.lock = f
	return nil
}

// emptyTemp removes what a process that died was writing.
func (d *Dir) emptyTemp() error {
	tmp := filepath.Join(d.path, tmpName)
	if err := d.fs.Mkdir(tmp); err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := d.fs.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := d.fs.Remove(filepath.Join(tmp, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// settle makes durable what the folders show: the last owner may have died
// between a rename and its sync.
func (d *Dir) settle() error {
	entries, err := d.fs.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && validKind.MatchString(e.Name()) {
			if err := d.fs.SyncDir(filepath.Join(d.path, e.Name())); err != nil {
				return err
			}
		}
	}
	return d.fs.SyncDir(d.path)
}

// Close implements Store.
func (d *Dir) Close() error {
	err := d.read.close()
	if d.lock == nil {
		return err
	}
	// Closing alone would wait for a child between fork and exec.
	err = errors.Join(err, unix.Flock(int(d.lock.Fd()), unix.LOCK_UN), d.lock.Close())
	d.lock = nil
	return err
}

func (d *Dir) file(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// Create implements Store.
func (d *Dir) Create(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	if err := d.create(name, data); err != nil {
		return fmt.Errorf("create %s: %w", name, full(err))
	}
	return nil
}

func (d *Dir) create(name string, data []byte) error {
	// Before anything is written, as most names that are taken are known to be.
	if _, err := d.fs.Stat(d.file(name)); err == nil {
		return d.existing(name)
	}
	if err := d.ensureKind(name); err != nil {
		return err
	}
	temp := filepath.Join(d.path, tmpName, strconv.FormatInt(d.temp.Add(1), 10))
	if err := d.write(temp, data); err != nil {
		return err
	}
	if err := d.fs.Publish(temp, d.file(name)); err != nil {
		_ = d.fs.Remove(temp) // else at the next start
		if errors.Is(err, fs.ErrExist) {
			return d.existing(name)
		}
		return err
	}
	return d.fs.SyncDir(filepath.Dir(d.file(name)))
}

// existing is the answer for a name that is taken. The caller will rely on what
// is there: whoever put it there may not have synced the folder yet. Where that
// can't be done now, nothing is said of what is there.
func (d *Dir) existing(name string) error {
	if err := d.fs.SyncDir(filepath.Dir(d.file(name))); err != nil {
		return err
	}
	return ErrExists
}

// write makes a whole, durable file or none.
func (d *Dir) write(path string, data []byte) error {
	f, err := d.fs.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = d.fs.Remove(path)
	}
	return err
}

// ensureKind makes the folder of a name's kind when it is first used.
func (d *Dir) ensureKind(name string) error {
	folder := filepath.Dir(d.file(name))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kinds[folder] {
		return nil
	}
	if err := d.fs.Mkdir(folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.fs.SyncDir(d.path); err != nil {
		return err
	}
	d.kinds[folder] = true
	return nil
}

// ReadAt implements Store.
func (d *Dir) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return 0, err
	}
	n, err := d.read.at(d.file(name), p, off)
	if err != nil && !isEOF(err) {
		err = fmt.Errorf("read %s: %w", name, damaged(absent(err)))
	}
	return n, err
}

// Stat implements Store.
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return Info{}, err
	}
	info, err := d.fs.Stat(d.file(name))
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", name, absent(err))
	}
	return Info{Name: name, Size: info.Size()}, nil
}

// List implements Store.
func (d *Dir) List(ctx context.Context, kind string, fn func(Info) error) error {
	if !validKind.MatchString(kind) {
		return fmt.Errorf("%w: kind %q", ErrInvalid, kind)
	}
	entries, err := d.fs.ReadDir(filepath.Join(d.path, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", kind, err)
	}
	for _, e := range entries {
		name := kind + "/" + e.Name()
		if err := ctx.Err(); err != nil {
			return err
		}
		if checkName(name) != nil {
			continue // not ours
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		if err := fn(Info{Name: name, Size: info.Size()}); err != nil {
			return err
		}
	}
	return nil
}

// Rename implements Store.
func (d *Dir) Rename(ctx context.Context, from, to string) error {
	if err := errors.Join(ctx.Err(), checkName(from, to)); err != nil {
		return err
	}
	if err := d.rename(from, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

func (d *Dir) rename(from, to string) error {
	if err := d.ensureKind(to); err != nil {
		return full(err)
	}
	defer d.read.forget(d.file(from))
	err := d.fs.Publish(d.file(from), d.file(to))
	switch {
	case errors.Is(err, fs.ErrExist):
		if err := d.leave(from, to); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := d.fs.Stat(d.file(to)); serr != nil {
			return absent(err)
		}
	case err != nil:
		return full(err)
	}
	// The new name first: in a crash between the two there may be both, but
	// never none.
	return errors.Join(d.fs.SyncDir(filepath.Dir(d.file(to))), d.fs.SyncDir(filepath.Dir(d.file(from))))
}

// leave ends a rename that was interrupted between an object's second name and the
// end of its first, on a filesystem that can't do both at once.
func (d *Dir) leave(from, to string) error {
	old, err := d.fs.Stat(d.file(from))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // by somebody else, just now
	}
	if err != nil {
		return err
	}
	there, err := d.fs.Stat(d.file(to))
	switch {
	case err != nil:
		return err
	case !os.SameFile(old, there):
		return ErrExists
	}
	return d.fs.Remove(d.file(from))
}

// Delete implements Store.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	defer d.read.forget(d.file(name))
	err := d.fs.Remove(d.file(name))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		// Also where it was gone: that may not have been durable.
		err = d.fs.SyncDir(filepath.Dir(d.file(name)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kind that was never used
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// full adds ErrNoSpace to an error where that is the cause.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// damaged adds ErrDamaged to an error where that is the cause: a sector that the
// disk can't read, or one whose checksum a filesystem or a layer below refuses.
func damaged(err error) error {
	for _, cause := range []error{unix.EIO, unix.EILSEQ, unix.EBADMSG, unix.EUCLEAN} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// absent adds ErrNotFound to an error where that is the cause.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
