package state

import "time"

// Meta is what every resource has: where it belongs, its ID and its tags.
type Meta struct {
	Account string            `json:"account"`
	Region  string            `json:"region"`
	ID      string            `json:"id"`
	Created time.Time         `json:"created"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// Identity implements Record.
func (m *Meta) Identity() (Scope, string) { return m.Scope(), m.ID }

// Scope gives the account and region.
func (m *Meta) Scope() Scope { return Scope{m.Account, m.Region} }

// Common gives the Meta itself, for code that handles every kind alike.
func (m *Meta) Common() *Meta { return m }

// Instance states, as EC2 names them.
const (
	Pending      = "pending"
	Running      = "running"
	ShuttingDown = "shutting-down"
	Terminated   = "terminated"
	Stopping     = "stopping"
	Stopped      = "stopped"
)

// Instance is a machine that disks are plugged into. Want is what was asked
// for; State is what is; the instance's worker brings the second to the first.
type Instance struct {
	Meta
	Want  string `json:"want"`  // Running, Stopped or Terminated
	State string `json:"state"` // one of the six states
	Force bool   `json:"force,omitempty"`

	ReasonCode    string    `json:"reasonCode,omitempty"` // for example Client.UserInitiatedShutdown
	ReasonMessage string    `json:"reasonMessage,omitempty"`
	StateChanged  time.Time `json:"stateChanged"`
	Launched      time.Time `json:"launched"`
	RebootsAsked  int       `json:"rebootsAsked,omitempty"`
	RebootsDone   int       `json:"rebootsDone,omitempty"`
	ImagePending  string    `json:"imagePending,omitempty"` // the image whose snapshots want the instance off
	ReplaceRoot   string    `json:"replaceRoot,omitempty"`  // the task, not over yet, that exchanges its root volume

	ReservationID string `json:"reservation"`
	LaunchIndex   int    `json:"launchIndex"`
	ClientToken   string `json:"clientToken,omitempty"`
	ImageID       string `json:"image"`
	Type          string `json:"type"`
	KeyName       string `json:"keyName,omitempty"`
	Architecture  string `json:"architecture"`
	BootMode      string `json:"bootMode,omitempty"` // its image's
	// CurrentBootMode is legacy-bios or uefi: by which its last start was.
	CurrentBootMode string `json:"currentBootMode,omitempty"`
	// UEFIData are the variables that its firmware begins with, in EC2's form;
	// empty for the firmware's own.
	UEFIData    string `json:"uefiData,omitempty"`
	KernelID    string `json:"kernel,omitempty"`
	SpotRequest string `json:"spotRequest,omitempty"` // the request that it is for; empty: on demand
	RootDevice  string `json:"rootDevice"`
	UserData    []byte `json:"userData,omitempty"`

	Zone       string   `json:"zone"`
	SubnetID   string   `json:"subnet"`
	VPCID      string   `json:"vpc"`
	Interface  string   `json:"interface"`
	Attachment string   `json:"attachment"`
	MAC        string   `json:"mac"`
	PrivateIP  string   `json:"privateIP"`
	PublicIP   string   `json:"publicIP,omitempty"` // automatic; an elastic IP stands in its own record
	NoPublicIP bool     `json:"noPublicIP,omitempty"`
	Groups     []string `json:"groups"`

	Volumes []string `json:"volumes"` // by attachment order; the volume records hold the attachments

	ProtectTermination bool   `json:"protectTermination,omitempty"`
	ProtectStop        bool   `json:"protectStop,omitempty"`
	ShutdownBehavior   string `json:"shutdownBehavior"` // stop or terminate
	EBSOptimized       bool   `json:"ebsOptimized,omitempty"`
	NoSourceDestCheck  bool   `json:"noSourceDestCheck,omitempty"`
	Monitoring         bool   `json:"monitoring,omitempty"`

	MetadataTokens   string `json:"metadataTokens"` // required or optional
	MetadataHops     int32  `json:"metadataHops"`
	MetadataDisabled bool   `json:"metadataDisabled,omitempty"`
	MetadataTags     bool   `json:"metadataTags,omitempty"`

	// Resume: the cloud was stopped under it, and starts it again.
	Resume bool `json:"resume,omitempty"`
	// BootID is the host kernel's run that its machine was started in.
	BootID string `json:"bootID,omitempty"`
	Accel  string `json:"accel,omitempty"` // what the machine ran under last: kvm or tcg; empty: it never ran
}

// Kind implements Record.
func (*Instance) Kind() string { return "instance" }

// Version implements Record.
func (*Instance) Version() int { return 1 }

// Volume states, as EC2 names them.
const (
	VolumeCreating  = "creating"
	VolumeAvailable = "available"
	VolumeInUse     = "in-use"
	VolumeDeleting  = "deleting"
	VolumeError     = "error"
)

// Attachment states.
const (
	Attaching = "attaching"
	Attached  = "attached"
	Detaching = "detaching"
)

// Attachment plugs a volume into an instance. The volume's record holds it.
type Attachment struct {
	InstanceID          string    `json:"instance"`
	Device              string    `json:"device"`
	State               string    `json:"state"`
	DeleteOnTermination bool      `json:"deleteOnTermination,omitempty"`
	Force               bool      `json:"force,omitempty"`
	Time                time.Time `json:"time"`
}

// Volume is a disk: a raw file of Size GiB.
type Volume struct {
	Meta
	State      string      `json:"state"`
	Reason     string      `json:"reason,omitempty"`
	Zone       string      `json:"zone"`
	Size       int32       `json:"size"` // GiB
	Type       string      `json:"type"`
	IOPS       int32       `json:"iops,omitempty"`
	Throughput int32       `json:"throughput,omitempty"`
	SnapshotID string      `json:"snapshot,omitempty"`
	Lineage    string      `json:"lineage,omitempty"` // see Snapshot
	Encrypted  bool        `json:"encrypted,omitempty"`
	Attachment *Attachment `json:"attachment,omitempty"`
	// CopyOf is the volume that it is a copy of. While the copy isn't ready it
	// is read as that was at one instant; CopyLive says through its machine.
	CopyOf   string `json:"copyOf,omitempty"`
	CopyLive bool   `json:"copyLive,omitempty"`
	// Modification is the latest change of its size or kind; Modified is when
	// those of the last day began, the latest last.
	Modification *Modification `json:"modification,omitempty"`
	Modified     []time.Time   `json:"modified,omitempty"`
	// AutoIO: input and output are to go on by themselves after damage.
	AutoIO bool `json:"autoIO,omitempty"`
	// Doubted: its host failed to write to it, so that the host's memory may hold
	// what the disk doesn't.
	Doubted bool `json:"doubted,omitempty"`
	// ReservedFor is the instance that it becomes the root of, while the task
	// that makes it so is under way. Nothing else may take it meanwhile.
	ReservedFor string `json:"reservedFor,omitempty"`
	// Ready is set once the file is complete; a machine starts only from
	// ready volumes.
	Ready bool `json:"ready"`
}

// Kind implements Record.
func (*Volume) Kind() string { return "volume" }

// Version implements Record.
func (*Volume) Version() int { return 1 }

// Snapshot states.
const (
	SnapshotPending   = "pending"
	SnapshotCompleted = "completed"
	SnapshotError     = "error"
)

// Snapshot is a volume at one point in time. The store's manifest holds the
// data; this record is what the API says of it.
type Snapshot struct {
	Meta
	State       string    `json:"state"`
	Message     string    `json:"message,omitempty"`
	VolumeID    string    `json:"volume"`
	VolumeSize  int32     `json:"volumeSize"` // GiB
	Description string    `json:"description,omitempty"`
	Progress    int       `json:"progress"` // percent
	DataBytes   int64     `json:"dataBytes,omitempty"`
	Completed   time.Time `json:"completed"`
	Encrypted   bool      `json:"encrypted,omitempty"`
	Alias       string    `json:"alias,omitempty"`
	// Live says that the volume was in a running machine at the instant: such
	// a snapshot cannot be begun again after its daemon died.
	Live bool `json:"live,omitempty"`
	// Deleted: no longer in the API; the data goes when nothing needs it.
	Deleted bool `json:"deleted,omitempty"`
	// Run is the run of a lifecycle policy that took it.
	Run *PolicyRun `json:"run,omitempty"`
	// CopyOf is the snapshot that it is a copy of, which may be in another
	// region and gone by now. Copying are the copies of this one, as
	// REGION/ID, that are not complete; its data stays for them.
	CopyOf  *Origin  `json:"copyOf,omitempty"`
	Copying []string `json:"copying,omitempty"`
	// Sharing are the accounts that may make volumes of it.
	Sharing []string `json:"sharing,omitempty"`
	// Lineage is the volume or the upload that the first ancestor was made of:
	// the snapshots that share it have their blocks in common. Empty in records
	// from before there was one.
	Lineage string `json:"lineage,omitempty"`
	// Upload is how it comes from blocks that a client puts; nil for one that is
	// made of a volume or of another snapshot.
	Upload *Upload `json:"upload,omitempty"`
}

// DeletedSnapshot is one whose data is in the store's trash, as it was.
type DeletedSnapshot struct {
	Snapshot
	DeletedAt time.Time `json:"deletedAt"`
}

// Kind implements Record.
func (*DeletedSnapshot) Kind() string { return "deleted-snapshot" }

// Version implements Record.
func (*DeletedSnapshot) Version() int { return 1 }

// Collection says that snapshots were deleted since the store was last looked
// through for what nothing needs any more.
type Collection struct {
	Meta
	Wanted string `json:"wanted"` // another with each deletion
}

// Kind implements Record.
func (*Collection) Kind() string { return "collection" }

// Version implements Record.
func (*Collection) Version() int { return 1 }

// Upload is a snapshot's that a client writes block by block.
type Upload struct {
	Parent  string `json:"parent,omitempty"` // whose blocks it has where none is put
	Timeout int32  `json:"timeout"`          // minutes without a block, after which it fails
	// Sealed is what the client said of all blocks when they were there; nil
	// before.
	Sealed *Seal `json:"sealed,omitempty"`
}

// Seal is what a client says of the blocks that it put.
type Seal struct {
	Blocks   int32  `json:"blocks"`
	Checksum string `json:"checksum,omitempty"` // of their digests, in base64
}

// Kind implements Record.
func (*Snapshot) Kind() string { return "snapshot" }

// Version implements Record.
func (*Snapshot) Version() int { return 1 }

// Origin is what a snapshot or an image was copied from.
type Origin struct {
	Region string `json:"region"`
	ID     string `json:"id"`
}

// BlockDevice is one entry of an image's block device mapping.
type BlockDevice struct {
	Device              string `json:"device"`
	NoDevice            bool   `json:"noDevice,omitempty"`
	Virtual             string `json:"virtual,omitempty"` // ephemeral0 …
	SnapshotID          string `json:"snapshot,omitempty"`
	Size                int32  `json:"size,omitempty"` // GiB
	Type                string `json:"type,omitempty"`
	IOPS                int32  `json:"iops,omitempty"`
	Throughput          int32  `json:"throughput,omitempty"`
	DeleteOnTermination bool   `json:"deleteOnTermination"`
	Encrypted           bool   `json:"encrypted,omitempty"`
}

// Image states.
const (
	ImagePending   = "pending"
	ImageAvailable = "available"
	ImageFailed    = "failed"
)

// Image is the idea of a server: a block device mapping and how it boots. One
// of Type "kernel" is a kernel with its initial file system, as files.
type Image struct {
	Meta
	State          string        `json:"state"`
	Reason         string        `json:"reason,omitempty"`
	Name           string        `json:"name"`
	Description    string        `json:"description,omitempty"`
	Owner          string        `json:"owner"`                // account
	OwnerAlias     string        `json:"ownerAlias,omitempty"` // amazon
	Type           string        `json:"type"`                 // machine or kernel
	Architecture   string        `json:"architecture"`
	Virtualization string        `json:"virtualization,omitempty"`
	BootMode       string        `json:"bootMode,omitempty"`
	KernelID       string        `json:"kernel,omitempty"`
	RamdiskID      string        `json:"ramdisk,omitempty"`
	RootDevice     string        `json:"rootDevice,omitempty"`
	ENA            bool          `json:"ena,omitempty"`
	SRIOV          string        `json:"sriov,omitempty"`
	IMDS           string        `json:"imds,omitempty"`
	TPM            string        `json:"tpm,omitempty"`
	UEFIData       string        `json:"uefiData,omitempty"` // variables of the firmware, in EC2's form
	BlockDevices   []BlockDevice `json:"blockDevices,omitempty"`
	SourceInstance string        `json:"sourceInstance,omitempty"`
	CopyOf         *Origin       `json:"copyOf,omitempty"`
	Public         bool          `json:"public,omitempty"`
	Cmdline        string        `json:"cmdline,omitempty"` // of a kernel
}

// Kind implements Record.
func (*Image) Kind() string { return "image" }

// Version implements Record.
func (*Image) Version() int { return 1 }

// KeyPair is a public key; the private half is never kept.
type KeyPair struct {
	Meta
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
	PublicKey   string `json:"publicKey"` // one authorized_keys line
	Type        string `json:"type"`      // rsa or ed25519
}

// Kind implements Record.
func (*KeyPair) Kind() string { return "key-pair" }

// Version implements Record.
func (*KeyPair) Version() int { return 1 }

// Rule is one rule of a security group with one source.
type Rule struct {
	ID          string            `json:"id"`
	Egress      bool              `json:"egress,omitempty"`
	Protocol    string            `json:"protocol"` // tcp, udp, icmp, -1 or a number
	From        int32             `json:"from"`
	To          int32             `json:"to"`
	CIDR        string            `json:"cidr,omitempty"`
	Group       string            `json:"group,omitempty"`
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// SecurityGroup is a set of rules that instances share.
type SecurityGroup struct {
	Meta
	Name        string `json:"name"`
	Description string `json:"description"`
	VPCID       string `json:"vpc"`
	Rules       []Rule `json:"rules"`
}

// Kind implements Record.
func (*SecurityGroup) Kind() string { return "security-group" }

// Version implements Record.
func (*SecurityGroup) Version() int { return 1 }

// Address is an elastic IP; its ID is the allocation ID.
type Address struct {
	Meta
	IP            string `json:"ip"`
	AssociationID string `json:"association,omitempty"`
	InstanceID    string `json:"instance,omitempty"`
}

// Kind implements Record.
func (*Address) Kind() string { return "address" }

// Version implements Record.
func (*Address) Version() int { return 1 }

// VPC is a virtual network. Each region has one, the default.
type VPC struct {
	Meta
	CIDR string `json:"cidr"`
}

// Kind implements Record.
func (*VPC) Kind() string { return "vpc" }

// Version implements Record.
func (*VPC) Version() int { return 1 }

// Subnet is a zone's part of a VPC.
type Subnet struct {
	Meta
	VPCID string `json:"vpc"`
	Zone  string `json:"zone"`
	CIDR  string `json:"cidr"`
}

// Kind implements Record.
func (*Subnet) Kind() string { return "subnet" }

// Version implements Record.
func (*Subnet) Version() int { return 1 }

// Token makes a repeated request with the same client token answer as the
// first one did. Its ID is action/token.
type Token struct {
	Meta
	Hash    string   `json:"hash"` // of the request's parameters
	Results []string `json:"results"`
}

// Kind implements Record.
func (*Token) Kind() string { return "token" }

// Version implements Record.
func (*Token) Version() int { return 1 }

// Parameter is a public parameter of the Systems Manager: an image's alias.
// Its ID is the parameter's name with each "/" as ":".
type Parameter struct {
	Meta
	Name  string `json:"name"`
	Value string `json:"value"`
	Count int64  `json:"count"` // the parameter's version
}

// Kind implements Record.
func (*Parameter) Kind() string { return "parameter" }

// Version implements Record.
func (*Parameter) Version() int { return 1 }
