package snapshot

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// A stored block is a header of twelve bytes, then the packed contents:
//
//	"sb", the format's version, how the contents are packed
//	plain length in bytes, little-endian, 4 bytes
//	CRC-32C of all the rest, little-endian, 4 bytes
//
// The digest in the manifest proves the contents. The checksum is there for
// the bits that don't show in them, as at the end of a zstd stream: a disk that
// flips those is going bad all the same.
const (
	blockMagic   = "sb\x01"
	sizeAt       = len(blockMagic) + 1
	sumAt        = sizeAt + 4
	blockHeader  = sumAt + 4
	packedNot    = 0
	packedByZstd = 1
)

// codec packs blocks. It may be used concurrently.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	crc *crc32.Table
}

func newCodec() (*codec, error) {
	// zstd's own checksum would be a third one. The fastest level, as hashing and the disk would otherwise wait for it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(BlockSize))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(BlockSize))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return &codec{enc: enc, dec: dec, crc: crc32.MakeTable(crc32.Castagnoli)}, nil
}

func (c *codec) close() {
	_ = c.enc.Close()
	c.dec.Close()
}

// pack appends data's stored form to dst.
func (c *codec) pack(dst, data []byte) []byte {
	start := len(dst)
	header := func(packing byte) {
		dst = append(dst[:start], blockMagic...)
		dst = append(dst, packing)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
		dst = append(dst, 0, 0, 0, 0) // the checksum's place
	}
	header(packedByZstd)
	dst = c.enc.EncodeAll(data, dst)
	if len(dst)-start-blockHeader >= len(data)-len(data)/32 {
		header(packedNot) // the gain isn't worth the time to unpack it
		dst = append(dst, data...)
	}
	binary.LittleEndian.PutUint32(dst[start+sumAt:], c.checksum(dst[start:]))
	return dst
}

func (c *codec) checksum(stored []byte) uint32 {
	return crc32.Update(crc32.Checksum(stored[:sumAt], c.crc), c.crc, stored[blockHeader:])
}

// unpack returns the contents of a stored block, in buf where they fit. The
// error is a *CorruptError without IDs.
func (c *codec) unpack(stored, buf []byte) ([]byte, error) {
	if len(stored) < blockHeader || string(stored[:len(blockMagic)]) != blockMagic {
		return nil, &CorruptError{Reason: "it isn't a stored block"}
	}
	if binary.LittleEndian.Uint32(stored[sumAt:]) != c.checksum(stored) {
		return nil, &CorruptError{Reason: "its checksum doesn't match"}
	}
	size := binary.LittleEndian.Uint32(stored[sizeAt:])
	data := buf[:0]
	switch packing := stored[len(blockMagic)]; packing {
	case packedNot:
		data = append(data, stored[blockHeader:]...)
	case packedByZstd:
		var err error
		if data, err = c.dec.DecodeAll(stored[blockHeader:], data); err != nil {
			return nil, &CorruptError{Reason: err.Error()}
		}
	default:
		return nil, &CorruptError{Reason: fmt.Sprintf("it is packed by unknown method %d", packing)}
	}
	if uint64(len(data)) != uint64(size) {
		return nil, &CorruptError{Reason: fmt.Sprintf("it has %d bytes instead of %d", len(data), size)}
	}
	return data, nil
}
