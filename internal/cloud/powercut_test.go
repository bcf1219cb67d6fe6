package cloud

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/objects/powercut"
)

// TestPowerCutFolder cuts the power of the disk that a data folder is on, at any
// moment of a life of volumes and snapshots. Whatever is left opens; what had
// been answered by then is there, byte for byte; what was pending becomes complete
// or an error; and the next snapshot of each volume, which reads no more than what
// is noted to have changed, is the same as a whole read of it.
func TestPowerCutFolder(t *testing.T) {
	most, each := 25, 2
	if os.Getenv("STEAD_SOAK") != "" {
		most, each = 600, 3
	}
	disk, err := powercut.New(t.Context(), memoryDir(t), 96<<20, "mkfs.ext4", "-q", "-J", "size=4", "-E", "nodiscard")
	if errors.Is(err, powercut.ErrUnable) {
		skipOrFail(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	seed, err := strconv.ParseUint(os.Getenv("STEAD_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1e9)
	}
	t.Logf("STEAD_SEED=%d repeats the cuts", seed)
	w := &cutFolder{t: t, disk: disk}
	w.live()
	if err := disk.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cuts := disk.Cuts(seed, each, most)
	some := 0
	for _, cut := range cuts {
		if cut.At < w.opened {
			continue
		}
		some++
		if err := disk.Left(t.Context(), cut, func(path string) { w.look(Dir(path), cut.At) }); err != nil || t.Failed() {
			t.Fatalf("cut %+v: %v", cut, err)
		}
	}
	t.Logf("%d promises and %d cuts", len(w.promises), some)
	if some < 3 {
		t.Errorf("only %d cuts: the test has lost its teeth", some)
	}
}

// memoryDir is a folder in memory where the system has one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stead-cut-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// cutFolder has a daemon do things and notes what it answered, and when.
type cutFolder struct {
	t        *testing.T
	disk     *powercut.Disk
	opened   powercut.Mark
	promises []cutPromise
	may      map[string]contents // of each snapshot, promised or not
	upload   string              // the one that was uploaded
	puts     map[int32][]byte    // to it
}

// cutPromise holds from a moment on, until the next of the same resource begins
// to be broken.
type cutPromise struct {
	from, until powercut.Mark
	id          string
	there       bool
	holds       contents // nil: not known
}

func (w *cutFolder) now() powercut.Mark {
	w.t.Helper()
	at, err := w.disk.Now()
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// doing ends the promises about a resource: something is being done to it.
func (w *cutFolder) doing(id string) {
	for i := range w.promises {
		if w.promises[i].id == id && w.promises[i].until == 0 {
			w.promises[i].until = w.now()
		}
	}
}

func (w *cutFolder) promise(id string, there bool, holds contents) {
	w.promises = append(w.promises, cutPromise{from: w.now(), id: id, there: there, holds: maps.Clone(holds)})
}

// live is the life whose power is cut.
func (w *cutFolder) live() {
	d := openDirect(w.t, Dir(w.disk.Path()), &clock{at: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)})
	defer d.end()
	w.may = map[string]contents{}
	w.opened = w.now()
	disk := contents{}
	vol := makeVolume(w.t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	w.promise(vol, true, disk)
	write := func(sync bool, index int32, seed uint64) {
		w.doing(vol)
		disk[index] = seed
		writeBlock(w.t, d.cloud.volumes.Path(vol), index, seed, sync)
		if sync {
			w.promise(vol, true, disk)
		}
	}
	take := func(holds contents, begin func() string) string {
		id := begin()
		w.may[id] = maps.Clone(holds)
		waitCompleted(w.t, d.ec2, id)
		w.promise(id, true, holds)
		return id
	}
	snap := func() string {
		return take(disk, func() string {
			out, err := d.ec2.CreateSnapshot(w.t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
			if err != nil {
				w.t.Fatal(err)
			}
			return *out.SnapshotId
		})
	}
	write(true, 0, 1)
	write(true, 3, 2)
	first := snap()
	write(true, 3, 3)
	second := snap()
	write(false, 5, 4) // is the guest's to lose, but not to be lied about
	write(false, 0, 5)
	snap()
	write(false, 5, 6)
	puts := contents{3: 7, 9: 8}
	all := maps.Clone(w.may[first])
	maps.Copy(all, puts)
	upload := take(all, func() string {
		w.upload, w.puts = d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &first}), blocksOf(puts)
		d.put(w.upload, w.puts)
		if _, err := d.seal(w.upload, w.puts); err != nil {
			w.t.Fatal(err)
		}
		return w.upload
	})
	w.doing(second)
	d.delete(second)
	d.trashed(second)
	w.promise(second, false, nil)
	w.doing(second)
	if _, err := d.cloud.Undelete(w.t.Context(), second); err != nil {
		w.t.Fatal(err)
	}
	w.promise(second, true, w.may[second])
	made := makeVolume(w.t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &upload})
	w.promise(made, true, all)
	w.doing(first)
	d.delete(first)
	d.trashed(first)
	w.promise(first, false, nil)
	snap()
	w.doing(made)
	if _, err := d.ec2.DeleteVolume(w.t.Context(), &ec2.DeleteVolumeInput{VolumeId: &made}); err != nil {
		w.t.Fatal(err)
	}
	d.cloud.work.wait()
	w.promise(made, false, nil)
}

func writeBlock(t *testing.T, path string, index int32, seed uint64, sync bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(noise(seed), int64(index)*snapshot.BlockSize)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// look wants what had been promised when the power failed.
func (w *cutFolder) look(dir Dir, at powercut.Mark) {
	reboot(w.t, dir)
	d := openDirect(w.t, dir, &clock{at: time.Date(2026, 3, 4, 6, 6, 7, 0, time.UTC)})
	defer d.end()
	for _, p := range w.promises {
		if at < p.from || p.until != 0 && at >= p.until {
			continue
		}
		if err := w.kept(d, p); err != nil {
			w.t.Errorf("%s, promised at %d: %v", p.id, p.from, err)
		}
	}
	w.pending(d)
	report, err := d.cloud.CheckStore(w.t.Context(), true, nil)
	if err != nil || len(report.Problems) > 0 {
		w.t.Errorf("the store: %+v (%v)", report, err)
	}
	w.next(d)
}

// reboot makes what a folder tells of this run of the host tell of another.
func reboot(t *testing.T, dir Dir) {
	t.Helper()
	change := func(pattern string, edit func(raw []byte)) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			edit(raw)
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	change(filepath.Join(dir.Volumes(), "*.changed"), func(raw []byte) { // see changeRecord
		body := raw[:len(raw)-sha256.Size]
		body[16] ^= 1
		sum := sha256.Sum256(body)
		copy(raw[len(body):], sum[:])
	})
	change(filepath.Join(dir.Uploads(), "*.journal"), rebootJournal)
}

// rebootJournal changes the boot in the first record of an upload's journal.
func rebootJournal(raw []byte) {
	if len(raw) < 128 {
		return
	}
	record := raw[64:128]
	record[30] ^= 1
	binary.LittleEndian.PutUint32(record[60:], crc32.Checksum(record[:60], crc32.MakeTable(crc32.Castagnoli)))
}

func (w *cutFolder) kept(d *direct, p cutPromise) error {
	if strings.HasPrefix(p.id, "snap-") {
		out, err := d.ec2.DescribeSnapshots(w.t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{p.id}})
		if p.there && (err != nil || out.Snapshots[0].State != types.SnapshotStateCompleted) || !p.there && err == nil {
			return fmt.Errorf("it is %+v (%w)", out, err)
		}
		if p.there {
			wantBlocks(w.t, d.all(p.id), blocksOf(p.holds))
		}
		return nil
	}
	out, err := d.ec2.DescribeVolumes(w.t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{p.id}})
	if p.there && (err != nil || out.Volumes[0].State != types.VolumeStateAvailable) || !p.there && err == nil {
		return fmt.Errorf("it is %+v (%w)", out, err)
	}
	if !p.there {
		return nil
	}
	f, err := os.Open(d.cloud.volumes.Path(p.id))
	if err != nil {
		return err
	}
	defer f.Close()
	for index, want := range blocksOf(p.holds) {
		got := make([]byte, snapshot.BlockSize)
		if _, err := f.ReadAt(got, int64(index)*snapshot.BlockSize); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("block %d is %x…, want %x… (%w)", index, got[:4], want[:4], err)
		}
	}
	return nil
}

func blocksOf(c contents) map[int32][]byte {
	blocks := map[int32][]byte{}
	for index, seed := range c {
		blocks[index] = noise(seed)
	}
	return blocks
}

// pending waits until no snapshot is, but for an upload that lacks blocks. The
// client that doesn't know of a cut completes it: it is refused, fails, or is what
// was uploaded.
func (w *cutFolder) pending(d *direct) {
	d.cloud.work.wait()
	if _, err := d.seal(w.upload, w.puts); err == nil {
		eventually(w.t, "the upload is complete or failed", func() bool {
			return snapshotState(w.t, d.ec2, w.upload).State != types.SnapshotStatePending
		})
	}
	out, err := d.ec2.DescribeSnapshots(w.t.Context(), &ec2.DescribeSnapshotsInput{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range out.Snapshots {
		upload := *s.VolumeId == noVolume
		switch {
		case s.State == types.SnapshotStatePending && !upload:
			w.t.Errorf("%s stays pending", *s.SnapshotId)
		case s.State == types.SnapshotStateCompleted && upload && w.may[*s.SnapshotId] != nil:
			wantBlocks(w.t, d.all(*s.SnapshotId), blocksOf(w.may[*s.SnapshotId]))
		}
	}
}

// next takes another snapshot of each volume, and wants a whole read's.
func (w *cutFolder) next(d *direct) {
	out, err := d.ec2.DescribeVolumes(w.t.Context(), &ec2.DescribeVolumesInput{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range out.Volumes {
		if v.State != types.VolumeStateAvailable {
			continue
		}
		f, err := os.Open(d.cloud.volumes.Path(*v.VolumeId))
		if err != nil {
			w.t.Error(err)
			continue
		}
		whole, err := d.cloud.snapshots.Create(w.t.Context(), "whole-"+*v.VolumeId, sparseFile{f, gib}, nil, nil)
		_ = f.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		id := snapshotOf(w.t, d.ec2, *v.VolumeId)
		if info, err := d.cloud.snapshots.Info(w.t.Context(), id); err != nil || info.Digest != whole.Digest {
			w.t.Errorf("%s: by what has changed it is %+v (%v), and read whole %+v", *v.VolumeId, info, err, whole)
		}
	}
	files, err := filepath.Glob(filepath.Join(d.dir.Volumes(), "*"))
	for _, f := range files {
		id, _, _ := strings.Cut(filepath.Base(f), ".")
		if !slices.ContainsFunc(out.Volumes, func(v types.Volume) bool { return *v.VolumeId == id }) {
			w.t.Errorf("%s is left over", f)
		}
	}
	if err != nil {
		w.t.Error(err)
	}
}
