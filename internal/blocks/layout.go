package blocks

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
)

// Format is how a disk lies in a file.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	// Auto is Raw or QCOW2, by a file's first bytes or, of one that is to be
	// made, by its name.
	Auto Format = ""
)

// FormatOf chooses the format of a file that is to be made.
func FormatOf(f Format, path string) (Format, error) {
	switch {
	case f == Raw || f == QCOW2:
		return f, nil
	case f != Auto:
		return "", &Error{Op: "use", Resource: "format " + string(f), Reason: "only raw and qcow2 are known", Remedy: "--format raw or qcow2; qemu-img convert makes others of them", Err: ErrUsage}
	case strings.HasSuffix(path, ".qcow2"):
		return QCOW2, nil
	}
	return Raw, nil
}

// layout is where the blocks of a snapshot lie in a file, which is known before
// the first of them is read. What isn't a block or a piece is zeros.
type layout struct {
	size   int64                   // of the file
	offset func(index int32) int64 // of a block; they lie in the order of their indices
	head   []piece                 // beside the blocks, before all of them
}

type piece struct {
	offset int64
	data   []byte
}

// layOut lays a snapshot out. Only qcow2 has to know all blocks first.
func layOut(ctx context.Context, f Format, volume int64, list lister) (*layout, error) {
	if f == Raw {
		return &layout{size: volume, offset: func(index int32) int64 { return int64(index) * Size }}, nil
	}
	var indices []int32
	err := list(ctx, func(b block) bool { indices = append(indices, b.index); return ctx.Err() == nil })
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return qcow2Layout(volume, indices)
}

// What a qcow2 file is made of, where a cluster is a block:
// https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
const (
	qcow2Magic       = 0x514649fb
	qcow2ClusterBits = 19
	qcow2PerL2       = Size / 8 // clusters that one table of the second level finds
	qcow2PerRefcount = Size / 2 // clusters that one block of counts counts
	qcow2Copied      = 1 << 63  // exactly one reference
	qcow2HeaderSize  = 104
)

// qcow2Layout lays blocks out as a qcow2 file, each in a cluster of its own and
// in order: header, reference counts, tables, then the blocks.
func qcow2Layout(volume int64, indices []int32) (*layout, error) {
	tables := map[int32]int64{} // of the second level: which there are
	var order []int32
	for _, index := range indices {
		if k := index / qcow2PerL2; len(order) == 0 || order[len(order)-1] != k {
			order = append(order, k)
		}
	}
	l1Entries := (volume/Size + qcow2PerL2 - 1) / qcow2PerL2
	if l1Entries*8 > Size {
		return nil, fmt.Errorf("%w: a volume of %d bytes", ErrFormat, volume)
	}
	fixed := int64(3 + len(order) + len(indices)) // with header, table of counts, first level
	counts := int64(1)
	for counts*qcow2PerRefcount < fixed+counts {
		counts++
	}
	l1At := (2 + counts) * Size
	for k, index := range order {
		tables[index] = l1At + int64(1+k)*Size
	}
	dataAt := l1At + int64(1+len(order))*Size
	total := fixed + counts
	lay := &layout{size: total * Size}
	at := make(map[int32]int64, len(indices))
	for k, index := range indices {
		at[index] = dataAt + int64(k)*Size
	}
	lay.offset = func(index int32) int64 { return at[index] }
	lay.head = append(lay.head, piece{0, qcow2Header(volume, l1Entries, l1At)})
	lay.head = append(lay.head, qcow2Counts(counts, total)...)
	lay.head = append(lay.head, qcow2Tables(l1Entries, l1At, order, tables, indices, at)...)
	return lay, nil
}

func qcow2Header(volume, l1Entries, l1At int64) []byte {
	h := make([]byte, qcow2HeaderSize+8) // and the end of the extensions, zeros
	be := binary.BigEndian
	be.PutUint32(h[0:], qcow2Magic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], qcow2ClusterBits)
	be.PutUint64(h[24:], uint64(volume))
	be.PutUint32(h[36:], uint32(l1Entries))
	be.PutUint64(h[40:], uint64(l1At))
	be.PutUint64(h[48:], Size) // the table of reference counts
	be.PutUint32(h[56:], 1)    // its clusters
	be.PutUint32(h[96:], 4)    // counts of 1 << 4 bits
	be.PutUint32(h[100:], qcow2HeaderSize)
	return h
}

// qcow2Counts says of each cluster that one thing refers to it.
func qcow2Counts(blocks, clusters int64) []piece {
	table := make([]byte, Size)
	list := []piece{{Size, table}}
	for k := range blocks {
		at := (2 + k) * Size
		binary.BigEndian.PutUint64(table[k*8:], uint64(at))
		count := make([]byte, Size)
		for n := range min(qcow2PerRefcount, clusters-k*qcow2PerRefcount) {
			binary.BigEndian.PutUint16(count[n*2:], 1)
		}
		list = append(list, piece{at, count})
	}
	return list
}

func qcow2Tables(l1Entries, l1At int64, order []int32, tables map[int32]int64, indices []int32, at map[int32]int64) []piece {
	first := make([]byte, l1Entries*8)
	list := []piece{{l1At, first}}
	second := map[int32][]byte{}
	for _, k := range order {
		binary.BigEndian.PutUint64(first[int64(k)*8:], uint64(tables[k])|qcow2Copied)
		second[k] = make([]byte, Size)
		list = append(list, piece{tables[k], second[k]})
	}
	for _, index := range indices {
		binary.BigEndian.PutUint64(second[index/qcow2PerL2][(index%qcow2PerL2)*8:], uint64(at[index])|qcow2Copied)
	}
	return list
}
