package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

const dirtyContext = "qemu:dirty-bitmap:s-1"

// said builds what a server says, piece by piece.
type said []byte

func (s said) u16(v uint16) said { return binary.BigEndian.AppendUint16(s, v) }
func (s said) u32(v uint32) said { return binary.BigEndian.AppendUint32(s, v) }
func (s said) u64(v uint64) said { return binary.BigEndian.AppendUint64(s, v) }

func (s said) optReply(opt, kind uint32, data []byte) said {
	return append(s.u64(magicOptRep).u32(opt).u32(kind).u32(uint32(len(data))), data...)
}

func (s said) chunk(flags, kind uint16, cookie uint64, data []byte) said {
	return append(s.u32(magicChunk).u16(flags).u16(kind).u64(cookie).u32(uint32(len(data))), data...)
}

// extents is the data of a status chunk: lengths and flags in turn.
func extents(id uint32, pairs ...uint32) []byte {
	s := said{}.u32(id)
	for _, v := range pairs {
		s = s.u32(v)
	}
	return s
}

// greetedStatus is all that a server says before the first request.
func greetedStatus(size uint64) said {
	s := said{}.u64(magicServer).u64(magicOption).u16(3)
	s = s.optReply(optStructured, repAck, nil)
	s = s.optReply(optSetMeta, repMeta, append(said{}.u32(7), dirtyContext...)).optReply(optSetMeta, repAck, nil)
	return s.optReply(optGo, repInfo, said{}.u16(infoExport).u64(size).u16(0)).optReply(optGo, repAck, nil)
}

func statusFrom(t *testing.T, server []byte) (all []Extent, size int64, err error) {
	t.Helper()
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	go func() {
		_, _ = far.Write(server)
		_ = far.Close()
	}()
	size, err = ReadBlockStatus(t.Context(), near, "disk", dirtyContext, func(e Extent) { all = append(all, e) })
	return all, size, err
}

func TestBlockStatusCoversTheExport(t *testing.T) {
	const gib = 1 << 30
	server := greetedStatus(gib+8192).
		chunk(0, chunkStatus, 0, extents(7, 4096, 1, 4096, 0)). // less than was asked for
		chunk(chunkDone, chunkNone, 0, nil).
		chunk(chunkDone, chunkStatus, 1, extents(7, gib-4096, 0, 1<<30, 1)) // and more
	all, size, err := statusFrom(t, server)
	want := []Extent{{0, 4096, 1}, {4096, 4096, 0}, {8192, gib - 4096, 0}, {gib + 4096, 4096, 1}}
	if err != nil || size != gib+8192 || !slices.Equal(all, want) {
		t.Errorf("%v, size %d, %v; want %v", all, size, err, want)
	}
}

func TestBlockStatusThatCannotBeReliedUpon(t *testing.T) {
	greeted := greetedStatus(8192)
	hello := said{}.u64(magicServer).u64(magicOption).u16(3)
	for name, server := range map[string][]byte{
		"no structured replies": hello.optReply(optStructured, 1<<31|1, []byte("unsupported")),
		"no such context":       hello.optReply(optStructured, repAck, nil).optReply(optSetMeta, repAck, nil),
		"another context":       hello.optReply(optStructured, repAck, nil).optReply(optSetMeta, repMeta, append(said{}.u32(7), "base:allocation"...)),
		"cut off":               greeted.chunk(0, chunkStatus, 0, extents(7, 4096, 1)),
		"no extents":            greeted.chunk(chunkDone, chunkStatus, 0, extents(7)),
		"half an extent":        greeted.chunk(chunkDone, chunkStatus, 0, extents(7, 4096)),
		"empty extent":          greeted.chunk(chunkDone, chunkStatus, 0, extents(7, 0, 1)),
		"beyond the request":    greeted.chunk(chunkDone, chunkStatus, 0, extents(7, 8192, 1, 8192, 0)),
		"of another context":    greeted.chunk(chunkDone, chunkStatus, 0, extents(8, 8192, 0)),
		"of another request":    greeted.chunk(chunkDone, chunkStatus, 5, extents(7, 8192, 0)),
		"twice":                 greeted.chunk(0, chunkStatus, 0, extents(7, 8192, 0)).chunk(chunkDone, chunkStatus, 0, extents(7, 8192, 0)),
		"nothing":               greeted.chunk(chunkDone, chunkNone, 0, nil),
		"an error":              greeted.chunk(chunkDone, chunkErrorBit|1, 0, said{}.u32(5).u16(0)),
		"an error after all":    greeted.chunk(0, chunkStatus, 0, extents(7, 8192, 0)).chunk(chunkDone, chunkErrorBit|1, 0, said{}.u32(5).u16(0)),
		"a huge chunk":          greeted.u32(magicChunk).u16(1).u16(chunkStatus).u64(0).u32(1 << 31),
		"a simple reply":        greeted.u32(magicReply).u32(0).u64(0),
	} {
		if all, size, err := statusFrom(t, server); err == nil {
			t.Errorf("%s: extents %v, size %d, and no error", name, all, size)
		} else if !strings.Contains(err.Error(), "disk") {
			t.Errorf("%s: %v doesn't name the export", name, err)
		}
	}
}

// FuzzBlockStatus lets a server say anything: what is not an error covers the
// export without a gap.
func FuzzBlockStatus(f *testing.F) {
	greeted := greetedStatus(8192)
	f.Add([]byte(greeted.chunk(0, chunkStatus, 0, extents(7, 4096, 1)).chunk(chunkDone, chunkNone, 0, nil).chunk(chunkDone, chunkStatus, 1, extents(7, 4096, 0))))
	f.Add([]byte(greeted.chunk(chunkDone, chunkErrorBit|1, 0, said{}.u32(5).u16(0))))
	f.Add([]byte(greeted[:60]))
	f.Fuzz(func(t *testing.T, server []byte) {
		all, size, err := statusFrom(t, server)
		if err != nil {
			return
		}
		at := int64(0)
		for _, e := range all {
			if e.Offset != at || e.Length <= 0 {
				t.Fatalf("extent %+v after %d bytes", e, at)
			}
			at += e.Length
		}
		if at != size {
			t.Fatalf("extents cover %d of %d bytes", at, size)
		}
	})
}
