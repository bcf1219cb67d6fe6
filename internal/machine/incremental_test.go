package machine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// readBoth reads a volume by what has changed since base, and whole, at the same
// instant.
func readBoth(t *testing.T, src *Source, base []byte) (parts, whole []byte, changed int64) {
	t.Helper()
	rec := src.Recorded()
	if rec == nil {
		t.Fatal("what has changed is not known")
	}
	whole = make([]byte, src.Size())
	if _, err := src.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	if err := src.Release(rec.Blocks); err != nil {
		t.Fatal(err)
	}
	parts = slices.Clone(base)
	for b := int64(0); b*Granularity < src.Size(); b++ {
		part := parts[b*Granularity : min((b+1)*Granularity, src.Size())]
		if !hasBit(rec.Blocks, b) {
			continue
		}
		changed++
		if _, err := src.ReadAt(part, b*Granularity); err != nil {
			t.Fatal(err)
		}
		if err := src.Discard(b*Granularity, int64(len(part))); err != nil {
			t.Fatal(err)
		}
	}
	return parts, whole, changed
}

// TestMachineSnapshotsByChanges takes snapshots of two disks of a guest that never
// stops writing. What has changed since the last one, put over it, must be what a
// whole read gives, and both what the guest had written at that instant; also
// after a snapshot that failed, after a daemon's end, and across a stop and a
// start of the machine.
func TestMachineSnapshotsByChanges(t *testing.T) {
	m, volumes := startWriter(t, 40)
	spec := m.spec
	base := map[string][]byte{}
	taken := 0
	next := func() *Instant {
		t.Helper()
		taken++
		inst, err := m.Snapshot(t.Context(), "set", freeze(fmt.Sprintf("snap-%d", taken), volumes...))
		if err != nil {
			t.Fatal(err)
		}
		return inst
	}
	complete := func(inst *Instant) {
		t.Helper()
		var stamps []uint64
		for _, id := range volumes {
			src, err := inst.Source(id)
			if err != nil {
				t.Fatal(err)
			}
			if base[id] == nil {
				if base[id], err = pull(src); err != nil {
					t.Fatal(err)
				}
			} else {
				parts, whole, changed := readBoth(t, src, base[id])
				if !bytes.Equal(parts, whole) {
					t.Errorf("snapshot %d of %s differs from a whole read", taken, id)
				}
				t.Logf("snapshot %d of %s: %d of %d blocks", taken, id, changed, (src.Size()+Granularity-1)/Granularity)
				base[id] = whole
			}
			stamps = append(stamps, newest(t, base[id]))
			inst.Completed(id)
		}
		if stamps[0] < stamps[1] || stamps[0] > stamps[1]+1 {
			t.Errorf("disks are of different instants: writes %d and %d", stamps[0], stamps[1])
		}
		if err := inst.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wait := func() {
		before := written(t, m)
		waitFor(t, "more writes", bootTime, func() bool { return written(t, m) >= before+40 })
	}
	for range 8 {
		complete(next())
		wait()
	}
	// One that fails.
	failed := next()
	wait()
	if err := failed.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait()
	complete(next())
	// One whose daemon dies.
	_ = next()
	wait()
	m = reopen(t, m)
	wait()
	if err := m.SettleRecords(t.Context(), stored(func(snapshot string) bool {
		return snapshot != fmt.Sprintf("snap-%d-0", taken) && snapshot != fmt.Sprintf("snap-%d-1", taken)
	})); err != nil {
		t.Fatal(err)
	}
	complete(next())
	wait()
	noGuestErrors(t, m)
	// A stop, and a start that goes on from what is known: the guest begins to
	// write anew, so the stamps can't be checked any more.
	if err := m.Shutdown(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	left := m.Left()
	for i, d := range spec.Disks {
		rec, ok := left[d.VolumeID]
		if !ok || rec.Snapshot != fmt.Sprintf("snap-%d-%d", taken, i) {
			t.Fatalf("left %+v of %s", rec, d.VolumeID)
		}
		spec.Disks[i].Since = &Since{Snapshot: rec.Snapshot, Carried: "0123456789abcdef"}
	}
	m = start(t, spec)
	waitFor(t, "writes after the start", bootTime, func() bool { return strings.Count(console(t, m), "WROTE 40\n") == 2 })
	inst := next()
	for _, id := range volumes {
		src, err := inst.Source(id)
		if err != nil {
			t.Fatal(err)
		}
		rec := src.Recorded()
		if rec == nil || rec.Carried != "0123456789abcdef" {
			t.Fatalf("recorded %+v", rec)
		}
		for i, b := range left[id].Blocks {
			rec.Blocks[i] |= b
		}
		if parts, whole, _ := readBoth(t, src, base[id]); !bytes.Equal(parts, whole) {
			t.Errorf("after a stop, %s differs from a whole read", id)
		}
	}
	if err := inst.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	noGuestErrors(t, m)
	// A machine that is killed leaves nothing to go on from.
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := m.Left(); len(left) != 0 {
		t.Errorf("a machine that was killed left %v", left)
	}
}

// TestMachineSnapshotGivesWayToTheGuest lets a fleece grow past half of the room
// that there is: the snapshot ends, its room is free again, the guest goes on, and
// so does the record of its changes.
func TestMachineSnapshotGivesWayToTheGuest(t *testing.T) {
	disks := []Disk{newWriterDisk(t, 1), newWriterDisk(t, 2)}
	spec := newSpec(t, "write", disks...)
	spec.Dir = smallFilesystem(t, "4m")
	m := start(t, spec)
	waitConsole(t, m, "WROTE 20\n")
	id := disks[0].VolumeID
	first, err := m.Snapshot(t.Context(), "set", freeze("snap-1", id))
	if err != nil {
		t.Fatal(err)
	}
	first.Completed(id)
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	inst, err := m.Snapshot(t.Context(), "set", freeze("snap-2", id))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the snapshot to be given up", bootTime, func() bool { return !m.beingRead(id) })
	src, err := inst.Source(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(make([]byte, cluster), 0); !errors.Is(err, ErrNoRoom) {
		t.Errorf("reading it: %v, want ErrNoRoom", err)
	}
	if _, _, err := src.NextData(0); !errors.Is(err, ErrNoRoom) {
		t.Errorf("looking for data in it: %v, want ErrNoRoom", err)
	}
	if err := inst.Close(t.Context()); err != nil {
		t.Errorf("closing it: %v", err)
	}
	nodes, err := m.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if since, ok := m.record(id, nodes[nodeFile(id)]); !ok || since.Snapshot != "snap-1-0" {
		t.Errorf("the record is %+v, %v; want the one before", since, ok)
	}
	noGuestErrors(t, m)
}
