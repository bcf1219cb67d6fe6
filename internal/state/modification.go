package state

import "time"

// States of a volume's modification, as EC2 names them.
const (
	ModificationModifying  = "modifying"
	ModificationOptimizing = "optimizing"
	ModificationCompleted  = "completed"
	ModificationFailed     = "failed"
)

// VolumeShape is what a volume can be changed in.
type VolumeShape struct {
	Size       int32  `json:"size"` // GiB
	Type       string `json:"type"`
	IOPS       int32  `json:"iops,omitempty"`
	Throughput int32  `json:"throughput,omitempty"` // MiB/s
}

// Modification is the latest change of a volume. Until it is optimizing, the
// volume has its original shape.
type Modification struct {
	State    string      `json:"state"`
	Message  string      `json:"message,omitempty"`
	Original VolumeShape `json:"original"`
	Target   VolumeShape `json:"target"`
	Start    time.Time   `json:"start"`
	End      time.Time   `json:"end"`
}

// Pending says that there is something left to do for the modification, if
// there is one.
func (m *Modification) Pending() bool {
	return m != nil && m.State != ModificationCompleted && m.State != ModificationFailed
}

// Shape gives what a modification may change.
func (v *Volume) Shape() VolumeShape { return VolumeShape{v.Size, v.Type, v.IOPS, v.Throughput} }
