package state

import "time"

// States of a spot request, as EC2 names them. That it is disabled shows in its
// instance, which is stopped.
const (
	SpotOpen      = "open" // waits for an instance
	SpotActive    = "active"
	SpotClosed    = "closed" // its instance is gone and it wants no other
	SpotCancelled = "cancelled"
	SpotFailed    = "failed" // no instance could be launched
)

// SpotRequest is what keeps a spot instance: a persistent one launches another
// instance when its own is terminated.
type SpotRequest struct {
	Meta
	State      string    `json:"state"`
	Code       string    `json:"code"` // of its status, for example fulfilled
	Message    string    `json:"message,omitempty"`
	Updated    time.Time `json:"updated"`
	Persistent bool      `json:"persistent,omitempty"`
	Behavior   string    `json:"behavior"` // when interrupted: stop or terminate
	MaxPrice   string    `json:"maxPrice,omitempty"`
	ValidUntil time.Time `json:"validUntil"`
	InstanceID string    `json:"instance,omitempty"`
	// Interrupted: its instance was stopped for want of capacity.
	Interrupted bool       `json:"interrupted,omitempty"`
	Launch      SpotLaunch `json:"launch"`
}

// SpotLaunch is what every instance of a request is launched with.
type SpotLaunch struct {
	Instance Instance          `json:"instance"` // what they have in common; it has no ID
	Devices  []BlockDevice     `json:"devices"`
	Tags     map[string]string `json:"tags,omitempty"`
	DiskTags map[string]string `json:"diskTags,omitempty"`
}

// Kind implements Record.
func (*SpotRequest) Kind() string { return "spot-request" }

// Version implements Record.
func (*SpotRequest) Version() int { return 1 }
