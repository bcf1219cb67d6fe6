package volume

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// goldens are a folder's golden files.
type goldens struct {
	mu   sync.Mutex
	can  *bool                    // whether the filesystem has reflinks; nil until it was tried
	busy map[string]chan struct{} // closed when whoever has a snapshot's golden file is done
}

// take waits until nobody else makes or uses a snapshot's golden file.
func (g *goldens) take(ctx context.Context, id string) (release func(), err error) {
	for {
		g.mu.Lock()
		wait, busy := g.busy[id]
		if !busy {
			done := make(chan struct{})
			g.busy[id] = done
			g.mu.Unlock()
			return func() {
				g.mu.Lock()
				delete(g.busy, id)
				g.mu.Unlock()
				close(done)
			}, nil
		}
		g.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Reflinks says whether two files in the folder can share their blocks. It is
// tried, once: no filesystem's name tells, as XFS can be made without.
func (d *Dir) Reflinks() (bool, error) {
	d.goldens.mu.Lock()
	defer d.goldens.mu.Unlock()
	if d.goldens.can != nil {
		return *d.goldens.can, nil
	}
	can, err := Reflinks(d.path)
	if err == nil {
		d.goldens.can = &can
	}
	return can, err
}

// Reflinks says whether two files in the folder at path can share their blocks.
func Reflinks(path string) (can bool, err error) {
	from, err := os.CreateTemp(path, tempPrefix+"reflink-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, from.Close(), os.Remove(from.Name())) }()
	to, err := os.CreateTemp(path, tempPrefix+"reflink-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, to.Close(), os.Remove(to.Name())) }()
	if _, err := from.Write(make([]byte, 64<<10)); err != nil {
		return false, err
	}
	switch err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL),
		errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENOSYS):
		return false, nil
	default:
		return false, fmt.Errorf("try to clone a file in %s: %w", path, err)
	}
}

// DropGolden removes the golden file of a snapshot that no volume is made of any
// more; an absent one is fine.
func (d *Dir) DropGolden(id string) error {
	if err := check(id, 1); err != nil {
		return err
	}
	// The record first: a golden file without one is nothing.
	var errs []error
	for _, path := range []string{d.goldenRecord(id), d.golden(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("drop the golden file of %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// DropGoldens removes all golden files, to make room. It returns how many bytes
// they took at most: what volumes share with them stays.
func (d *Dir) DropGoldens() (freed int64, err error) {
	all, err := d.listGoldens()
	for _, g := range all {
		if derr := d.DropGolden(g.id); derr != nil {
			err = errors.Join(err, derr)
			continue
		}
		freed += g.allocated
	}
	if freed == 0 {
		return 0, err
	}
	d.log.Info("dropped all golden files, as the disk is full", "bytes", freed)
	// Some filesystems have the room only when what was removed is committed.
	return freed, errors.Join(err, syncFilesystem(d.path))
}

// BoundGoldens removes the golden files that were unused for longest until
// together they aren't larger than what is free.
func (d *Dir) BoundGoldens() error {
	all, err := d.listGoldens()
	if err != nil || len(all) == 0 {
		return err
	}
	free, err := freeBytes(d.path)
	if err != nil {
		return err
	}
	var total int64
	for _, g := range all {
		total += g.allocated
	}
	for _, g := range all {
		if total <= free {
			break
		}
		d.log.Info("dropped a golden file, as the disk is filling", "snapshot", g.id, "bytes", g.allocated, "free", free)
		if err := d.DropGolden(g.id); err != nil {
			return err
		}
		total -= g.allocated
	}
	return nil
}

// KeepGoldens removes the golden files of all snapshots but those that wanted
// names.
func (d *Dir) KeepGoldens(wanted func(snapshot string) bool) error {
	all, err := d.listGoldens()
	for _, g := range all {
		if !wanted(g.id) {
			err = errors.Join(err, d.DropGolden(g.id))
		}
	}
	return err
}

// hasRoomFor is an error unless what f takes fits into what is free once more, as
// its golden file takes it when the volume has diverged from it.
func (d *Dir) hasRoomFor(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	free, err := freeBytes(d.path)
	if err == nil && st.Blocks*statBlock > free {
		err = fmt.Errorf("it could take %d bytes, and %d are free", st.Blocks*statBlock, free)
	}
	return err
}

type goldenFile struct {
	id        string
	allocated int64 // bytes
	used      time.Time
}

// listGoldens returns the golden files with a record, those unused for longest
// first.
func (d *Dir) listGoldens() ([]goldenFile, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, goldenDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list golden files: %w", err)
	}
	var all []goldenFile
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || !validID().MatchString(id) {
			continue
		}
		g := goldenFile{id: id}
		if info, err := e.Info(); err == nil {
			g.used = info.ModTime()
		}
		var st unix.Stat_t
		if err := unix.Stat(d.golden(id), &st); err == nil {
			g.allocated = st.Blocks * statBlock
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b goldenFile) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id, b.id)) })
	return all, nil
}

// tidyGoldens removes what a crash left and what can't be trusted.
func (d *Dir) tidyGoldens() error {
	dir := filepath.Join(d.path, goldenDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		id, golden := strings.CutSuffix(e.Name(), suffix)
		if golden && d.isGolden(id) {
			continue
		}
		id, record := strings.CutSuffix(e.Name(), recordSuffix)
		if record && d.isGolden(id) {
			continue
		}
		if !golden && !record && !strings.HasPrefix(e.Name(), tempPrefix) {
			continue // not ours
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove what is left of a golden file: %w", err)
		}
	}
	return nil
}

// isGolden says whether a golden file is there with its record.
func (d *Dir) isGolden(id string) bool {
	rec, err := d.readGoldenRecord(id)
	if err != nil {
		return false
	}
	f, err := os.Open(d.golden(id))
	if err != nil {
		return false
	}
	defer f.Close()
	now, err := identify(f)
	return err == nil && now == rec.file
}

func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func syncFilesystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// goldenRecord is what makes a file golden:
//
//	8 bytes   "STDGLD" 0 1
//	32 bytes  size, inode, mtime and ctime of the golden file, 8 each
//	8 bytes   when all of it was last compared with the snapshot, in
//	          nanoseconds since 1970
//	32 bytes  what stands for the snapshot's contents
//	32 bytes  SHA-256 of all that is before, and of the snapshot's ID
//
// Numbers are big-endian.
type goldenRecord struct {
	file     identity
	verified int64
	digest   [32]byte
}

const (
	goldenMagic     = "STDGLD\x00\x01"
	goldenRecordLen = len(goldenMagic) + 32 + 8 + 32 + sha256.Size
)

func (r goldenRecord) encode(id string) []byte {
	b := []byte(goldenMagic)
	for _, n := range []uint64{r.file.Size, r.file.Inode, uint64(r.file.MTime), uint64(r.file.CTime), uint64(r.verified)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, r.digest[:]...)
	sum := sha256.Sum256(append(b, id...))
	return append(b, sum[:]...)
}

func decodeGoldenRecord(b []byte, id string) (rec goldenRecord, ok bool) {
	if len(b) != goldenRecordLen || !bytes.HasPrefix(b, []byte(goldenMagic)) {
		return rec, false
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(append(bytes.Clone(body), id...)); !bytes.Equal(sum[:], b[len(body):]) {
		return rec, false
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64(body[len(goldenMagic)+8*i:]) }
	rec.file = identity{Size: word(0), Inode: word(1), MTime: int64(word(2)), CTime: int64(word(3))}
	rec.verified = int64(word(4))
	copy(rec.digest[:], body[len(goldenMagic)+40:])
	return rec, true
}

func (d *Dir) readGoldenRecord(id string) (goldenRecord, error) {
	b, err := os.ReadFile(d.goldenRecord(id))
	if err != nil {
		return goldenRecord{}, err
	}
	rec, ok := decodeGoldenRecord(b, id)
	if !ok {
		return rec, fmt.Errorf("%s is damaged", d.goldenRecord(id))
	}
	return rec, nil
}
