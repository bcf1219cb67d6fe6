package upload

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// A journal is a header and records, all of recordSize bytes:
//
//	header  "steadupl", version, zeros, CRC-32C
//	record  kind, progress, zeros (2), slot (4), index (8), time (8, nanoseconds
//	        since 1970), digest (32), zeros (4), CRC-32C of all before (4)
//
// Numbers are little-endian. A put names a block; a boot has the machine's boot
// ID for a digest, and is durable before what follows it; synced says that all
// before it is.
const (
	journalMagic   = "steadupl"
	journalVersion = 1
	recordSize     = 64
	recordSum      = recordSize - 4

	kindPut    = 'P'
	kindBoot   = 'B'
	kindSynced = 'S'

	noSlot = ^uint32(0) // of a block of zeros
)

// Digest is the SHA-256 of a block.
type Digest = [sha256.Size]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type record struct {
	kind     byte
	progress byte // percent, as the one who puts says
	slot     uint32
	index    int64
	at       time.Time
	sum      Digest
}

func (r record) encode() []byte {
	b := make([]byte, recordSize)
	b[0], b[1] = r.kind, r.progress
	binary.LittleEndian.PutUint32(b[4:], r.slot)
	binary.LittleEndian.PutUint64(b[8:], uint64(r.index))
	binary.LittleEndian.PutUint64(b[16:], uint64(r.at.UnixNano()))
	copy(b[24:], r.sum[:])
	return seal(b)
}

func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[recordSum:], crc32.Checksum(b[:recordSum], castagnoli))
	return b
}

func whole(b []byte) bool {
	return binary.LittleEndian.Uint32(b[recordSum:]) == crc32.Checksum(b[:recordSum], castagnoli)
}

func decodeRecord(b []byte) (r record, ok bool) {
	if !whole(b) {
		return r, false
	}
	r = record{
		kind: b[0], progress: b[1], slot: binary.LittleEndian.Uint32(b[4:]), index: int64(binary.LittleEndian.Uint64(b[8:])),
		at: time.Unix(0, int64(binary.LittleEndian.Uint64(b[16:]))).UTC(), sum: Digest(b[24:56]),
	}
	switch r.kind {
	case kindPut, kindBoot, kindSynced:
		return r, r.index >= 0
	}
	return r, false
}

func header() []byte {
	b := make([]byte, recordSize)
	copy(b, journalMagic)
	b[len(journalMagic)] = journalVersion
	return seal(b)
}

// scan calls fn for each record in turn, with its number, up to the first that
// isn't whole. It returns how many there are, and whether anything follows them.
func scan(f *os.File, fn func(n uint32, r record)) (count uint32, torn bool, err error) {
	in := bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 64<<10)
	b := make([]byte, recordSize)
	if _, err := io.ReadFull(in, b); err != nil || !whole(b) || !bytes.HasPrefix(b, []byte(journalMagic)) {
		return 0, false, fmt.Errorf("%s: not a journal of an upload: %w", f.Name(), errors.Join(err, ErrDamaged))
	}
	if v := b[len(journalMagic)]; v != journalVersion {
		return 0, false, fmt.Errorf("%s: a journal of version %d: %w", f.Name(), v, ErrDamaged)
	}
	for ; ; count++ {
		n, err := io.ReadFull(in, b)
		switch {
		case errors.Is(err, io.EOF):
			return count, false, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return count, n > 0, nil
		case err != nil:
			return count, false, err
		}
		r, ok := decodeRecord(b)
		if !ok {
			return count, true, nil
		}
		fn(count, r)
	}
}

// offset is where a record is in the journal.
func offset(n uint32) int64 { return (int64(n) + 1) * recordSize }

// bootID names this run of the machine, so that what was written in an earlier
// one is known to have gone through a restart. Where it can't be read, it is
// none, and nothing counts as safe that wasn't synced.
func bootID() (id Digest, known bool) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, false
	}
	return sha256.Sum256(bytes.TrimSpace(raw)), true
}
