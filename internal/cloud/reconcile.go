package cloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// reconcile is every worker's work: it brings one resource from what is to
// what is wanted. It can be interrupted anywhere and is then done again.
func (c *Cloud) reconcile(ctx context.Context, j job) error {
	switch j.kind {
	case (*state.Instance)(nil).Kind():
		return c.reconcileInstance(ctx, j)
	case (*state.Volume)(nil).Kind():
		return c.reconcileVolume(ctx, j)
	case (*state.Snapshot)(nil).Kind():
		return c.reconcileSnapshot(ctx, j)
	case (*state.Image)(nil).Kind():
		return c.reconcileImage(j)
	case (*state.SpotRequest)(nil).Kind():
		return c.reconcileSpot(j)
	case (*state.Binned)(nil).Kind():
		return c.reconcileBinned(j)
	case (*state.LifecyclePolicy)(nil).Kind():
		return c.reconcilePolicy(ctx, j)
	case trashJob.kind:
		return c.expireTrash(ctx)
	case collectJob.kind:
		return c.reconcileCollection(ctx)
	}
	return fmt.Errorf("no worker for %s", j.kind)
}

// kickIf has a resource looked at, if there is one.
func (c *Cloud) kickIf(j *job) {
	if j != nil {
		c.work.kick(*j)
	}
}

// load reads a resource for its worker; nil when it is gone.
func load[T any, P interface {
	*T
	state.Record
}](c *Cloud, j job) (*T, error) {
	var rec *T
	err := c.db.View(func(tx *state.Tx) (err error) {
		rec, err = state.Get[T, P](tx, j.scope, j.id)
		return err
	})
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	return rec, err
}

// amend changes a resource as it is now; f is not called when it is gone.
func amend[T any, P interface {
	*T
	state.Record
}](c *Cloud, j job, f func(tx *state.Tx, rec *T) error) error {
	return c.db.Update(func(tx *state.Tx) error {
		rec, err := state.Get[T, P](tx, j.scope, j.id)
		if errors.Is(err, state.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(tx, rec); err != nil {
			return err
		}
		return state.Put(tx, P(rec))
	})
}

// reconcileVolume makes a volume's file, or removes it.
func (c *Cloud) reconcileVolume(ctx context.Context, j job) error {
	vol, err := load[state.Volume](c, j)
	if err != nil || vol == nil {
		return err
	}
	if vol.State == state.VolumeDeleting {
		return c.removeVolume(ctx, vol)
	}
	if vol.Ready && vol.Modification.Pending() {
		return c.modifyDisk(ctx, vol)
	}
	if vol.Ready || vol.State == state.VolumeError {
		return nil
	}
	err = c.makeVolume(ctx, vol)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !permanent(err) {
		return fmt.Errorf("make volume %s: %w", vol.ID, err)
	}
	failed := err
	var inst string
	err = amend(c, j, func(_ *state.Tx, v *state.Volume) error {
		inst = v.ReservedFor
		if v.Attachment != nil {
			inst = v.Attachment.InstanceID
		}
		switch {
		case v.State == state.VolumeDeleting:
		case failed != nil:
			v.State, v.Reason = state.VolumeError, failed.Error()
		case v.Attachment != nil:
			v.State, v.Ready = state.VolumeInUse, true
		default:
			v.State, v.Ready = state.VolumeAvailable, true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if inst != "" {
		c.work.kick(job{(*state.Instance)(nil).Kind(), j.scope, inst})
	}
	if vol.CopyOf != "" {
		c.instants.end(vol.ID)
		c.work.kick(job{(*state.Volume)(nil).Kind(), j.scope, vol.CopyOf}) // it may wait to be removed
	}
	if vol.SnapshotID != "" { // it may wait to be removed
		c.work.kick(job{(*state.Snapshot)(nil).Kind(), j.scope, vol.SnapshotID})
	}
	c.work.kick(j) // it may have been deleted meanwhile
	return nil
}

// permanent says that trying again would not help.
func permanent(err error) bool {
	var corrupt *snapshot.CorruptError
	return errors.As(err, &corrupt) || errors.Is(err, snapshot.ErrNotFound) || errors.Is(err, volume.ErrNoSpace) || errors.Is(err, volume.ErrExists) || errors.Is(err, errInstantLost)
}

// removeVolume removes a volume and its file, once no snapshot that was begun
// waits to read it: its end kicks this worker.
func (c *Cloud) removeVolume(ctx context.Context, vol *state.Volume) error {
	var needed bool
	err := c.db.View(func(tx *state.Tx) error {
		snaps, err := state.List[state.Snapshot](tx, vol.Scope())
		for _, s := range snaps {
			needed = needed || s.VolumeID == vol.ID && s.State == state.SnapshotPending && !s.Live && !s.Deleted
		}
		if err != nil {
			return err
		}
		vols, err := state.List[state.Volume](tx, vol.Scope())
		for _, v := range vols {
			needed = needed || v.CopyOf == vol.ID && v.State == state.VolumeCreating && !v.CopyLive
		}
		return err
	})
	if err != nil || needed {
		return err
	}
	c.instants.end(vol.ID)    // if it was to be a copy
	if vol.SnapshotID != "" { // it may wait to be removed, too
		defer c.work.kick(job{(*state.Snapshot)(nil).Kind(), vol.Scope(), vol.SnapshotID})
	}
	if err := c.volumes.Delete(ctx, vol.ID); err != nil {
		return err
	}
	return c.db.Update(func(tx *state.Tx) error {
		return errors.Join(dropTokens(tx, vol.Scope(), vol.ID), state.Delete(tx, vol))
	})
}

// reconcileSnapshot copies what a snapshot's instant holds into the store, or
// removes it from there.
func (c *Cloud) reconcileSnapshot(ctx context.Context, j job) error {
	snap, err := load[state.Snapshot](c, j)
	if err != nil || snap == nil {
		return err
	}
	defer c.work.kick(job{(*state.Volume)(nil).Kind(), j.scope, snap.VolumeID}) // it may wait to be removed
	if snap.Deleted {
		c.instants.end(snap.ID)
		return c.removeSnapshot(ctx, snap)
	}
	if snap.State != state.SnapshotPending {
		return nil
	}
	if snap.Upload != nil && snap.Upload.Sealed == nil {
		return c.awaitUpload(snap)
	}
	held := c.instants.get(snap.ID)
	if held == nil && !snap.Live && snap.CopyOf == nil && snap.Upload == nil {
		return nil // its instance is being shut down for it
	}
	info, err := c.storeSnapshot(ctx, snap, held)
	if errors.Is(err, snapshot.ErrNoSpace) {
		c.makeRoom() // for the next
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, volume.ErrInUse) {
		return fmt.Errorf("read snapshot %s: %w", snap.ID, err)
	}
	if snap.Upload != nil && errors.Is(err, snapshot.ErrNoSpace) {
		return errors.Join(err, c.awaitRoom(snap, err))
	}
	if snap.Live {
		// Before anybody can see that it is complete: the next one of the volume
		// may be asked for at once.
		c.instants.end(snap.ID)
	}
	failed := err
	err = amend(c, j, func(tx *state.Tx, s *state.Snapshot) error {
		c.settle(s, info, failed)
		return endCopying(tx, s)
	})
	if err != nil {
		return err
	}
	c.instants.end(snap.ID)
	c.kickOrigin(snap)
	if snap.Upload != nil {
		if err := c.uploads.discard(c.dir, snap.ID); err != nil {
			c.log.Warn("remove what a snapshot was made of", "snapshot", snap.ID, "err", err)
		}
	}
	if failed != nil {
		c.log.Warn("snapshot failed", "snapshot", snap.ID, "volume", snap.VolumeID, "err", failed)
	}
	c.work.kick(j)
	return c.kickImages(j.scope)
}

// settle notes in a snapshot's record how its copying ended.
func (c *Cloud) settle(s *state.Snapshot, info snapshot.Info, failed error) {
	if failed != nil {
		s.State, s.Message = state.SnapshotError, failed.Error()
		return
	}
	s.State, s.Progress, s.Completed, s.DataBytes, s.Message = state.SnapshotCompleted, 100, c.now().UTC(), info.DataBytes, ""
	// The volume may have grown between the look at it and the instant.
	s.VolumeSize = max(s.VolumeSize, int32((info.VolumeSize+gib-1)/gib))
}

func (c *Cloud) storeSnapshot(ctx context.Context, snap *state.Snapshot, held *heldInstant) (snapshot.Info, error) {
	if snap.CopyOf != nil {
		return c.snapshots.Copy(ctx, snap.CopyOf.ID, snap.ID)
	}
	if snap.Upload != nil {
		return c.storeUpload(ctx, snap)
	}
	// It may be complete in the store since before the daemon ended. Then nothing
	// is read, and nothing known of whether the volume is still as it was.
	if info, err := c.snapshots.Info(ctx, snap.ID); err == nil {
		return info, nil
	}
	if held == nil {
		return snapshot.Info{}, errors.New("the daemon ended while the snapshot was read from a running machine; take another")
	}
	src, err := held.open(ctx, snap.VolumeID)
	if err != nil {
		return snapshot.Info{}, err
	}
	defer func() {
		if err := src.Close(); err != nil {
			c.log.Warn("close snapshot source", "snapshot", snap.ID, "err", err)
		}
	}()
	if err := c.volumes.BoundGoldens(); err != nil {
		c.log.Warn("bound what golden files take", "err", err)
	}
	start := time.Now()
	info, err := c.snapshots.Create(ctx, snap.ID, src, src.since, c.reportProgress(snap))
	c.log.Info("snapshot read", "snapshot", snap.ID, "volume", snap.VolumeID, "since", src.base(),
		"read", src.read.Load(), "stored", info.StoredBytes, "took", time.Since(start), "err", err)
	if err != nil {
		src.failed(err)
		return info, err
	}
	src.kept(snap.ID)
	return info, nil
}

// reportProgress writes a snapshot's progress to its record, at most twice a
// second.
func (c *Cloud) reportProgress(snap *state.Snapshot) snapshot.Progress {
	return newThrottle(500*time.Millisecond, func(done, total int64) {
		if total == 0 {
			return
		}
		err := amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
			s.Progress = min(99, max(s.Progress, int(done*100/total)))
			return nil
		})
		if err != nil {
			c.log.Warn("snapshot progress", "snapshot", snap.ID, "err", err)
		}
	})
}

// removeSnapshot drops a snapshot's data once no volume is being made of it.
func (c *Cloud) removeSnapshot(ctx context.Context, snap *state.Snapshot) error {
	var needed bool
	err := c.db.Update(func(tx *state.Tx) error {
		if len(snap.Copying) > 0 {
			needed = true
			return nil
		}
		if err := endCopying(tx, snap); err != nil {
			return err
		}
		vols, err := state.List[state.Volume](tx, snap.Scope())
		for _, v := range vols {
			needed = needed || v.SnapshotID == snap.ID && !v.Ready && v.State == state.VolumeCreating
		}
		return err
	})
	c.kickOrigin(snap)
	if err != nil || needed {
		return err
	}
	gone, err := c.trashSnapshot(ctx, jobOf(snap))
	if err != nil || !gone {
		return err
	}
	if err := c.volumes.DropGolden(snap.ID); err != nil {
		return err
	}
	c.collectLater()
	return nil
}

// kickImages has the images looked at that wait for snapshots.
func (c *Cloud) kickImages(s state.Scope) error {
	return c.db.View(func(tx *state.Tx) error {
		images, err := state.List[state.Image](tx, s)
		for _, i := range images {
			if i.State == state.ImagePending {
				c.work.kick(jobOf(i))
			}
		}
		return err
	})
}

// reconcileImage makes an image available when its snapshots are complete.
func (c *Cloud) reconcileImage(j job) error {
	return amend(c, j, func(tx *state.Tx, img *state.Image) error {
		if img.State != state.ImagePending {
			return nil
		}
		for _, b := range img.BlockDevices {
			if b.SnapshotID == "" {
				continue
			}
			snap, err := state.Get[state.Snapshot](tx, j.scope, b.SnapshotID)
			switch {
			case errors.Is(err, state.ErrNotFound):
				img.State, img.Reason = state.ImageFailed, "snapshot "+b.SnapshotID+" is gone"
				return nil
			case err != nil:
				return err
			case snap.State == state.SnapshotError:
				img.State, img.Reason = state.ImageFailed, "snapshot "+snap.ID+" failed: "+snap.Message
				return nil
			case snap.State == state.SnapshotPending:
				return nil
			}
		}
		img.State = state.ImageAvailable
		return nil
	})
}
