package cloud

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
)

// packsIn counts the packs in use and those in the trash.
func packsIn(t *testing.T, dir Dir) (used, trashed int) {
	t.Helper()
	for kind, n := range map[string]*int{"packs": &used, "trash": &trashed} {
		entries, err := os.ReadDir(filepath.Join(dir.Snapshots(), kind))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		*n = len(entries)
	}
	return used, trashed
}

// Deletions in a row are collected once, after the last, by whichever daemon
// there is then.
func TestDeletionsAreCollectedTogether(t *testing.T) {
	d := newDirect(t)
	d.cloud.collecting.quiet = time.Hour
	var snaps []string
	for n := range 5 {
		snaps = append(snaps, d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{int32(n): noise(uint64(n + 1))}))
	}
	kept, blocks := snaps[4], map[int32][]byte{4: noise(5)}
	for _, s := range snaps[:4] {
		d.delete(s)
		d.trashed(s)
	}
	if used, trashed := packsIn(t, d.dir); trashed != 0 || used == 0 {
		t.Errorf("%d packs in the trash right after the deletions, %d in use", trashed, used)
	}
	d = d.killed()
	d.cloud.work.mu.Lock()
	_, due := d.cloud.work.due[collectJob]
	d.cloud.work.mu.Unlock()
	if _, trashed := packsIn(t, d.dir); !due && trashed == 0 {
		t.Error("the next daemon doesn't mean to collect")
	}
	d.cloud.work.kick(collectJob)
	eventually(t, "nothing is left to collect", func() bool {
		wanted, err := d.cloud.wantedCollections()
		return err == nil && len(wanted) == 0
	})
	if _, trashed := packsIn(t, d.dir); trashed == 0 {
		t.Error("the trash has no pack after the collection")
	}
	wantBlocks(t, d.all(kept), blocks)
}

// What cannot be collected doesn't keep the trash from being emptied, and stays
// wanted.
func TestCollectionThatFails(t *testing.T) {
	d := newDirect(t)
	d.cloud.collecting.quiet = time.Hour
	gone := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1)})
	kept := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{2: noise(2)})
	root := filepath.Join(d.dir.Snapshots(), "snapshots", kept)
	raw, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(root, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d.delete(gone)
	d.trashed(gone)
	if err := d.cloud.reconcileCollection(t.Context()); err != nil {
		t.Errorf("error %v, want another try much later", err)
	}
	freed, err := d.cloud.EmptyTrash(t.Context())
	if err != nil || freed == 0 { // its root
		t.Errorf("freed %d (%v)", freed, err)
	}
	if _, trashed := packsIn(t, d.dir); trashed != 0 {
		t.Errorf("%d packs were taken away though nobody knows what is needed", trashed)
	}
	if wanted, err := d.cloud.wantedCollections(); err != nil || len(wanted) != 1 {
		t.Errorf("wanted: %v (%v)", wanted, err)
	}
}

// A long collection is followed by a long rest.
func TestPaceOfCollections(t *testing.T) {
	var p pace
	now := time.Now()
	if got := p.wait(now); got != collectQuiet {
		t.Errorf("the first begins after %v", got)
	}
	p.note(now, now.Add(time.Minute))
	if got := p.wait(now.Add(time.Minute)); got != 9*time.Minute {
		t.Errorf("after one of a minute the next begins after %v", got)
	}
	if got := p.wait(now.Add(time.Hour)); got != collectQuiet {
		t.Errorf("after an hour the next begins after %v", got)
	}
}
