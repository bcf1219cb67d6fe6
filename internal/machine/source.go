package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/machine/nbd"
)

const (
	// cluster is the unit that copy-before-write copies. QEMU 7.2 answers a read
	// that spans a copied cluster and one that isn't with data from after the
	// instant; one that stays within a cluster is always right. So every request
	// is for one cluster.
	cluster = 64 << 10
	// connections is how many reads of one volume are served at once.
	connections = 4
	// dialTimeout bounds the connection to QEMU, which is on this machine.
	dialTimeout = 10 * time.Second
)

// Source reads one volume as it was at an instant. Its methods may be called from
// several goroutines.
type Source struct {
	volumeID string
	snapshot string // what it is read for
	size     int64

	record   bool          // a record of changes begins at the instant
	since    *Since        // the record that ends at it; nil if there is none
	stale    []blockBitmap // records of no use, until there is one that is
	recorded *Recorded     // what that one holds; nil if it isn't known
	changed  []byte        // what wasn't given up by Release; nil for everything

	socket string
	file   *os.File // the volume itself, for its holes
	fleece *os.File // likewise

	free chan *nbd.Conn // a nil stands for a connection to be made

	mu      sync.Mutex
	open    map[*nbd.Conn]struct{}
	closed  bool
	why     error // that it was closed
	outcome conclusion
}

// conclusion is what became of the snapshot of a volume.
type conclusion int

const (
	failed conclusion = iota // as long as nobody says otherwise
	completed
	forgotten
)

// ErrReleased is returned by Source for what was given up by Release.
var ErrReleased = errors.New("given up as unchanged")

// ErrNoRoom is what ends an instant when what the guest overwrites takes up more
// of the host's disk than is left free.
var ErrNoRoom = errors.New("the guest overwrites more than the host's disk has room to keep; make room, or take the snapshot when the guest writes less")

func newSource(dir string, d Freeze, node blockNode) (*Source, error) {
	file, err := os.Open(node.Filename)
	if err != nil {
		return nil, err
	}
	fleece, err := newFleece(fleeceFile(dir, d.Snapshot), node.Image.VirtualSize)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s := &Source{
		volumeID: d.VolumeID, snapshot: d.Snapshot, record: d.Record, size: node.Image.VirtualSize, socket: filepath.Join(dir, fileNBD),
		file: file, fleece: fleece,
		free: make(chan *nbd.Conn, connections), open: map[*nbd.Conn]struct{}{},
	}
	for range connections {
		s.free <- nil
	}
	return s, nil
}

// Size is the volume's size in bytes.
func (s *Source) Size() int64 { return s.size }

// Recorded is what the guest has changed since an earlier snapshot; nil if that
// isn't known.
func (s *Source) Recorded() *Recorded { return s.recorded }

// Release gives up all blocks whose bit isn't set, once, before anything is read:
// QEMU needn't keep them when the guest overwrites them. To read them afterwards
// is ErrReleased.
func (s *Source) Release(changed []byte) error {
	units := (s.size + Granularity - 1) / Granularity
	for i := int64(0); i < units; i++ {
		first := i
		for i < units && !hasBit(changed, i) {
			i++
		}
		if i > first {
			if err := s.Discard(first*Granularity, (i-first)*Granularity); err != nil {
				return err
			}
		}
	}
	s.changed = changed
	return nil
}

// released says that a part of the range was given up.
func (s *Source) released(off, length int64) bool {
	if s.changed == nil {
		return false
	}
	for i := off / Granularity; i*Granularity < off+length; i++ {
		if !hasBit(s.changed, i) {
			return true
		}
	}
	return false
}

// settling is what brings the volume's records down to one, now that it is known
// what became of the snapshot.
func (s *Source) settling(volumeID string, all []blockBitmap, doubted bool) (actions []action) {
	s.mu.Lock()
	outcome := s.outcome
	s.mu.Unlock()
	begun := Since{Snapshot: s.snapshot}.bitmap()
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(b blockBitmap) bool { return b.Name == name })
	}
	switch {
	case doubted || outcome == forgotten:
		return removeAll(volumeID, all)
	case !has(begun): // interrupted before it was added
		return nil
	case outcome == completed:
		return removeAll(volumeID, slices.DeleteFunc(slices.Clone(all), func(b blockBitmap) bool { return b.Name == begun }))
	case s.since != nil && has(s.since.bitmap()):
		return mergeBack(volumeID, begun, s.since.bitmap())
	}
	return []action{removeBitmap(volumeID, begun)}
}

// ReadAt reads what the volume held at the instant, as io.ReaderAt. Any error
// means that the snapshot has failed; the guest is not affected by it. Offsets
// and lengths in whole multiples of 64 KiB are read without a copy.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read volume %s at %d: negative offset", s.volumeID, off)
	}
	if off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	if s.released(off, int64(n)) {
		return 0, fmt.Errorf("read volume %s at %d: %w", s.volumeID, off, ErrReleased)
	}
	if err := s.read(p[:n], off); err != nil {
		return 0, fmt.Errorf("read volume %s at %d: %w", s.volumeID, off, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *Source) read(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	end := off + int64(len(p))
	first, last := off&^(cluster-1), min((end+cluster-1)&^(cluster-1), s.size)
	return s.with(func(c *nbd.Conn) error {
		if first == off && last == end {
			return c.ReadBlocks(p, off, cluster)
		}
		whole := make([]byte, last-first)
		if err := c.ReadBlocks(whole, first, cluster); err != nil {
			return err
		}
		copy(p, whole[off-first:])
		return nil
	})
}

// Discard tells that a range was read and won't be again, so that QEMU needn't
// keep it for us any longer; the space of the fleece is freed. Only whole
// clusters of 64 KiB are given up, and never the first, which verify reads.
// Reading them again fails.
func (s *Source) Discard(off, length int64) error {
	first, last := max(cluster, (off+cluster-1)&^(cluster-1)), (off+length)&^(cluster-1)
	if off+length >= s.size {
		last = s.size
	}
	if last <= first {
		return nil
	}
	if err := s.with(func(c *nbd.Conn) error { return c.Trim(first, last-first) }); err != nil {
		return fmt.Errorf("discard volume %s at %d: %w", s.volumeID, off, err)
	}
	return nil
}

// NextData returns the first range at or after off that may hold anything but
// zeroes, io.EOF when there is none.
func (s *Source) NextData(off int64) (start, end int64, err error) {
	if off < s.size {
		start, end, err = s.nextData(off)
		if !errors.Is(err, io.EOF) {
			return start, end, err
		}
	}
	// Had the fleece failed to take something, what the guest discarded since
	// would look like a hole. QEMU then refuses every read: so a hole is known to
	// be one when a read after the search succeeds.
	if s.size > 0 {
		if err := s.verify(); err != nil {
			return 0, 0, err
		}
	}
	return 0, 0, io.EOF
}

// nextData looks into the volume's file and then into the fleece. What held data
// at the instant still does in the file, unless the guest has discarded it since;
// then it was put into the fleece before. The order matters: a discard between
// the two looks is seen by the second.
func (s *Source) nextData(off int64) (start, end int64, err error) {
	s1, e1, err := seekData(s.file, off, s.size)
	if err != nil {
		return 0, 0, s.explain(err)
	}
	s2, e2, err := seekData(s.fleece, off, s.size)
	if err != nil {
		return 0, 0, s.explain(err)
	}
	if s2 < s1 {
		s1, e1 = s2, e2
	}
	if s1 >= s.size {
		return 0, 0, io.EOF
	}
	return max(off, s1&^(cluster-1)), min((e1+cluster-1)&^(cluster-1), s.size), nil
}

// seekData returns the first range with data in [off, size), or (size, size).
func seekData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // punched between the two calls
		return start, min(start+cluster, size), nil
	}
	if err != nil {
		return 0, 0, err
	}
	return min(start, size), min(max(end, start+1), size), nil
}

// verify reads the first cluster, which is never discarded, to see that the
// instant holds.
func (s *Source) verify() error {
	if err := s.read(make([]byte, min(cluster, s.size)), 0); err != nil {
		return fmt.Errorf("read volume %s at 0: %w", s.volumeID, err)
	}
	return nil
}

// with runs do on a connection of its own.
func (s *Source) with(do func(*nbd.Conn) error) (err error) {
	c := <-s.free
	defer func() { s.free <- c }()
	if c == nil {
		if c, err = s.dial(); err != nil {
			return s.explain(err)
		}
	}
	err = do(c)
	if refused := (*nbd.ServerError)(nil); err != nil && !errors.As(err, &refused) {
		s.forget(c)
		c = nil
	}
	return s.explain(err)
}

// explain adds to an error why the source was closed.
func (s *Source) explain(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || s.why == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", s.why, err)
}

// fail closes the source for a reason that its reader is to learn.
func (s *Source) fail(why error) error {
	s.mu.Lock()
	if !s.closed && s.why == nil {
		s.why = why
	}
	s.mu.Unlock()
	return s.Close()
}

func (s *Source) dial() (*nbd.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	c, err := nbd.Dial(ctx, s.socket, nodeAccess(s.snapshot))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(os.ErrClosed, c.Close())
	}
	s.open[c] = struct{}{}
	return c, nil
}

func (s *Source) forget(c *nbd.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	_ = c.Close() // it has failed already
}

// Close ends the reads under way; Instant.Close calls it.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for c := range s.open {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, s.file.Close(), s.fleece.Close())...)
}
