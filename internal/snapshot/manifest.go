package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// A manifest is, in version 1:
//
//	"steadsnp" and the version, one byte
//	snapshot ID                     uvarint length, bytes
//	block size, volume size         uvarint, bytes
//	created                         varint, nanoseconds since 1970
//	bytes stored by this snapshot   uvarint
//	number of blocks                uvarint
//	for each block in order:
//	    zero blocks before it       uvarint
//	    digest                      32 bytes
//	    block ID                    uvarint length, bytes;
//	                                length 0: the digest in hexadecimal
//	SHA-256 of all before           32 bytes
const (
	manifestMagic   = "steadsnp"
	manifestVersion = 1
	minEntryLen     = 1 + sha256.Size + 1
)

type manifest struct {
	id          string
	volumeSize  int64
	createdAt   time.Time
	storedBytes int64
	blocks      []entry // by index, ascending
}

// entry is one block of a volume that isn't zero.
type entry struct {
	index int64 // the block's offset / BlockSize
	sum   Digest
	id    BlockID
}

func (m *manifest) info() Info {
	info := Info{
		ID: m.id, VolumeSize: m.volumeSize, CreatedAt: m.createdAt,
		Blocks: len(m.blocks), StoredBytes: m.storedBytes,
	}
	h := sha256.New()
	buf := binary.BigEndian.AppendUint64(nil, uint64(m.volumeSize))
	for _, b := range m.blocks {
		info.DataBytes += m.blockLen(b.index)
		buf = binary.BigEndian.AppendUint64(buf, uint64(b.index))
		buf = append(buf, b.sum[:]...)
		h.Write(buf)
		buf = buf[:0]
	}
	h.Write(buf)
	h.Sum(info.Digest[:0])
	return info
}

// blockLen is BlockSize for all blocks but perhaps the last.
func (m *manifest) blockLen(index int64) int64 {
	return min(BlockSize, m.volumeSize-index*BlockSize)
}

func (m *manifest) encode() []byte {
	b := make([]byte, 0, 128+len(m.blocks)*minEntryLen)
	b = append(b, manifestMagic...)
	b = append(b, manifestVersion)
	b = appendString(b, m.id)
	b = binary.AppendUvarint(b, BlockSize)
	b = binary.AppendUvarint(b, uint64(m.volumeSize))
	b = binary.AppendVarint(b, m.createdAt.UnixNano())
	b = binary.AppendUvarint(b, uint64(m.storedBytes))
	b = binary.AppendUvarint(b, uint64(len(m.blocks)))
	next := int64(0)
	for _, e := range m.blocks {
		b = binary.AppendUvarint(b, uint64(e.index-next))
		next = e.index + 1
		b = append(b, e.sum[:]...)
		id := string(e.id)
		if id == e.sum.String() {
			id = ""
		}
		b = appendString(b, id)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeManifest returns a *CorruptError or ErrVersion for what it can't read.
func decodeManifest(raw []byte) (*manifest, error) {
	head := len(manifestMagic) + 1
	if len(raw) < head+sha256.Size || string(raw[:len(manifestMagic)]) != manifestMagic {
		return nil, &CorruptError{Reason: "it isn't a manifest"}
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, &CorruptError{Reason: "its checksum doesn't match"}
	}
	if v := raw[head-1]; v != manifestVersion {
		return nil, fmt.Errorf("%w: manifest version %d", ErrVersion, v)
	}
	d := decoder{rest: body[head:]}
	m := d.manifest()
	if d.err == nil && len(d.rest) != 0 {
		d.fail("bytes follow its last block")
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

// decoder reads a manifest's fields; after the first error all are zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) manifest() *manifest {
	m := &manifest{id: string(d.bytes(d.size()))}
	if size := d.size(); size != BlockSize {
		d.fail(fmt.Sprintf("its blocks are of %d bytes", size))
	}
	m.volumeSize = d.size()
	m.createdAt = time.Unix(0, d.varint()).UTC()
	m.storedBytes = d.size()
	count := d.size()
	if count > int64(len(d.rest)/minEntryLen) {
		d.fail("it is too short for its blocks")
	}
	if d.err != nil {
		return nil
	}
	end := (m.volumeSize-1)/BlockSize + 1
	next := int64(0)
	m.blocks = make([]entry, 0, count)
	for range count {
		e := entry{index: next}
		if gap := d.size(); gap < end-next {
			e.index += gap
		} else {
			d.fail("a block lies past the volume's end")
		}
		next = e.index + 1
		copy(e.sum[:], d.bytes(sha256.Size))
		e.id = BlockID(d.bytes(d.size()))
		if e.id == "" {
			e.id = BlockID(e.sum.String())
		}
		if d.err != nil {
			return nil
		}
		m.blocks = append(m.blocks, e)
	}
	return m
}

func (d *decoder) fail(reason string) {
	if d.err == nil {
		d.err = &CorruptError{Reason: reason}
	}
}

// size reads a number that is a length, a size or a count.
func (d *decoder) size() int64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > math.MaxInt64-BlockSize {
		d.fail("it has a bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return int64(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("it has a bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes(n int64) []byte {
	if n > int64(len(d.rest)) {
		d.fail("it is cut short")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
