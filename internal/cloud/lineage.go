package cloud

import (
	"cmp"

	"github.com/steadcloud/stead/internal/state"
)

// A lineage is all that comes of one volume or one uploaded snapshot: its
// snapshots, the volumes made of them, their snapshots, and copies of each.
// Within it blocks can be compared; across it there is nothing to learn. It is
// written into each record, as the ancestors may be gone.

func volumeLineage(v *state.Volume) string { return cmp.Or(v.Lineage, v.ID) }

func snapshotLineage(s *state.Snapshot) string {
	if s.Lineage == "" && s.VolumeID != noVolume {
		return cmp.Or(s.VolumeID, s.ID)
	}
	return cmp.Or(s.Lineage, s.ID)
}
