package cloud

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/snapshot"
)

// TestKillDaemon kills a daemon at random moments while volumes are made,
// written to and removed, and snapshots of them taken, uploaded, copied, deleted
// and brought back, and the store checked, repaired and emptied. Each time all
// that had been answered is there, byte for byte; no snapshot fails or stays
// pending; what was cut off can be done again; and no file is left over.
// STEAD_SOAK sets how often, by four.
func TestKillDaemon(t *testing.T) {
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("STEAD_SOAK")); err == nil {
		rounds = max(n/4, 1)
	}
	seed, err := strconv.ParseUint(os.Getenv("STEAD_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1e9)
	}
	t.Logf("STEAD_SEED=%d repeats the order of the steps", seed)
	w := &soak{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), dir: shortDir(t), bound: 300 * time.Millisecond,
		vols: map[string]contents{}, snaps: map[string]contents{}, trash: map[string]contents{}, by: map[string]int{},
	}
	w.spawn()
	for round := range rounds {
		w.run()
		w.spawn()
		w.look(1)
		if round%25 == 24 || round == rounds-1 {
			w.look(len(w.snaps))
			w.settle()
		}
	}
	w.end()
	t.Logf("%d steps in %d rounds; cut off were %v", w.step, rounds, w.by)
}

// contents are a disk's blocks that aren't zero, by the seeds of their noise.
type contents map[int32]uint64

// soak knows what the daemons that it kills have answered.
type soak struct {
	t     *testing.T
	rng   *rand.Rand
	dir   Dir
	bound time.Duration

	d       *direct
	control *Control
	cmd     *exec.Cmd
	killed  *atomic.Bool

	step  int
	again *soakStep
	by    map[string]int // what was cut off

	vols, snaps, trash map[string]contents
	token              struct{ snap, token string } // of block 0, given by a daemon before
}

// soakStep is done as often as needed: it finds what an earlier try has begun.
type soakStep struct {
	name string
	do   func() error
}

func (w *soak) spawn() {
	w.t.Helper()
	w.d, w.cmd = spawnDaemon(w.t, w.dir)
	var err error
	if w.control, err = Connect(string(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	w.killed = new(atomic.Bool)
}

// run takes one step after the other until the daemon is dead.
func (w *soak) run() {
	w.t.Helper()
	cmd, killed := w.cmd, w.killed
	time.AfterFunc(rand.N(w.bound), func() {
		killed.Store(true)
		_ = cmd.Process.Kill()
	})
	before := w.step
	for {
		if w.again == nil {
			w.again = w.choose()
		}
		if err := w.again.do(); err != nil {
			if !killed.Load() {
				w.t.Fatalf("step %d, %s: %v", w.step, w.again.name, err)
			}
			break
		}
		w.again = nil
		w.step++
	}
	w.by[w.again.name]++
	_ = w.cmd.Wait()
	if w.step == before { // a slow machine
		w.bound *= 2
	} else {
		w.bound = max(w.bound*3/4, 300*time.Millisecond)
	}
}

// choose fixes all that a step depends on but for the daemon.
func (w *soak) choose() *soakStep {
	name := fmt.Sprintf("step-%d", w.step)
	vols, snaps, trash := slices.Sorted(maps.Keys(w.vols)), slices.Sorted(maps.Keys(w.snaps)), slices.Sorted(maps.Keys(w.trash))
	pick := func(of []string) string { return of[w.rng.IntN(len(of))] }
	index, seed := int32(w.rng.IntN(12)), uint64(w.step)
	switch dice := w.rng.IntN(24); {
	case len(vols) > 4 || dice == 18 && len(vols) > 2:
		vol := pick(vols)
		return &soakStep{"remove", func() error { return w.remove(vol) }}
	case len(snaps) > 12 || dice >= 10 && dice < 13 && len(snaps) > 2:
		snap := pick(snaps)
		return &soakStep{"delete", func() error { return w.delete(snap) }}
	case len(trash) > 12 || dice == 17 && w.rng.IntN(4) == 0:
		return &soakStep{"empty", w.empty}
	case dice < 4 && len(vols) > 0:
		vol := pick(vols)
		return &soakStep{"write", func() error { return w.write(vol, index, seed) }}
	case dice >= 4 && dice < 8 && len(vols) > 0:
		vol := pick(vols)
		return &soakStep{"snapshot", func() error { return w.snapshot(name, vol) }}
	case dice >= 8 && dice < 10 && len(snaps) > 0:
		snap := pick(snaps)
		return &soakStep{"copy", func() error { return w.copy(name, snap) }}
	case dice >= 13 && dice < 15 && len(trash) > 0:
		snap := pick(trash)
		return &soakStep{"undelete", func() error { return w.undelete(snap) }}
	case dice == 15:
		return &soakStep{"check", func() error { return w.check(w.control.CheckStore(w.t.Context(), true, nil)) }}
	case dice == 16:
		return &soakStep{"repair", func() error { return w.check(w.control.RepairStore(w.t.Context(), nil)) }}
	case dice >= 18 && dice < 22:
		parent := ""
		if len(snaps) > 0 && w.rng.IntN(3) > 0 {
			parent = pick(snaps)
		}
		puts := contents{index: seed, (index + 5) % 13: seed + 1<<15, 3: 0}
		return &soakStep{"upload", func() error { return w.upload(name, parent, puts) }}
	}
	snap := ""
	if len(snaps) > 0 && len(vols) > 0 {
		snap = pick(snaps)
	}
	return &soakStep{"volume", func() error { return w.volume(name, snap) }}
}

// write changes a volume's file, when no snapshot that lies still needs it.
func (w *soak) write(vol string, index int32, seed uint64) error {
	if err := w.completed(""); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(w.dir.Volumes(), vol+".raw"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	data := noise(seed)
	if seed%5 == 0 {
		clear(data)
	}
	_, err = f.WriteAt(data, int64(index)*snapshot.BlockSize)
	if w.vols[vol][index] = seed; seed%5 == 0 {
		delete(w.vols[vol], index)
	}
	return errors.Join(err, f.Close())
}

// tagged finds the snapshot that a step has made, if it has.
func (w *soak) tagged(step string) (string, error) {
	out, err := w.d.ec2.DescribeSnapshots(w.t.Context(), &ec2.DescribeSnapshotsInput{Filters: filters("tag:step", step)})
	if err != nil || len(out.Snapshots) == 0 {
		return "", err
	}
	return *out.Snapshots[0].SnapshotId, nil
}

func stepTags(step string) []types.TagSpecification {
	return []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String("step"), Value: &step}}}}
}

func (w *soak) snapshot(step, vol string) error {
	id, err := w.tagged(step)
	if err == nil && id == "" {
		var out *ec2.CreateSnapshotOutput
		if out, err = w.d.ec2.CreateSnapshot(w.t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol, TagSpecifications: stepTags(step)}); err == nil {
			id = *out.SnapshotId
		}
	}
	if err == nil {
		w.snaps[id] = maps.Clone(w.vols[vol])
	}
	return err
}

func (w *soak) copy(step, snap string) error {
	id, err := w.tagged(step)
	if err == nil && id == "" {
		if err := w.completed(snap); err != nil {
			return err
		}
		var out *ec2.CopySnapshotOutput
		if out, err = w.d.ec2.CopySnapshot(w.t.Context(), &ec2.CopySnapshotInput{
			SourceRegion: aws.String("us-east-1"), SourceSnapshotId: &snap, TagSpecifications: stepTags(step),
		}); err == nil {
			id = *out.SnapshotId
		}
	}
	if err == nil {
		w.snaps[id] = w.snaps[snap]
	}
	return err
}

func (w *soak) upload(step, parent string, puts contents) error {
	blocks, all := map[int32][]byte{}, contents{}
	in := ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(1), ClientToken: &step}
	if parent != "" {
		if err := w.completed(parent); err != nil {
			return err
		}
		in.ParentSnapshotId, all = &parent, maps.Clone(w.snaps[parent])
	}
	for index, seed := range puts {
		blocks[index], all[index] = noise(seed), seed
		if seed == 0 { // takes the parent's away
			blocks[index] = filled(0)
			delete(all, index)
		}
	}
	out, err := w.d.ebs.StartSnapshot(w.t.Context(), &in)
	if err != nil {
		return err
	}
	for index, data := range blocks {
		if err := w.d.tryPut(*out.SnapshotId, index, data); err != nil && !strings.Contains(err.Error(), "INVALID_SNAPSHOT_ID") && !strings.Contains(err.Error(), "takes no more blocks") && !strings.Contains(err.Error(), "completed") {
			return err // unless it was completed before
		}
	}
	if _, err := w.d.seal(*out.SnapshotId, blocks); err != nil {
		return err
	}
	w.snaps[*out.SnapshotId] = all
	return nil
}

// delete deletes a complete snapshot and waits until it is in the trash.
func (w *soak) delete(snap string) error {
	if w.snaps[snap] != nil {
		if err := w.completed(snap); err != nil && !absent(err) {
			return err
		}
	}
	if _, err := w.d.ec2.DeleteSnapshot(w.t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil && !absent(err) {
		return err
	}
	w.trash[snap] = w.snaps[snap]
	delete(w.snaps, snap)
	return nil
}

func absent(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && strings.HasSuffix(api.ErrorCode(), ".NotFound")
}

func (w *soak) undelete(snap string) error {
	if _, err := w.control.Undelete(w.t.Context(), snap); err != nil {
		return err
	}
	w.snaps[snap] = w.trash[snap]
	delete(w.trash, snap)
	return nil
}

func (w *soak) check(report *StoreReport, err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Code == "IncorrectState" { // a snapshot is being made
		return nil
	}
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("it found %+v", report.Problems)
	}
	return err
}

func (w *soak) empty() error {
	if err := w.trashed(); err != nil {
		return err
	}
	_, err := w.control.EmptyTrash(w.t.Context())
	if err == nil {
		clear(w.trash)
	}
	return err
}

// trashed waits until all that was deleted has got to the trash.
func (w *soak) trashed() error {
	return w.until("what was deleted is in the trash", func() (bool, error) {
		list, err := w.control.Trashed(w.t.Context())
		there := map[string]bool{}
		for _, s := range list {
			there[s.Snapshot] = true
		}
		for id := range w.trash {
			if !there[id] && !w.emptying() {
				return false, err
			}
		}
		return true, err
	})
}

// emptying says that the step that was cut off may have emptied the trash.
func (w *soak) emptying() bool { return w.again != nil && w.again.name == "empty" }

func (w *soak) volume(step, snap string) error {
	in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), ClientToken: &step}
	holds := contents{}
	if snap != "" {
		if err := w.completed(snap); err != nil {
			return err
		}
		in.SnapshotId, holds = &snap, maps.Clone(w.snaps[snap])
	}
	out, err := w.d.ec2.CreateVolume(w.t.Context(), in)
	if err != nil {
		return err
	}
	if err := w.until("the volume is made", func() (bool, error) {
		now, err := w.d.ec2.DescribeVolumes(w.t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{*out.VolumeId}})
		return err == nil && now.Volumes[0].State == types.VolumeStateAvailable, err
	}); err != nil {
		return err
	}
	w.vols[*out.VolumeId] = holds
	return w.wantVolume(*out.VolumeId)
}

func (w *soak) wantVolume(vol string) error {
	f, err := os.Open(filepath.Join(w.dir.Volumes(), vol+".raw"))
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, snapshot.BlockSize)
	for index := range int32(14) {
		want := filled(0)
		if seed, ok := w.vols[vol][index]; ok {
			want = noise(seed)
		}
		if _, err := f.ReadAt(got, int64(index)*snapshot.BlockSize); err != nil || !bytes.Equal(got, want) {
			w.t.Fatalf("step %d: block %d of %s isn't what was written to it (%v)", w.step, index, vol, err)
		}
	}
	return nil
}

func (w *soak) remove(vol string) error {
	if _, err := w.d.ec2.DeleteVolume(w.t.Context(), &ec2.DeleteVolumeInput{VolumeId: &vol}); err != nil && !absent(err) {
		return err
	}
	delete(w.vols, vol)
	return nil
}

// until waits for a condition, or until the daemon is dead.
func (w *soak) until(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(3 * time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("step %d: timed out: %s", w.step, what)
		}
	}
}

// completed waits until a snapshot, or each, is complete; none may fail.
func (w *soak) completed(snap string) error {
	in := &ec2.DescribeSnapshotsInput{}
	if snap != "" {
		in.SnapshotIds = []string{snap}
	}
	return w.until("snapshots are complete", func() (bool, error) {
		out, err := w.d.ec2.DescribeSnapshots(w.t.Context(), in)
		if err != nil {
			return false, err
		}
		for _, s := range out.Snapshots {
			switch {
			case s.State == types.SnapshotStateError:
				w.t.Fatalf("step %d: %s failed: %s", w.step, *s.SnapshotId, aws.ToString(s.StateMessage))
			case s.State == types.SnapshotStatePending && (snap != "" || w.snaps[*s.SnapshotId] != nil):
				return false, nil
			}
		}
		return true, nil
	})
}

// look wants all that was answered, and of some snapshots each byte.
func (w *soak) look(sample int) {
	w.t.Helper()
	out, err := w.d.ec2.DescribeSnapshots(w.t.Context(), &ec2.DescribeSnapshotsInput{})
	if err != nil {
		w.t.Fatal(err)
	}
	there := map[string]types.SnapshotState{}
	for _, s := range out.Snapshots {
		there[*s.SnapshotId] = s.State
	}
	ids := slices.Collect(maps.Keys(w.snaps))
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	cut := w.again != nil && w.again.name == "delete"
	for _, id := range ids {
		if there[id] == "" && !cut {
			w.t.Fatalf("%s is lost, which was answered", id)
		}
		if there[id] == types.SnapshotStateError {
			w.t.Fatalf("%s failed", id)
		}
		if there[id] == "" || sample == 0 {
			continue
		}
		sample--
		w.wantSnapshot(id)
	}
	for id := range w.trash {
		if there[id] != "" && (w.again == nil || w.again.name != "undelete") {
			w.t.Fatalf("%s is back, which was deleted", id)
		}
	}
	for vol := range w.vols {
		if w.again != nil && w.again.name == "remove" {
			break
		}
		if err := w.wantVolume(vol); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *soak) wantSnapshot(id string) {
	w.t.Helper()
	if err := w.completed(id); err != nil {
		w.t.Fatal(err)
	}
	want := map[int32][]byte{}
	for index, seed := range w.snaps[id] {
		want[index] = noise(seed)
	}
	wantBlocks(w.t, w.d.all(id), want)
	// A token is good for the next daemon, too.
	if w.token.snap != "" && w.snaps[w.token.snap] != nil {
		if _, err := w.d.get(w.token.snap, 0, w.token.token); err != nil && w.again == nil {
			w.t.Errorf("a token that an earlier daemon gave: %v", err)
		}
	}
	page, err := w.d.ebs.ListSnapshotBlocks(w.t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &id})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(page.Blocks) > 0 && *page.Blocks[0].BlockIndex == 0 {
		w.token.snap, w.token.token = id, *page.Blocks[0].BlockToken
	}
}

// settle finishes what was cut off, and wants no file that nobody needs.
func (w *soak) settle() {
	w.t.Helper()
	if w.again != nil {
		if err := w.again.do(); err != nil {
			w.t.Fatal(err)
		}
		w.again = nil
		w.step++
	}
	if err := errors.Join(w.completed(""), w.trashed()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.check(w.control.CheckStore(w.t.Context(), true, nil)); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "nothing is left over", func() bool {
		for _, dir := range []string{w.dir.Uploads(), w.dir.Scratch(), filepath.Join(w.dir.Snapshots(), "tmp"), filepath.Join(w.dir.Snapshots(), "rot")} {
			if files, err := os.ReadDir(dir); err == nil && len(files) > 0 {
				return false
			}
		}
		files, err := os.ReadDir(w.dir.Volumes())
		for _, f := range files {
			vol, _, _ := strings.Cut(f.Name(), ".")
			if w.vols[vol] == nil {
				return false
			}
		}
		return err == nil
	})
}

// end has all that was deleted back, and then deletes everything: no space is
// taken any more.
func (w *soak) end() {
	w.t.Helper()
	for _, id := range slices.Sorted(maps.Keys(w.trash)) {
		if err := w.undelete(id); err != nil {
			w.t.Fatal(err)
		}
	}
	w.look(len(w.snaps))
	for _, id := range slices.Sorted(maps.Keys(w.snaps)) {
		if err := w.delete(id); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.empty(); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "all space is free", func() bool {
		if _, err := w.control.EmptyTrash(w.t.Context()); err != nil { // what the last collection took
			w.t.Fatal(err)
		}
		stats, err := w.control.StoreStats(w.t.Context())
		return err == nil && stats.Packs == 0 && stats.TrashPacks == 0 && stats.Trashed == 0 && stats.Snapshots == 0
	})
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}
