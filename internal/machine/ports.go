package machine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Disks sit behind root ports, one each. The ports with a number up to Slots
// are for disks with a Slot: port 0 for the root, port n-1 for slot n, so that
// a guest can tell by where a disk is plugged in what it is called, without
// asking anybody. The others take disks without a slot, or whose slot is taken.
// Each port costs an emulated guest about 35 ms at its start.
const (
	// Slots is how many disks can have a place of their own, the root's
	// included.
	Slots = 16
	// sparePorts are for other disks.
	sparePorts = 4
	// legacyPorts is how many ports the machines had that took disks in
	// their order.
	legacyPorts = 24

	// portsPerSlot is how many root ports share a PCI slot of the root bus.
	portsPerSlot = 8
	// firstPortSlot is the root bus's first slot with root ports; the ones
	// below are left to the network card and the like.
	firstPortSlot = 0x10
)

func portID(i int) string { return "rp" + strconv.Itoa(i) }

func rootPort(i int) string {
	v := fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,bus=pcie.0,addr=%#x.%#x",
		portID(i), i+1, firstPortSlot+i/portsPerSlot, i%portsPerSlot)
	if i%portsPerSlot == 0 {
		v += ",multifunction=on"
	}
	return v
}

// choosePort finds a port for a disk: its own, else a spare one, else any but
// the root's. Negative when the machine is full.
func choosePort(slot int, used func(port int) bool) int {
	if slot > 1 && !used(slot-1) {
		return slot - 1
	}
	for i := Slots; i < Slots+sparePorts; i++ {
		if !used(i) {
			return i
		}
	}
	for i := Slots - 1; i > 0; i-- {
		if !used(i) {
			return i
		}
	}
	return -1
}

// assignPorts gives each of a machine's first disks its port: those with slots
// before those that take what is left.
func assignPorts(disks []Disk) []int {
	ports := make([]int, len(disks))
	taken := map[int]bool{0: true} // the root's
	used := func(port int) bool { return taken[port] }
	for _, own := range []bool{true, false} {
		for i, d := range disks {
			if i == 0 || ports[i] != 0 || own && (d.Slot < 2 || taken[d.Slot-1]) {
				continue
			}
			ports[i] = choosePort(d.Slot, used)
			taken[ports[i]] = true
		}
	}
	return ports
}

// freePort returns a root port with nothing behind it for a disk, or that its
// device is there already.
func (m *Machine) freePort(ctx context.Context, d Disk) (port string, present bool, err error) {
	names, err := m.peripherals(ctx)
	if err != nil {
		return "", false, err
	}
	used := map[string]bool{}
	for _, name := range names {
		if name == deviceID(d.VolumeID) {
			return "", true, nil
		}
		if !strings.HasPrefix(name, deviceID("")) {
			continue
		}
		var bus string // /machine/peripheral/rp3/rp3
		if err := m.execute(ctx, "qom-get", map[string]any{"path": "/machine/peripheral/" + name, "property": "parent_bus"}, &bus); err != nil {
			return "", false, err
		}
		used[bus[strings.LastIndex(bus, "/")+1:]] = true
	}
	if !m.spec.Slotted {
		for i := range legacyPorts {
			if !used[portID(i)] {
				return portID(i), false, nil
			}
		}
		return "", false, fmt.Errorf("%w: %d are attached", ErrNoSlot, legacyPorts)
	}
	i := choosePort(d.Slot, func(port int) bool { return used[portID(port)] })
	if i < 0 {
		return "", false, fmt.Errorf("%w: %d are attached", ErrNoSlot, MaxDisks)
	}
	return portID(i), false, nil
}
