package cloud

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// reflinkDir is a data folder on a filesystem in memory that has reflinks.
func reflinkDir(t *testing.T) Dir {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "only root can mount")
	}
	scratch, err := os.MkdirTemp("/dev/shm", "stead-")
	if err != nil {
		skipOrFail(t, err.Error())
	}
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	image, at := filepath.Join(scratch, "image"), filepath.Join(scratch, "mnt")
	for _, cmd := range [][]string{
		{"truncate", "-s", "1G", image},
		{"mkfs.xfs", "-q", "-m", "reflink=1", image},
		{"mkdir", at},
		{"mount", "-o", "loop", image, at},
	} {
		if out, err := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			skipOrFail(t, strings.Join(cmd, " ")+": "+err.Error()+": "+string(out))
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return Dir(filepath.Join(at, "data"))
}

// goldens are the names of a cloud's golden files.
func goldens(t *testing.T, dir Dir) (ids []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir.Volumes(), "golden", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if id, ok := strings.CutSuffix(filepath.Base(f), ".raw"); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// Volumes of a snapshot are clones where files can share blocks, and are as any
// volume else: a snapshot of one reads what has changed, and nothing of them is
// left when the snapshot goes.
func TestVolumesOfASnapshotAreClones(t *testing.T) {
	dir := reflinkDir(t)
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	c, client, end := openMoody(t, dir, &moody{})
	r := readingsOf(t, c)
	snap, other := makeSnapshot(t, c, client, "root"), makeSnapshot(t, c, client, "other")
	zone := aws.String("us-east-1a")
	for range 2 {
		makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &other})
		vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &snap, Size: aws.Int32(2)})
		if got := headOf(t, c, vol); got != "root" || fileSize(t, c, vol) != 2*gib {
			t.Errorf("the volume reads %q and has %d bytes", got, fileSize(t, c, vol))
		}
		writeVolume(t, c, vol, 9*snapshot.BlockSize, "nine")
		whole := snapshotOf(t, client, vol)
		if got := r.of(whole); got.since != "" || got.bytes != 2*snapshot.BlockSize {
			t.Errorf("a snapshot of a clone that was written to read %+v, want two blocks", got)
		}
	}
	if got := goldens(t, dir); len(got) != 2 {
		t.Fatalf("golden files of %q, want two", got)
	}
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &snap})
	if got := r.of(snapshotOf(t, client, vol)); got.since != snap || got.bytes != 0 {
		t.Errorf("the snapshot of a clone read %+v, want nothing since %s", got, snap)
	}
	if _, err := client.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the golden file goes", func() bool { return len(goldens(t, dir)) == 1 })
	// A daemon that died before it dropped one.
	end()
	c, _, end = openMoody(t, dir, &moody{})
	err := c.db.Update(func(tx *state.Tx) error {
		all, err := state.All[state.Snapshot](tx)
		for _, s := range all {
			if s.ID == other {
				return state.Delete(tx, s)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	end()
	openMoody(t, dir, &moody{})
	if got := goldens(t, dir); len(got) != 0 {
		t.Errorf("golden files of %q, want none", got)
	}
}

// A daemon that is killed while it makes volumes of a snapshot, one of them the
// first, finishes them when it is back.
func TestKilledWhileVolumesAreMade(t *testing.T) {
	dir := reflinkDir(t)
	d, cmd := spawnDaemon(t, dir)
	want := map[string]string{} // the snapshot by volume
	blocks := map[int32][]byte{0: noise(1), 100: noise(2), 1000: noise(3)}
	for i := int32(200); i < 216; i++ {
		blocks[i] = noise(uint64(i))
	}
	snaps := make([]string, 5)
	for i := range snaps {
		snaps[i] = d.made(ebsapi.StartSnapshotInput{}, blocks)
	}
	for _, snap := range snaps {
		for range 4 {
			out, err := d.ec2.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snap, Size: aws.Int32(1)})
			if err != nil {
				t.Fatal(err)
			}
			want[*out.VolumeId] = snap
		}
		time.Sleep(rand.N(80 * time.Millisecond)) // any moment
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for vol := range want { // whatever has its name is whole
			wantVolume(t, dir, vol, blocks, true)
		}
		d, cmd = spawnDaemon(t, dir)
	}
	for vol := range want {
		eventually(t, vol+" is made", func() bool { return volumeState(t, d.ec2, vol) == types.VolumeStateAvailable })
		wantVolume(t, dir, vol, blocks, false)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// wantVolume fails the test unless a volume's file has these blocks; it may be
// absent.
func wantVolume(t *testing.T, dir Dir, vol string, blocks map[int32][]byte, orAbsent bool) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir.Volumes(), vol+".raw"))
	if os.IsNotExist(err) && orAbsent {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, snapshot.BlockSize)
	for i, data := range blocks {
		if _, err := f.ReadAt(buf, int64(i)*snapshot.BlockSize); err != nil || !bytes.Equal(buf, data) {
			t.Fatalf("block %d of %s isn't that of its snapshot (%v)", i, vol, err)
		}
	}
}
