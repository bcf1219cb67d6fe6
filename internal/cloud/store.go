package cloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/pack"
	"github.com/steadcloud/stead/internal/state"
)

// StoreReport is what a check of the snapshot store found.
type StoreReport struct {
	Snapshots int            `json:"snapshots"`  // that are readable
	Blocks    int            `json:"blocks"`     // distinct ones that they have
	BytesRead int64          `json:"bytes_read"` // and verified
	Problems  []StoreProblem `json:"problems"`
}

// StoreProblem is a snapshot's damage: a block of it, or what leads to its
// blocks.
type StoreProblem struct {
	Snapshot string `json:"snapshot"`
	Region   string `json:"region,omitempty"` // empty where no record says
	Volume   string `json:"volume,omitempty"`
	Block    *int64 `json:"block,omitempty"`  // its offset in the volume / 512 KiB
	Digest   string `json:"digest,omitempty"` // of the block
	Reason   string `json:"reason"`
}

// StoreStats is what the snapshot store holds and takes.
type StoreStats struct {
	Snapshots  int   `json:"snapshots"`
	DataBytes  int64 `json:"data_bytes"` // of all snapshots, each by itself
	Packs      int   `json:"packs"`
	Blocks     int   `json:"blocks"`      // distinct ones, and pages that name them
	Bytes      int64 `json:"bytes"`       // that the packs take
	LiveBytes  int64 `json:"live_bytes"`  // of them, what is in use or not yet collected
	Rotten     int   `json:"rotten"`      // blocks known to be damaged
	Trashed    int   `json:"trashed"`     // snapshots that can be had back
	TrashPacks int   `json:"trash_packs"` // in the trash
	TrashBytes int64 `json:"trash_bytes"`
	TrashDays  int   `json:"trash_days"` // that the trash is kept
}

// CheckStore verifies that each snapshot is whole; with readData it reads all of
// them.
func (c *Cloud) CheckStore(ctx context.Context, readData bool, progress snapshot.Progress) (*StoreReport, error) {
	report, err := c.snapshots.Check(ctx, readData, progress)
	if err != nil {
		return nil, err
	}
	return c.storeReport(report)
}

// RepairStore makes the store's index again from its packs, and reads all.
func (c *Cloud) RepairStore(ctx context.Context, progress snapshot.Progress) (*StoreReport, error) {
	report, err := c.snapshots.Repair(ctx, progress)
	if errors.Is(err, pack.ErrBusy) {
		return nil, fail("IncorrectState", "Snapshots are being made or deleted; repair the store when that is over.")
	}
	if err != nil {
		return nil, err
	}
	return c.storeReport(report)
}

func (c *Cloud) storeReport(r snapshot.Report) (*StoreReport, error) {
	records := map[string]*state.Snapshot{}
	err := c.db.View(func(tx *state.Tx) error {
		snaps, err := state.All[state.Snapshot](tx)
		for _, s := range snaps {
			records[s.ID] = s
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &StoreReport{Snapshots: r.Snapshots, Blocks: r.Blocks, BytesRead: r.BytesRead, Problems: []StoreProblem{}}
	for _, p := range r.Problems {
		found := StoreProblem{Snapshot: p.Snapshot, Reason: p.Err.Error()}
		if rec := records[p.Snapshot]; rec != nil {
			found.Region, found.Volume = rec.Region, rec.VolumeID
		}
		if p.Index >= 0 {
			found.Block, found.Digest = &p.Index, p.Block.String()
		}
		out.Problems = append(out.Problems, found)
	}
	return out, c.addMissing(out, r, records)
}

// addMissing names the snapshots that have a record and nothing in the store.
func (c *Cloud) addMissing(out *StoreReport, r snapshot.Report, records map[string]*state.Snapshot) error {
	infos, err := c.snapshots.List(c.work.ctx)
	if err != nil && !errors.Is(err, snapshot.ErrCorrupt) && !errors.Is(err, snapshot.ErrVersion) {
		return err
	}
	there := map[string]bool{}
	for _, i := range infos {
		there[i.ID] = true
	}
	for _, p := range r.Problems {
		there[p.Snapshot] = true
	}
	for _, id := range sortedKeys(records) {
		if s := records[id]; s.State == state.SnapshotCompleted && !s.Deleted && !there[id] {
			out.Problems = append(out.Problems, StoreProblem{Snapshot: id, Region: s.Region, Volume: s.VolumeID, Reason: "it is not in the store"})
		}
	}
	return nil
}

// StoreStats counts what is in the snapshot store.
func (c *Cloud) StoreStats(ctx context.Context) (*StoreStats, error) {
	s, err := c.snapshots.Stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("count the snapshot store: %w", err)
	}
	return &StoreStats{
		Snapshots: s.Snapshots, DataBytes: s.VolumeBytes, Packs: s.Packs, Blocks: s.Blobs, Bytes: s.Bytes, LiveBytes: s.LiveBytes,
		Rotten: s.Rotten, Trashed: s.Deleted, TrashPacks: s.TrashPacks, TrashBytes: s.TrashBytes,
		TrashDays: trashDays(c.trash),
	}, nil
}
