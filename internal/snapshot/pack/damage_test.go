package pack

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// flip changes one bit of a stored object.
func (f *fixture) flip(object string, bit int64) {
	f.Helper()
	path := filepath.Join(f.path, object)
	raw, err := os.ReadFile(path)
	f.ok(err)
	if bit < 0 {
		bit += int64(len(raw)) * 8
	}
	raw[bit/8] ^= 1 << (bit % 8)
	f.ok(os.WriteFile(path, raw, 0o600))
}

// TestRotIsFoundAndHealed flips a bit in a blob: reading it fails, also after a
// restart, until it is put again.
func TestRotIsFoundAndHealed(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	f.add(a, b)
	p, name, err := f.find(t.Context(), id(Sum(a)))
	f.ok(err)
	f.flip(kindPacks+"/"+name, (int64(p.off)+200)*8)
	for range 2 {
		_, err := f.Get(t.Context(), Sum(a), nil)
		f.wantErr(err, ErrCorrupt)
		f.want(b)
		f.sweep(a, b)
		f.reopen()
	}
	if n := len(f.files(kindPacks)); n != 1 {
		t.Errorf("%d packs: the rotten one was given up", n)
	}
	u := f.begin()
	f.wantErr(u.Keep(t.Context(), Sum(a)), ErrCorrupt)
	u.Close()
	f.add(a)
	for range 2 {
		f.want(a, b)
		f.reopen()
	}
	f.sweep(a, b)
	f.want(a, b)
}

// TestEveryBitOfAPack flips bits all over a pack and wants each blob to be right
// or refused, and never others to be lost with it.
func TestEveryBitOfAPack(t *testing.T) {
	blobs := append(noises(0, 3, 300), bytes.Repeat([]byte("abcdefgh"), 100))
	f := newFixture(t)
	f.add(blobs...)
	object := kindPacks + "/" + f.files(kindPacks)[0]
	f.shut()
	raw, err := os.ReadFile(filepath.Join(f.path, object))
	f.ok(err)
	for bit := int64(0); bit < int64(len(raw))*8; bit += 29 {
		f.ok(os.WriteFile(filepath.Join(f.path, object), raw, 0o600))
		_ = os.RemoveAll(filepath.Join(f.path, kindRot))
		f.flip(object, bit)
		f.open()
		wrong := 0
		for _, b := range blobs {
			got, err := f.Get(t.Context(), Sum(b), nil)
			switch {
			case err == nil && bytes.Equal(got, b):
			case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrVersion):
				wrong++
				if errors.Is(err, ErrVersion) {
					wrong = 1
				}
			default:
				t.Fatalf("bit %d: %d bytes, %v", bit, len(got), err)
			}
		}
		if wrong > 1 {
			t.Fatalf("bit %d took %d blobs", bit, wrong)
		}
		f.shut()
	}
	f.ok(os.WriteFile(filepath.Join(f.path, object), raw, 0o600))
	f.open()
}

// TestRebuildPrefersTheHealed stores a rotten blob anew and makes the index again:
// it leads to the copy that is whole. A note that isn't true goes.
func TestRebuildPrefersTheHealed(t *testing.T) {
	a := noise(1, 3000)
	f := newFixture(t)
	f.add(a)
	rotten := f.files(kindPacks)[0]
	f.flip(kindPacks+"/"+rotten, int64(packHeader+blobHeader+100)*8)
	_, err := f.Get(t.Context(), Sum(a), nil)
	f.wantErr(err, ErrCorrupt)
	f.add(a)
	for range 2 {
		f.ok(f.Rebuild(t.Context()))
		f.want(a)
		f.reopen()
	}
	if n := len(f.files(kindRot)); n != 1 {
		t.Fatalf("%d notes of rot, want 1", n)
	}
	f.flip(kindPacks+"/"+rotten, int64(packHeader+blobHeader+100)*8) // and back
	f.ok(f.Rebuild(t.Context()))
	f.want(a)
	if n := len(f.files(kindRot)); n != 0 {
		t.Errorf("%d notes of rot in what is whole", n)
	}
}

func TestIndexObjectSavesFooters(t *testing.T) {
	f := newFixture(t)
	var blobs [][]byte
	for i := range tooManyFooters + 1 {
		b := noise(uint64(i), 500)
		blobs = append(blobs, b)
		f.add(b)
	}
	f.reopen()
	f.want(blobs...)
	names := f.files(kindIndex)
	if len(names) != 1 {
		t.Fatalf("%d index objects, want 1", len(names))
	}
	// A footer that can't be read isn't missed while the index tells the same.
	pack := f.files(kindPacks)[0]
	f.flip(kindPacks+"/"+pack, -1)
	f.reopen()
	f.want(blobs...)
	f.flip(kindIndex+"/"+names[0], 999)
	f.reopen()
	f.want(blobs...)
	f.ok(f.Rebuild(t.Context()))
	f.want(blobs...)
}

func FuzzFooter(f *testing.F) {
	var b builder
	b.reset(nil)
	framed := make([]byte, blobHeader+5)
	frame(framed, id{1}, Block, packedNot, 5)
	b.add(framed)
	name := b.finish()
	f.Add(b.buf)
	f.Fuzz(func(_ *testing.T, pack []byte) {
		if len(pack) < packHeader+trailerLen {
			return
		}
		size := int64(len(pack))
		if n, err := footerSize(pack, size); err == nil {
			if entries, err := parseFooter(name, pack[:packHeader], pack[size-n:], size); err == nil {
				for _, e := range entries {
					_ = checkBlob(pack[e.off:int64(e.off)+e.size()], e)
				}
			}
		}
		for _, e := range scan(pack) {
			if wrong := checkBlob(pack[e.off:int64(e.off)+e.size()], e); wrong != "" {
				panic(fmt.Sprintf("scan found a blob that is wrong: %s", wrong))
			}
		}
	})
}

// FuzzIndex reads any bytes as an index; what is read is written the same.
func FuzzIndex(f *testing.F) {
	good := encodeIndex([]packList{{name: strings.Repeat("ab", 32), size: 700, entries: []entry{{id: id{1}, off: 32, stored: 5}, {id: id{2}, off: 100, stored: 9}}}})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The fuzzer can't make checksums: with the right one, else all is refused.
		if len(raw) >= sha256.Size {
			sum := sha256.Sum256(raw[:len(raw)-sha256.Size])
			copy(raw[len(raw)-sha256.Size:], sum[:])
		}
		known := map[string]packList{}
		if err := parseIndex(raw, known); err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("error %v", err)
			}
			return
		}
		for name, p := range known {
			again := map[string]packList{}
			if err := parseIndex(encodeIndex([]packList{p}), again); err != nil || len(again[name].entries) != len(p.entries) {
				t.Errorf("%+v, %v", again, err)
			}
		}
	})
}

func TestNewerStoreIsRefused(t *testing.T) {
	f := newFixture(t)
	f.shut()
	f.ok(os.WriteFile(filepath.Join(f.path, configName), []byte(`{"version":3}`), 0o600))
	objs, err := objects.OpenDir(f.path)
	f.ok(err)
	_, err = Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{})
	f.wantErr(err, ErrVersion)
	_ = objs.Close()
	f.ok(os.WriteFile(filepath.Join(f.path, configName), []byte(`{"version":2}`), 0o600))
	f.open()
}
