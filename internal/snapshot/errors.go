package snapshot

import (
	"errors"
	"fmt"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/pack"
)

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrNotFound says that there is no such snapshot.
	ErrNotFound = errors.New("snapshot not found")
	// ErrExists says that there is one already.
	ErrExists = objects.ErrExists
	// ErrCorrupt says that stored data isn't what was put there. A
	// *CorruptError says which.
	ErrCorrupt = pack.ErrCorrupt
	// ErrNoSpace says that the store is full.
	ErrNoSpace = objects.ErrNoSpace
	// ErrLocked says that another process has the store open.
	ErrLocked = objects.ErrLocked
	// ErrVersion says that another version of this program wrote the data.
	ErrVersion = pack.ErrVersion
	// ErrInvalid says that a name can't be used for a snapshot.
	ErrInvalid = objects.ErrInvalid
)

// Digest is the SHA-256 of a block's contents.
type Digest = pack.Digest

// CorruptError is what errors.Is(err, ErrCorrupt) finds.
type CorruptError struct {
	Snapshot string
	Block    Digest // zero where a root or a page is corrupt
	Index    int64  // the block's offset / BlockSize; -1 where it isn't one
	Reason   string
}

func (e *CorruptError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("snapshot %s is corrupt: %s", e.Snapshot, e.Reason)
	}
	return fmt.Sprintf("block %d (%s) of snapshot %s is corrupt: %s", e.Index, e.Block, e.Snapshot, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// inSnapshot says which snapshot and block an error of the store hits. index is
// -1 for a page.
func inSnapshot(id string, index int64, sum Digest, err error) error {
	var bad *pack.CorruptError
	switch {
	case errors.As(err, &bad):
		return &CorruptError{Snapshot: id, Block: sum, Index: index, Reason: fmt.Sprintf("in %s: %s", bad.Object, bad.Reason)}
	case errors.Is(err, pack.ErrNotFound):
		// Not wrapped: to the caller it would be the snapshot that is absent.
		return &CorruptError{Snapshot: id, Block: sum, Index: index, Reason: "it is missing"}
	}
	return err
}
