package cloud

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// readings collects how much of their volumes snapshots read.
type readings struct {
	slog.Handler
	mu   sync.Mutex
	read map[string]reading
}

type reading struct {
	since string
	bytes int64
}

func (r *readings) Enabled(context.Context, slog.Level) bool { return true }

func (r *readings) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Message == "snapshot read" {
		var id string
		var one reading
		rec.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "snapshot":
				id = a.Value.String()
			case "since":
				one.since = a.Value.String()
			case "read":
				one.bytes = a.Value.Int64()
			}
			return true
		})
		r.mu.Lock()
		r.read[id] = one
		r.mu.Unlock()
	}
	if !r.Handler.Enabled(ctx, rec.Level) {
		return nil
	}
	return r.Handler.Handle(ctx, rec)
}

func (r *readings) of(snap string) reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read[snap]
}

// testLog is a log in the test's output, from a level on, that has what snapshots
// read counted.
func testLog(t *testing.T, from slog.Level) *slog.Logger {
	h := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: from})
	return slog.New(&readings{Handler: h, read: map[string]reading{}})
}

// readingsOf gives what was read by the snapshots of a cloud with a testLog.
func readingsOf(t *testing.T, c *Cloud) *readings {
	t.Helper()
	r, ok := c.log.Handler().(*readings)
	if !ok {
		t.Fatal("this cloud's snapshots aren't counted")
	}
	return r
}

func snapshotOf(t *testing.T, client *ec2.Client, vol string) string {
	t.Helper()
	out, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
	if err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, client, *out.SnapshotId)
	return *out.SnapshotId
}

func writeVolume(t *testing.T, c *Cloud, vol string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(c.volumes.Path(vol), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(text), at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A volume that lies still is read once: what it shares with its last snapshot,
// or with the one that it was made of, costs nothing.
func TestSnapshotOfAnUnchangedVolumeReadsNothing(t *testing.T) {
	c, client := newTestCloud(t)
	r := readingsOf(t, c)
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	const block = snapshot.BlockSize
	writeVolume(t, c, vol, 3*block, "three")
	writeVolume(t, c, vol, 700*block, "seven hundred")
	first := snapshotOf(t, client, vol)
	if got := r.of(first); got.since != "" || got.bytes != 2*block {
		t.Errorf("the first snapshot read %+v, want two blocks", got)
	}
	second := snapshotOf(t, client, vol)
	if got := r.of(second); got.since != first || got.bytes != 0 {
		t.Errorf("the second snapshot read %+v, want nothing since %s", got, first)
	}
	made := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &first, Size: aws.Int32(2)})
	third := snapshotOf(t, client, made)
	if got := r.of(third); got.since != first || got.bytes != 0 {
		t.Errorf("the snapshot of a larger volume of the first read %+v, want nothing since %s", got, first)
	}
	// Something else writes to the file: that is no more than a reason to read
	// all.
	writeVolume(t, c, vol, 5*block, "five")
	fourth := snapshotOf(t, client, vol)
	if got := r.of(fourth); got.since != "" || got.bytes != 3*block {
		t.Errorf("the snapshot of a file that was written to read %+v, want three blocks", got)
	}
	one, err := c.snapshots.Info(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{second} {
		if info, err := c.snapshots.Info(t.Context(), id); err != nil || info.Digest != one.Digest {
			t.Errorf("%s has %+v (%v), want what %s has", id, info, err, first)
		}
	}
}

// Without its base a record is of no use.
func TestSnapshotIsWholeWhenItsBaseIsGone(t *testing.T) {
	c, client := newTestCloud(t)
	r := readingsOf(t, c)
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	writeVolume(t, c, vol, 0, "data")
	first := snapshotOf(t, client, vol)
	if _, err := client.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &first}); err != nil {
		t.Fatal(err)
	}
	c.work.wait()
	second := snapshotOf(t, client, vol)
	if got := r.of(second); got.bytes != snapshot.BlockSize {
		t.Errorf("the snapshot read %+v, want one block", got)
	}
	made := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &second})
	if got := headOf(t, c, made); got != "data" {
		t.Errorf("a volume of the second reads %q", got)
	}
}

// A snapshot that was complete in the store when its daemon was killed says
// nothing of its volume, which anybody may have written to since.
func TestSnapshotOfAKilledDaemonTellsNothingOfItsVolume(t *testing.T) {
	d := newDirect(t)
	vol := makeVolume(t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	writeBlock(t, d.cloud.volumes.Path(vol), 0, 1, true)
	snap := snapshotOf(t, d.ec2, vol)
	err := amend(d.cloud, job{(*state.Snapshot)(nil).Kind(), testScope, snap}, func(_ *state.Tx, s *state.Snapshot) error {
		s.State = state.SnapshotPending // as it is between the two commits
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.end()
	writeBlock(t, filepath.Join(d.dir.Volumes(), vol+".raw"), 0, 2, true)
	d = openDirect(t, d.dir, d.clock)
	waitCompleted(t, d.ec2, snap)
	wantBlocks(t, d.all(snap), map[int32][]byte{0: noise(1)})
	wantBlocks(t, d.all(snapshotOf(t, d.ec2, vol)), map[int32][]byte{0: noise(2)})
}
