package cloud

import (
	"context"
	"errors"
	"time"

	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// makeVolume makes a volume's file, unless it is there.
func (c *Cloud) makeVolume(ctx context.Context, vol *state.Volume) error {
	size := int64(vol.Size) * gib
	if vol.CopyOf != "" {
		return c.copyDisk(ctx, vol, size)
	}
	if vol.SnapshotID == "" {
		return c.volumes.Create(ctx, vol.ID, size)
	}
	start := time.Now()
	err := c.restoreVolume(ctx, vol, size)
	if err == nil {
		c.keepRestored(vol)
	}
	c.log.Debug("volume restored", "volume", vol.ID, "snapshot", vol.SnapshotID, "took", time.Since(start), "err", err)
	return err
}

// restoreVolume fills a volume with what its snapshot has.
func (c *Cloud) restoreVolume(ctx context.Context, vol *state.Volume, size int64) error {
	info, err := c.snapshots.Info(ctx, vol.SnapshotID)
	if err != nil {
		return err
	}
	err = c.volumes.FillFrom(ctx, vol.ID, size, volume.Origin{
		ID: info.ID, Digest: info.Digest, Size: info.VolumeSize,
		Fill: func(ctx context.Context, w volume.Sink) error {
			return c.snapshots.Restore(ctx, info.ID, w, nil)
		},
		Verify: func(ctx context.Context, r *volume.Reader) error {
			return c.snapshots.Compare(ctx, info.ID, r)
		},
	})
	return errors.Join(err, c.dropDeletedGolden(vol))
}

// dropDeletedGolden drops the golden file that was made of a snapshot while it was
// deleted.
func (c *Cloud) dropDeletedGolden(vol *state.Volume) error {
	err := c.db.View(func(tx *state.Tx) error {
		_, err := state.Get[state.Snapshot](tx, vol.Scope(), vol.SnapshotID)
		return err
	})
	if errors.Is(err, state.ErrNotFound) {
		return c.volumes.DropGolden(vol.SnapshotID)
	}
	return err
}

// keepGoldens drops the golden files of snapshots that are no more.
func (c *Cloud) keepGoldens(snaps []*state.Snapshot) error {
	there := make(map[string]bool, len(snaps))
	for _, s := range snaps {
		there[s.ID] = !s.Deleted
	}
	return c.volumes.KeepGoldens(func(id string) bool { return there[id] })
}

// makeRoom drops the golden files of snapshots where there would else be no room
// for what is more than a cache.
func (c *Cloud) makeRoom() {
	if _, err := c.volumes.DropGoldens(); err != nil {
		c.log.Warn("drop golden files to make room", "err", err)
	}
}
