package server

import "time"

// States of a server. A server with an instance has the instance's own state;
// the others are the package's.
const (
	StatePending     = "pending"
	StateRunning     = "running"
	StateStopping    = "stopping"
	StateStopped     = "stopped"
	StateTerminating = "shutting-down"
	StateDetached    = "detached" // disks, and no instance
	StateRescuing    = "rescuing" // a rescue was interrupted or is under way
	StateSnapshots   = "snapshots-only"
	// StateInterrupted: EC2 took a spot instance's capacity back and stopped it.
	StateInterrupted = "interrupted"
)

// Server is a named set of disks and the instance that they are plugged into,
// if any. Its JSON form is the tool's machine-readable output.
type Server struct {
	Name       string     `json:"name"`
	State      string     `json:"state"`
	InstanceID string     `json:"instance_id,omitempty"`
	Type       string     `json:"type,omitempty"`
	ImageID    string     `json:"image_id,omitempty"`
	Zone       string     `json:"zone,omitempty"`
	PublicIP   string     `json:"public_ip,omitempty"`
	PrivateIP  string     `json:"private_ip,omitempty"`
	Arch       string     `json:"arch,omitempty"`
	BootMode   string     `json:"boot_mode,omitempty"`
	Kernel     string     `json:"kernel,omitempty"`
	Ramdisk    string     `json:"ramdisk,omitempty"`
	KeyName    string     `json:"key_name,omitempty"`
	LaunchTime *time.Time `json:"launch_time,omitempty"`
	Root       Disk       `json:"root"`
	Data       []Disk     `json:"data"`
	// Open lists the ports that the server was created to open, From the
	// networks that may reach them.
	Open []string `json:"open"`
	From []string `json:"from"`
	// Forwards says where a port of the server is really found when the
	// endpoint couldn't give it its own number: guest port → host port.
	Forwards map[string]int `json:"forwards,omitempty"`
	// ElasticIP is the allocation ID of the fixed address, if it has one.
	ElasticIP string `json:"elastic_ip,omitempty"`
	// Protected tells that every disk is kept when the instance is terminated.
	Protected bool `json:"protected"`
	// Locked tells that the user protected it: it can't be stopped or
	// terminated.
	Locked bool `json:"locked,omitempty"`
	// Rules are open ports to other networks than From, each PORT@CIDR.
	Rules []string `json:"rules,omitempty"`
	// Spot tells that it runs at the market's price, and may be stopped for it.
	Spot bool `json:"spot,omitempty"`
	// NewestSnapshot is when its newest complete snapshot set was taken. Only
	// listings and Show look for it.
	NewestSnapshot *time.Time `json:"newest_snapshot,omitempty"`
	// Month is what it costs a month as it is now, running or stopped: instance,
	// disks and address, without snapshots and traffic. nil: not known.
	Month    *Month   `json:"month,omitempty"`
	SSH      SSHAddr  `json:"ssh"`
	Warnings []string `json:"warnings,omitempty"`
}

// SSHAddr is where the server answers ssh and as whom to log in.
type SSHAddr struct {
	Host string `json:"host,omitempty"`
	Port int    `json:"port,omitempty"`
	User string `json:"user,omitempty"`
}

// Roles of a disk.
const (
	RoleRoot = "root"
	RoleData = "data"
)

// Disk is a volume of a server.
type Disk struct {
	VolumeID string `json:"volume_id"`
	Server   string `json:"server,omitempty"`
	Role     string `json:"role,omitempty"`
	Device   string `json:"device,omitempty"`
	State    string `json:"state"` // EC2's: creating, available, in-use, deleting, error
	Type     string `json:"type,omitempty"`
	SizeGiB  int    `json:"size_gib"`
	IOPS     int    `json:"iops,omitempty"`
	// ThroughputMiBs is MiB a second, where the type has such a limit.
	ThroughputMiBs int    `json:"throughput_mibs,omitempty"`
	Zone           string `json:"zone,omitempty"`
	// InstanceID is where it is attached, "" when nowhere.
	InstanceID string `json:"instance_id,omitempty"`
	// KeptOnTermination tells that terminating the instance keeps it. A
	// detached disk is always kept.
	KeptOnTermination bool `json:"kept_on_termination"`
	// Raid is LEVEL INDEX/COUNT of a disk that is one of several, Mount where
	// it was mounted when it was made, and FS its file system then.
	Raid  string `json:"raid,omitempty"`
	Mount string `json:"mount,omitempty"`
	FS    string `json:"fs,omitempty"`
	// SupersededBy is the volume that took its place in a rescue by snapshot.
	SupersededBy string     `json:"superseded_by,omitempty"`
	Created      *time.Time `json:"created,omitempty"`
}

// Who took a snapshot set.
const (
	ByHand     = "hand"     // a command
	BySchedule = "schedule" // the cloud itself, as a schedule says
	ByRescue   = "rescue"   // a rescue, on its way
)

// SnapshotSet is the snapshots of one server taken together.
type SnapshotSet struct {
	ID      string    `json:"id"`
	Server  string    `json:"server"`
	By      string    `json:"by"`             // hand, schedule or rescue
	Part    string    `json:"part,omitempty"` // root or data, where it holds that alone
	Note    string    `json:"note,omitempty"`
	Started time.Time `json:"started"`
	State   string    `json:"state"` // completed, pending or error: the worst of its snapshots
	// SizeGiB is that of the disks. What the snapshots take is less: they
	// share what didn't change.
	SizeGiB int `json:"size_gib"`
	// Complete tells that all that belongs to the set is there, and Lacks what
	// isn't. A set that isn't complete is never restored.
	Complete bool   `json:"complete"`
	Lacks    string `json:"lacks,omitempty"`
	// OneInstant tells that one call took all of them while attached, or that
	// nothing was writing.
	OneInstant bool `json:"one_instant"`
	// Frozen tells that the data disks' file systems stood still.
	Frozen    bool       `json:"frozen,omitempty"`
	Snapshots []Snapshot `json:"snapshots"`
}

// Snapshot is one disk's part of a set.
type Snapshot struct {
	SnapshotID string `json:"snapshot_id"`
	VolumeID   string `json:"volume_id"`
	Role       string `json:"role"`
	Device     string `json:"device"`
	SizeGiB    int    `json:"size_gib"`
	State      string `json:"state"`
	Progress   string `json:"progress,omitempty"`
	Message    string `json:"message,omitempty"` // why it failed
}

// Image is the idea of a server: what can be launched.
type Image struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Alias      string     `json:"alias,omitempty"`
	State      string     `json:"state"`
	Arch       string     `json:"arch"`
	BootMode   string     `json:"boot_mode,omitempty"`
	Kernel     string     `json:"kernel,omitempty"`
	RootDevice string     `json:"root_device"`
	SizeGiB    int        `json:"size_gib"`
	DataGiB    []int      `json:"data_gib,omitempty"`
	Durable    bool       `json:"durable"` // every disk is kept by whatever launches it
	Created    *time.Time `json:"created,omitempty"`
	User       string     `json:"user,omitempty"` // login user, when known
}

// WaitFor is how far an operation that boots something waits.
type WaitFor string

// What to wait for. The zero value means WaitSSH.
const (
	WaitSSH     WaitFor = "ssh"
	WaitRunning WaitFor = "running"
	WaitNone    WaitFor = "none"
)

// RescueBy is a way to bring a server back.
type RescueBy string

// Ways to rescue. The zero value means RescueAuto.
const (
	// RescueAuto takes the quickest way that is safe: see RescuePlan.
	RescueAuto RescueBy = "auto"
	// RescueSwap plugs the very same disks into a stand-in instance.
	RescueSwap RescueBy = "swap"
	// RescueReplaceRoot makes the very same root the root of a stand-in that
	// runs, in one task of the endpoint's.
	RescueReplaceRoot RescueBy = "replace-root"
	// RescueSnapshot snapshots the disks, registers an image of them and
	// launches it: new disks, the old ones kept as superseded.
	RescueSnapshot RescueBy = "snapshot"
)

// RescueOptions says how to bring a server back.
type RescueOptions struct {
	By    RescueBy
	Image string // image for the stand-in of a swap; "" means the recorded one
	Type  string // instance type; "" means the recorded one
	// Set is the snapshot set to come back from, and At the moment whose newest
	// complete set it is. Neither: from the disks as they are.
	Set string
	At  time.Time
	// Zone is another zone to come back in, as new disks; "" stays.
	Zone string
	// WithoutLost goes on without data disks that are gone.
	WithoutLost bool
	Wait        WaitFor
}

// RescuePlan is how a server would be brought back, and why so.
type RescuePlan struct {
	By  RescueBy `json:"by"`
	Why string   `json:"why"`
	// Set is the snapshot set that the disks are made of, nil when they come
	// back as they are.
	Set *SnapshotSet `json:"set,omitempty"`
	// Lost are the devices of disks that are gone. What was written to them
	// after the set was taken is lost.
	Lost []string `json:"lost,omitempty"`
	// Consent tells that nobody has asked for that set: it is offered, and must
	// be named to be used.
	Consent bool `json:"consent,omitempty"`
}

// RescueResult is a server that is back, and what it took.
type RescueResult struct {
	Server *Server  `json:"server"`
	By     RescueBy `json:"by"`
	// Image and Set are what a rescue by snapshot made or used.
	Image string `json:"image_id,omitempty"`
	Set   string `json:"set,omitempty"`
	// Superseded are the old disks that a rescue by snapshot leaves behind.
	Superseded []Disk `json:"superseded,omitempty"`
	// OldPrivateIP is the private address that it had and couldn't get again:
	// in another zone or subnet, or because it is somebody else's by now.
	OldPrivateIP string `json:"old_private_ip,omitempty"`
}

// TerminateResult tells what stayed.
type TerminateResult struct {
	Name       string `json:"name"`
	InstanceID string `json:"instance_id,omitempty"` // "" when there was none
	Kept       []Disk `json:"kept"`
	ElasticIP  string `json:"elastic_ip,omitempty"`
}

// SnapshotOptions says which set to take.
type SnapshotOptions struct {
	Note string
	Part string // RoleRoot or RoleData; "" is all disks
	// Freeze has the file systems of the data disks stand still meanwhile.
	Freeze bool
	// Loose takes the disks of a running server one after the other where the
	// endpoint can't take them at one instant.
	Loose bool
	Wait  bool // until completed; on AWS the first one can take hours
}

// VolumeOptions says which data disk to make.
type VolumeOptions struct {
	Server  string // the server it belongs to
	SizeGiB int
	Device  string // "" means the next free of /dev/sdf ... /dev/sdp
	Type    string // "" means gp3
	// Mount is where the server mounts it, "" nowhere. A blank disk then gets a
	// file system, FS, first: ext4 for "".
	Mount, FS string
}

// DurableOptions says which image to make.
type DurableOptions struct {
	Ref  string // image ID, alias or server name
	Name string // "" derives one
	Data []DataSpec
}

// EventState is where a step stands.
type EventState string

// States of a step.
const (
	StepStarted EventState = "started"
	StepWaiting EventState = "waiting" // still going; Detail says on what
	StepDone    EventState = "done"
	StepFailed  EventState = "failed"
	StepWarning EventState = "warning" // something to tell that stops nothing
)

// Event is progress, for people.
type Event struct {
	State    EventState
	Step     string // "launch stand-in"
	Resource string // "i-0123", or the server's name
	Detail   string
	Elapsed  time.Duration // since the step started
}
