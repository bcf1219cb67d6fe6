package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/upload"
)

// uploadLook is how often a pending upload is looked at, at least: a timer alone
// would stand still while the machine sleeps.
const uploadLook = time.Hour

// uploads are those that are open in this process. Each is opened when it is
// first needed, and synced when the daemon ends.
type uploads struct {
	mu     sync.Mutex
	byID   map[string]*upload.Upload
	shown  map[string]time.Time // when its progress last was
	closed bool
}

func newUploads() *uploads {
	return &uploads{byID: make(map[string]*upload.Upload), shown: make(map[string]time.Time)}
}

func uploadPath(dir Dir, snap string) string { return filepath.Join(dir.Uploads(), snap) }

func (u *uploads) open(dir Dir, snap string) (*upload.Upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, errStopping
	}
	if up := u.byID[snap]; up != nil {
		return up, nil
	}
	up, err := upload.Open(uploadPath(dir, snap))
	if err != nil {
		return nil, err
	}
	u.byID[snap] = up
	return up, nil
}

func (u *uploads) create(dir Dir, snap string, at time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	up, err := upload.Create(uploadPath(dir, snap), at)
	if err == nil {
		u.byID[snap] = up
	}
	return err
}

// discard takes an upload away, open or not, be there one or not.
func (u *uploads) discard(dir Dir, snap string) error {
	u.mu.Lock()
	up := u.byID[snap]
	delete(u.byID, snap)
	delete(u.shown, snap)
	u.mu.Unlock()
	if up != nil {
		return up.Discard()
	}
	return upload.Remove(uploadPath(dir, snap))
}

// due says whether something is due that is done at most once in every period.
func (u *uploads) due(snap string, every time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.shown[snap]) < every {
		return false
	}
	u.shown[snap] = time.Now()
	return true
}

func (u *uploads) closeAll() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	var errs []error
	for id, up := range u.byID {
		errs = append(errs, up.Close())
		delete(u.byID, id)
	}
	return errors.Join(errs...)
}

// beginUpload makes an upload's files and its record, in this order: a record
// without files would look like one whose blocks are lost.
func (c *Cloud) beginUpload(tx *state.Tx, snap *state.Snapshot) error {
	if err := c.uploads.create(c.dir, snap.ID, snap.Created); err != nil {
		return diskFull(err)
	}
	if err := state.Put(tx, snap); err != nil {
		return errors.Join(err, c.uploads.discard(c.dir, snap.ID))
	}
	return nil
}

// diskFull says so where that is why blocks could not be written. No retry helps
// then, so it isn't the code that clients retry.
func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ebsFail(ebsQuota, ebstypes.ServiceQuotaExceededExceptionReasonDependencyServiceQuotaExceeded,
			"The data folder's disk is full: %v. Make room there, and write the block again.", err)
	}
	return err
}

// awaitUpload fails a snapshot that nothing was written to for too long, and
// comes back when it would be too long.
func (c *Cloud) awaitUpload(snap *state.Snapshot) error {
	u, err := c.uploads.open(c.dir, snap.ID)
	switch {
	case errors.Is(err, errStopping):
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, upload.ErrDamaged):
		return c.failUpload(snap, "what was written of it is lost: "+err.Error())
	case err != nil:
		return err
	}
	last := snap.Created
	if at := u.Last(); at.After(last) {
		last = at
	}
	timeout := time.Duration(snap.Upload.Timeout) * time.Minute
	if left := last.Add(timeout).Sub(c.now()); left > 0 {
		c.work.later(jobOf(snap), min(left, uploadLook))
		return nil
	}
	return c.failUpload(snap, fmt.Sprintf("no block was written for %d minutes, which is its timeout; start another", snap.Upload.Timeout))
}

// failUpload ends a snapshot that isn't sealed. Its parent isn't needed any more.
func (c *Cloud) failUpload(snap *state.Snapshot, why string) error {
	ended := false
	err := amend(c, jobOf(snap), func(tx *state.Tx, s *state.Snapshot) error {
		if s.State != state.SnapshotPending || s.Upload.Sealed != nil {
			return nil
		}
		s.State, s.Message, ended = state.SnapshotError, why, true
		return endCopying(tx, s)
	})
	if err != nil || !ended {
		return err
	}
	c.log.Warn("snapshot failed", "snapshot", snap.ID, "err", why)
	c.kickOrigin(snap)
	return c.uploads.discard(c.dir, snap.ID)
}

// storeUpload makes a snapshot of the blocks that were written.
func (c *Cloud) storeUpload(ctx context.Context, snap *state.Snapshot) (snapshot.Info, error) {
	if info, err := c.snapshots.Info(ctx, snap.ID); err == nil {
		return info, nil // it was complete in the store when the daemon ended
	}
	u, err := c.uploads.open(c.dir, snap.ID)
	if err != nil {
		return snapshot.Info{}, err
	}
	// After a restart it is sealed by its record alone.
	if err := u.Seal(func(all *upload.Contents) error { return checkSeal(all, *snap.Upload.Sealed) }); err != nil {
		return snapshot.Info{}, err
	}
	blocks, err := u.Contents()
	if err != nil {
		return snapshot.Info{}, err
	}
	src := &uploaded{ctx: ctx, size: int64(snap.VolumeSize) * gib, blocks: blocks, engine: c.snapshots, parent: snap.Upload.Parent}
	if src.parent == "" {
		return c.snapshots.Create(ctx, snap.ID, src, nil, c.reportProgress(snap))
	}
	parent, err := c.snapshots.Info(ctx, src.parent)
	if err != nil {
		return snapshot.Info{}, err
	}
	src.parentSize = parent.VolumeSize
	return c.snapshots.Create(ctx, snap.ID, src, &snapshot.Since{Base: src.parent, Changed: blocks.Has}, c.reportProgress(snap))
}

// awaitRoom says why a snapshot whose blocks are all here isn't complete. A disk
// that is gone as it was can be read again; nobody but the client has these
// blocks, so they are kept, and tried again.
func (c *Cloud) awaitRoom(snap *state.Snapshot, full error) error {
	return amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
		if s.State == state.SnapshotPending {
			s.Message = fmt.Sprintf("it waits for room, and goes on when there is some, or when it is completed again: %v", full)
		}
		return nil
	})
}

// tryAgain has a snapshot looked at that waits for room.
func (c *Cloud) tryAgain(snap *state.Snapshot) error {
	if snap.State != state.SnapshotPending || snap.Message == "" {
		return nil
	}
	defer c.work.kick(jobOf(snap))
	return amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
		if s.State == state.SnapshotPending {
			s.Message = "" // until it is known anew
		}
		return nil
	})
}

// uploaded is the volume that blocks make with a parent's. The engine takes over
// what it can of the parent without reading; what it can't, it reads here.
type uploaded struct {
	ctx        context.Context // of the one Create that reads it
	size       int64
	blocks     *upload.Contents
	engine     *snapshot.Engine
	parent     string
	parentSize int64
}

func (s *uploaded) Size() int64 { return s.size }

func (s *uploaded) NextData(off int64) (start, end int64, err error) {
	if off < s.parentSize {
		return off, s.parentSize, nil
	}
	index, ok := s.blocks.NextData(off / snapshot.BlockSize)
	if !ok {
		return 0, 0, io.EOF
	}
	start = index * snapshot.BlockSize
	return max(start, off), start + snapshot.BlockSize, nil
}

func (s *uploaded) ReadAt(p []byte, off int64) (int, error) {
	index := off / snapshot.BlockSize
	if len(p) != snapshot.BlockSize || off%snapshot.BlockSize != 0 {
		return 0, fmt.Errorf("read %d bytes at %d: not a block", len(p), off)
	}
	if s.blocks.Has(index) {
		if err := s.blocks.Read(index, p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	clear(p)
	if off >= s.parentSize {
		return len(p), nil
	}
	data, err := s.engine.ReadBlock(s.ctx, s.parent, index, nil)
	copy(p, data)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// clearUploads removes the files of uploads that no pending snapshot needs.
func (c *Cloud) clearUploads(snaps []*state.Snapshot) error {
	needed := map[string]bool{}
	for _, s := range snaps {
		needed[s.ID] = s.Upload != nil && s.State == state.SnapshotPending
	}
	files, err := os.ReadDir(c.dir.Uploads())
	if err != nil {
		return err
	}
	for _, f := range files {
		name, _, _ := strings.Cut(f.Name(), ".")
		if needed[name] {
			continue
		}
		if err := os.Remove(filepath.Join(c.dir.Uploads(), f.Name())); err != nil {
			return err
		}
	}
	return nil
}
