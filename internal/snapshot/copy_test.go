package snapshot_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// A copy costs nothing, is repeatable, and lives on without its source.
func TestCopyOutlivesItsSource(t *testing.T) {
	store := openStore(t, t.TempDir())
	e, ctx := store, t.Context()
	disk := data(t, 5<<20)
	source := snap(t, store, "a", disk)
	for range 2 {
		made, err := e.Copy(ctx, "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		if made.ID != "b" || made.Digest != source.Digest || made.StoredBytes != 0 || made.VolumeSize != source.VolumeSize {
			t.Errorf("the copy is %+v, its source %+v", made, source)
		}
	}
	if err := e.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if swept, err := e.Collect(ctx); err != nil || swept.Trashed != 0 {
		t.Errorf("collected %+v that the copy needs (%v)", swept, err)
	}
	got := make(memory, len(disk))
	if err := e.Restore(ctx, "b", got, nil); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the copy differs (%v)", err)
	}
	if _, err := e.Copy(ctx, "a", "c"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("copy of what is gone: %v", err)
	}
}
