package snapshot_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// A copy costs nothing, is repeatable, and lives on without its source.
func TestCopyOutlivesItsSource(t *testing.T) {
	store, err := snapshot.OpenDir(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	e, ctx := engine(store), t.Context()
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
	if freed, err := e.Collect(ctx); err != nil || freed != 0 {
		t.Errorf("collected %d bytes that the copy needs (%v)", freed, err)
	}
	got := make(memory, len(disk))
	if err := e.Restore(ctx, "b", got, nil); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the copy differs (%v)", err)
	}
	if _, err := e.Copy(ctx, "a", "c"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("copy of what is gone: %v", err)
	}
}
