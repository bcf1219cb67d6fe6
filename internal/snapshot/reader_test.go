package snapshot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/steadcloud/stead/internal/snapshot"
)

// reader reads a store as docs/snapshot-format.md describes it. It uses nothing
// of the program, so that the page and the program can't err together unseen.
type reader struct {
	dir   string
	blobs map[string]location
}

type location struct {
	file        string
	at, end     int
	packing     byte
	plainLength int
}

func newReader(dir string) (*reader, error) {
	config, err := os.ReadFile(filepath.Join(dir, "config", "store"))
	if err != nil || string(config) != `{"version":2}` {
		return nil, fmt.Errorf("config %q: %w", config, err)
	}
	r := &reader{dir: dir, blobs: map[string]location{}}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	if err != nil {
		return nil, err
	}
	for _, p := range packs {
		if err := r.pack(p); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return r, nil
}

func (r *reader) pack(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if string(b[:8]) != "steadpck" || b[8] != 1 || b[9] != 0 || string(b[len(b)-8:]) != "steadfin" {
		return errors.New("not a pack")
	}
	count := int(binary.LittleEndian.Uint32(b[len(b)-16:]))
	footer := b[len(b)-16-52*count : len(b)-16]
	if binary.LittleEndian.Uint32(b[len(b)-12:]) != crc(footer) {
		return errors.New("wrong CRC of the footer")
	}
	name := sha256.Sum256(append(bytes.Clone(b[:32]), footer...))
	if hex.EncodeToString(name[:]) != filepath.Base(file) {
		return errors.New("wrong name")
	}
	for ; len(footer) > 0; footer = footer[52:] {
		n := func(at int) int { return int(binary.LittleEndian.Uint32(footer[at:])) }
		blob := b[n(36) : n(36)+52+n(44)]
		if string(blob[:4]) != "blob" || !bytes.Equal(blob[20:52], footer[:32]) || !bytes.Equal(blob[4:6], footer[32:34]) ||
			int(binary.LittleEndian.Uint32(blob[8:])) != n(40) || int(binary.LittleEndian.Uint32(blob[12:])) != n(44) {
			return errors.New("a blob isn't what the footer says")
		}
		if got := crc(append(append(bytes.Clone(blob[:16]), blob[20:52]...), blob[52:]...)); got != binary.LittleEndian.Uint32(blob[16:]) || int(got) != n(48) {
			return errors.New("wrong CRC of a blob")
		}
		r.blobs[string(footer[:32])] = location{file, n(36) + 52, n(36) + 52 + n(44), blob[5], n(40)}
	}
	return nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (r *reader) blob(digest []byte) ([]byte, error) {
	at, ok := r.blobs[string(digest)]
	if !ok {
		return nil, fmt.Errorf("no blob %x", digest)
	}
	b, err := os.ReadFile(at.file)
	if err != nil {
		return nil, err
	}
	b = b[at.at:at.end]
	if at.packing == 1 {
		d, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		if b, err = d.DecodeAll(b, nil); err != nil {
			return nil, err
		}
	}
	if got := sha256.Sum256(b); len(b) != at.plainLength || !bytes.Equal(got[:], digest) {
		return nil, errors.New("wrong contents")
	}
	return b, nil
}

// volume reads a whole snapshot.
func (r *reader) volume(id string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, "snapshots", id))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b[:len(b)-32]); !bytes.Equal(sum[:], b[len(b)-32:]) || string(b[:10]) != "steadsnp\x02\x00" {
		return nil, errors.New("not a root")
	}
	in := bytes.NewBuffer(b[10 : len(b)-32])
	number := func() int {
		v, err := binary.ReadUvarint(in)
		if err != nil {
			panic(err)
		}
		return int(v)
	}
	if got := string(in.Next(number())); got != id || number() != 524288 {
		return nil, fmt.Errorf("the root of %q", got)
	}
	volume := make([]byte, number())
	if _, err := binary.ReadVarint(in); err != nil {
		return nil, err
	}
	number()
	number()
	page := -1
	for range number() {
		page += number() + 1
		blocks := number()
		p, err := r.blob(in.Next(32))
		if err != nil {
			return nil, err
		}
		bitmap, digests := p[:128], p[128:]
		if len(digests) != 32*blocks {
			return nil, errors.New("a page of another length")
		}
		for i := range 1024 {
			if bitmap[i/8]>>(i%8)&1 == 0 {
				continue
			}
			block, err := r.blob(digests[:32])
			if err != nil {
				return nil, err
			}
			copy(volume[(page*1024+i)*524288:], block)
			digests = digests[32:]
		}
	}
	if in.Len() > 0 {
		return nil, errors.New("bytes follow the last page")
	}
	return volume, nil
}

// TestIndependentReader reads what the program wrote by what the specification
// says, after a life that leaves packs of every sort.
func TestIndependentReader(t *testing.T) {
	path := snapshot.Scratch(t)
	e := openStore(t, path, snapshot.WithPackSize(1<<20))
	want := map[string]memory{}
	volume := data(t, 9<<20+12345)
	for i := range 4 {
		id := fmt.Sprintf("snap-%d", i)
		snap(t, e, id, volume)
		want[id] = bytes.Clone(volume)
		copy(volume[i<<20:], noise(700_000))
	}
	tail := make(memory, 600<<20) // on a second page
	copy(tail[599<<20:], "the end")
	snap(t, e, "tail", tail)
	if err := e.Delete(t.Context(), "snap-1"); err != nil {
		t.Fatal(err)
	}
	delete(want, "snap-1")
	collect(t, e)
	r, err := newReader(path)
	if err != nil {
		t.Fatal(err)
	}
	want["tail"] = tail
	for id, volume := range want {
		got, err := r.volume(id)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if !bytes.Equal(got, volume) {
			t.Errorf("%s differs", id)
		}
	}
}
