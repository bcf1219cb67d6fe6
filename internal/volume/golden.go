package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	goldenDir    = "golden"
	recordSuffix = ".record"
	// verifyEvery is how long a golden file is used without being read through.
	verifyEvery = 24 * time.Hour
)

// Origin is what any number of volumes begin as: a snapshot.
type Origin struct {
	// ID is the snapshot's, and Digest stands for its contents.
	ID     string
	Digest [32]byte
	// Size is how many bytes it has. A larger volume goes on with zeros.
	Size int64
	// Fill writes it, verified, as Fill's function does.
	Fill func(ctx context.Context, w Sink) error
	// Verify reads a file that should hold it and nothing else. An error says
	// what is wrong with it, or that it couldn't be told.
	Verify func(ctx context.Context, r *Reader) error
}

// FillFrom is Fill for a volume that begins as a snapshot. Where the filesystem
// has reflinks, the second volume of a snapshot and all further ones are clones.
// Of several at once one is filled, and the others wait for it.
func (d *Dir) FillFrom(ctx context.Context, id string, size int64, from Origin) error {
	if err := errors.Join(check(from.ID, from.Size), check(id, size)); err != nil {
		return wrap("fill", id, err)
	}
	if size < from.Size {
		return wrap("fill", id, fmt.Errorf("%w: %d bytes are less than the %d of %s", ErrInvalid, size, from.Size, from.ID))
	}
	err := d.fillFrom(ctx, id, size, from)
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	if freed, ferr := d.DropGoldens(); ferr != nil || freed == 0 {
		return errors.Join(err, ferr)
	}
	return d.fillFrom(ctx, id, size, from)
}

func (d *Dir) fillFrom(ctx context.Context, id string, size int64, from Origin) error {
	if can, err := d.Reflinks(); err != nil || !can {
		if err != nil {
			d.log.Warn("the volume is filled anew, as trying for reflinks failed", "volume", id, "err", err)
		}
		return d.Fill(ctx, id, size, from.Fill)
	}
	release, err := d.goldens.take(ctx, from.ID)
	if err != nil {
		return wrap("fill", id, err)
	}
	defer release()
	return d.make(ctx, "fill", id, size, func(ctx context.Context, f *os.File) error {
		err := d.cloneGolden(ctx, f, size, from)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("a golden file is made anew", "snapshot", from.ID, "err", err)
		}
		// Whatever became of it: what isn't written must read as zeros.
		if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
			return err
		}
		if err := fillFile(ctx, f, size, from.Fill); err != nil {
			return err
		}
		if err := d.keepGolden(ctx, f, from); err != nil {
			d.log.Warn("no golden file is kept; the next volume is filled anew", "snapshot", from.ID,
				"err", errors.Join(err, d.DropGolden(from.ID)))
		}
		return nil
	})
}

// cloneGolden makes f the golden file's clone, size bytes long. fs.ErrNotExist
// says that there is none.
func (d *Dir) cloneGolden(ctx context.Context, f *os.File, size int64, from Origin) error {
	golden, err := os.Open(d.golden(from.ID))
	if err != nil {
		return err
	}
	defer golden.Close()
	rec, err := d.trusted(ctx, golden, from)
	if err != nil {
		return err
	}
	// Into an empty file: a clone's end must be the file's where it isn't a
	// block's.
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := clone(f, golden); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	if now, err := identify(golden); err != nil || now != rec.file {
		return errors.Join(errors.New("it was changed while it was cloned"), err)
	}
	now := time.Now() // that it was used
	if err := os.Chtimes(d.goldenRecord(from.ID), now, now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // dropped meanwhile
}

// trusted says whether a golden file holds what a snapshot does.
func (d *Dir) trusted(ctx context.Context, golden *os.File, from Origin) (goldenRecord, error) {
	rec, err := d.readGoldenRecord(from.ID)
	if err != nil {
		return rec, err
	}
	now, err := identify(golden)
	if err != nil {
		return rec, err
	}
	switch age := time.Since(time.Unix(0, rec.verified)); {
	case now != rec.file:
		return rec, errors.New("it was changed by something else")
	case rec.digest != from.Digest || now.Size != uint64(from.Size):
		return rec, errors.New("it holds something else than the snapshot")
	case age >= 0 && age < verifyEvery:
		return rec, nil
	}
	if err := from.Verify(ctx, &Reader{dir: d, id: from.ID, f: golden, size: from.Size, file: now}); err != nil {
		return rec, err
	}
	return rec, d.recordGolden(from.ID, golden, from.Digest, rec.file)
}

// keepGolden makes a golden file of f, a volume that was just filled from a
// snapshot and that nobody else knows yet. An older one is replaced. After an
// error what is there is not to be trusted, and isn't.
func (d *Dir) keepGolden(ctx context.Context, f *os.File, from Origin) error {
	if err := d.hasRoomFor(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	tmp, err := d.newGolden(from.ID)
	if err != nil {
		return err
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name()) // gone already once in place
	}()
	if err := errors.Join(clone(tmp, f), tmp.Truncate(from.Size), tmp.Chmod(0o400), ctx.Err()); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), d.golden(from.ID)); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(d.path, goldenDir)); err != nil {
		return err
	}
	if err := d.bind(tmp, from); err != nil {
		return err
	}
	return d.BoundGoldens()
}

// bind writes the record of a golden file as it is now.
func (d *Dir) bind(f *os.File, from Origin) error {
	file, err := identify(f)
	if err != nil {
		return err
	}
	file.outlast()
	return d.recordGolden(from.ID, f, from.Digest, file)
}

// recordGolden notes that a golden file, which is still the file that it was,
// holds what the digest stands for.
func (d *Dir) recordGolden(id string, f *os.File, digest [32]byte, file identity) error {
	if now, err := identify(f); err != nil || now != file {
		return errors.Join(errors.New("it is being changed"), err)
	}
	rec := goldenRecord{file: file, digest: digest, verified: time.Now().UnixNano()}
	return d.writeSidecar(d.goldenRecord(id), rec.encode(id))
}

// newGolden opens a temporary file among the golden ones.
func (d *Dir) newGolden(id string) (*os.File, error) {
	path := filepath.Join(d.path, goldenDir)
	err := os.Mkdir(path, dirMode)
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.CreateTemp(path, tempPrefix+id+"-")
}

func (d *Dir) golden(id string) string { return filepath.Join(d.path, goldenDir, id+suffix) }

func (d *Dir) goldenRecord(id string) string {
	return filepath.Join(d.path, goldenDir, id+recordSuffix)
}

// CloneTo makes a volume that is being filled a clone of this one, which lies
// still. It says whether the filesystem can; if not, w is as it was.
func (r *Reader) CloneTo(w Sink) (bool, error) {
	to, ok := w.(*filler)
	if can, err := r.dir.Reflinks(); !ok || !can || err != nil || to.size < r.size {
		return false, err
	}
	err := to.f.Truncate(0)
	if err == nil {
		err = clone(to.f, r.f)
	}
	if err = errors.Join(err, to.f.Truncate(to.size)); err != nil {
		return false, typed(err)
	}
	return true, nil
}

// clone makes an empty file share all that another has.
func clone(to, from *os.File) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	return nil
}
