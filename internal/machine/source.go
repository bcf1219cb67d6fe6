package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	size     int64
	socket   string
	file     *os.File // the volume itself, for its holes
	fleece   *os.File // likewise

	free chan *nbd.Conn // a nil stands for a connection to be made

	mu     sync.Mutex
	open   map[*nbd.Conn]struct{}
	closed bool
}

func newSource(dir, volumeID string, node blockNode) (*Source, error) {
	file, err := os.Open(node.Filename)
	if err != nil {
		return nil, err
	}
	fleece, err := newFleece(fleeceFile(dir, volumeID), node.Image.VirtualSize)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s := &Source{
		volumeID: volumeID, size: node.Image.VirtualSize, socket: filepath.Join(dir, fileNBD),
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
		return 0, 0, err
	}
	s2, e2, err := seekData(s.fleece, off, s.size)
	if err != nil {
		return 0, 0, err
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
	_, err := s.ReadAt(make([]byte, min(cluster, s.size)), 0)
	return err
}

// with runs do on a connection of its own.
func (s *Source) with(do func(*nbd.Conn) error) (err error) {
	c := <-s.free
	defer func() { s.free <- c }()
	if c == nil {
		if c, err = s.dial(); err != nil {
			return err
		}
	}
	err = do(c)
	if refused := (*nbd.ServerError)(nil); err != nil && !errors.As(err, &refused) {
		s.forget(c)
		c = nil
	}
	return err
}

func (s *Source) dial() (*nbd.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	c, err := nbd.Dial(ctx, s.socket, nodeAccess(s.volumeID))
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
