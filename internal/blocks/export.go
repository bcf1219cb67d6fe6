package blocks

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ExportOptions says what is exported, and where to.
type ExportOptions struct {
	Snapshot string
	Format   Format // Auto: by the path
	// Path is the file. It is there when it is whole; until then its data are
	// in a file beside it, and what is done in another.
	Path string
	// Overwrite replaces a file that is there.
	Overwrite bool
	// Writer gets the disk in order, instead of a file.
	Writer io.Writer
	Options
}

// Exported is a snapshot that is in a file.
type Exported struct {
	Snapshot string
	Path     string
	Format   Format
	Size     int64 // of the volume in bytes
	Blocks   int32 // that hold data
	Linear   [sha256.Size]byte
	Progress Progress
}

// What an export keeps beside its file until that is whole.
const (
	partSuffix    = ".stead-part"
	journalSuffix = ".stead-done"
)

// Export writes a snapshot to a file, or to a stream.
func Export(ctx context.Context, from Endpoint, o ExportOptions) (*Exported, error) {
	o.Options = o.filled()
	made, err := export(ctx, from, o)
	return made, wrap("export", "snapshot "+o.Snapshot+" of "+from.Name, err)
}

func export(ctx context.Context, from Endpoint, o ExportOptions) (*Exported, error) {
	var err error
	if o.Format, err = FormatOf(o.Format, o.Path); err != nil {
		return nil, err
	}
	x := &exporting{from: from, o: o, gate: newGate(o.Parallel)}
	if o.Writer == nil {
		if err := x.checkPath(); err != nil {
			return nil, err
		}
	}
	size, err := sizeOf(ctx, from, x.gate, o.Snapshot)
	if err != nil {
		return nil, err
	}
	x.list = allOf(from, x.gate, o.Snapshot)
	if x.layout, err = layOut(ctx, o.Format, size*gib, x.list); err != nil {
		return nil, err
	}
	x.meter = newMeter(o.Progress, size*gib)
	made := &Exported{Snapshot: o.Snapshot, Path: o.Path, Format: o.Format, Size: size * gib}
	switch {
	case o.Plan:
		return made, x.foresee(ctx, made)
	case o.Writer != nil:
		x.journal = &journal{done: newDigests()}
		err = x.stream(ctx, o.Writer)
	default:
		err = x.file(ctx)
	}
	if err != nil {
		return nil, err
	}
	x.meter.end()
	made.Blocks, made.Linear = x.journal.done.count(), x.journal.done.linear()
	made.Progress = Progress{At: made.Size, Size: made.Size, Moved: x.meter.moved.Load(), Reused: x.meter.reused.Load()}
	return made, nil
}

// foresee counts what would be written, and what of it an earlier try has.
func (x *exporting) foresee(ctx context.Context, made *Exported) error {
	path := ""
	if x.o.Writer == nil {
		path = x.o.Path + journalSuffix
	}
	j, err := x.o.notes(path)
	if err != nil {
		return err
	}
	about, err := x.about()
	if err != nil {
		return err
	}
	same := j.head.About == about
	return x.list(ctx, func(b block) bool {
		made.Blocks++
		if _, done := j.done.get(b.index); done && same {
			made.Progress.Reused += Size
		} else {
			made.Progress.Moved += Size
		}
		return true
	})
}

// about says what the export is from and to.
func (x *exporting) about() (string, error) {
	about, err := json.Marshal([]any{"export", x.from.Name, x.o.Snapshot, x.o.Format, x.layout.size})
	return string(about), err
}

// exporting is one export under way.
type exporting struct {
	from    Endpoint
	o       ExportOptions
	gate    *gate
	list    lister
	layout  *layout
	journal *journal
	meter   *meter
}

// checkPath refuses a file that would be lost, before anything is read.
func (x *exporting) checkPath() error {
	st, err := os.Lstat(x.o.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().IsRegular() && x.o.Overwrite:
		return nil
	case st.Mode().IsRegular():
		return &Error{Op: "export to", Resource: x.o.Path, Reason: "the file exists, and would be lost", Remedy: "name another, or add --overwrite", Err: ErrExists}
	}
	return &Error{Op: "export to", Resource: x.o.Path, Reason: "it is no regular file", Remedy: "name a file, or write to a device by: stead blocks export " + x.o.Snapshot + " - > " + x.o.Path, Err: ErrUsage}
}

// file writes to a file beside the one that is wanted, and renames it.
func (x *exporting) file(ctx context.Context) error {
	j, err := openJournal(x.o.Path + journalSuffix)
	if err != nil {
		return err
	}
	defer j.close()
	x.journal = j
	about, err := x.about()
	if err != nil {
		return err
	}
	same := j.head.About == about
	flags := os.O_RDWR | os.O_CREATE
	if !same {
		flags |= os.O_TRUNC // so that what isn't written is zeros
	}
	f, err := os.OpenFile(x.o.Path+partSuffix, flags, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // finish has synced it
	if same {
		if same, err = x.verify(ctx, f); err != nil {
			return err
		}
	}
	if err := j.begin(journalHead{About: about}, same); err != nil {
		return err
	}
	if err := f.Truncate(x.layout.size); err != nil {
		return x.full(err)
	}
	if err := x.fetch(ctx, f); err != nil {
		return x.full(err)
	}
	return x.finish(f)
}

// verify reads what an earlier try has written. Where something else is there
// than was noted, nothing of the file is trusted.
func (x *exporting) verify(ctx context.Context, f *os.File) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	good := st.Size() == x.layout.size
	buf := make([]byte, Size)
	for _, index := range x.journal.done.indices() {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		want, _ := x.journal.done.get(index)
		if good {
			_, err := f.ReadAt(buf, x.layout.offset(index))
			good = err == nil && sha256.Sum256(buf) == want
		}
	}
	if !good {
		x.o.Log.WarnContext(ctx, "what an earlier try left isn't what it noted, so it begins anew", "file", f.Name())
		return false, f.Truncate(0)
	}
	return true, nil
}

// fetch brings the blocks that aren't there yet.
func (x *exporting) fetch(ctx context.Context, f io.WriterAt) error {
	for _, p := range x.layout.head {
		if _, err := f.WriteAt(p.data, p.offset); err != nil {
			return err
		}
	}
	return each(ctx, x.gate, x.o.Parallel, x.list, func(ctx context.Context, b block, buf []byte) error {
		if _, ok := x.journal.done.get(b.index); ok {
			x.meter.done(b.index, false)
			return nil
		}
		if err := x.within(b); err != nil {
			return err
		}
		sum, err := get(ctx, x.from, x.gate, x.o.Snapshot, b, buf)
		if err != nil {
			return err
		}
		if !isZero(buf) { // the file has a hole there
			if _, err := f.WriteAt(buf, x.layout.offset(b.index)); err != nil {
				return err
			}
		}
		x.meter.done(b.index, true)
		return x.journal.note(b.index, sum)
	})
}

// within refuses a block beyond the end of its volume.
func (x *exporting) within(b block) error {
	if (int64(b.index)+1)*Size > x.meter.size {
		return fmt.Errorf("%w: block %d is beyond the volume's end", ErrCorrupt, b.index)
	}
	return nil
}

// finish makes the file last, under its own name.
func (x *exporting) finish(f *os.File) error {
	if err := f.Sync(); err != nil {
		// What a failed sync leaves can't be known.
		return errors.Join(x.full(err), x.journal.remove(), os.Remove(f.Name()))
	}
	how := uint(unix.RENAME_NOREPLACE)
	if x.o.Overwrite {
		how = 0
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, x.o.Path, how)
	switch {
	case errors.Is(err, unix.EEXIST):
		return x.checkPath()
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // the file system can't
		if err = x.checkPath(); err == nil {
			err = os.Rename(f.Name(), x.o.Path)
		}
	}
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(x.o.Path)); err != nil {
		return err
	}
	return x.journal.remove()
}

// full says of a full disk what is to be done.
func (x *exporting) full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &Error{Op: "export to", Resource: x.o.Path, Remedy: "make room, then the same command again: it goes on from there", Err: err}
	}
	return err
}
