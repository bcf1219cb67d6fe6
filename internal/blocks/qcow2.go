package blocks

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// qcow2Source is a disk in a qcow2 file, of version 2 or 3, with clusters that
// are as they are, compressed, zeros or not there. Files that draw on others
// are refused: whoever wrote the file would choose which.
type qcow2Source struct {
	f       *os.File
	bytes   int64
	bits    uint // a cluster is 1 << bits bytes
	zstd    bool // else deflate
	first   []uint64
	fileEnd int64

	mu     sync.Mutex
	tables map[uint64][]uint64 // of the second level, as many as are in use
}

// Bits of entries, and features that a reader has to know.
const (
	qcow2OffsetMask  = 0x00fffffffffffe00
	qcow2Compressed  = 1 << 62
	qcow2ZeroFlag    = 1
	qcow2Dirty       = 1 << 0 // the reference counts may be wrong, which concerns writers
	qcow2CorruptMark = 1 << 1
	qcow2DataFile    = 1 << 2
	qcow2ZstdFlag    = 1 << 3
	qcow2WideEntries = 1 << 4

	// mostTables is how many tables of the second level are kept in memory.
	mostTables = 64
)

func openQCOW2(f *os.File) (*qcow2Source, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, 112)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s := &qcow2Source{f: f, fileEnd: st.Size(), tables: map[uint64][]uint64{}}
	if err := s.readHead(head[:n]); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	entries, at := int64(be.Uint32(head[36:])), int64(be.Uint64(head[40:]))
	per := int64(1) << (s.bits - 3 + s.bits) // bytes of the disk that an entry is for
	if entries > 4<<20 || entries < (s.bytes+per-1)/per {
		return nil, s.bad("its first table has %d entries for a disk of %d bytes", entries, s.bytes)
	}
	s.first, err = s.readTable(at, entries)
	return s, err
}

func (s *qcow2Source) readHead(head []byte) error {
	be := binary.BigEndian
	if len(head) < 72 || be.Uint32(head) != qcow2Magic {
		return s.bad("it is no qcow2 file")
	}
	version := be.Uint32(head[4:])
	s.bits, s.bytes = uint(be.Uint32(head[20:])), int64(be.Uint64(head[24:]))
	features := uint64(0)
	if version == 3 {
		if len(head) < qcow2HeaderSize {
			return s.bad("it is cut off")
		}
		features = be.Uint64(head[72:])
		if be.Uint32(head[100:]) > qcow2HeaderSize && len(head) > qcow2HeaderSize {
			s.zstd = features&qcow2ZstdFlag != 0 && head[104] == 1
		}
	}
	switch {
	case version != 2 && version != 3:
		return s.bad("it has version %d; 2 and 3 are known", version)
	case be.Uint64(head[8:]) != 0:
		return s.bad("it needs another file, its backing file")
	case be.Uint32(head[32:]) != 0:
		return s.bad("it is encrypted")
	case features&qcow2DataFile != 0:
		return s.bad("it has its data in another file")
	case features&qcow2CorruptMark != 0:
		return s.bad("it is marked as corrupt")
	case features&qcow2WideEntries != 0:
		return s.bad("it has subclusters")
	case features&^(qcow2Dirty|qcow2ZstdFlag) != 0:
		return s.bad("it has features (%#x) that aren't known", features)
	case features&qcow2ZstdFlag != 0 && !s.zstd:
		return s.bad("its compression isn't known")
	case s.bits < 9 || s.bits > 21 || s.bytes <= 0 || s.bytes > 64<<40:
		return s.bad("its clusters of 1<<%d bytes or its size of %d aren't allowed", s.bits, s.bytes)
	}
	return nil
}

func (s *qcow2Source) bad(format string, args ...any) error {
	return &Error{
		Op: "read", Resource: s.f.Name(), Reason: fmt.Sprintf(format, args...), Err: ErrFormat,
		Remedy: "qemu-img check tells more; qemu-img convert -O qcow2 makes a plain one of most",
	}
}

func (s *qcow2Source) readTable(at, entries int64) ([]uint64, error) {
	if at <= 0 || at%512 != 0 || at+entries*8 > s.fileEnd {
		return nil, s.bad("a table lies at %d, beyond its end", at)
	}
	raw := make([]byte, entries*8)
	if _, err := s.f.ReadAt(raw, at); err != nil {
		return nil, err
	}
	table := make([]uint64, entries)
	for k := range table {
		table[k] = binary.BigEndian.Uint64(raw[k*8:])
	}
	return table, nil
}

func (s *qcow2Source) size() int64 { return s.bytes }

// entry finds what the tables say of a cluster; 0 for one that isn't there.
func (s *qcow2Source) entry(cluster int64) (uint64, error) {
	per := int64(1) << (s.bits - 3)
	at := s.first[cluster/per] & qcow2OffsetMask
	if at == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	table, ok := s.tables[at]
	if !ok {
		var err error
		if table, err = s.readTable(int64(at), per); err != nil {
			return 0, err
		}
		if len(s.tables) >= mostTables {
			clear(s.tables)
		}
		s.tables[at] = table
	}
	return table[cluster%per], nil
}

// empty tells an entry of a cluster that is all zeros.
func (s *qcow2Source) empty(entry uint64) bool {
	return entry&qcow2Compressed == 0 && (entry&qcow2ZeroFlag != 0 || entry&qcow2OffsetMask == 0)
}

func (s *qcow2Source) ReadAt(p []byte, offset int64) error {
	for len(p) > 0 {
		if offset >= s.bytes {
			clear(p)
			return nil
		}
		within := offset & (1<<s.bits - 1)
		n := min(int64(len(p)), 1<<s.bits-within)
		if err := s.readCluster(p[:n], offset>>s.bits, within); err != nil {
			return err
		}
		if over := offset + n - s.bytes; over > 0 { // the disk may end within a cluster
			clear(p[n-over : n])
		}
		p, offset = p[n:], offset+n
	}
	return nil
}

func (s *qcow2Source) readCluster(p []byte, cluster, within int64) error {
	entry, err := s.entry(cluster)
	switch {
	case err != nil:
		return err
	case s.empty(entry):
		clear(p)
		return nil
	case entry&qcow2Compressed != 0:
		plain, err := s.unpack(entry)
		copy(p, plain[min(within, int64(len(plain))):])
		return err
	}
	n, err := s.f.ReadAt(p, int64(entry&qcow2OffsetMask)+within)
	switch {
	case errors.Is(err, io.EOF) && int64(entry&qcow2OffsetMask) < s.fileEnd: // the last cluster may be short
		clear(p[n:])
	case errors.Is(err, io.EOF):
		return s.bad("it is cut off: what is at %d of the disk lies beyond its end", cluster<<s.bits)
	case err != nil:
		return fmt.Errorf("read cluster %d of %s: %w", cluster, s.f.Name(), err)
	}
	return nil
}

// unpack reads a compressed cluster. Its entry says where it begins, and in how
// many sectors after the first it ends.
func (s *qcow2Source) unpack(entry uint64) ([]byte, error) {
	x := 62 - (s.bits - 8)
	at := int64(entry & (1<<x - 1))
	sectors := int64(entry>>x) & (1<<(s.bits-8) - 1)
	length := min((sectors+1)*512-at%512, s.fileEnd-at)
	if length <= 0 {
		return nil, s.bad("a compressed cluster lies beyond its end")
	}
	packed := make([]byte, length)
	if _, err := s.f.ReadAt(packed, at); err != nil {
		return nil, err
	}
	plain := make([]byte, 1<<s.bits)
	var r io.Reader = flate.NewReader(bytes.NewReader(packed))
	if s.zstd {
		d, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	}
	if _, err := io.ReadFull(r, plain); err != nil {
		return nil, s.bad("a compressed cluster at %d is damaged: %v", at, err)
	}
	return plain, nil
}

func (s *qcow2Source) data(offset int64) (begin, end int64, err error) {
	cluster := offset >> s.bits
	last := (s.bytes - 1) >> s.bits
	per := int64(1) << (s.bits - 3)
	for ; cluster <= last; cluster++ {
		if s.first[cluster/per]&qcow2OffsetMask == 0 {
			cluster |= per - 1 // none of this table's
			continue
		}
		entry, err := s.entry(cluster)
		if err != nil {
			return 0, 0, err
		}
		if !s.empty(entry) {
			begin = max(offset, cluster<<s.bits)
			return begin, min(s.bytes, (cluster+1)<<s.bits), nil
		}
	}
	return s.bytes, s.bytes, nil
}
