package cloud

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/snapshot"
)

// Whatever is answered outlives a daemon that is killed after each call.
func TestDirectKilledAfterEachCall(t *testing.T) {
	d := newDirect(t)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{5: noise(1)})
	d = d.killed()
	in := ebsapi.StartSnapshotInput{ParentSnapshotId: &base, ClientToken: aws.String("once")}
	snap := d.start(in)
	blocks := map[int32][]byte{0: noise(2), 5: filled(0), 6: noise(3), 7: noise(4)}
	for index, data := range blocks {
		d = d.killed()
		if again := d.start(in); again != snap {
			t.Fatalf("the same token gives %s, then %s", snap, again)
		}
		d.put(snap, map[int32][]byte{index: noise(9)})
		d = d.killed()
		d.put(snap, map[int32][]byte{index: data}) // over it
	}
	d = d.killed()
	if out, err := d.seal(snap, blocks); err != nil || out.Status != ebstypes.StatusPending {
		t.Fatal(out, err)
	}
	d = d.killed()
	if _, err := d.seal(snap, blocks); err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, d.ec2, snap)
	d = d.killed()
	if out, err := d.seal(snap, blocks); err != nil || out.Status != ebstypes.StatusCompleted {
		t.Fatal(out, err)
	}
	delete(blocks, 5)
	wantBlocks(t, d.all(snap), blocks)
}

// A block that the disk has lost fails the snapshot.
func TestDirectLostBlock(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{0: noise(1)}
	d.put(snap, blocks)
	if err := os.WriteFile(uploadPath(d.dir, snap)+".data", noise(2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(snap, blocks); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it failed", func() bool {
		s := snapshotState(t, d.ec2, snap)
		return s.State == types.SnapshotStateError && strings.Contains(aws.ToString(s.StateMessage), "block 0")
	})
}

// Written before a power cut, a snapshot is completed only with a checksum over
// all of it, as nothing else tells what was lost.
func TestDirectPowerCut(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{0: noise(1), 1: noise(2)}
	d.put(snap, blocks)
	// What is on the disk was written in another boot: the first record says in
	// which, see package upload.
	path := uploadPath(d.dir, snap) + ".journal"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rebootJournal(raw)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d = d.killed()
	_, err = d.ebs.CompleteSnapshot(t.Context(), &ebsapi.CompleteSnapshotInput{SnapshotId: &snap, ChangedBlocksCount: aws.Int32(2)})
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.put(snap, map[int32][]byte{1: blocks[1]})
	d = d.killed()
	_, err = d.ebs.CompleteSnapshot(t.Context(), &ebsapi.CompleteSnapshotInput{SnapshotId: &snap, ChangedBlocksCount: aws.Int32(2)})
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.complete(snap, blocks)
	wantBlocks(t, d.all(snap), blocks)
}

// A parent that can't be read fails the snapshot: nothing is made up.
func TestDirectParentLost(t *testing.T) {
	d := newDirect(t)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1)})
	snap := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &base})
	if err := d.cloud.snapshots.Delete(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(snap, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it failed", func() bool {
		s := snapshotState(t, d.ec2, snap)
		return s.State == types.SnapshotStateError && strings.Contains(aws.ToString(s.StateMessage), base)
	})
}

// An end of the daemon while blocks are put loses none that were answered.
func TestDirectDaemonEndsMeanwhile(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	var mu sync.Mutex
	answered := map[int32][]byte{}
	var wg sync.WaitGroup
	for w := range int32(4) {
		wg.Go(func() {
			for i := range int32(40) {
				index, data := w*100+i, noise(uint64(w*100+i))
				if d.tryPut(snap, index, data) != nil {
					return
				}
				mu.Lock()
				answered[index] = data
				mu.Unlock()
			}
		})
	}
	time.Sleep(30 * time.Millisecond)
	d.end()
	wg.Wait()
	d = openDirect(t, d.dir, d.clock)
	u, err := d.cloud.uploads.open(d.dir, snap)
	if err != nil {
		t.Fatal(err)
	}
	all, err := u.Contents()
	if err != nil {
		t.Fatal(err)
	}
	for index, data := range answered {
		got := make([]byte, snapshot.BlockSize)
		if err := all.Read(int64(index), got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("block %d was answered and is lost (%v)", index, err)
		}
	}
}
