package blocks

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"
)

// ImportOptions says what is imported, and as what.
type ImportOptions struct {
	// Path is the file or block device that the disk is in.
	Path string
	// Reader is a disk instead of a file; it is kept in a file without a name
	// in SpoolDir (default the system's) until it is imported. It can't be gone
	// on with.
	Reader   io.Reader
	SpoolDir string
	Format   Format // Auto: by the first bytes
	// Parent is a snapshot that the new one builds on: what is the same there
	// isn't sent.
	Parent string
	// SizeGiB is the size of the volume. Zero: as the disk needs, or the
	// parent has.
	SizeGiB     int64
	Description string
	Tags        map[string]string
	Options
}

// Imported is a snapshot that was made of a disk.
type Imported struct {
	Snapshot string
	Format   Format
	Size     int64 // of the volume in bytes
	Parent   string
	Blocks   int32 // that were put, of this try and of earlier ones
	Linear   [sha256.Size]byte
	Progress Progress
}

// Import makes a snapshot of a disk.
func Import(ctx context.Context, to Endpoint, o ImportOptions) (*Imported, error) {
	o.Options = o.filled()
	made, err := importDisk(ctx, to, o)
	return made, wrap("import", o.name()+" to "+to.Name, err)
}

// name is what the disk is called in errors.
func (o *ImportOptions) name() string {
	if o.Reader != nil {
		return "the stream"
	}
	return o.Path
}

func importDisk(ctx context.Context, to Endpoint, o ImportOptions) (*Imported, error) {
	f, err := openDisk(o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	i := &importing{to: to, o: o, gate: newGate(o.Parallel), file: f}
	if i.src, i.o.Format, err = openSource(f, o.Format); err != nil {
		return nil, err
	}
	if i.identity, err = identity(f); err != nil {
		return nil, err
	}
	if err := i.chooseSize(ctx); err != nil {
		return nil, err
	}
	notes := ""
	if o.Reader == nil {
		notes = o.Path + journalSuffix
	}
	j, err := o.notes(notes)
	if err != nil {
		return nil, notesError(notes, err)
	}
	defer j.close()
	return i.run(ctx, j)
}

// notesError says what can be done where no notes can be kept beside the disk.
func notesError(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return &Error{Op: "write", Resource: path, Remedy: "import it where it may be written, or as a stream: stead blocks import - < FILE", Err: err}
	}
	return err
}

func openDisk(o ImportOptions) (*os.File, error) {
	if o.Reader != nil {
		return spool(o.Reader, o.SpoolDir)
	}
	f, err := os.Open(o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Op: "import", Resource: o.Path, Reason: "there is no such file", Remedy: "name the file of a disk, or - for a stream", Err: fs.ErrNotExist}
	}
	return f, err
}

// importing is one import under way.
type importing struct {
	to       Endpoint
	o        ImportOptions
	gate     *gate
	file     *os.File
	src      source
	identity string
	gib      int64
	up       *upload
}

// chooseSize holds the size that is asked for against the disk and the parent.
func (i *importing) chooseSize(ctx context.Context) error {
	least := (i.src.size() + gib - 1) / gib
	if i.o.Parent != "" {
		parent, err := sizeOf(ctx, i.to, i.gate, i.o.Parent)
		if err != nil {
			return wrap("read", "parent "+i.o.Parent, err)
		}
		least = max(least, parent)
	}
	i.gib = max(least, i.o.SizeGiB)
	if i.o.SizeGiB != 0 && i.o.SizeGiB < least {
		return &Error{Op: "import", Resource: i.o.name(), Reason: "the disk or its parent is larger than that size", Remedy: "leave --size out", Err: ErrUsage}
	}
	return nil
}

func (i *importing) run(ctx context.Context, j *journal) (*Imported, error) {
	about, err := json.Marshal([]any{"import", i.to.Name, i.identity, i.o.Format, i.gib, i.o.Parent, i.o.Description, i.o.Tags})
	if err != nil {
		return nil, err
	}
	t := target{about: string(about), sizeGiB: i.gib, parent: i.o.Parent, description: i.o.Description, tags: i.o.Tags}
	if i.up, err = begin(ctx, i.to, i.gate, i.o.Options, t, j); err != nil {
		return nil, err
	}
	made := &Imported{Snapshot: i.up.id, Format: i.o.Format, Size: i.gib * gib, Parent: i.o.Parent}
	if err := i.send(ctx); err != nil {
		if i.o.Reader != nil { // nobody can go on with it
			i.up.abandon(context.WithoutCancel(ctx), i.up.id)
		}
		return nil, err
	}
	made.Blocks, made.Linear = j.done.count(), j.done.linear()
	made.Progress = Progress{At: made.Size, Size: made.Size, Moved: i.up.meter.moved.Load(), Reused: i.up.meter.reused.Load()}
	return made, i.up.complete(ctx)
}

// send puts what the snapshot has to hold, unless an earlier try has ended it.
func (i *importing) send(ctx context.Context) error {
	if i.up.over {
		return nil
	}
	if err := each(ctx, i.gate, i.o.Parallel, i.jobs, i.sendOne); err != nil {
		return err
	}
	now, err := identity(i.file)
	if err == nil && now != i.identity {
		return &Error{Op: "import", Resource: i.o.name(), Reason: "it changed while it was read", Remedy: "the same command again, when nothing writes to it", Err: ErrChanged}
	}
	return err
}

// candidate is a block of the disk that may have to be put.
type candidate struct {
	block      // as the parent has it; without a token it is zeros there
	holds bool // the disk may have something there
}

// jobs yields all blocks that the disk, the parent or an earlier try has.
func (i *importing) jobs(ctx context.Context, yield func(candidate) bool) error {
	var failed error
	mine, stopMine := iter.Pull(i.held(&failed))
	defer stopMine()
	var broken error
	parents, stopParents := iter.Pull(i.parents(ctx, &broken))
	defer stopParents()
	put := i.up.journal.done.indices()
	a, okA := mine()
	b, okB := parents()
	for okA || okB || len(put) > 0 {
		index := int32(1<<31 - 1)
		if okA {
			index = a
		}
		if okB {
			index = min(index, b.index)
		}
		if len(put) > 0 {
			index = min(index, put[0])
		}
		c := candidate{block: block{index: index}}
		if okA && a == index {
			c.holds = true
			a, okA = mine()
		}
		if okB && b.index == index {
			c.token = b.token
			b, okB = parents()
		}
		if len(put) > 0 && put[0] == index {
			put = put[1:]
		}
		if failed != nil || broken != nil || !yield(c) {
			break // a list that broke off looks like one that ended
		}
	}
	return errors.Join(failed, broken)
}

// held yields the blocks where the disk may have something.
func (i *importing) held(failed *error) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		next := int64(0) // the first block that wasn't yielded
		for at := int64(0); at < i.src.size(); {
			begin, end, err := i.src.data(at)
			if err != nil {
				*failed = err
				return
			}
			for next = max(next, begin/Size); next*Size < end; next++ {
				if !yield(int32(next)) {
					return
				}
			}
			at = end
		}
	}
}

// parents yields the blocks of the parent.
func (i *importing) parents(ctx context.Context, failed *error) iter.Seq[block] {
	return func(yield func(block) bool) {
		if i.o.Parent == "" {
			return
		}
		if err := allOf(i.to, i.gate, i.o.Parent)(ctx, yield); err != nil {
			*failed = wrap("list", "parent "+i.o.Parent, err)
		}
	}
}

// sendOne puts a block, unless the snapshot has the same already. One that is
// zeros is put where the parent, or an earlier try, has something.
func (i *importing) sendOne(ctx context.Context, c candidate, buf []byte) error {
	if c.holds {
		if err := i.src.ReadAt(buf, int64(c.index)*Size); err != nil {
			return err
		}
	} else {
		clear(buf)
	}
	had, put := i.up.had(c.index)
	if !put && c.token == "" && isZero(buf) {
		return nil
	}
	sum := sha256.Sum256(buf)
	if put && had == sum {
		i.up.meter.done(c.index, false)
		return nil
	}
	if !put && c.token != "" && c.holds {
		theirs, err := get(ctx, i.to, i.gate, i.o.Parent, c.block, make([]byte, Size))
		if err != nil {
			return wrap("read", "parent "+i.o.Parent, err)
		}
		if theirs == sum {
			i.up.meter.done(c.index, false)
			return nil
		}
	}
	if err := i.up.put(ctx, c.index, sum, buf); err != nil {
		return err
	}
	i.up.meter.done(c.index, true)
	return nil
}
