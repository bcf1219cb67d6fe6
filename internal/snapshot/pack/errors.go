package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrNotFound says that there is no such blob or root.
	ErrNotFound = errors.New("not in the snapshot store")
	// ErrCorrupt says that stored bytes aren't what was put there. A
	// *CorruptError says which.
	ErrCorrupt = errors.New("snapshot data is corrupt")
	// ErrVersion says that another version of this program wrote the data.
	ErrVersion = errors.New("snapshot data is of another version")
	// ErrBusy says that uploads or sweeps are under way.
	ErrBusy = errors.New("the snapshot store is busy")
)

// CorruptError is what errors.Is(err, ErrCorrupt) finds.
type CorruptError struct {
	Object string // the object that holds it
	Digest Digest // of the blob; zero where it isn't one
	Reason string
}

func (e *CorruptError) Error() string {
	if e.Digest == (Digest{}) {
		return fmt.Sprintf("%s is corrupt: %s", e.Object, e.Reason)
	}
	return fmt.Sprintf("block %s in %s is corrupt: %s", e.Digest, e.Object, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Digest is the SHA-256 of a blob's plain contents.
type Digest [sha256.Size]byte

// Sum returns the digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }
