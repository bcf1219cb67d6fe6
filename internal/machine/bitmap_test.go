package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// records drives a QEMU whose guest never runs: the test writes in its place, by
// the monitor, and so knows what each volume holds at any time.
type records struct {
	t     *testing.T
	rng   *rand.Rand
	m     *Machine
	spec  Spec
	disks []Disk

	now   map[string][]byte            // what each volume holds
	store map[string]map[string][]byte // complete snapshots, by name and volume
	saved map[string]Recorded          // what is known of volumes that no machine has
	taken map[string][]byte            // what was known when a machine got one, by Since.Carried
	count int

	reads, whole, partly int
	dying                bool // the daemon may die at any command
}

const recordedSize = 9*Granularity + 4096

func newRecords(t *testing.T, seed uint64) *records {
	t.Helper()
	if testing.Short() {
		t.Skip("runs QEMU; not with -short")
	}
	if _, err := exec.LookPath(defaultQEMU); err != nil {
		skip(t, "%s is not installed: apt-get install qemu-system-x86", defaultQEMU)
	}
	r := &records{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)),
		now: map[string][]byte{}, store: map[string]map[string][]byte{}, saved: map[string]Recorded{}, taken: map[string][]byte{},
	}
	r.spec = Spec{ID: "i-0123456789abcdef0", Dir: shortDir(t), CPUs: 1, MemoryMiB: 32, Accel: AccelTCG}
	for n := range 2 {
		d := newDisk(t, n+1, recordedSize)
		r.disks = append(r.disks, d)
		r.now[d.VolumeID] = make([]byte, recordedSize)
	}
	t.Cleanup(func() { endMachine(t, r.spec.Dir) })
	r.start()
	return r
}

// start runs a QEMU and gives it the volumes, without devices.
func (r *records) start() {
	r.t.Helper()
	run := NewRunner(Config{}, testLog(r.t))
	if err := writeRecord(r.spec.Dir, record{Spec: r.spec, Accel: AccelTCG}); err != nil {
		r.t.Fatal(err)
	}
	p, err := run.spawn(r.spec.Dir, append(arguments(r.spec, AccelTCG, ""), "-S"))
	if err != nil {
		r.t.Fatal(err)
	}
	go p.supervise(r.spec.Dir)
	ctx, cancel := context.WithTimeout(r.t.Context(), bootTime)
	defer cancel()
	if r.m, err = connect(ctx, r.spec, AccelTCG, p, run.log); err != nil {
		r.t.Fatal(err)
	}
	for _, command := range []string{"cont", "stop"} { // it isn't one that nobody has let go yet
		r.execute(command, nil, nil)
	}
	for _, d := range r.disks {
		r.plug(d)
	}
}

func (r *records) execute(command string, args, result any) {
	r.t.Helper()
	if err := r.m.execute(r.t.Context(), command, args, result); err != nil {
		r.t.Fatal(err)
	}
}

// plug is what Attach does, but for the device, which takes a guest to let go of.
func (r *records) plug(d Disk) {
	r.t.Helper()
	if rec, ok := r.saved[d.VolumeID]; ok {
		delete(r.saved, d.VolumeID)
		r.count++
		carried := fmt.Sprintf("%016x", r.count)
		r.taken[carried] = rec.Blocks
		d.Since = &Since{Snapshot: rec.Snapshot, Carried: carried}
	}
	r.execute("blockdev-add", fileNode(d), nil)
	r.m.beginRecords(r.t.Context(), []Disk{d})
	r.execute("blockdev-add", overlayNode(d, nodeFile(d.VolumeID)), nil)
}

// keep does with what is left what the owner of the volumes does.
func (r *records) keep() {
	for id, rec := range r.m.Left() {
		rec.Blocks = r.all(rec)
		r.saved[id] = rec
	}
}

// all is what a machine recorded and what was known before.
func (r *records) all(rec Recorded) []byte {
	blocks := slices.Clone(rec.Blocks)
	if rec.Carried != "" {
		before, ok := r.taken[rec.Carried]
		if !ok {
			r.t.Fatalf("a record goes on from %s, which nobody knows", rec.Carried)
		}
		for i, b := range before {
			blocks[i] |= b
		}
	}
	return blocks
}

// write has the guest write or discard somewhere.
func (r *records) write() {
	r.t.Helper()
	d := r.disks[r.rng.IntN(len(r.disks))]
	const unit = 4096
	at := r.rng.IntN(recordedSize / unit)
	if r.rng.IntN(2) == 0 {
		at %= 2 * Granularity / unit // some blocks are written more often
	}
	n := min(1+r.rng.IntN(20), recordedSize/unit-at)
	part := r.now[d.VolumeID][at*unit : (at+n)*unit]
	command := fmt.Sprintf("discard %d %d", at*unit, n*unit)
	pattern := byte(0)
	if r.rng.IntN(5) > 0 {
		pattern = byte(1 + r.rng.IntN(255))
		command = fmt.Sprintf("write -P %d %d %d", pattern, at*unit, n*unit)
	}
	var said string
	r.execute("human-monitor-command", map[string]any{"command-line": fmt.Sprintf("qemu-io %s %q", nodeOverlay(d.VolumeID), command)}, &said)
	if strings.Contains(strings.ToLower(said), "error") || strings.Contains(said, "failed") {
		r.t.Fatalf("%s: %s", command, said)
	}
	for i := range part {
		part[i] = pattern
	}
}

func (r *records) writes(most int) {
	if r.dying {
		return
	}
	for range r.rng.IntN(most) {
		r.write()
	}
}

// snapshot takes one or both volumes and wants what it reads to be what they
// held. How it ends is chosen at random.
func (r *records) snapshot() {
	r.t.Helper()
	disks := r.disks
	if i := r.rng.IntN(3); i < 2 {
		disks = r.disks[i : i+1]
	}
	r.count++
	name := fmt.Sprintf("snap-%d", r.count)
	record := r.rng.IntN(8) > 0
	var frozen []Freeze
	want := map[string][]byte{}
	for n, d := range disks {
		frozen = append(frozen, Freeze{VolumeID: d.VolumeID, Snapshot: fmt.Sprintf("%s-%d", name, n), Record: record})
		want[d.VolumeID] = slices.Clone(r.now[d.VolumeID])
	}
	inst, err := r.m.Snapshot(r.t.Context(), name, frozen)
	if err != nil {
		r.t.Fatal(err)
	}
	r.writes(6)
	for n, d := range disks {
		got, err := r.read(inst, d.VolumeID)
		if err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(got, want[d.VolumeID]) {
			for b := 0; b*4096 < len(got); b++ {
				if at := b * 4096; !bytes.Equal(got[at:at+4096], want[d.VolumeID][at:at+4096]) {
					r.t.Fatalf("%s: volume %s differs at %d (block %d): %d, want %d", name, d.VolumeID, at, at/Granularity, got[at], want[d.VolumeID][at])
				}
			}
		}
		r.writes(4)
		switch done := r.rng.IntN(8); {
		case done == 0 || !record: // it comes to nothing
		case done == 1 && r.rng.IntN(3) == 0:
			inst.Forget(d.VolumeID)
		case done == 1: // it is complete, but the daemon dies before it can say so
			r.store[frozen[n].Snapshot] = map[string][]byte{d.VolumeID: got}
		default:
			r.store[frozen[n].Snapshot] = map[string][]byte{d.VolumeID: got}
			inst.Completed(d.VolumeID)
		}
	}
	if r.rng.IntN(4) == 0 {
		r.restart()
	} else if err := inst.Close(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	for _, d := range r.disks {
		if all := r.bitmaps(d.VolumeID); len(all) > 1 {
			r.t.Fatalf("records %v are left", all)
		}
	}
}

// read reads a volume as a store does.
func (r *records) read(inst *Instant, volumeID string) ([]byte, error) {
	src, err := inst.Source(volumeID)
	if err != nil {
		return nil, err
	}
	rec := src.Recorded()
	if rec == nil || r.store[rec.Snapshot][volumeID] == nil {
		if rec != nil && r.rng.IntN(2) == 0 {
			return nil, fmt.Errorf("the record since %s is of a snapshot that came to nothing", rec.Snapshot)
		}
		r.whole++
		return pull(src)
	}
	r.partly++
	changed := r.all(*rec)
	if err := src.Release(changed); err != nil {
		return nil, err
	}
	image := slices.Clone(r.store[rec.Snapshot][volumeID])
	for b := int64(0); b*Granularity < src.Size(); b++ {
		part := image[b*Granularity : min((b+1)*Granularity, src.Size())]
		if !hasBit(changed, b) {
			if _, err := src.ReadAt(part, b*Granularity); !errors.Is(err, ErrReleased) {
				return nil, fmt.Errorf("reading what was released: %w, want ErrReleased", err)
			}
			continue
		}
		r.reads++
		if _, err := src.ReadAt(part, b*Granularity); err != nil {
			return nil, err
		}
		if err := src.Discard(b*Granularity, int64(len(part))); err != nil {
			return nil, err
		}
		r.writes(3)
	}
	return image, nil
}

func (r *records) bitmaps(volumeID string) []blockBitmap {
	r.t.Helper()
	nodes, err := r.m.nodes(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return nodes[nodeFile(volumeID)].Bitmaps
}

// restart is a daemon that dies and another that takes over.
func (r *records) restart() {
	r.t.Helper()
	r.m = reopen(r.t, r.m)
	r.writes(6) // the guest doesn't wait
	err := r.m.SettleRecords(r.t.Context(), stored(func(snapshot string) bool { return r.store[snapshot] != nil }))
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *records) detach() {
	r.t.Helper()
	d := r.disks[r.rng.IntN(len(r.disks))]
	take := func() error { return r.m.Detach(r.t.Context(), d.VolumeID, time.Second) }
	if r.rng.IntN(3) == 0 {
		take = func() error { return r.m.Seize(r.t.Context(), d.VolumeID) }
	}
	if err := take(); err != nil {
		r.t.Fatal(err)
	}
	r.keep()
	nodes, err := r.m.nodes(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.m.clearSeized(r.t.Context(), d.VolumeID, nodes); err != nil {
		r.t.Fatal(err)
	}
	r.plug(d)
}

// TestRecordsAreNeverWrong has a volume written to, snapshotted, detached,
// stopped and killed in any order, and rebuilds each snapshot from the one before
// and what is recorded since.
func TestRecordsAreNeverWrong(t *testing.T) {
	var reads, whole, partly int
	for seed := range uint64(2) {
		r := newRecords(t, seed)
		for range 40 {
			r.writes(8)
			switch r.rng.IntN(12) {
			case 0:
				r.restart()
			case 1:
				r.detach()
			case 2:
				if err := r.m.Shutdown(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				r.keep()
				r.start()
			case 3:
				if err := r.m.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
				if left := r.m.Left(); len(left) > 0 {
					t.Fatalf("a machine that was killed left %v", slices.Collect(maps.Keys(left)))
				}
				r.start()
			default:
				r.snapshot()
			}
		}
		reads, whole, partly = reads+r.reads, whole+r.whole, partly+r.partly
		endMachine(t, r.spec.Dir)
	}
	t.Logf("%d snapshots read whole, %d in part: %d blocks of %d", whole, partly, reads, partly*10)
	if partly*4 < whole || reads >= partly*7 {
		t.Error("more is read than has changed")
	}
}

// A write that the host failed puts the volume's record in doubt.
func TestRecordIsDoubtedAfterAFailedWrite(t *testing.T) {
	r := newRecords(t, 1)
	id := r.disks[0].VolumeID
	for n, d := range r.disks {
		if err := r.m.transact(t.Context(), []action{addBitmap(d.VolumeID, Since{Snapshot: fmt.Sprintf("snap-%d", n)}.bitmap(), false)}); err != nil {
			t.Fatal(err)
		}
	}
	event := fmt.Sprintf(`{"node-name":%q,"action":"stop","operation":"write","nospace":false,"reason":"Input/output error"}`, nodeOverlay(id))
	r.m.onEvent(qmp.Event{Name: "BLOCK_IO_ERROR", Data: []byte(event)})
	waitFor(t, "the record to be removed", bootTime, func() bool { return len(r.bitmaps(id)) == 0 })
	if err := r.m.Shutdown(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	left := r.m.Left()
	if _, ok := left[id]; ok || len(left) != 1 {
		t.Errorf("left %v, want the other volume's record alone", left)
	}
}

// stored is a store that can be asked at any time.
func stored(has func(snapshot string) bool) func(context.Context, string) (bool, error) {
	return func(_ context.Context, snapshot string) (bool, error) { return has(snapshot), nil }
}

// What the next daemon makes of records that it finds.
func TestSettlingRecords(t *testing.T) {
	complete := func(names ...string) func(context.Context, string) (bool, error) {
		return stored(func(snapshot string) bool { return slices.Contains(names, snapshot) })
	}
	on := func(name string) blockBitmap {
		return blockBitmap{Name: name, Recording: true, Granularity: Granularity}
	}
	off := func(name string) blockBitmap { return blockBitmap{Name: name, Granularity: Granularity} }
	for _, tc := range []struct {
		what      string
		bitmaps   []blockBitmap
		completed func(context.Context, string) (bool, error)
		want      string
	}{
		{"none", nil, complete(), ""},
		{"one", []blockBitmap{on("s-old")}, complete("old"), ""},
		{"one of nothing", []blockBitmap{on("s-old")}, complete(), "remove s-old"},
		{"somebody else's", []blockBitmap{on("s-old"), off("mine"), on("")}, complete("old"), ""},
		{"a copy that was being read", []blockBitmap{on("s-old+7"), off("t-old")}, complete("old"), "remove t-old"},
		{"before the instant", []blockBitmap{on("s-old+7"), on("s-new")}, complete("old"), "remove s-new"},
		{"before the instant, base gone", []blockBitmap{on("s-old"), on("s-new")}, complete(), "remove s-old, remove s-new"},
		{"while it was read", []blockBitmap{on("s-new"), off("s-old+7")}, complete("old"), "enable s-old+7, merge s-new into s-old+7, remove s-new"},
		{"when it was complete", []blockBitmap{on("s-new"), off("s-old+7")}, complete("old", "new"), "remove s-old+7"},
		{"when it was complete, base gone", []blockBitmap{on("s-new"), off("s-old")}, complete("new"), "remove s-old"},
		{"a record with a gap", []blockBitmap{off("s-old")}, complete("old"), "remove s-old"},
		{"two with a gap", []blockBitmap{off("s-old"), off("s-new")}, complete("old", "new"), "remove s-old, remove s-new"},
		{"three", []blockBitmap{off("s-1"), off("s-2"), on("s-3")}, complete("1", "2", "3"), "remove s-1, remove s-2, remove s-3"},
		{"of another unit", []blockBitmap{{Name: "s-old", Recording: true, Granularity: 65536}}, complete("old"), "remove s-old"},
	} {
		m := newMachine(Spec{}, AccelTCG, nil, testLog(t))
		actions, err := m.settling(t.Context(), "vol-1", blockNode{Bitmaps: tc.bitmaps}, tc.completed)
		if err != nil {
			t.Fatal(err)
		}
		var did []string
		for _, a := range actions {
			verb := strings.TrimPrefix(a.Type, "block-dirty-bitmap-")
			if verb == "merge" {
				verb += " " + a.Data.Bitmaps[0] + " into " + a.Data.Target
			} else {
				verb += " " + a.Data.Name
			}
			did = append(did, verb)
		}
		if got := strings.Join(did, ", "); got != tc.want {
			t.Errorf("%s: %s; want %s", tc.what, got, tc.want)
		}
	}
}

// A store that can't be asked is no reason to give up a record.
func TestSettlingNeedsAnAnswer(t *testing.T) {
	m := newMachine(Spec{}, AccelTCG, nil, testLog(t))
	two := []blockBitmap{{Name: "s-new", Recording: true, Granularity: Granularity}, {Name: "s-old", Granularity: Granularity}}
	_, err := m.settling(t.Context(), "vol-1", blockNode{Bitmaps: two}, func(context.Context, string) (bool, error) { return false, os.ErrPermission })
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v, want the store's error", err)
	}
}

// A guest whose daemon died before it could let it go is let go by the next.
func TestGuestThatWasNeverLetGo(t *testing.T) {
	r := newRecords(t, 1)
	if err := r.m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.spec.Disks = r.disks
	r.spec.Disks[0].Since = &Since{Snapshot: "snap-1", Carried: "7"}
	if err := writeRecord(r.spec.Dir, record{Spec: r.spec, Accel: AccelTCG}); err != nil {
		t.Fatal(err)
	}
	run := NewRunner(Config{}, testLog(t))
	p, err := run.spawn(r.spec.Dir, arguments(r.spec, AccelTCG, ""))
	if err != nil {
		t.Fatal(err)
	}
	go p.supervise(r.spec.Dir)
	m, err := connect(t.Context(), r.spec, AccelTCG, p, run.log)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := m.Status(t.Context()); err != nil || st.Reason != "prelaunch" {
		t.Fatalf("status %+v, %v; want one that waits", st, err)
	}
	r.m = reopen(t, m)
	if st, err := r.m.Status(t.Context()); err != nil || st.State != Running {
		t.Errorf("status %+v, %v; want running", st, err)
	}
	if all := r.bitmaps(r.disks[0].VolumeID); len(all) != 0 {
		t.Errorf("records %v", all)
	}
}
