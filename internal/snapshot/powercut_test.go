package snapshot_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/objects/powercut"
)

// TestPowerCutDisk lets the steps of TestKill work on a real filesystem and cuts
// its power at any moment: after a flush, or between two with any part of what
// was written since. The filesystem mounts; the store opens and has all that the
// steps had promised by then, byte for byte; and what was cut off can be done
// again. With STEAD_SOAK there are more steps, every flush, and XFS too.
func TestPowerCutDisk(t *testing.T) {
	run := func(name string, steps, each, most int, size int64, mkfs ...string) {
		t.Run(name, func(t *testing.T) { cutDisk(t, steps, each, most, size, mkfs) })
	}
	ext4 := []string{"mkfs.ext4", "-q", "-J", "size=4", "-E", "nodiscard"}
	if soakRounds(0) == 0 {
		run("ext4", 25, 2, 25, 64<<20, ext4...)
		return
	}
	run("ext4", 100, 2, 3000, 128<<20, ext4...)
	run("xfs", 60, 2, 3000, 320<<20, "mkfs.xfs", "-q", "-K")
}

func cutDisk(t *testing.T, steps, each, most int, size int64, mkfs []string) {
	disk, err := powercut.New(t.Context(), snapshot.Scratch(t), size, mkfs...)
	if errors.Is(err, powercut.ErrUnable) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	seed := soakSeed(t)
	lives := liveOn(t, disk, seed, steps)
	if err := disk.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cuts := disk.Cuts(seed, each, most)
	for n, cut := range cuts {
		at := lives.at(cut.At)
		err := disk.Left(t.Context(), cut, func(path string) {
			k := &killer{t: t, order: at}
			k.order.Path, k.order.Seed = filepath.Join(path, "store"), seed
			if cut.At < lives.opened {
				k.wantOpens()
				return
			}
			k.look(2)
			if n%10 == 0 || n == len(cuts)-1 {
				k.end()
			}
		})
		if err != nil || t.Failed() {
			t.Fatalf("cut %+v, at %+v: %v", cut, at, err)
		}
	}
	t.Logf("%d steps and %d cuts", steps, len(cuts))
	if len(cuts) < 10 {
		t.Errorf("only %d cuts: the test has lost its teeth", len(cuts))
	}
}

// lives is what had been promised when.
type lives struct {
	opened powercut.Mark
	worlds []killOrder // before each step, and after the last
	marks  []powercut.Mark
}

// liveOn takes steps in a store on a disk.
func liveOn(t *testing.T, disk *powercut.Disk, seed uint64, steps int) lives {
	t.Helper()
	var l lives
	mark := func() powercut.Mark {
		at, err := disk.Now()
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	world := killWorld{Trash: map[string]int{}}
	var now time.Time
	e, err := openKill(t.Context(), filepath.Join(disk.Path(), "store"), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	l.opened = mark()
	for n := range steps {
		next := world.choose(seed, n)
		l.marks = append(l.marks, mark())
		l.worlds = append(l.worlds, killOrder{Next: n, Again: &next, World: killWorld{Live: slices.Clone(world.Live), Trash: maps.Clone(world.Trash)}})
		now = next.now()
		if err := next.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		world.apply(next)
	}
	l.marks = append(l.marks, mark())
	l.worlds = append(l.worlds, killOrder{Next: steps, World: world})
	return l
}

// at is what there is to be after a cut.
func (l *lives) at(cut powercut.Mark) killOrder {
	o := l.worlds[0]
	for i, at := range l.marks {
		if at <= cut {
			o = l.worlds[i]
		}
	}
	o.World = killWorld{Live: slices.Clone(o.World.Live), Trash: maps.Clone(o.World.Trash)}
	return o
}

// wantOpens wants no more than a store: the cut was before there was one.
func (k *killer) wantOpens() {
	k.t.Helper()
	if err := k.open(k.order.Path).Close(); err != nil {
		k.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(k.order.Path, "config", "store")); err != nil {
		k.t.Error(err)
	}
}
