package snapshot

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A stored block is an eight-byte header, then the contents:
//
//	"sb", the format's version, how the contents are packed
//	plain length in bytes, little-endian, 4 bytes
const (
	blockMagic   = "sb\x01"
	blockHeader  = len(blockMagic) + 1 + 4
	packedNot    = 0
	packedByZstd = 1
)

// codec packs blocks. It may be used concurrently.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	// The digest in the manifest verifies the contents: no second checksum.
	// The fastest level, as hashing and the disk would otherwise wait for it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(BlockSize))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(BlockSize))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return &codec{enc: enc, dec: dec}, nil
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
	}
	header(packedByZstd)
	dst = c.enc.EncodeAll(data, dst)
	if len(dst)-start-blockHeader < len(data)-len(data)/32 {
		return dst
	}
	header(packedNot) // not worth the time it takes to unpack
	return append(dst, data...)
}

// unpack returns the contents of a stored block, in buf where they fit. The
// error is a *CorruptError without IDs.
func (c *codec) unpack(stored, buf []byte) ([]byte, error) {
	if len(stored) < blockHeader || string(stored[:len(blockMagic)]) != blockMagic {
		return nil, &CorruptError{Reason: "it isn't a stored block"}
	}
	size := binary.LittleEndian.Uint32(stored[blockHeader-4:])
	var (
		data []byte
		err  error
	)
	switch packing := stored[len(blockMagic)]; packing {
	case packedNot:
		data = append(buf[:0], stored[blockHeader:]...)
	case packedByZstd:
		if data, err = c.dec.DecodeAll(stored[blockHeader:], buf[:0]); err != nil {
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
