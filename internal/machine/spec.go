package machine

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Accel says how the guest's processor is run.
type Accel string

// How a guest's processor can be run.
const (
	// AccelAuto takes KVM when it was seen to run a guest, else TCG.
	AccelAuto Accel = "auto"
	// AccelKVM is hardware virtualisation, and nothing else.
	AccelKVM Accel = "kvm"
	// AccelTCG is QEMU's own translator; it works everywhere.
	AccelTCG Accel = "tcg"
)

// Spec describes a machine. It is kept in the machine's folder, so the names in
// JSON are a format.
type Spec struct {
	ID  string `json:"id"`  // the instance's ID, for names and messages
	Dir string `json:"dir"` // absolute path of its folder, which exists and is private to its owner

	CPUs      int `json:"cpus"`
	MemoryMiB int `json:"memoryMiB"`

	Disks []Disk `json:"disks"` // the root first

	// Kernel is booted directly when set, with Initrd and Cmdline. Otherwise
	// the firmware boots from the first disk.
	Kernel  string `json:"kernel,omitempty"`
	Initrd  string `json:"initrd,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`

	UEFI bool `json:"uefi,omitempty"` // boot by UEFI firmware (OVMF) rather than BIOS

	// Variables is the flash with UEFI's variables that a machine begins with
	// which has none yet; nil for the firmware's own.
	Variables []byte `json:"-"`

	NIC *NIC `json:"nic,omitempty"` // none when nil

	// What the guest reads in SMBIOS: cloud-init's Ec2 source wants UUID and
	// SerialNumber to begin with "ec2".
	Product      string `json:"product,omitempty"`
	UUID         string `json:"uuid,omitempty"`
	SerialNumber string `json:"serialNumber,omitempty"`

	Accel Accel `json:"accel,omitempty"` // the Runner's when empty

	// Slotted is set by Start: the disks sit in ports by their slots. Machines
	// that an older program started have them in their order.
	Slotted bool `json:"slotted,omitempty"`
}

// Disk is a volume as a machine sees it.
type Disk struct {
	Path     string `json:"path"`     // absolute path of the raw file
	VolumeID string `json:"volumeId"` // vol-…; the serial number is this without its dash
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Slot is the place that the disk has, 2 to Slots; the root has the first,
	// whatever it says. Zero means any; so does one that is taken. A guest reads
	// it in the PCI address of the disk's root port: slot n is 00:10.0 + (n-1),
	// eight to a device, as in 00:10.5 for 6 and 00:11.0 for 9.
	Slot int `json:"slot,omitempty"`
	// Since has what the guest changes recorded from the moment on when it gets
	// the disk, as the continuation of what is known already. Nil doesn't.
	Since *Since `json:"-"`
}

// NIC is a machine's network card. QEMU listens for the network on
// [Machine.NetSocket], in QEMU's stream framing.
type NIC struct {
	MAC string `json:"mac"`
	MTU int    `json:"mtu,omitempty"` // 0 for the default of 1500
}

// Limits of a machine.
const (
	// MaxDisks is how many disks a machine can have at once.
	MaxDisks = Slots + sparePorts
	// maxSerial is the length of virtio-blk's serial number.
	maxSerial = 20
	// maxNodeName is the length of a block node's name in QEMU.
	maxNodeName = 31
)

// validID holds for what may become part of a node name, a device ID and a
// file's name.
var validID = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

// serial is the disk's serial number: a volume ID without its dash is as long as
// the field, as on EC2.
func (d Disk) serial() string { return strings.ReplaceAll(d.VolumeID, "-", "") }

func (d Disk) validate() error {
	switch {
	case !validID.MatchString(d.VolumeID):
		return fmt.Errorf("volume ID %q: only letters, digits and dashes, a letter first", d.VolumeID)
	case len(d.serial()) > maxSerial:
		return fmt.Errorf("volume ID %q: its serial number takes at most %d characters", d.VolumeID, maxSerial)
	case len(nodeOverlay(d.VolumeID)) > maxNodeName:
		return fmt.Errorf("volume ID %q: longer than a block node's name allows", d.VolumeID)
	case d.Slot < 0 || d.Slot > Slots:
		return fmt.Errorf("volume %s: slot %d is not one of %d", d.VolumeID, d.Slot, Slots)
	case d.Since != nil && (!validID.MatchString(d.Since.Snapshot) || len(nodeFilter(d.Since.Snapshot)) > maxNodeName):
		return fmt.Errorf("volume %s: %q can't name a record", d.VolumeID, d.Since.Snapshot)
	case !filepath.IsAbs(d.Path):
		return fmt.Errorf("volume %s: path %q is not absolute", d.VolumeID, d.Path)
	}
	return nil
}

func (s Spec) validate() error {
	switch {
	case !validID.MatchString(s.ID):
		return fmt.Errorf("machine ID %q: only letters, digits and dashes, a letter first", s.ID)
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("folder %q is not absolute", s.Dir)
	case s.CPUs < 1 || s.MemoryMiB < 1:
		return fmt.Errorf("%d CPUs and %d MiB: both have to be positive", s.CPUs, s.MemoryMiB)
	case s.Kernel == "" && len(s.Disks) == 0:
		return errors.New("neither a kernel nor a disk to boot from")
	case s.Kernel == "" && (s.Initrd != "" || s.Cmdline != ""):
		return errors.New("an initrd or a command line without a kernel")
	case len(s.Disks) > MaxDisks:
		return fmt.Errorf("%d disks: at most %d", len(s.Disks), MaxDisks)
	}
	seen := map[string]bool{}
	for _, d := range s.Disks {
		if err := d.validate(); err != nil {
			return err
		}
		if seen[d.VolumeID] {
			return fmt.Errorf("volume %s: given twice", d.VolumeID)
		}
		seen[d.VolumeID] = true
	}
	return checkSocketPaths(s.Dir)
}

// recorded says whether what the guest changes is recorded from its start on.
func (s Spec) recorded() bool {
	return slices.ContainsFunc(s.Disks, func(d Disk) bool { return d.Since != nil && !d.ReadOnly })
}

// The names of a volume's block nodes and of its device, and of a snapshot's
// nodes; see the package's doc.
func nodeFile(volumeID string) string    { return "b-" + volumeID }
func nodeOverlay(volumeID string) string { return "v-" + volumeID }
func nodeNothing(volumeID string) string { return "n-" + volumeID }
func deviceID(volumeID string) string    { return "d-" + volumeID }
func nodeFilter(snapshot string) string  { return "c-" + snapshot }
func nodeFleece(snapshot string) string  { return "f-" + snapshot }
func nodeAccess(snapshot string) string  { return "a-" + snapshot }
