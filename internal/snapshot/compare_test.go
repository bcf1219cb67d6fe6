package snapshot_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// TestCompare finds a volume as its snapshot, and every way not to be.
func TestCompare(t *testing.T) {
	store, volume := openStore(t, t.TempDir()), data(t, 5<<20+1234)
	clear(volume[1<<20 : 3<<20]) // a hole
	snap(t, store, "s", volume)
	if err := store.Compare(t.Context(), "s", volume); err != nil {
		t.Fatal(err)
	}
	last := len(volume) - 1
	for name, change := range map[string]func(m memory) memory{
		"a bit":              func(m memory) memory { m[0] ^= 1; return m },
		"its last byte":      func(m memory) memory { m[last] ^= 0x80; return m },
		"data in a hole":     func(m memory) memory { m[2<<20] = 1; return m },
		"a hole in its data": func(m memory) memory { clear(m[4<<20:]); return m },
		"shorter":            func(m memory) memory { return m[:last] },
		"longer":             func(m memory) memory { return append(m, 0) },
	} {
		if err := store.Compare(t.Context(), "s", change(bytes.Clone(volume))); !errors.Is(err, snapshot.ErrDiffers) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := store.Compare(t.Context(), "none", volume); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("without a snapshot: %v", err)
	}
}
