package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

const (
	killTrash  = 7 * 24 * time.Hour
	killBlocks = 8 // of each volume
)

// killStep is one step of a life of snapshots. Which steps follow each other
// depends on the seed alone, wherever the processes are killed that take them: a
// step that was cut off is taken again before the next.
type killStep struct {
	Seed uint64
	N    int
	Op   string
	ID   string // of the snapshot that it is about
	Base string // of the one that this comes from
}

// now is when the step is taken: they are two hours apart.
func (s killStep) now() time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).Add(time.Duration(s.N) * 2 * time.Hour)
}

func (s killStep) String() string {
	return fmt.Sprintf("step %d of seed %d: %s %s %s", s.N, s.Seed, s.Op, s.ID, s.Base)
}

// killName names a snapshot after what is in it: a volume's generation.
func killName(n, volume, gen int) string { return fmt.Sprintf("snap-%d-%d-%d", n, volume, gen) }

func parseKillName(id string) (n, volume, gen int) {
	if _, err := fmt.Sscanf(id, "snap-%d-%d-%d", &n, &volume, &gen); err != nil {
		panic(fmt.Sprintf("a snapshot is called %q", id))
	}
	return n, volume, gen
}

// killContents is the volume in a snapshot of that name. Each generation changes
// a block of the one before, or zeroes it.
func killContents(id string) memory {
	_, volume, gen := parseKillName(id)
	m := make(memory, killBlocks*snapshot.BlockSize-4096)
	rng := rand.New(rand.NewPCG(uint64(volume), 0))
	for at := 0; at < 5*snapshot.BlockSize; at += 4096 { // each page differs, and packs well
		copy(m[at:], bytes.Repeat(binary.LittleEndian.AppendUint64(nil, rng.Uint64()), 512))
	}
	for g := 1; g <= gen; g++ {
		block, zero := killChange(volume, g)
		part := m[block*snapshot.BlockSize : min((block+1)*snapshot.BlockSize, int64(len(m)))]
		if zero {
			clear(part)
			continue
		}
		_, _ = rand.NewChaCha8([32]byte{byte(volume), byte(g), 1}).Read(part[:100<<10])
	}
	return m
}

func killChange(volume, gen int) (block int64, zero bool) {
	rng := rand.New(rand.NewPCG(uint64(volume), uint64(gen)))
	return rng.Int64N(killBlocks), rng.IntN(4) == 0
}

// killSince is what changed between two snapshots of a volume.
func killSince(base, id string) *snapshot.Since {
	if base == "" {
		return nil
	}
	_, volume, from := parseKillName(base)
	_, _, to := parseKillName(id)
	changed := map[int64]bool{}
	for g := from + 1; g <= to; g++ {
		block, _ := killChange(volume, g)
		changed[block] = true
	}
	return &snapshot.Since{Base: base, Changed: func(i int64) bool { return changed[i] }}
}

// killWorld is what there is after a number of steps.
type killWorld struct {
	Live  []string       // in order of their steps
	Trash map[string]int // by ID, the step that deleted it
}

// choose says which step comes next.
func (w *killWorld) choose(seed uint64, n int) killStep {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	s := killStep{Seed: seed, N: n}
	pick := func(of []string) string { return of[rng.IntN(len(of))] }
	switch dice := rng.IntN(20); {
	case dice < 4 && len(w.Live) > 3 || len(w.Live) > 10:
		s.Op, s.ID = "delete", pick(w.Live)
	case dice >= 4 && dice < 6 && len(w.Trash) > 0:
		s.Op, s.ID = "undelete", pick(slices.Sorted(keysOf(w.Trash)))
	case dice >= 6 && dice < 9:
		s.Op = []string{"collect", "check", "repair"}[dice-6]
	case dice == 9 && rng.IntN(3) == 0:
		s.Op = "empty"
	case dice >= 10 && dice < 12 && len(w.Live) > 0:
		s.Op, s.Base = []string{"restore", "copy"}[dice%2], pick(w.Live)
		_, volume, gen := parseKillName(s.Base)
		s.ID = killName(n, volume, gen)
	default:
		volume, gen := rng.IntN(2), n/3%12
		s.Op, s.ID, s.Base = "create", killName(n, volume, gen), w.baseOf(volume, gen)
		if dice > 17 {
			s.Op = "create while collecting"
		}
	}
	return s
}

// baseOf is the newest snapshot that one of a volume can build on.
func (w *killWorld) baseOf(volume, gen int) string {
	base := ""
	for _, id := range w.Live {
		if _, v, g := parseKillName(id); v == volume && g <= gen {
			base = id
		}
	}
	return base
}

// apply does to the world what a step does.
func (w *killWorld) apply(s killStep) {
	switch s.Op {
	case "create", "create while collecting", "copy":
		w.Live = append(w.Live, s.ID)
	case "delete":
		w.Live = slices.DeleteFunc(w.Live, func(id string) bool { return id == s.ID })
		w.Trash[s.ID] = s.N
	case "undelete":
		w.Live = append(w.Live, s.ID)
		delete(w.Trash, s.ID)
	case "empty":
		clear(w.Trash)
	}
	if s.Op == "collect" || s.Op == "create while collecting" {
		for id, at := range w.Trash {
			if s.now().Sub(killStep{N: at}.now()) >= killTrash {
				delete(w.Trash, id)
			}
		}
	}
}

// take does a step in a store. It can be done again.
func (s killStep) take(ctx context.Context, e *snapshot.Engine) error {
	var err error
	switch s.Op {
	case "create":
		_, err = e.Create(ctx, s.ID, killContents(s.ID), killSince(s.Base, s.ID), nil)
	case "create while collecting":
		var wg sync.WaitGroup
		var swept error
		wg.Go(func() { _, swept = e.Collect(ctx) })
		_, err = e.Create(ctx, s.ID, killContents(s.ID), killSince(s.Base, s.ID), nil)
		if wg.Wait(); err == nil {
			err = swept
		}
	case "copy":
		_, err = e.Copy(ctx, s.Base, s.ID)
	case "restore":
		err = killRestored(ctx, e, s.Base)
	case "delete":
		err = e.Delete(ctx, s.ID)
	case "undelete":
		_, err = e.Undelete(ctx, s.ID)
	case "collect":
		_, err = e.Collect(ctx)
	case "empty":
		_, err = e.EmptyTrash(ctx)
	case "check", "repair":
		var report snapshot.Report
		if s.Op == "check" {
			report, err = e.Check(ctx, true, nil)
		} else {
			report, err = e.Repair(ctx, nil)
		}
		if err == nil && len(report.Problems) > 0 {
			err = fmt.Errorf("it found %+v", report.Problems)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

// killRestored says why a snapshot doesn't restore to what its name says.
func killRestored(ctx context.Context, e *snapshot.Engine, id string) error {
	want := killContents(id)
	got := make(memory, len(want))
	if err := e.Restore(ctx, id, got, nil); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("snapshot %s isn't restored byte for byte", id)
	}
	return nil
}

// openKill opens a store as at a step.
func openKill(ctx context.Context, path string, clock func() time.Time) (*snapshot.Engine, error) {
	return snapshot.OpenDir(ctx, path, slog.New(slog.DiscardHandler),
		snapshot.WithPackSize(256<<10), snapshot.WithTrash(killTrash), snapshot.WithClock(clock))
}
