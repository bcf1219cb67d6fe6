package machine

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// diskAIO is how QEMU does its file I/O. io_uring took 0.2–0.8 s where
	// threads took 1.1–1.5 s for 60,000 cached 4 KiB requests (qemu-img bench,
	// QEMU 7.2), but is refused by the seccomp profiles of most containers and by
	// hardened kernels, and its flushes can't be traced as the fdatasync calls
	// that the promise of durability rests on.
	diskAIO = "threads"
)

// arguments is QEMU's command line for a machine. vars is the path of its UEFI
// variables, firmware that of the code; both empty for BIOS.
func arguments(s Spec, accel Accel, firmware string) []string {
	args := []string{
		"-name", "guest=" + escape(s.ID),
		"-no-user-config", "-nodefaults", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-pidfile", filepath.Join(s.Dir, filePID),
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + escape(filepath.Join(s.Dir, fileQMP)),
		"-mon", "chardev=qmp,mode=control",
		"-msg", "timestamp=on",
		// The guest's power-off only pauses QEMU: see the package's doc.
		"-action", "shutdown=pause",
		"-smp", strconv.Itoa(s.CPUs), "-m", strconv.Itoa(s.MemoryMiB),
		"-smbios", smbios(s),
		// The log has all that the guest writes, whether anybody is connected to
		// the socket or not.
		"-chardev", "socket,id=serial,server=on,wait=off,path=" + escape(filepath.Join(s.Dir, fileSerial)) +
			",logappend=on,logfile=" + escape(filepath.Join(s.Dir, fileConsole)),
		"-serial", "chardev:serial",
		"-object", "rng-builtin,id=rng",
		"-device", "virtio-rng-pci,rng=rng",
	}
	if s.recorded() {
		args = append(args, "-S") // until it is
	}
	args = append(args, acceleration(s, accel)...)
	args = append(args, boot(s, firmware)...)
	args = append(args, network(s)...)
	for i := range MaxDisks {
		args = append(args, "-device", rootPort(i))
	}
	ports := assignPorts(s.Disks)
	for i, d := range s.Disks {
		for _, node := range []any{fileNode(d), overlayNode(d, nodeFile(d.VolumeID))} {
			args = append(args, "-blockdev", mustJSON(node))
		}
		dev := diskDevice(d, portID(ports[i]))
		if i == 0 {
			dev.BootIndex = 1 // 0 is what QEMU gives to -kernel
		}
		args = append(args, "-device", mustJSON(dev))
	}
	return args
}

func acceleration(s Spec, accel Accel) []string {
	if accel == AccelKVM {
		return []string{"-machine", "q35,vmport=off" + pflash(s), "-accel", "kvm", "-cpu", "host"}
	}
	// TCG's cache of translated code is by default a share of the host's memory.
	// A small guest gets by with 64 MiB; more only costs memory there.
	cache := 256
	if s.MemoryMiB <= 256 {
		cache = 64
	}
	return []string{
		"-machine", "q35,vmport=off" + pflash(s),
		"-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", cache),
		// Five-level paging breaks user space under QEMU 7.2's TCG, and svm
		// makes guests load KVM for nothing.
		"-cpu", "max,la57=off,svm=off",
	}
}

func pflash(s Spec) string {
	if !s.UEFI {
		return ""
	}
	return ",pflash0=uefi-code,pflash1=uefi-vars"
}

func boot(s Spec, firmware string) []string {
	args := []string{"-boot", "menu=off,strict=on"}
	if s.UEFI {
		args = append(args,
			"-blockdev", mustJSON(blockFile{Driver: "file", NodeName: "uefi-code", Filename: firmware, ReadOnly: true}),
			"-blockdev", mustJSON(blockFile{Driver: "file", NodeName: "uefi-vars", Filename: filepath.Join(s.Dir, fileUEFIVars)}))
	}
	if s.Kernel == "" {
		return args
	}
	args = append(args, "-kernel", s.Kernel)
	if s.Initrd != "" {
		args = append(args, "-initrd", s.Initrd)
	}
	if s.Cmdline != "" {
		args = append(args, "-append", s.Cmdline)
	}
	return args
}

// network makes QEMU listen: QEMU 7.2 can't redial, so the side that may be
// restarted, the daemon, has to.
func network(s Spec) []string {
	if s.NIC == nil {
		return nil
	}
	dev := "virtio-net-pci,netdev=net0,id=nic0,romfile=,mac=" + escape(s.NIC.MAC)
	if s.NIC.MTU != 0 {
		dev += fmt.Sprintf(",host_mtu=%d", s.NIC.MTU)
	}
	return []string{
		"-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=" + escape(filepath.Join(s.Dir, fileNet)),
		"-device", dev,
	}
}

func smbios(s Spec) string {
	v := "type=1,manufacturer=Amazon EC2"
	for _, f := range []struct{ key, value string }{
		{"product", s.Product}, {"serial", s.SerialNumber}, {"uuid", s.UUID},
	} {
		if f.value != "" {
			v += "," + f.key + "=" + escape(f.value)
		}
	}
	return v
}

// blockFile is a node of QEMU's file driver.
type blockFile struct {
	Driver   string `json:"driver"`
	NodeName string `json:"node-name,omitempty"`
	Filename string `json:"filename"`
	ReadOnly bool   `json:"read-only,omitempty"`
	Discard  string `json:"discard,omitempty"`
	AIO      string `json:"aio,omitempty"`
}

// blockFilter is a node of a driver that passes on to another.
type blockFilter struct {
	Driver   string `json:"driver"`
	NodeName string `json:"node-name"`
	File     string `json:"file"`
	ReadOnly bool   `json:"read-only,omitempty"`
	Discard  string `json:"discard"`
}

// device is a virtio-blk device.
type device struct {
	Driver    string `json:"driver"`
	ID        string `json:"id"`
	Drive     string `json:"drive"`
	Serial    string `json:"serial"`
	Bus       string `json:"bus"`
	WError    string `json:"werror"`
	RError    string `json:"rerror"`
	BootIndex int    `json:"bootindex,omitempty"`
}

func fileNode(d Disk) blockFile {
	return blockFile{
		Driver: "file", NodeName: nodeFile(d.VolumeID), Filename: d.Path,
		ReadOnly: d.ReadOnly, Discard: "unmap", AIO: diskAIO,
	}
}

// overlayNode is the node that the device reads and that stays when what lies
// below it is exchanged.
func overlayNode(d Disk, below string) blockFilter {
	return blockFilter{
		Driver: "raw", NodeName: nodeOverlay(d.VolumeID), File: below,
		ReadOnly: d.ReadOnly, Discard: "unmap",
	}
}

func diskDevice(d Disk, port string) device {
	return device{
		Driver: "virtio-blk-pci", ID: deviceID(d.VolumeID), Drive: nodeOverlay(d.VolumeID),
		Serial: d.serial(), Bus: port, WError: "stop", RError: "stop",
	}
}

// escape doubles the commas that would end a value in QEMU's option strings.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }

// mustJSON marshals the structs above, which can't fail.
func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
