package server

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// CreateOptions says which server to make.
type CreateOptions struct {
	Name    string
	Image   string     // image ID, or an alias that ResolveImage knows
	Type    string     // instance type; "" means DefaultType
	DiskGiB int        // root size; 0 means the image's own
	Data    []DataSpec // blank data disks
	// Raid joins the data disks to one: 0, 1 or 10; "" leaves them single.
	Raid string
	// Mount is where the data disks are mounted, the second at Mount with a 2
	// and so on, in the order of their devices; "" means /data. MountNone
	// leaves them blank.
	Mount   string
	FS      string // ext4 or xfs; "" means ext4
	Zone    string // availability zone; "" leaves the choice to the endpoint
	KeyName string // an existing key pair, or ...
	Key     []byte // ... a public key in authorized_keys form, imported under its fingerprint
	Open    []Port // ports that the security group opens; nil means ssh alone
	From    []string
	// UserData is what the user gives the server to run or read at its first
	// boot. What sets the data disks up goes along with it.
	UserData []byte
	User     string // login user; "" lets the image decide
	// NoAddress leaves the server with the address that the endpoint assigns
	// at each start, instead of an elastic IP that stays.
	NoAddress bool
	// Profile is the instance profile, by name or ARN.
	Profile string
	// Spot asks for a spot instance by a persistent request that stops it when
	// it is interrupted.
	Spot bool
	Wait WaitFor
}

// DefaultType is the instance type of a server whose options name none.
const DefaultType = "t3.micro"

// MountNone is the mount point of data disks that are left blank.
const MountNone = "none"

// File systems that data disks can get.
const (
	fsExt4 = "ext4"
	fsXFS  = "xfs"
)

// DataSpec is a blank data disk.
type DataSpec struct {
	SizeGiB int
	Device  string // "" means the next free of /dev/sdf ... /dev/sdp
	Type    string // volume type; "" means gp3
}

// normalize fills in defaults and checks what can be checked here.
func (o *CreateOptions) normalize() error {
	if err := CheckName(o.Name); err != nil {
		return err
	}
	if o.Image == "" {
		return &Error{Code: KindUsage, Reason: "no image", Remedy: "--image ID or alias; see stead image ls"}
	}
	o.Type = cmp.Or(o.Type, DefaultType)
	if o.Open == nil {
		o.Open = []Port{{From: sshPort, To: sshPort, Proto: "tcp"}}
	}
	if len(o.From) == 0 {
		o.From = []string{anywhere}
	}
	if o.DiskGiB < 0 {
		return &Error{Code: KindUsage, Reason: "the root disk's size is negative"}
	}
	if err := o.normalizeDisks(); err != nil {
		return err
	}
	for what, v := range map[string]string{"the list of ports": o.open(), "the list of networks": o.from(), "the key pair's name": o.KeyName, "the login user": o.User, "the instance profile": o.Profile} {
		if err := checkTagValue(what, v); err != nil {
			return err
		}
	}
	return nil
}

// normalizeDisks checks the data disks and what is to be made of them.
func (o *CreateOptions) normalizeDisks() error {
	o.Data = slices.Clone(o.Data)
	for k := range o.Data {
		if err := o.Data[k].normalize(); err != nil {
			return err
		}
	}
	o.FS = cmp.Or(o.FS, fsExt4)
	if o.FS != fsExt4 && o.FS != fsXFS {
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("data disks can't be made %q", o.FS), Remedy: "--fs ext4 or xfs"}
	}
	if err := checkMount(o.Mount); err != nil {
		return err
	}
	if len(o.Data) == 0 && o.Raid != "" {
		return &Error{Code: KindUsage, Reason: "there are no data disks to join", Remedy: "name them: --data 10 --data 10"}
	}
	return o.checkRaid()
}

// checkRaid tells whether the data disks can be joined as asked.
func (o *CreateOptions) checkRaid() error {
	least := map[string]int{"": 0, "0": 2, "1": 2, "10": 4}
	n, known := least[o.Raid]
	switch {
	case !known:
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("no RAID level %q", o.Raid), Remedy: "--raid 0, 1 or 10"}
	case o.Raid == "":
		return nil
	case o.Mount == MountNone:
		return &Error{Code: KindUsage, Reason: "disks that are left blank can't be joined", Remedy: "leave --raid or --mount none away"}
	case len(o.Data) < n:
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("RAID %s needs at least %d data disks", o.Raid, n), Remedy: "name them all: --data 10 --data 10"}
	}
	for _, d := range o.Data {
		if d.SizeGiB != o.Data[0].SizeGiB {
			return &Error{Code: KindUsage, Reason: "the disks of a RAID must be of one size", Remedy: fmt.Sprintf("make each %d GiB", o.Data[0].SizeGiB)}
		}
	}
	return nil
}

func (d *DataSpec) normalize() error {
	if d.SizeGiB < 1 {
		return &Error{Code: KindUsage, Reason: "a data disk needs at least 1 GiB"}
	}
	if d.Device != "" {
		if !strings.HasPrefix(d.Device, "/") {
			d.Device = "/dev/" + d.Device
		}
		if err := checkDevice(d.Device); err != nil {
			return err
		}
	}
	if d.Type != "" && !slices.Contains(types.VolumeType("").Values(), types.VolumeType(d.Type)) {
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("no volume type %q", d.Type), Remedy: "gp3, io2, st1, ..."}
	}
	return nil
}

// ownPlaces are folders of the system that a mount would hide.
var ownPlaces = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var"}

// checkMount tells whether data disks can be mounted there: the path goes into
// a tag, a shell script and fstab.
func checkMount(dir string) error {
	bad := &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no place to mount data disks", dir), Remedy: "--mount /srv, or none"}
	switch {
	case dir == "" || dir == MountNone:
		return nil
	case !strings.HasPrefix(dir, "/") || dir == "/" || path.Clean(dir) != dir || len(dir) > 200:
		return bad
	case slices.Contains(ownPlaces, dir):
		bad.Reason = dir + " is the system's own, and a mount would hide it"
		return bad
	case strings.ContainsFunc(dir, func(r rune) bool { return !isPathRune(r) }):
		bad.Reason = fmt.Sprintf("%q has more than letters, digits and . _ - in it", dir)
		return bad
	}
	return nil
}

func isPathRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-", r)
}

func (o *CreateOptions) open() string {
	list := make([]string, len(o.Open))
	for k, p := range o.Open {
		list[k] = p.String()
	}
	return strings.Join(list, " ")
}

func (o *CreateOptions) from() string { return strings.Join(o.From, " ") }

// stepTag marks the instance of an unfinished create: the verb, and which
// options, so that another create of the same name isn't taken for its
// continuation.
func (o *CreateOptions) stepTag() string {
	d := digest(o.Image, o.Type, fmt.Sprint(o.DiskGiB, o.Data, o.NoAddress, o.Spot), o.Zone, o.KeyName,
		string(o.Key), o.open(), o.from(), string(o.UserData), o.User, o.Raid, o.Mount, o.FS, o.Profile)
	return stepCreate + " " + d[:12]
}
