package blocks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// tinyQCOW2 is an image of four clusters of 512 bytes, of which two are there.
func tinyQCOW2() []byte {
	be := binary.BigEndian
	b := make([]byte, 512*5)
	be.PutUint32(b, qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 4*512)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 512)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[512:], 1024|1<<63)
	be.PutUint64(b[1024:], 1536|1<<63)
	be.PutUint64(b[1024+16:], qcow2ZeroFlag)
	be.PutUint64(b[1024+24:], 2048|qcow2Compressed)
	b[1536] = 7
	return b
}

// FuzzQCOW2 reads any file as an image: it is refused, or read without a panic,
// and stretches of data come in order and within the disk.
func FuzzQCOW2(f *testing.F) {
	f.Add(tinyQCOW2())
	f.Add(tinyQCOW2()[:100])
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		s, err := openQCOW2(file)
		if err != nil {
			return
		}
		buf := make([]byte, 4096)
		at := int64(0)
		for range 20 {
			begin, end, err := s.data(at)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrFormat) {
					t.Errorf("data from %d: %v", at, err)
				}
				return
			}
			if begin == s.size() {
				return
			}
			if begin < at || end <= begin || end > s.size() {
				t.Fatalf("data from %d to %d, asked from %d of %d", begin, end, at, s.size())
			}
			_ = s.ReadAt(buf[:min(int64(len(buf)), end-begin)], begin)
			at = end
		}
	})
}

// FuzzTransfer reads any bytes as the notes of a transfer: what is understood is
// written so that it is understood again.
func FuzzTransfer(f *testing.F) {
	good := append([]byte(`{"version":1,"about":"a","token":"t"}`+"\n"), record(7, sha256.Sum256(nil))...)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("{}"))
	f.Add(append(good, record(-3, sha256.Sum256(nil))...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The fuzzer can't make checksums.
		if at := bytes.IndexByte(raw, '\n') + 1; at > 0 {
			for ; at+recordSize <= len(raw); at += recordSize {
				copy(raw[at:], record(int32(binary.BigEndian.Uint32(raw[at:])), [sha256.Size]byte(raw[at+4:])))
			}
		}
		path := filepath.Join(t.TempDir(), "notes")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		head, n := j.head, j.done.count()
		if err := j.begin(head, true); err != nil {
			t.Fatal(err)
		}
		j.close()
		if j, err = openJournal(path); err != nil || j.done.count() != n || head.Version != 0 && j.head != head {
			t.Errorf("%d blocks of %+v were %d of %+v (%v)", n, head, j.done.count(), j.head, err)
		}
		j.close()
	})
}
