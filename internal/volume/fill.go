package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// paceStep is after how many written bytes the disk is set to work.
	paceStep = 16 << 20
	// keptInMemory is how much of a volume the host's page cache is given, bytes:
	// a small one's all, which a machine may boot from at once. What comes after
	// would take the place of what guests at work have there, and a page that the
	// host has to find costs as much time as to unpack what is copied into it.
	keptInMemory = 256 << 20
)

// filler is the Sink of a volume that is made. It keeps a fill within the volume:
// a write past the end would make the file, and with it the guest's disk, longer
// than its record says. And it has the disk write from the beginning on, while
// more is unpacked, so that little is left for the sync at the end.
type filler struct {
	f      *os.File
	direct *os.File // writes past the page cache; nil where there is no such way
	size   int64

	written atomic.Int64
	dirty   atomic.Int64 // bytes written since the disk was set to work
	pushing atomic.Bool
	pushed  sync.WaitGroup
}

// fillFile lets fill write a file of size bytes.
func fillFile(ctx context.Context, f *os.File, size int64, fill func(ctx context.Context, w Sink) error) error {
	w := &filler{f: f, size: size}
	defer w.pushed.Wait() // nobody uses the file any more
	if direct, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0); err == nil {
		w.direct = direct
		defer direct.Close() // what it has written, it has told
	}
	return fill(ctx, w)
}

// WriteAt implements Sink.
func (w *filler) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.size || int64(len(p)) > w.size-off {
		return 0, fmt.Errorf("%w: write of %d bytes at %d is outside of its %d bytes", ErrInvalid, len(p), off, w.size)
	}
	if w.written.Add(int64(len(p))) > keptInMemory && w.direct != nil && whole(p, off) {
		n, err := w.direct.WriteAt(p, off)
		if !errors.Is(err, unix.EINVAL) {
			return n, typed(err)
		}
		// This disk wants another alignment.
	}
	n, err := w.f.WriteAt(p, off)
	if w.dirty.Add(int64(n)) >= paceStep && w.pushing.CompareAndSwap(false, true) {
		w.dirty.Store(0)
		w.pushed.Go(w.push)
	}
	return n, typed(err)
}

// whole tells if p has the bounds of pages of memory where it is to be written. No
// page is then partly in the page cache, where it could win over what went past it.
func whole(p []byte, off int64) bool {
	page := int64(os.Getpagesize())
	return off%page == 0 && int64(len(p))%page == 0
}

// push has what was written so far begin its way to the disk. Its errors come up
// again at the sync.
func (w *filler) push() {
	_ = unix.SyncFileRange(int(w.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	w.pushing.Store(false)
}
