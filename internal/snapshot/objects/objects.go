package objects

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrNotFound says that there is no object of that name.
	ErrNotFound = errors.New("object not found")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("object exists")
	// ErrNoSpace says that the store is full.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrLocked says that another process has the store open for writing.
	ErrLocked = errors.New("store is in use by another process")
	// ErrInvalid says that a name isn't one.
	ErrInvalid = errors.New("invalid object name")
	// ErrDamaged says that an object is there, and the bytes asked for can't be
	// read: the disk below has lost them. Others of the same object may be fine.
	ErrDamaged = errors.New("object can't be read")
	// ErrUnavailable says that the store can't be reached now; the same call may
	// succeed later, and may have succeeded already.
	ErrUnavailable = errors.New("store is unavailable")
)

// Info describes an object.
type Info struct {
	Name string
	Size int64 // bytes
}

// Store keeps objects. A name is a kind and a key, as in "packs/5f3a".
//
// One process writes at a time, and whoever opens a store sees to that, by a lock
// or by a lease; one that has lost its lease answers ErrLocked to all that would
// write. What is in objects may be encrypted by those who put it there, in parts
// that can be read by themselves; a store knows nothing of it.
//
// Methods may be called concurrently. A cancelled context makes a method return
// early with the context's error; what it was to do may have been done. All but
// Create and Rename can be repeated without harm, and these two answer ErrExists
// and success where an earlier attempt had worked.
type Store interface {
	// Create keeps data under a name. When it returns, the object is whole and
	// will be after a power cut; after an error or a crash it is whole or absent.
	// A name that is taken is ErrExists, and what is there stays. The caller may
	// use data again afterwards.
	Create(ctx context.Context, name string, data []byte) error

	// ReadAt fills p from the object's bytes at off, as io.ReaderAt does: fewer
	// bytes come with io.EOF at its end.
	ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error)

	// Stat describes one object.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every object of a kind that was there all the while, in
	// no particular order; one that came or went meanwhile may be among them. What
	// Create, Rename and Delete have answered shows at once: a store whose lists
	// come late puts them right by what it has done itself. fn
	// may create and delete objects. Its first error ends the walk and is
	// returned.
	List(ctx context.Context, kind string, fn func(Info) error) error

	// Rename gives an object another name, durably. Interrupted, the object may
	// have both names, and never none. Where from is absent and to is there, it
	// has been done before and succeeds; where both are there it is ErrExists,
	// but for an object that an earlier Rename has left with both.
	Rename(ctx context.Context, from, to string) error

	// Delete removes an object durably; an absent one is fine.
	Delete(ctx context.Context, name string) error

	// Close lets go of the store.
	Close() error
}

var (
	validKind = regexp.MustCompile(`^[a-z]{1,32}$`)
	validName = regexp.MustCompile(`^[a-z]{1,32}/[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

// maxName is how long a name may be after its kind, bytes.
const maxName = 200

// checkName keeps a name from being anything but an object's.
func checkName(names ...string) error {
	for _, name := range names {
		_, after, _ := strings.Cut(name, "/")
		if len(after) > maxName || !validName.MatchString(name) {
			return fmt.Errorf("%w: %q", ErrInvalid, name)
		}
	}
	return nil
}
