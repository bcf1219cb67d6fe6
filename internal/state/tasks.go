package state

import "time"

// States of a task that replaces a root volume, as EC2 names them.
const (
	TaskPending    = "pending"     // the new volume is being made
	TaskInProgress = "in-progress" // the machine is off, the volumes are exchanged
	TaskSucceeded  = "succeeded"
	TaskFailed     = "failed" // the original root is attached still, or again
)

// ReplaceRootTask exchanges a running instance's root volume for another. The
// instance names its task for as long as it isn't done; which of the two
// volumes is attached shows how far it is.
type ReplaceRootTask struct {
	Meta
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"` // why it failed
	InstanceID string    `json:"instance"`
	Old        string    `json:"old"`                // volume ID of the root that goes
	New        string    `json:"new"`                // volume ID of the root that comes
	Given      bool      `json:"given,omitempty"`    // the new one was there before: it is not the task's to delete
	SnapshotID string    `json:"snapshot,omitempty"` // what the new one is made of, as it was asked for
	ImageID    string    `json:"image,omitempty"`
	DeleteOld  bool      `json:"deleteOld,omitempty"`
	Completed  time.Time `json:"completed"`
}

// Kind implements Record.
func (*ReplaceRootTask) Kind() string { return "replace-root-task" }

// Version implements Record.
func (*ReplaceRootTask) Version() int { return 1 }

// Over says that nothing more will be done for the task.
func (t *ReplaceRootTask) Over() bool { return t.State == TaskSucceeded || t.State == TaskFailed }
