package machine

import (
	"slices"
	"testing"
)

func TestAssignPorts(t *testing.T) {
	for name, c := range map[string]struct{ slots, ports []int }{
		"the root's is the first":   {[]int{9}, []int{0}},
		"by slot, in any order":     {[]int{0, 7, 6, 16}, []int{0, 6, 5, 15}},
		"twice the same":            {[]int{0, 6, 6}, []int{0, 5, 16}},
		"the root's taken by data":  {[]int{0, 1}, []int{0, 16}},
		"none":                      {[]int{0, 0, 0, 0, 0, 0, 0}, []int{0, 16, 17, 18, 19, 15, 14}},
		"those without come last":   {[]int{0, 0, 0, 0, 0, 0, 16}, []int{0, 16, 17, 18, 19, 14, 15}},
		"no disks, a kernel's part": {nil, []int{}},
	} {
		var disks []Disk
		for _, s := range c.slots {
			disks = append(disks, Disk{Slot: s})
		}
		if got := assignPorts(disks); !slices.Equal(got, c.ports) {
			t.Errorf("%s: slots %v are in ports %v, want %v", name, c.slots, got, c.ports)
		}
	}
}

// A machine that an older program started has its ports in the disks' order;
// what is plugged into it later takes any.
func TestMachineWithoutSlotsTakesDisks(t *testing.T) {
	m := start(t, newSpec(t, "idle", newDisk(t, 1, 1<<20)))
	waitConsole(t, m, "READY idle")
	rec, err := readRecord(m.spec.Dir)
	if err != nil || !rec.Spec.Slotted {
		t.Fatalf("the record says nothing of slots: %+v, %v", rec.Spec, err)
	}
	rec.Spec.Slotted = false
	if err := writeRecord(m.spec.Dir, rec); err != nil {
		t.Fatal(err)
	}
	m = reopen(t, m)
	d := newDisk(t, 2, 1<<20)
	d.Slot = 6
	if port, present, err := m.freePort(t.Context(), d); port != "rp1" || present || err != nil {
		t.Errorf("port %s, %v, %v; want the first free one", port, present, err)
	}
	if err := m.Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	waitConsole(t, m, d.serial())
}
