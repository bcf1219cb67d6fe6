package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

const aboutSnapshot = "The snapshot engine, each time in a process of its own with a store on the same filesystem, " +
	"beside Debian's restic (which encrypts, and can't be told not to), borg with blocks of the same 512 KiB and zstd,1 and without encryption, " +
	"borg with its defaults (chunks by content, lz4), and `qemu-img convert -c` to qcow2 with zstd, which has nothing incremental. " +
	"The disk is ext4 with files of this machine's `/usr`, chosen by the SHA-256 of their paths until there are as many bytes as `-disk` says, " +
	"and an eighth more of noise; all of it is in the page cache, and what waits for the disk is written before each turn. " +
	"A side's time ends when what it wrote is on the disk. " +
	"“1 % in blocks” changes every 4 KiB page of 1 % of the 512 KiB blocks, “1 % in pages” as many pages anywhere, which hits most blocks. " +
	"stead is told which blocks changed, as a running machine's bitmap and a volume's sidecar tell it; the others read the disk again. " +
	"A check reads and verifies all data of the three snapshots; qemu-img's looks at the structure alone. " +
	"The check's limit is the slower of two on the same packs: reading them past the page cache, and unpacking and digesting them in memory on all processors."

// snapBench is a run of the group snapshot.
type snapBench struct {
	b      *bench
	dir    string
	image  *diskImage
	rng    *rand.Rand
	others []archiver

	used      map[string]map[step]*usageSeries // by side
	stored    map[string]map[step]series       // MiB, added by the step
	dirtyRead map[step]series                  // bytes read by bytes of the changed blocks
	unpack    series                           // see measureLimits
	direct    series
}

type usageSeries struct{ wall, cpu, memoryMiB series }

// ours is stead's name among the sides.
const ours = "stead"

// snapshots compares snapshots with archives.
func snapshots(ctx context.Context, b *bench) ([]row, error) {
	dir, err := os.MkdirTemp(b.dir, "snapshot")
	if err != nil {
		return nil, err
	}
	s := &snapBench{
		b: b, dir: dir, rng: rand.New(rand.NewPCG(1, 2)), //nolint:gosec // the same changes each time
		used: make(map[string]map[step]*usageSeries), stored: make(map[string]map[step]series), dirtyRead: make(map[step]series),
	}
	if err := os.Mkdir(s.volumes(), 0o700); err != nil {
		return nil, err
	}
	b.say("making a disk of %d MiB", b.diskMiB)
	if s.image, err = makeImage(ctx, dir, filepath.Join(s.volumes(), diskVolume+".raw"), int64(b.diskMiB)*mib); err != nil {
		return nil, err
	}
	s.others = archivers(s.work(), s.image.path, s.out())
	for n := range b.repeats(3) {
		if err := s.round(ctx, n); err != nil {
			return nil, err
		}
	}
	return s.rows(), os.RemoveAll(dir)
}

// diskVolume is the volume that snapshots are made of.
const diskVolume = "disk"

func (s *snapBench) volumes() string { return filepath.Join(s.dir, "volumes") }
func (s *snapBench) work() string    { return filepath.Join(s.dir, "work") }
func (s *snapBench) out() string     { return filepath.Join(s.dir, "out") }
func (s *snapBench) store() string   { return filepath.Join(s.work(), ours) }

// round has every side do everything once, step by step, with empty stores. In
// each round another side begins.
func (s *snapBench) round(ctx context.Context, n int) error {
	if err := os.Mkdir(s.work(), 0o755); err != nil {
		return err
	}
	for _, a := range s.others {
		if init, ok := a.steps[stepInit]; ok {
			if _, _, err := init.run(ctx); err != nil {
				return err
			}
		}
	}
	var changed []int64
	for _, at := range []step{stepFull, stepRestore, stepBlocks, stepPages, stepCheck} {
		var err error
		switch at {
		case stepBlocks:
			changed, err = s.image.changeBlocks(s.rng)
		case stepPages:
			changed, err = s.image.changePages(s.rng)
		default: // the disk stays as it is
		}
		if err == nil {
			err = s.turns(ctx, n, at, changed)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return os.RemoveAll(s.work())
}

// turns lets one side after another do a step.
func (s *snapBench) turns(ctx context.Context, round int, at step, changed []int64) error {
	sides := []func() error{func() error { return s.ourTurn(ctx, at, changed) }}
	for _, a := range s.others {
		if c, ok := a.steps[at]; ok {
			sides = append(sides, func() error { return s.turn(ctx, a, at, c) })
		}
	}
	for n := range sides {
		if err := syncAll(s.dir); err != nil {
			return err
		}
		if err := sides[(n+round)%len(sides)](); err != nil {
			return err
		}
	}
	if at == stepCheck {
		return s.limits(ctx)
	}
	return nil
}

func (s *snapBench) turn(ctx context.Context, a archiver, at step, c command) error {
	if err := s.makeOut(); err != nil {
		return err
	}
	before, err := folderSize(a.store)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, used, err := c.run(ctx)
	if err != nil {
		return err
	}
	after, err := folderSize(a.store)
	if err != nil {
		return err
	}
	s.note(a.name, at, used, after-before)
	return s.sameAsImage(ctx, at, filepath.Join(s.out(), s.image.path))
}

func (s *snapBench) ourTurn(ctx context.Context, at step, changed []int64) error {
	j := engineJob{Do: "create", Store: s.store(), Volumes: s.volumes(), Volume: diskVolume, ID: string(at)}
	switch at {
	case stepBlocks:
		j.Base, j.Changed = string(stepFull), changed
	case stepPages:
		j.Base, j.Changed = string(stepBlocks), changed
	case stepRestore:
		j.Do, j.ID, j.Volumes, j.Volume = "restore", string(stepFull), s.out(), "restored"
	case stepCheck:
		j.Do = "check"
	default: // a snapshot of all
	}
	if err := s.makeOut(); err != nil {
		return err
	}
	before, err := folderSize(s.store())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r, used, err := s.engine(ctx, j)
	if err != nil {
		return err
	}
	after, err := folderSize(s.store())
	if err != nil {
		return err
	}
	s.note(ours, at, used, after-before)
	if j.Base != "" {
		s.dirtyRead[at] = append(s.dirtyRead[at], float64(r.Read)/float64(len(changed)*blockSize))
	}
	return s.sameAsImage(ctx, at, filepath.Join(s.out(), "restored.raw"))
}

func (s *snapBench) note(side string, at step, used usage, stored int64) {
	if s.used[side] == nil {
		s.used[side], s.stored[side] = make(map[step]*usageSeries), make(map[step]series)
	}
	if s.used[side][at] == nil {
		s.used[side][at] = &usageSeries{}
	}
	u := s.used[side][at]
	u.wall, u.cpu, u.memoryMiB = append(u.wall, used.wall), append(u.cpu, used.cpu), append(u.memoryMiB, used.memoryMiB)
	s.stored[side][at] = append(s.stored[side][at], float64(stored)/mib)
	s.b.say("%s, %s: %.2f s, %.2f s of CPU, %d MiB more stored", at, side, used.wall, used.cpu, stored/mib)
}

// makeOut makes the folder into which disks are restored. qemu-img and borg want
// the path to the image in it.
func (s *snapBench) makeOut() error {
	return os.MkdirAll(filepath.Join(s.out(), filepath.Dir(s.image.path)), 0o755)
}

// sameAsImage compares what was restored, after its time was taken, and removes
// it.
func (s *snapBench) sameAsImage(ctx context.Context, at step, restored string) error {
	if at == stepRestore {
		if _, _, err := (command{args: []string{"cmp", s.image.path, restored}}).run(ctx); err != nil {
			return fmt.Errorf("what was restored isn't what was stored: %w", err)
		}
	}
	return os.RemoveAll(s.out())
}

func (s *snapBench) limits(ctx context.Context) error {
	r, _, err := s.engine(ctx, engineJob{Do: "limit", Store: s.store()})
	s.unpack, s.direct = append(s.unpack, r.Unpack), append(s.direct, r.Direct)
	s.b.say("limits of a check: %.2f s to unpack and digest, %.2f s to read", r.Unpack, r.Direct)
	return err
}

// rows makes the table.
func (s *snapBench) rows() (rows []row) {
	for _, part := range []struct {
		at     step
		what   string
		target map[string]target // of the time, by the other side
	}{
		{stepFull, "full", map[string]target{"restic": ratioAtLeast(3), "borg": ratioAtLeast(1), "qemu-img": ratioAtLeast(1)}},
		{stepBlocks, "1 % in blocks", map[string]target{"restic": ratioAtLeast(20), "borg": ratioAtLeast(20)}},
		{stepPages, "1 % in pages", nil},
		{stepRestore, "restore", map[string]target{"restic": ratioAtLeast(2)}},
		{stepCheck, "check", nil},
	} {
		own := s.used[ours][part.at]
		for _, name := range s.sidesOf(part.at) {
			rows = append(rows, row{
				what: part.what, unit: seconds, ours: own.wall, against: name, theirs: s.used[name][part.at].wall,
				target: part.target[name], speed: true,
			})
		}
		switch part.at {
		case stepBlocks, stepPages:
			r := row{what: part.what + ", bytes read by bytes of changed blocks", unit: fold, ours: s.dirtyRead[part.at], target: atMost(1.05)}
			rows = append(rows, r)
		case stepCheck:
			limit := slices.Clone(s.unpack)
			for n := range limit {
				limit[n] = max(limit[n], s.direct[n])
			}
			rows = append(rows,
				row{what: part.what, unit: seconds, ours: own.wall, against: "its limit", theirs: limit, target: ratioAtLeast(0.8), speed: true},
				row{what: part.what, unit: seconds, ours: own.wall, against: "reading alone", theirs: s.direct, speed: true})
		default: // times alone
		}
		rows = append(rows, s.costs(part.at, part.what)...)
	}
	return rows
}

// costs are the rows of what a step takes besides time.
func (s *snapBench) costs(at step, what string) (rows []row) {
	own := s.used[ours][at]
	for _, name := range s.sidesOf(at) {
		if name == "qemu-img" && at == stepCheck {
			continue
		}
		rows = append(rows, row{what: what + ", CPU seconds", unit: seconds, ours: own.cpu, against: name, theirs: s.used[name][at].cpu})
	}
	if at == stepRestore || at == stepCheck {
		return rows
	}
	for _, name := range s.sidesOf(at) {
		r := row{what: what + ", bytes stored", unit: mebibytes, ours: s.stored[ours][at], against: name, theirs: s.stored[name][at]}
		if name == "borg" && at == stepFull {
			r.target = ratioAtMost(1.05)
		}
		rows = append(rows, r)
	}
	if at == stepFull {
		rows = append(rows, row{what: what + ", memory", unit: mebibytes, ours: own.memoryMiB, against: "restic", theirs: s.used["restic"][at].memoryMiB})
	}
	return rows
}

// sidesOf are the others that can do a step.
func (s *snapBench) sidesOf(at step) (names []string) {
	for _, a := range s.others {
		if _, ok := a.steps[at]; ok {
			names = append(names, a.name)
		}
	}
	return names
}
