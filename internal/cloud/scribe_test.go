package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/snapshot"
)

// scribe is a hypervisor without machines that records changes as QEMU does. What
// it has recorded outlives a daemon.
type scribe struct {
	noMachines
	mu      sync.Mutex
	records map[string]*machine.Recorded // of disks in machines, by volume
	begun   map[string]*machine.Recorded // at instants that are being read
}

func (s *scribe) start(ctx context.Context, spec machine.Spec) (vm, error) {
	v, err := s.noMachines.start(ctx, spec)
	for _, d := range spec.Disks {
		s.plug(d)
	}
	return &scribeVM{vm: v, s: s, dir: spec.Dir, left: map[string]machine.Recorded{}}, errors.Join(err, s.list(spec.Dir, spec.Disks))
}

// list keeps which disks a machine has where it outlives a daemon.
func (s *scribe) list(dir string, disks []machine.Disk) error {
	text := ""
	for _, d := range disks {
		text += d.VolumeID + "\n"
	}
	return os.WriteFile(filepath.Join(dir, "disks"), []byte(text), 0o600)
}

func (s *scribe) adopt(ctx context.Context, dir string) (vm, error) {
	v, err := s.noMachines.adopt(ctx, dir)
	return &scribeVM{vm: v, s: s, dir: dir, left: map[string]machine.Recorded{}}, err
}

func (s *scribe) plug(d machine.Disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, d.VolumeID)
	if d.Since != nil {
		s.records[d.VolumeID] = &machine.Recorded{Since: *d.Since, Blocks: make([]byte, 256)}
	}
}

// wrote has the guest change a block.
func (s *scribe) wrote(vol string, block int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range []*machine.Recorded{s.records[vol], s.begun[vol]} {
		if rec != nil {
			rec.Blocks[block/8] |= 1 << (block % 8)
		}
	}
}

type scribeVM struct {
	vm
	s    *scribe
	dir  string
	left map[string]machine.Recorded
}

func (v *scribeVM) Disks(context.Context) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(v.dir, "disks"))
	var all []string
	for line := range slices.Values(splitLines(string(raw))) {
		all = append(all, line)
	}
	return all, err
}

func splitLines(text string) (lines []string) {
	for text != "" {
		var line string
		if _, err := fmt.Sscanln(text, &line); err != nil {
			return lines
		}
		lines, text = append(lines, line), text[len(line)+1:]
	}
	return lines
}

func (v *scribeVM) leave(vols ...string) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, id := range vols {
		if rec := v.s.records[id]; rec != nil {
			v.left[id] = *rec
		}
		delete(v.s.records, id)
	}
}

func (v *scribeVM) Shutdown(ctx context.Context, grace time.Duration) error {
	vols, err := v.Disks(ctx)
	if err == nil {
		err = v.vm.Shutdown(ctx, grace)
	}
	if err == nil {
		v.leave(vols...)
	}
	return err
}

func (v *scribeVM) Left() map[string]machine.Recorded {
	left := v.left
	v.left = map[string]machine.Recorded{}
	return left
}

func (v *scribeVM) Attach(ctx context.Context, d machine.Disk) error {
	vols, err := v.Disks(ctx)
	if err != nil || slices.Contains(vols, d.VolumeID) {
		return err
	}
	v.s.plug(d)
	disks := []machine.Disk{d}
	for _, id := range vols {
		disks = append(disks, machine.Disk{VolumeID: id})
	}
	return v.s.list(v.dir, disks)
}

func (v *scribeVM) Detach(ctx context.Context, id string, _ time.Duration) error {
	vols, err := v.Disks(ctx)
	if err != nil || !slices.Contains(vols, id) {
		return err
	}
	v.leave(id)
	var disks []machine.Disk
	for _, other := range vols {
		if other != id {
			disks = append(disks, machine.Disk{VolumeID: other})
		}
	}
	return v.s.list(v.dir, disks)
}

func (v *scribeVM) SettleRecords(ctx context.Context, completed func(context.Context, string) (bool, error)) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for vol, rec := range v.s.begun {
		done, err := completed(ctx, rec.Snapshot)
		if err != nil {
			return err
		}
		v.s.settle(vol, done)
	}
	return nil
}

// settle ends an instant, with mu locked.
func (s *scribe) settle(vol string, completed bool) {
	begun, old := s.begun[vol], s.records[vol]
	delete(s.begun, vol)
	switch {
	case completed:
		s.records[vol] = begun
	case old != nil:
		for i, b := range begun.Blocks {
			old.Blocks[i] |= b
		}
	}
}

// Snapshot copies the files, so that the guest may go on writing to them.
func (v *scribeVM) Snapshot(_ context.Context, _ string, disks []machine.Freeze) (instant, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	at := &scribeInstant{s: v.s, sources: map[string]*scribeSource{}, done: map[string]bool{}}
	for _, d := range disks {
		src, err := v.s.copyOf(d.VolumeID)
		if err != nil {
			return nil, err
		}
		at.sources[d.VolumeID] = src
		if !d.Record {
			continue
		}
		if old := v.s.records[d.VolumeID]; old != nil {
			src.recorded = &machine.Recorded{Since: old.Since, Blocks: slices.Clone(old.Blocks)}
		}
		v.s.begun[d.VolumeID] = &machine.Recorded{Since: machine.Since{Snapshot: d.Snapshot}, Blocks: make([]byte, 256)}
		at.recording = append(at.recording, d.VolumeID)
	}
	return at, nil
}

type scribeInstant struct {
	s         *scribe
	sources   map[string]*scribeSource
	recording []string
	done      map[string]bool
}

func (i *scribeInstant) Source(vol string) (instantSource, error) { return i.sources[vol], nil }
func (i *scribeInstant) Completed(vol string)                     { i.done[vol] = true }
func (i *scribeInstant) Forget(string)                            {}

func (i *scribeInstant) Close(context.Context) error {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	for _, vol := range i.recording {
		i.s.settle(vol, i.done[vol])
	}
	i.recording = nil
	return nil
}

// scribeSource is a copy of a volume. It refuses what was given up.
type scribeSource struct {
	size     int64
	blocks   map[int64][]byte // those that aren't holes
	recorded *machine.Recorded
	changed  []byte
}

func (s *scribe) copyOf(vol string) (*scribeSource, error) {
	f, err := os.Open(filepath.Join(s.volumes, vol+".raw"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	src := &scribeSource{size: info.Size(), blocks: map[int64][]byte{}}
	all := sparseFile{f, info.Size()}
	for off := int64(0); ; {
		start, _, err := all.NextData(off)
		if errors.Is(err, io.EOF) {
			return src, nil
		}
		if err != nil {
			return nil, err
		}
		b := start / snapshot.BlockSize
		block := make([]byte, snapshot.BlockSize)
		if _, err := f.ReadAt(block, b*snapshot.BlockSize); err != nil {
			return nil, err
		}
		src.blocks[b] = block
		off = (b + 1) * snapshot.BlockSize
	}
}

func (s *scribeSource) Size() int64                  { return s.size }
func (s *scribeSource) Close() error                 { return nil }
func (s *scribeSource) Recorded() *machine.Recorded  { return s.recorded }
func (s *scribeSource) Release(changed []byte) error { s.changed = changed; return nil }
func (s *scribeSource) Discard(_, _ int64) error     { return nil }

func (s *scribeSource) NextData(off int64) (int64, int64, error) {
	for _, b := range slices.Sorted(maps.Keys(s.blocks)) {
		if (b+1)*snapshot.BlockSize > off {
			return max(off, b*snapshot.BlockSize), (b + 1) * snapshot.BlockSize, nil
		}
	}
	return 0, 0, io.EOF
}

func (s *scribeSource) ReadAt(p []byte, off int64) (int, error) {
	b := off / snapshot.BlockSize
	if s.changed != nil && !changedIn(s.changed)(b) {
		return 0, machine.ErrReleased
	}
	clear(p)
	copy(p, s.blocks[b]) // the store reads by blocks
	return len(p), nil
}

// inventory drives an instance with two disks of a scribe's, and knows what they
// hold.
type inventory struct {
	t      *testing.T
	rng    *rand.Rand
	s      *scribe
	dir    Dir
	c      *Cloud
	client *ec2.Client
	end    func()
	reads  *readings
	inst   string
	vols   []string
	count  int
	part   int // snapshots that built on another
	bytes  int64
}

func (v *inventory) open() {
	ctx, cancel := context.WithCancel(context.Background())
	log := testLog(v.t, slog.LevelWarn)
	c, err := Open(ctx, Options{Dir: v.dir, Account: DefaultAccount, Keys: testKeys, Log: log}, v.s)
	if err != nil {
		cancel()
		v.t.Fatal(err)
	}
	v.c, v.client, v.reads = c, testClient(v.t, c, "us-east-1"), readingsOf(v.t, c)
	v.end = sync.OnceFunc(func() {
		cancel()
		if err := c.Close(); err != nil {
			v.t.Error(err)
		}
	})
	v.t.Cleanup(v.end)
}

// write has the guest, or whoever has mounted the file, write somewhere.
func (v *inventory) write() {
	vol, block := v.vols[v.rng.IntN(2)], v.rng.Int64N(12)
	v.count++
	writeVolume(v.t, v.c, vol, block*snapshot.BlockSize+v.rng.Int64N(4096), fmt.Sprintf("write %d", v.count))
	v.s.wrote(vol, block)
}

// snapshot takes one volume and wants what a whole read of it gives.
func (v *inventory) snapshot() {
	v.t.Helper()
	vol := v.vols[v.rng.IntN(2)]
	want, err := v.s.copyOf(vol)
	if err != nil {
		v.t.Fatal(err)
	}
	snap := snapshotOf(v.t, v.client, vol)
	v.count++
	whole, err := v.c.snapshots.Create(v.t.Context(), fmt.Sprintf("whole-%d", v.count), want, nil, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	got, err := v.c.snapshots.Info(v.t.Context(), snap)
	if err != nil || got.Digest != whole.Digest {
		v.t.Fatalf("%s of %s is %+v (%v), want %+v; it read %+v", snap, vol, got, err, whole, v.reads.of(snap))
	}
	if r := v.reads.of(snap); r.since != "" {
		v.part++
		v.bytes += r.bytes
	}
}

func (v *inventory) power(want types.InstanceStateName, force bool) {
	v.t.Helper()
	var err error
	if want == types.InstanceStateNameStopped {
		_, err = v.client.StopInstances(v.t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{v.inst}, Force: &force})
	} else {
		_, err = v.client.StartInstances(v.t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{v.inst}})
	}
	if err != nil {
		v.t.Fatal(err)
	}
	waitInstance(v.t, v.client, v.inst, want)
}

// grow makes a disk larger, each once, while its machine runs.
func (v *inventory) grow() {
	v.t.Helper()
	vol := v.vols[v.rng.IntN(2)]
	if fileSize(v.t, v.c, vol) > gib {
		return
	}
	if _, err := v.client.ModifyVolume(v.t.Context(), &ec2.ModifyVolumeInput{VolumeId: &vol, Size: aws.Int32(2)}); err != nil {
		v.t.Fatal(err)
	}
	waitModified(v.t, v.client, vol)
}

// replug takes the data disk out of its running machine and puts it back.
func (v *inventory) replug() {
	v.t.Helper()
	vol := v.vols[1]
	if _, err := v.client.DetachVolume(v.t.Context(), &ec2.DetachVolumeInput{VolumeId: &vol}); err != nil {
		v.t.Fatal(err)
	}
	wait := func(state types.VolumeState, attached bool) {
		eventually(v.t, vol+" is "+string(state), func() bool {
			out, err := v.client.DescribeVolumes(v.t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{vol}})
			if err != nil {
				v.t.Fatal(err)
			}
			a := out.Volumes[0].Attachments
			return out.Volumes[0].State == state && (len(a) == 1 && a[0].State == types.VolumeAttachmentStateAttached) == attached
		})
	}
	wait(types.VolumeStateAvailable, false)
	if v.rng.IntN(2) == 0 {
		v.write() // to a volume that lies still, say: behind our back
	}
	if _, err := v.client.AttachVolume(v.t.Context(), &ec2.AttachVolumeInput{VolumeId: &vol, InstanceId: &v.inst, Device: aws.String("/dev/sdf")}); err != nil {
		v.t.Fatal(err)
	}
	wait(types.VolumeStateInUse, true)
}

// TestSnapshotsByChangesAreWhole has disks written to, snapshotted, detached,
// stopped, killed and their daemon restarted in any order. Whatever is left out of
// a snapshot's reading must not be missing in it.
func TestSnapshotsByChangesAreWhole(t *testing.T) {
	dir := Dir(t.TempDir())
	v := &inventory{
		t: t, rng: rand.New(rand.NewPCG(5, 5)), dir: dir,
		s: &scribe{noMachines: noMachines{dir.Volumes()}, records: map[string]*machine.Recorded{}, begun: map[string]*machine.Recorded{}},
	}
	v.open()
	root := makeSnapshot(t, v.c, v.client, "root")
	image := makeImage(t, v.client, "img",
		ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &root}), ebs("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)}))
	v.inst = launchOne(t, v.client, &ec2.RunInstancesInput{ImageId: &image})
	waitInstance(t, v.client, v.inst, types.InstanceStateNameRunning)
	for _, m := range describe(t, v.client, v.inst).BlockDeviceMappings {
		v.vols = append(v.vols, *m.Ebs.VolumeId)
	}
	var taken int
	for range 120 {
		for range v.rng.IntN(3) {
			v.write()
		}
		switch v.rng.IntN(10) {
		case 0, 1:
			v.power(types.InstanceStateNameStopped, v.rng.IntN(3) == 0)
			for range v.rng.IntN(3) {
				v.snapshot()
				taken++
			}
			v.power(types.InstanceStateNameRunning, false)
		case 2:
			v.end()
			if v.rng.IntN(2) == 0 {
				v.write()
			}
			v.open()
		case 3:
			v.replug()
		case 4:
			v.grow()
		default:
			v.snapshot()
			taken++
		}
	}
	t.Logf("%d of %d snapshots built on another and read %d blocks each", v.part, taken, v.bytes/snapshot.BlockSize/int64(max(v.part, 1)))
	if v.part*2 < taken || v.bytes > int64(v.part)*6*snapshot.BlockSize {
		t.Error("more is read than has changed")
	}
}
