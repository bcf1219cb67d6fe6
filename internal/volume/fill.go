package volume

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// paceStep is after how many written bytes the disk is set to work.
const paceStep = 16 << 20

// filler is the Sink of a volume that is made. It keeps a fill within the volume:
// a write past the end would make the file, and with it the guest's disk, longer
// than its record says. And it has the disk write from the beginning on, while
// more is unpacked, so that little is left for the sync at the end.
type filler struct {
	f    *os.File
	size int64

	dirty   atomic.Int64 // bytes written since the disk was set to work
	pushing atomic.Bool
	pushed  sync.WaitGroup
}

// fillFile lets fill write a file of size bytes.
func fillFile(ctx context.Context, f *os.File, size int64, fill func(ctx context.Context, w Sink) error) error {
	w := &filler{f: f, size: size}
	defer w.pushed.Wait() // nobody uses the file any more
	return fill(ctx, w)
}

// WriteAt implements Sink.
func (w *filler) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.size || int64(len(p)) > w.size-off {
		return 0, fmt.Errorf("%w: write of %d bytes at %d is outside of its %d bytes", ErrInvalid, len(p), off, w.size)
	}
	n, err := w.f.WriteAt(p, off)
	if w.dirty.Add(int64(n)) >= paceStep && w.pushing.CompareAndSwap(false, true) {
		w.dirty.Store(0)
		w.pushed.Go(w.push)
	}
	return n, typed(err)
}

// push has what was written so far begin its way to the disk. Its errors come up
// again at the sync.
func (w *filler) push() {
	_ = unix.SyncFileRange(int(w.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	w.pushing.Store(false)
}
