package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrNotFound says that there is no such volume.
	ErrNotFound = errors.New("volume not found")
	// ErrExists says that the volume is there already with another size.
	ErrExists = errors.New("volume exists with another size")
	// ErrNoSpace says that the disk or the quota is full.
	ErrNoSpace = errors.New("no space left for volumes")
	// ErrInUse says that a machine or another operation holds the volume.
	ErrInUse = errors.New("volume is in use")
	// ErrInvalid says that an ID can't be a file name or a size isn't positive.
	ErrInvalid = errors.New("invalid volume")
)

const (
	suffix     = ".raw"
	tempPrefix = ".new-"
	dirMode    = 0o700
	fileMode   = 0o600
	statBlock  = 512 // st_blocks counts these, whatever the filesystem's own
)

// validID keeps an ID from leaving the folder or looking like a temporary.
var validID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`) })

// Sink takes a volume's contents while it is filled. It is a fresh sparse file
// of the volume's size: what isn't written reads as zeros. WriteAt may be
// called from several goroutines.
type Sink interface {
	io.WriterAt
}

// Info describes a volume's file.
type Info struct {
	// Size is what the guest sees, in bytes.
	Size int64
	// Allocated is what the file takes on the disk, in bytes.
	Allocated int64
}

// Dir is a folder of volumes. Its methods may be called concurrently.
type Dir struct {
	path    string
	log     *slog.Logger
	goldens goldens
}

// Open returns the volumes in the folder at path. It makes the folder, for its
// owner alone, where there is none, and removes what interrupted creates left:
// call it only once a folder, from the one process that owns it.
func Open(path string, log *slog.Logger) (*Dir, error) {
	if err := os.MkdirAll(path, dirMode); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	d := &Dir{path: path, log: log, goldens: goldens{busy: make(map[string]chan struct{})}}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(path, e.Name())); err != nil {
			return nil, fmt.Errorf("open volumes: remove interrupted create: %w", err)
		}
		log.Info("removed an interrupted volume create", "file", e.Name())
	}
	if err := d.tidyGoldens(); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	return d, nil
}

// Path returns the raw file of a volume, there or not. It is what QEMU opens.
func (d *Dir) Path(id string) string {
	return filepath.Join(d.path, id+suffix)
}

// Create makes a blank volume of size bytes. It does nothing where one of that
// size exists; one of another size is ErrExists.
func (d *Dir) Create(ctx context.Context, id string, size int64) error {
	return d.make(ctx, "create", id, size, nil)
}

// Fill makes a volume of size bytes with the contents that fill writes. The
// volume appears only when fill returned nil and all of it is on the disk. An
// existing volume of that size is complete already and left alone; one of
// another size is ErrExists.
func (d *Dir) Fill(ctx context.Context, id string, size int64, fill func(ctx context.Context, w Sink) error) error {
	return d.make(ctx, "fill", id, size, func(ctx context.Context, f *os.File) error { return fillFile(ctx, f, size, fill) })
}

func (d *Dir) make(ctx context.Context, op, id string, size int64, fill func(context.Context, *os.File) error) (err error) {
	defer func() { err = wrap(op, id, err) }()
	if err := check(id, size); err != nil {
		return err
	}
	if done, err := d.exists(id, size); done || err != nil {
		return err
	}
	tmp, err := os.CreateTemp(d.path, tempPrefix+id+"-")
	if err != nil {
		return err
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name()) // gone already once published
	}()
	if err := tmp.Truncate(size); err != nil {
		return err
	}
	if fill != nil {
		if err := fill(ctx, tmp); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	// NOREPLACE: of two creates at once, the second must not swap the file
	// under a machine that has the first one open.
	err = unix.Renameat2(unix.AT_FDCWD, tmp.Name(), unix.AT_FDCWD, d.Path(id), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		_, err = d.exists(id, size)
	}
	if err != nil {
		return err
	}
	return syncDir(d.path)
}

// exists reports whether the volume is there with this size.
func (d *Dir) exists(id string, size int64) (bool, error) {
	info, err := d.Stat(id)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case info.Size != size:
		return false, fmt.Errorf("%w: %d bytes, not %d", ErrExists, info.Size, size)
	}
	// The one who made it may have died before the folder was synced.
	return true, syncDir(d.path)
}

// Delete removes a volume; an absent one is fine. It takes the volume's lock
// for itself: one that a machine, a Reader or a Lock holds is ErrInUse.
func (d *Dir) Delete(ctx context.Context, id string) (err error) {
	defer func() { err = wrap("delete", id, err) }()
	if err := ctx.Err(); err != nil {
		return err
	}
	release, err := d.Lock(id)
	if errors.Is(err, ErrNotFound) {
		return syncDir(d.path)
	}
	if err != nil {
		return err
	}
	defer release()
	if err := d.dropChanges(id); err != nil {
		return err
	}
	if err := os.Remove(d.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(d.path)
}

// Stat returns a volume's sizes.
func (d *Dir) Stat(id string) (Info, error) {
	if err := check(id, 1); err != nil {
		return Info{}, wrap("stat", id, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Path(id), &st); err != nil {
		return Info{}, wrap("stat", id, err)
	}
	return Info{Size: st.Size, Allocated: st.Blocks * statBlock}, nil
}

// Grow makes a volume size bytes long; the new part reads as zeros. A volume
// that is as long or longer stays as it is. Like Delete it takes the lock for
// itself: the disk of a running machine is grown through QEMU.
func (d *Dir) Grow(ctx context.Context, id string, size int64) (err error) {
	defer func() { err = wrap("grow", id, err) }()
	if err := check(id, size); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	release, err := d.Lock(id)
	if err != nil {
		return err
	}
	defer release()
	f, err := os.OpenFile(d.Path(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.grow(id, f, size), f.Close())
}

// grow makes a file longer. What is known of the volume's changes goes on to
// hold: the new part is beyond what any snapshot of it has.
func (d *Dir) grow(id string, f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= size {
		return f.Sync()
	}
	known, kerr := d.changes(id, f)
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || kerr != nil {
		return err
	}
	return d.saveChanges(id, f, known.Changes)
}

// List returns the IDs of all volumes in order.
func (d *Dir) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var ids []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if ok && e.Type().IsRegular() && validID().MatchString(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func check(id string, size int64) error {
	if !validID().MatchString(id) {
		return fmt.Errorf("%w: ID %q", ErrInvalid, id)
	}
	if size <= 0 || size == math.MaxInt64 {
		return fmt.Errorf("%w: size of %d bytes", ErrInvalid, size)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func wrap(op, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s volume %s: %w", op, id, typed(err))
}

// typed adds this package's error to the system's, keeping the latter's text.
func typed(err error) error {
	is := func(sentinel error, causes ...error) bool {
		return !errors.Is(err, sentinel) && slices.ContainsFunc(causes, func(c error) bool { return errors.Is(err, c) })
	}
	switch {
	case err == nil:
		return nil
	case is(ErrNoSpace, unix.ENOSPC, unix.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case is(ErrNotFound, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
