package pack

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// codec packs and unpacks blobs. It may be used concurrently.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	// The digest and the blob's own checksum are enough without zstd's. The
	// fastest level, as everything else waits for this.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxBlob))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBlob))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return &codec{enc: enc, dec: dec}, nil
}

func (c *codec) close() {
	_ = c.enc.Close()
	c.dec.Close()
}

// pack returns data as a framed blob, in buf where it fits.
func (c *codec) pack(buf []byte, i id, kind Kind, data []byte) []byte {
	if cap(buf) < blobHeader {
		buf = make([]byte, 0, blobHeader+len(data))
	}
	framed, packing := c.enc.EncodeAll(data, buf[:blobHeader]), byte(packedZstd)
	if len(framed)-blobHeader >= len(data)-len(data)/32 {
		// The gain isn't worth the time to unpack it.
		framed, packing = framed[:blobHeader], packedNot
		framed = append(framed, data...)
	}
	frame(framed, i, kind, packing, len(data))
	return framed
}

// unpack returns a checked blob's contents, in buf where they fit, or what is
// wrong with them.
func (c *codec) unpack(framed []byte, e entry, buf []byte) (data []byte, wrong string) {
	switch e.packing {
	case packedNot:
		data = buf[:0]
		data = append(data, framed[blobHeader:]...)
	case packedZstd:
		var err error
		if data, err = c.dec.DecodeAll(framed[blobHeader:], buf[:0]); err != nil {
			return nil, err.Error()
		}
	default:
		return nil, fmt.Sprintf("it is packed by unknown method %d", e.packing)
	}
	if uint64(len(data)) != uint64(e.plain) {
		return nil, fmt.Sprintf("it has %d bytes instead of %d", len(data), e.plain)
	}
	return data, ""
}
