package state

import "time"

// What a retention rule of the Recycle Bin is for, as its API names them.
const (
	BinSnapshots = "EBS_SNAPSHOT"
	BinImages    = "EC2_IMAGE"
	BinVolumes   = "EBS_VOLUME"
)

// BinRule keeps what is deleted for some days.
type BinRule struct {
	Meta
	Of          string `json:"of"` // BinSnapshots, BinImages or BinVolumes
	Description string `json:"description,omitempty"`
	Days        int32  `json:"days"`
	Only        []Tag  `json:"only,omitempty"`   // what has any of them; none: everything ...
	Except      []Tag  `json:"except,omitempty"` // ... but what has any of these
}

// Kind implements Record.
func (*BinRule) Kind() string { return "bin-rule" }

// Version implements Record.
func (*BinRule) Version() int { return 1 }

// Binned is something that was deleted and is kept for a while. It has the ID of
// what is in it, whose own record isn't there meanwhile: so nothing finds it.
type Binned struct {
	Meta
	Entered  time.Time `json:"entered"`
	Exit     time.Time `json:"exit"` // when it goes for good
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Image    *Image    `json:"image,omitempty"`
	Volume   *Volume   `json:"volume,omitempty"`
}

// Kind implements Record.
func (*Binned) Kind() string { return "binned" }

// Version implements Record.
func (*Binned) Version() int { return 1 }
