package pack

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

// The parts of a pack, all numbers little-endian:
//
//	header   "steadpck", version, flags, 6 zero bytes, salt (16)
//	blob …   "blob", kind, packing, flags (2), plain length (4),
//	         stored length (4), CRC-32C of the rest of the blob (4), ID (32),
//	         the stored bytes
//	footer   an entry a blob: ID (32), kind, packing, flags (2), offset (4),
//	         plain length (4), stored length (4), the blob's CRC (4)
//	trailer  number of entries (4), CRC-32C of the footer (4), "steadfin"
//
// A pack is named after the SHA-256 of its header and footer. The salt keeps two
// packs of the same blobs apart: one may be there to replace a rotten other.
const (
	packMagic   = "steadpck"
	packVersion = 1
	packHeader  = 32
	saltAt      = 16

	blobMagic  = "blob"
	blobCRCAt  = 16
	blobIDAt   = 20
	blobHeader = blobIDAt + len(Digest{})

	entryLen   = 52
	finMagic   = "steadfin"
	trailerLen = 16

	// MaxBlob is how many plain bytes a blob may have.
	MaxBlob = 512 << 10

	packedNot  = 0
	packedZstd = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind says what a blob is. It is there for those who have nothing but packs.
type Kind uint8

// The kinds of blobs.
const (
	Block Kind = 1 // 512 KiB of a volume, or its shorter last block
	Page  Kind = 2 // the digests of 1,024 blocks
)

// id names a blob in packs. In a store that isn't encrypted it is the digest;
// what is above the store never sees it.
type id [sha256.Size]byte

// entry is a blob's place in its pack.
type entry struct {
	id      id
	kind    Kind
	packing byte
	off     uint32 // of the blob's header
	plain   uint32
	stored  uint32 // without the header
	crc     uint32
}

// size is how many bytes of the pack the blob takes.
func (e entry) size() int64 { return int64(blobHeader) + int64(e.stored) }

// builder makes a pack.
type builder struct {
	buf     []byte
	entries []entry
}

func (b *builder) reset(buf []byte) {
	b.buf, b.entries = buf[:0], nil
	b.buf = append(b.buf, packMagic...)
	b.buf = append(b.buf, packVersion, 0, 0, 0, 0, 0, 0, 0)
	var salt [packHeader - saltAt]byte
	_, _ = rand.Read(salt[:]) // never fails
	b.buf = append(b.buf, salt[:]...)
}

// add appends a blob's header and stored bytes, as frame made them.
func (b *builder) add(framed []byte) {
	e := parseBlobHeader(framed)
	e.off = uint32(len(b.buf))
	b.buf = append(b.buf, framed...)
	b.entries = append(b.entries, e)
}

// finish appends footer and trailer and returns the pack's name.
func (b *builder) finish() string {
	at := len(b.buf)
	for _, e := range b.entries {
		b.buf = append(b.buf, e.id[:]...)
		b.buf = append(b.buf, byte(e.kind), e.packing, 0, 0)
		for _, n := range []uint32{e.off, e.plain, e.stored, e.crc} {
			b.buf = binary.LittleEndian.AppendUint32(b.buf, n)
		}
	}
	footer := b.buf[at:]
	name := packName(b.buf[:packHeader], footer)
	crc := crc32.Checksum(footer, castagnoli)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(b.entries)))
	b.buf = binary.LittleEndian.AppendUint32(b.buf, crc)
	b.buf = append(b.buf, finMagic...)
	return name
}

func packName(header, footer []byte) string {
	h := sha256.New()
	h.Write(header)
	h.Write(footer)
	return hex.EncodeToString(h.Sum(nil))
}

// frame fills in the header of a blob whose stored bytes follow it in framed.
func frame(framed []byte, i id, kind Kind, packing byte, plain int) {
	copy(framed, blobMagic)
	framed[4], framed[5], framed[6], framed[7] = byte(kind), packing, 0, 0
	binary.LittleEndian.PutUint32(framed[8:], uint32(plain))
	binary.LittleEndian.PutUint32(framed[12:], uint32(len(framed)-blobHeader))
	copy(framed[blobIDAt:], i[:])
	binary.LittleEndian.PutUint32(framed[blobCRCAt:], blobCRC(framed))
}

// blobCRC is over all of a blob but the CRC itself.
func blobCRC(framed []byte) uint32 {
	return crc32.Update(crc32.Checksum(framed[:blobCRCAt], castagnoli), castagnoli, framed[blobIDAt:])
}

// parseBlobHeader reads what frame wrote, without looking whether it is right.
func parseBlobHeader(b []byte) entry {
	return entry{
		id: id(b[blobIDAt:blobHeader]), kind: Kind(b[4]), packing: b[5],
		plain: binary.LittleEndian.Uint32(b[8:]), stored: binary.LittleEndian.Uint32(b[12:]),
		crc: binary.LittleEndian.Uint32(b[blobCRCAt:]),
	}
}

// checkBlob says what is wrong with a whole blob that should be e, or "".
func checkBlob(framed []byte, e entry) string {
	if len(framed) < blobHeader || string(framed[:len(blobMagic)]) != blobMagic {
		return "there is no blob"
	}
	got := parseBlobHeader(framed)
	got.off = e.off
	switch {
	case got.crc != blobCRC(framed):
		return "its checksum doesn't match"
	case got != e:
		return "it is another blob"
	case framed[6]|framed[7] != 0:
		return "it has flags that this program doesn't know"
	}
	return ""
}

// checkHeader looks at a pack's first bytes.
func checkHeader(b []byte) error {
	switch {
	case len(b) < packHeader || string(b[:len(packMagic)]) != packMagic:
		return &CorruptError{Reason: "it isn't a pack"}
	case b[8] != packVersion || b[9] != 0:
		return fmt.Errorf("%w: pack version %d, flags %#x", ErrVersion, b[8], b[9])
	}
	return nil
}

// footerSize returns how many bytes before the pack's end footer and trailer
// take, from its last bytes.
func footerSize(tail []byte, size int64) (int64, error) {
	if len(tail) < trailerLen || string(tail[len(tail)-len(finMagic):]) != finMagic {
		return 0, &CorruptError{Reason: "it has no footer"}
	}
	n := int64(binary.LittleEndian.Uint32(tail[len(tail)-trailerLen:]))*entryLen + trailerLen
	if n > size-packHeader {
		return 0, &CorruptError{Reason: "its footer is longer than the pack"}
	}
	return n, nil
}

// parseFooter reads a pack's entries from its header and its last bytes, which
// begin with the footer.
func parseFooter(name string, header, tail []byte, size int64) ([]entry, error) {
	footer, trailer := tail[:len(tail)-trailerLen], tail[len(tail)-trailerLen:]
	if crc32.Checksum(footer, castagnoli) != binary.LittleEndian.Uint32(trailer[4:]) {
		return nil, &CorruptError{Reason: "its footer's checksum doesn't match"}
	}
	if packName(header, footer) != name {
		return nil, &CorruptError{Reason: "its footer is another pack's"}
	}
	end := size - int64(len(tail))
	entries := make([]entry, 0, len(footer)/entryLen)
	for b := footer; len(b) > 0; b = b[entryLen:] {
		e := entry{
			id: id(b[:32]), kind: Kind(b[32]), packing: b[33],
			off: binary.LittleEndian.Uint32(b[36:]), plain: binary.LittleEndian.Uint32(b[40:]),
			stored: binary.LittleEndian.Uint32(b[44:]), crc: binary.LittleEndian.Uint32(b[48:]),
		}
		if e.off < packHeader || int64(e.off)+e.size() > end || e.plain > MaxBlob {
			return nil, &CorruptError{Reason: "an entry of its footer lies outside of it"}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// scan finds the blobs of a pack by themselves, whatever became of its header
// and footer.
func scan(pack []byte) []entry {
	var entries []entry
	for at := 0; ; {
		next := bytes.Index(pack[at:], []byte(blobMagic))
		if next < 0 {
			return entries
		}
		at += next
		rest := pack[at:]
		if len(rest) < blobHeader {
			return entries
		}
		e := parseBlobHeader(rest)
		e.off = uint32(at)
		if e.plain > MaxBlob || e.size() > int64(len(rest)) || checkBlob(rest[:e.size()], e) != "" {
			at++ // the same letters within a blob, or a blob gone bad
			continue
		}
		entries = append(entries, e)
		at += int(e.size())
	}
}
