package state

import "time"

// What a lifecycle policy takes snapshots of, and whether it does, in DLM's
// words.
const (
	PolicyVolumes   = "VOLUME"
	PolicyInstances = "INSTANCE"
	PolicyEnabled   = "ENABLED"
	PolicyDisabled  = "DISABLED"
)

// LifecyclePolicy takes snapshots by itself, and deletes them again.
type LifecyclePolicy struct {
	Meta
	Modified    time.Time        `json:"modified"`
	Description string           `json:"description"`
	Role        string           `json:"role"`
	State       string           `json:"state"`
	Target      string           `json:"target"`     // PolicyVolumes or PolicyInstances
	TargetTags  []Tag            `json:"targetTags"` // any one of them
	Schedules   []PolicySchedule `json:"schedules"`
	ExcludeRoot bool             `json:"excludeRoot,omitempty"`
	ExcludeTags []Tag            `json:"excludeTags,omitempty"` // of data volumes
}

// Kind implements Record.
func (*LifecyclePolicy) Kind() string { return "lifecycle-policy" }

// Version implements Record.
func (*LifecyclePolicy) Version() int { return 1 }

// Tag is a key and a value where their order, or a key twice, counts.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// PolicySchedule says when a policy takes snapshots and how long they are
// kept. Its name is the only one of its policy's.
type PolicySchedule struct {
	Name string `json:"name"`
	// Every is an interval in hours that divides a day, counted from At
	// (hh:mm, UTC); Cron is the other way to say when.
	Every int32  `json:"every,omitempty"`
	At    string `json:"at,omitempty"`
	Cron  string `json:"cron,omitempty"`
	// KeepCount or KeepFor and KeepUnit (DAYS, WEEKS, MONTHS, YEARS).
	KeepCount int32  `json:"keepCount,omitempty"`
	KeepFor   int32  `json:"keepFor,omitempty"`
	KeepUnit  string `json:"keepUnit,omitempty"`

	CopyTags     bool  `json:"copyTags,omitempty"`
	AddTags      []Tag `json:"addTags,omitempty"`
	VariableTags []Tag `json:"variableTags,omitempty"`

	// Handled is the last of its times that was seen to. Due is the one that
	// is being seen to, since Begun; zero: none.
	Handled time.Time `json:"handled"`
	Due     time.Time `json:"due,omitzero"`
	Begun   time.Time `json:"begun,omitzero"`
	// Untidy: something may be past its time. Tidied is when that was last
	// looked at.
	Untidy bool      `json:"untidy,omitempty"`
	Tidied time.Time `json:"tidied,omitzero"`
}

// PolicyRun says which run of a policy took a snapshot: that run takes none of
// the target a second time.
type PolicyRun struct {
	Policy   string    `json:"policy"`
	Schedule string    `json:"schedule"`
	Due      time.Time `json:"due"`
	Target   string    `json:"target"` // the volume's or the instance's ID
}
