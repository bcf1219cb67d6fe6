package volume

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Reader reads a volume that no machine writes to. It fits snapshot.Source.
type Reader struct {
	dir  *Dir
	id   string
	f    *os.File
	size int64
	file identity // as it was opened

	seek sync.Mutex // the file has one offset
}

// Reader opens a volume for reading and keeps machines, Grow and Delete off it
// until Close; other Readers may read with it. ErrInUse says that somebody
// holds it for writing.
func (d *Dir) Reader(id string) (*Reader, error) {
	f, err := d.open(id, os.O_RDONLY)
	if err != nil {
		return nil, wrap("read", id, err)
	}
	if err := errors.Join(lockShared(f), d.current(id, f)); err != nil {
		unlock(f)
		return nil, wrap("read", id, err)
	}
	file, err := identify(f)
	if err != nil {
		unlock(f)
		return nil, wrap("read", id, err)
	}
	return &Reader{dir: d, id: id, f: f, size: int64(file.Size), file: file}, nil
}

func (d *Dir) open(id string, flags int) (*os.File, error) {
	if err := check(id, 1); err != nil {
		return nil, err
	}
	return os.OpenFile(d.Path(id), flags, 0)
}

// Size returns the volume's size in bytes.
func (r *Reader) Size() int64 { return r.size }

// ReadAt reads as io.ReaderAt does; it may be called concurrently.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(p, off) }

// NextData returns the bounds of the first stretch at or after off that may
// hold data, in bytes; what lies before it reads as zeros. io.EOF says that
// there is none up to the volume's end.
func (r *Reader) NextData(off int64) (start, end int64, err error) {
	if off >= r.size {
		return 0, 0, io.EOF
	}
	r.seek.Lock()
	defer r.seek.Unlock()
	start, err = r.f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if errors.Is(err, unix.EINVAL) { // a filesystem that doesn't know its holes
		return off, r.size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = r.f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return start, end, nil
}

// Close releases the volume.
func (r *Reader) Close() error {
	return errors.Join(ofdLock(r.f, unix.F_UNLCK, 0, 0), r.f.Close())
}
