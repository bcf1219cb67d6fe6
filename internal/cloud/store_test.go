package cloud

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (d *direct) delete(snap string) {
	d.t.Helper()
	if _, err := d.ec2.DeleteSnapshot(d.t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil {
		d.t.Fatal(err)
	}
}

// trashed waits until a deleted snapshot's record is in the trash.
func (d *direct) trashed(snap string) {
	d.t.Helper()
	eventually(d.t, snap+" is in the trash", func() bool {
		now, deleted, err := d.cloud.findDeleted(snap)
		return err == nil && now == nil && deleted != nil
	})
	d.cloud.work.wait() // for the collection after it
}

// A deleted snapshot comes back as it was, for as long as the trash has it.
func TestUndelete(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{0: noise(1), 900: noise(2)}
	snap := d.made(ebsapi.StartSnapshotInput{Description: aws.String("mine"), Tags: []ebstypes.Tag{{Key: aws.String("k"), Value: aws.String("v")}}}, blocks)
	before := snapshotState(t, d.ec2, snap)
	d.delete(snap)
	d.trashed(snap)
	_, err := d.ec2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snap}})
	wantCode(t, err, "InvalidSnapshot.NotFound")
	d = d.killed()
	list, err := d.cloud.Trashed(t.Context())
	if err != nil || len(list) != 1 || list[0].Snapshot != snap || list[0].Tags["k"] != "v" || !list[0].Until.Equal(d.now().Add(7*24*time.Hour)) {
		t.Errorf("the trash has %+v (%v)", list, err)
	}
	for range 2 {
		if _, err := d.cloud.Undelete(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
	}
	if after := snapshotState(t, d.ec2, snap); *after.Description != *before.Description || !after.StartTime.Equal(*before.StartTime) ||
		!slices.Equal(tagMapOf(after.Tags), tagMapOf(before.Tags)) || after.State != types.SnapshotStateCompleted {
		t.Errorf("it came back as %+v, and was %+v", after, before)
	}
	wantBlocks(t, d.all(snap), blocks)
	if list, err := d.cloud.Trashed(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the trash has %v (%v)", list, err)
	}

	d.delete(snap)
	d.trashed(snap)
	d.set(d.now().Add(7*24*time.Hour + time.Minute))
	if err := d.cloud.expireTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = d.cloud.Undelete(t.Context(), snap)
	wantCode2(t, err, "InvalidSnapshot.NotFound")
	if now, deleted, err := d.cloud.findDeleted(snap); now != nil || deleted != nil || err != nil {
		t.Errorf("its record is kept: %v %v %v", now, deleted, err)
	}
	_, err = d.cloud.Undelete(t.Context(), "vol-0123456789abcdef0")
	wantCode2(t, err, "InvalidParameterValue")
}

func tagMapOf(tags []types.Tag) []string {
	var list []string
	for _, t := range tags {
		list = append(list, *t.Key+"="+*t.Value)
	}
	slices.Sort(list)
	return list
}

func wantCode2(t *testing.T, err error, code string) {
	t.Helper()
	var api *apiError
	if !errors.As(err, &api) || api.Code != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

// halfDeleted makes a snapshot whose data is taken away, and its record isn't yet.
func (d *direct) halfDeleted(blocks map[int32][]byte) string {
	t := d.t
	t.Helper()
	snap := d.made(ebsapi.StartSnapshotInput{}, blocks)
	err := d.cloud.db.Update(func(tx *state.Tx) error {
		rec, err := findSnapshot(tx, testScope, snap)
		if err != nil {
			return err
		}
		_, err = d.cloud.deleteSnapshot(tx, rec)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cloud.snapshots.Delete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	return snap
}

// A deletion whose record couldn't be written is called off with all that was done.
func TestUndeleteInAHalfDeletion(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{3: noise(1)}
	snap := d.halfDeleted(blocks)
	if _, err := d.cloud.Undelete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	wantBlocks(t, d.all(snap), blocks)
}

// A daemon that dies between taking the data away and noting it finishes both,
// and the snapshot can be had back.
func TestUndeleteAfterHalfADeletion(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{3: noise(1)}
	snap := d.halfDeleted(blocks)
	d = d.killed()
	d.trashed(snap)
	if _, err := d.cloud.Undelete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	wantBlocks(t, d.all(snap), blocks)
}

// A daemon that dies between bringing the data back and noting it loses neither:
// the next one notes it, whatever else it deletes before it is asked again.
func TestUndeleteHalfDone(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{3: noise(1)}
	snap := d.made(ebsapi.StartSnapshotInput{Description: aws.String("mine")}, blocks)
	other := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{4: noise(2)})
	d.delete(snap)
	d.trashed(snap)
	if _, err := d.cloud.snapshots.Undelete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	d = d.killed()
	d.delete(other)
	d.trashed(other)
	if s := snapshotState(t, d.ec2, snap); *s.Description != "mine" || s.State != types.SnapshotStateCompleted {
		t.Errorf("it came back as %+v", s)
	}
	if _, err := d.cloud.Undelete(t.Context(), snap); err != nil {
		t.Error(err)
	}
	wantBlocks(t, d.all(snap), blocks)
	if list, err := d.cloud.Trashed(t.Context()); err != nil || len(list) != 1 || list[0].Snapshot != other {
		t.Errorf("the trash has %v (%v)", list, err)
	}
}

// A deletion that still waits is called off.
func TestUndeleteBeforeItsTurn(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{3: noise(1)}
	snap := d.made(ebsapi.StartSnapshotInput{}, blocks)
	child := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &snap}) // has it wait
	d.delete(snap)
	if _, err := d.cloud.Undelete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	d.complete(child, nil)
	d.cloud.work.kick(job{(*state.Snapshot)(nil).Kind(), testScope, snap})
	d.cloud.work.wait()
	wantBlocks(t, d.all(snap), blocks)
}

// Emptied, the trash gives nothing back, and what isn't deleted is whole.
func TestEmptyTrash(t *testing.T) {
	d := newDirect(t)
	gone := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1), 2: noise(2)})
	kept := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1)})
	d.delete(gone)
	d.trashed(gone)
	if freed, err := d.cloud.EmptyTrash(t.Context()); err != nil || freed == 0 {
		t.Errorf("freed %d (%v)", freed, err)
	}
	_, err := d.cloud.Undelete(t.Context(), gone)
	wantCode2(t, err, "InvalidSnapshot.NotFound")
	report, err := d.cloud.CheckStore(t.Context(), true, nil)
	if err != nil || len(report.Problems) != 0 || report.Snapshots != 1 {
		t.Errorf("afterwards: %+v (%v)", report, err)
	}
	wantBlocks(t, d.all(kept), map[int32][]byte{1: noise(1)})
}

// A check names what is damaged by snapshot and block, and the next snapshot
// with that block heals it. A repair keeps all that is whole.
func TestCheckNamesAndHeals(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{4: noise(1), 5: noise(2)}
	snap := d.made(ebsapi.StartSnapshotInput{}, blocks)
	spoilStore(t, d.dir, blocks[5])
	report, err := d.cloud.CheckStore(t.Context(), false, nil)
	if err != nil || len(report.Problems) != 0 {
		t.Errorf("without reading: %+v (%v)", report, err)
	}
	for range 2 {
		report, err = d.cloud.CheckStore(t.Context(), true, nil)
		if err != nil || len(report.Problems) != 1 || report.Problems[0].Snapshot != snap || *report.Problems[0].Block != 5 ||
			report.Problems[0].Region != "us-east-1" || report.Problems[0].Digest == "" {
			t.Fatalf("it found %+v (%v)", report, err)
		}
	}
	page, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.get(snap, 5, *page.Blocks[1].BlockToken)
	wantCode(t, err, "InternalServerException")
	d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{77: blocks[5]})
	report, err = d.cloud.CheckStore(t.Context(), true, nil)
	if err != nil || len(report.Problems) != 0 {
		t.Errorf("healed: %+v (%v)", report, err)
	}
	wantBlocks(t, d.all(snap), blocks)
	d.cloud.work.wait()
	if report, err = d.cloud.RepairStore(t.Context(), nil); err != nil || len(report.Problems) != 0 || report.Snapshots != 2 {
		t.Errorf("repaired: %+v (%v)", report, err)
	}
	wantBlocks(t, d.all(snap), blocks)
	if stats, err := d.cloud.StoreStats(t.Context()); err != nil || stats.Snapshots != 2 || stats.Bytes == 0 || stats.TrashDays != 7 {
		t.Errorf("stats %+v (%v)", stats, err)
	}
}

// A snapshot that has a record and no data is found, too.
func TestCheckFindsWhatIsMissing(t *testing.T) {
	d := newDirect(t)
	snap := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{4: noise(1)})
	if err := d.cloud.snapshots.Delete(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	report, err := d.cloud.CheckStore(t.Context(), false, nil)
	if err != nil || len(report.Problems) != 1 || report.Problems[0].Snapshot != snap || report.Problems[0].Block != nil {
		t.Errorf("it found %+v (%v)", report, err)
	}
}

// spoilStore changes a byte of a block that doesn't compress, where it lies.
func spoilStore(t *testing.T, dir Dir, block []byte) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(dir.Snapshots(), "packs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pack := range packs {
		raw, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(raw, block[1000:1100]); at >= 0 {
			raw[at] ^= 1
			_ = os.Chmod(pack, 0o600)
			if err := os.WriteFile(pack, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no pack has the block")
}

// Without a trash a deleted snapshot leaves nothing.
func TestNoTrash(t *testing.T) {
	days := 0
	if trashTime(&days) >= 0 || trashTime(nil) != DefaultTrash {
		t.Fatal("no days are not at all")
	}
	d := newDirect(t)
	d.cloud.trash = trashTime(&days)
	snap := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{4: noise(1)})
	d.delete(snap)
	eventually(t, "it is gone", func() bool {
		now, deleted, err := d.cloud.findDeleted(snap)
		return err == nil && now == nil && deleted == nil
	})
	_, err := d.cloud.Undelete(t.Context(), snap)
	wantCode2(t, err, "InvalidSnapshot.NotFound")
}

// Orders about the store reach the daemon over its socket.
func TestStoreControl(t *testing.T) {
	control, _ := runDaemon(t, shortDir(t))
	ctx := t.Context()
	if r, err := control.CheckStore(ctx, true, func(int64, int64) {}); err != nil || r.Snapshots != 0 {
		t.Errorf("check: %+v (%v)", r, err)
	}
	if r, err := control.RepairStore(ctx, nil); err != nil || len(r.Problems) != 0 {
		t.Errorf("repair: %+v (%v)", r, err)
	}
	if s, err := control.StoreStats(ctx); err != nil || s.TrashDays != 7 {
		t.Errorf("stats: %+v (%v)", s, err)
	}
	if list, err := control.Trashed(ctx); err != nil || len(list) != 0 {
		t.Errorf("trash: %+v (%v)", list, err)
	}
	if freed, err := control.EmptyTrash(ctx); err != nil || freed != 0 {
		t.Errorf("empty: %d (%v)", freed, err)
	}
	var refused *RefusedError
	if _, err := control.Undelete(ctx, "snap-0123456789abcdef0"); !errors.As(err, &refused) || refused.Code != "InvalidSnapshot.NotFound" {
		t.Errorf("undelete: %v", err)
	}
}
