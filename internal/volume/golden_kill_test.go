package volume

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const childGoldenEnv = "STEAD_VOLUME_TEST_GOLDEN"

// goldenOf is the snapshot of a number, the same in parent and child.
func goldenOf(n int) *testOrigin { return newOrigin(fmt.Sprintf("snap-%04d", n), byte(n)) }

// childOfGoldens makes volumes of snapshots, three of each, and deletes old ones,
// until it is killed.
func childOfGoldens(path string) error {
	d, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ids, err := d.List()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for n := len(ids); ; n++ {
		o := goldenOf(n / 3)
		if err := d.FillFrom(context.Background(), fmt.Sprintf("vol-%04d", n), o.Size, o.Origin); err != nil {
			return err
		}
		if o.fills.Load() > 0 {
			fmt.Println("filled")
		} else {
			fmt.Println("cloned")
		}
		if n%3 == 2 && n > 10 {
			if err := d.DropGolden(goldenOf(n/3 - 2).ID); err != nil {
				return err
			}
		}
	}
}

// TestKillGoldens kills a process that makes and clones golden files, again and
// again: volumes and golden files are whole or absent, and nothing is left.
func TestKillGoldens(t *testing.T) {
	path := filepath.Join(mounted(t, "xfs", 1<<30), "volumes")
	did := make(map[string]int)
	for range 12 {
		killOnce(t, path, func(line string) { did[line]++ }, childGoldenEnv+"=1")
		d := open(t, path)
		ids, err := d.List()
		if err != nil {
			t.Fatal(err)
		}
		for n, id := range ids {
			if id != fmt.Sprintf("vol-%04d", n) {
				t.Fatalf("volumes %q", ids)
			}
			wantOrigin(t, d.Path(id), goldenOf(n/3))
		}
		all, err := d.listGoldens()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, g := range all {
			var n int
			if _, err := fmt.Sscanf(g.id, "snap-%d", &n); err != nil {
				t.Fatal(err)
			}
			wantOrigin(t, d.golden(g.id), goldenOf(n))
			names = append(names, g.id)
		}
		if entries, err := os.ReadDir(filepath.Join(path, goldenDir)); err != nil && len(ids) > 0 || len(entries) != 2*len(names) {
			t.Fatalf("%v, %v beside the golden files of %s", entries, err, strings.Join(names, ", "))
		}
	}
	if did["cloned"] == 0 || did["filled"] == 0 {
		t.Errorf("volumes were made so: %v", did)
	}
	t.Logf("volumes were made so: %v", did)
}

func wantOrigin(t *testing.T, path string, o *testOrigin) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || string(got) != string(o.content) {
		t.Fatalf("%s isn't as its snapshot (%v)", path, err)
	}
}
