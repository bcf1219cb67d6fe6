package cloud

import (
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/snapshot"
)

// Uploads of the same blocks come, are copied, read and deleted while collections
// run all the time and the trash is emptied: a block is often garbage just when
// it comes again. And nobody else can have the store meanwhile.
func TestDirectRacesCollect(t *testing.T) {
	d := newDirect(t)
	_, err := snapshot.OpenDir(t.Context(), d.dir.Snapshots(), d.cloud.log)
	if want := fmt.Sprintf("open store %s: store is in use by another process", d.dir.Snapshots()); err == nil || err.Error() != want {
		t.Errorf("a second one has the store: %v, want %q", err, want)
	}
	stop := make(chan struct{})
	var uploaders, collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := d.cloud.snapshots.Collect(t.Context()); err != nil {
				t.Error(err)
				return
			}
			if _, err := d.cloud.EmptyTrash(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for who := range 2 {
		uploaders.Go(func() {
			blocks := map[int32][]byte{0: noise(1), 3: noise(2), int32(5 + who): noise(3)}
			for range 6 {
				d.uploadAndCopy(blocks)
			}
		})
	}
	uploaders.Wait()
	close(stop)
	collector.Wait()
	if report, err := d.cloud.CheckStore(t.Context(), true, nil); err != nil || len(report.Problems) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

// uploadAndCopy makes a snapshot of blocks, and another of it by a parent and by
// a copy, and wants each whole when those before are gone.
func (d *direct) uploadAndCopy(blocks map[int32][]byte) {
	snap := d.made(ebsapi.StartSnapshotInput{}, blocks)
	child := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &snap})
	out, err := d.ec2.CopySnapshot(d.t.Context(), &ec2.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: &snap})
	if err != nil {
		d.t.Error(err)
		return
	}
	d.delete(snap)
	d.complete(child, nil)
	wantBlocks(d.t, d.all(child), blocks)
	d.delete(child)
	waitCompleted(d.t, d.ec2, *out.SnapshotId)
	wantBlocks(d.t, d.all(*out.SnapshotId), blocks)
	d.delete(*out.SnapshotId)
}
