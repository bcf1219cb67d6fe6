package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// BlockSize is the unit of a snapshot in bytes, that of the EBS direct APIs. A
// volume's last block is shorter if its size isn't a multiple.
const BlockSize = 512 << 10

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrNotFound says that there is no such snapshot, manifest or block.
	ErrNotFound = errors.New("snapshot not found")
	// ErrExists says that a manifest of that name is there already.
	ErrExists = errors.New("snapshot exists")
	// ErrCorrupt says that stored data isn't what was put there. A
	// *CorruptError says which.
	ErrCorrupt = errors.New("snapshot data is corrupt")
	// ErrNoSpace says that the store is full.
	ErrNoSpace = errors.New("no space left in the snapshot store")
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("snapshot store is in use by another process")
	// ErrVersion says that a newer version of this program wrote the data.
	ErrVersion = errors.New("snapshot data is of a newer version")
	// ErrInvalid says that a name can't be used for a snapshot.
	ErrInvalid = errors.New("invalid snapshot ID")
)

// CorruptError is what errors.Is(err, ErrCorrupt) finds.
type CorruptError struct {
	Snapshot string  // empty where only the block is known
	Block    BlockID // empty where the manifest itself is corrupt
	Reason   string
}

func (e *CorruptError) Error() string {
	what := "manifest"
	if e.Block != "" {
		what = fmt.Sprintf("block %s", e.Block)
	}
	if e.Snapshot != "" {
		what += fmt.Sprintf(" of snapshot %s", e.Snapshot)
	}
	return fmt.Sprintf("%s is corrupt: %s", what, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Digest is the SHA-256 of a block's plain contents.
type Digest [sha256.Size]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// BlockID names a block within its store. Only the store knows how it comes
// from the contents: an encrypted one must not tell them by it. To everything
// above it is a printable string that is equal for equal blocks.
type BlockID string

// BlockInfo describes a stored block.
type BlockInfo struct {
	ID     BlockID
	Stored int64 // bytes that it takes in the store
}

// Store keeps blocks and manifests. Package storetest holds every
// implementation to this contract.
//
// Methods may be called concurrently. One process at a time has a store open.
// A cancelled context makes a method return early with the context's error.
// Errors wrap ErrNotFound, ErrExists, ErrCorrupt, ErrNoSpace and ErrInvalid
// where these say what is wrong. What is found by name after a crash is whole:
// a half-written block or manifest is never visible.
type Store interface {
	// BeginUpload opens the way to add a snapshot. From here on no sweep
	// deletes a block that the upload puts, even one that was there before.
	BeginUpload(ctx context.Context) (Upload, error)

	// GetBlock returns a block's plain contents, in buf where its capacity is
	// enough. The store returns an ErrCorrupt for what it can't decode; whether
	// the contents are the right ones is for the caller to verify by digest.
	GetBlock(ctx context.Context, id BlockID, buf []byte) ([]byte, error)

	// StatBlock describes a block without reading it.
	StatBlock(ctx context.Context, id BlockID) (BlockInfo, error)

	// Blocks calls fn for every block that was there all the while, in no
	// particular order, and may or may not do so for one that came or went.
	// fn may delete blocks. Its first error ends the walk and is returned.
	Blocks(ctx context.Context, fn func(BlockInfo) error) error

	// GetManifest returns the bytes that Commit was given.
	GetManifest(ctx context.Context, name string) ([]byte, error)

	// Manifests returns the names of all manifests in order.
	Manifests(ctx context.Context) ([]string, error)

	// DeleteManifest removes a manifest durably; an absent one is fine. Blocks
	// stay until a sweep.
	DeleteManifest(ctx context.Context, name string) error

	// BeginSweep opens the way to delete blocks. It must come before the caller
	// reads the manifests that tell it which ones are in use.
	BeginSweep(ctx context.Context) (Sweep, error)

	// Close lets go of the store. Uploads and sweeps are closed before.
	Close() error
}

// Upload adds the blocks of one snapshot and then its manifest.
type Upload interface {
	// Put stores a block of at most BlockSize bytes whose digest is sum, unless
	// the store has it. It may be called concurrently and doesn't keep data.
	// The block isn't promised to be durable or readable before Commit.
	Put(ctx context.Context, sum Digest, data []byte) (BlockInfo, error)

	// Keep has a block that the store holds kept for this upload, as a Put of
	// it would, without its contents: ErrNotFound where it isn't there. It may
	// be called concurrently.
	Keep(ctx context.Context, id BlockID) error

	// Commit makes all blocks of this upload durable, then the manifest under
	// its name, in this order, and returns when both are. It fails where any
	// Put or Keep failed. A name that is taken is ErrExists, and the manifest
	// there stays as it was. No Put may run or follow.
	Commit(ctx context.Context, name string, manifest []byte) error

	// Close ends the upload and releases what it holds. Blocks of an upload
	// that wasn't committed are left to the next sweep. Closing twice is fine.
	Close() error
}

// Sweep deletes blocks that no manifest names.
type Sweep interface {
	// Delete removes the block and returns how many bytes that freed. It does
	// nothing, and returns 0, where the block is absent or where an upload that
	// was open when the sweep began, or that began later, has put it.
	Delete(ctx context.Context, id BlockID) (freed int64, err error)

	// Close ends the sweep. Closing twice is fine.
	Close() error
}
