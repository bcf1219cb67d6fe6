package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The log is that of the kernel's dm-log-writes: a sector that says what the log
// is, then for each request a sector with its header and then its data. Numbers
// are little-endian.
// https://docs.kernel.org/admin-guide/device-mapper/log-writes.html
const (
	logMagic   = 0x6a736677736872
	logVersion = 1

	flagFlush   = 1
	flagFUA     = 2
	flagDiscard = 4
	flagMark    = 8
)

// ErrLog says that a log can't be understood.
var ErrLog = errors.New("not a log of writes")

// request is what the filesystem asked of its disk. Sizes are in bytes.
type request struct {
	off, size int64
	flush     bool // what was answered before is durable
	durable   bool // it is so by itself
	discard   bool
	data      int64 // where in the log
	end       int64 // of all of it in the log
}

// readLog reads the headers of a log of size bytes. One that was cut short
// yields what is whole.
func readLog(log io.ReaderAt, size int64) ([]request, error) {
	var super [28]byte
	if _, err := log.ReadAt(super[:], 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLog, err)
	}
	sector := int64(binary.LittleEndian.Uint32(super[24:]))
	if binary.LittleEndian.Uint64(super[:]) != logMagic || binary.LittleEndian.Uint64(super[8:]) != logVersion || sector < 512 || sector > 1<<20 {
		return nil, fmt.Errorf("%w: it begins with %x", ErrLog, super)
	}
	var all []request
	for at := sector; at+sector <= size; {
		var head [32]byte
		if _, err := log.ReadAt(head[:], at); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLog, err)
		}
		r, err := parseRequest(head, sector)
		if err != nil {
			return nil, fmt.Errorf("%w at %d", err, at)
		}
		r.data, r.end = at+sector, at+sector
		if !r.discard {
			r.end += r.size
		}
		if r.end > size {
			break
		}
		all = append(all, r)
		at = r.end
	}
	return all, nil
}

func parseRequest(head [32]byte, sector int64) (request, error) {
	at, count, flags := binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:])
	const limit = 1 << 40
	if at > limit || count > limit || flags >= flagMark { // nobody sets marks
		return request{}, fmt.Errorf("%w: request %x", ErrLog, head)
	}
	return request{
		off: int64(at) * sector, size: int64(count) * sector,
		flush: flags&flagFlush != 0, durable: flags&flagFUA != 0, discard: flags&flagDiscard != 0,
	}, nil
}
