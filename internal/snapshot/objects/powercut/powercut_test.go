package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// logOf writes a log of requests; data is all of one value.
func logOf(requests ...request) []byte {
	const sector = 512
	log := make([]byte, sector)
	binary.LittleEndian.PutUint64(log, logMagic)
	binary.LittleEndian.PutUint64(log[8:], logVersion)
	binary.LittleEndian.PutUint64(log[16:], uint64(len(requests)))
	binary.LittleEndian.PutUint32(log[24:], sector)
	for i, r := range requests {
		head := make([]byte, sector)
		binary.LittleEndian.PutUint64(head, uint64(r.off)/sector)
		binary.LittleEndian.PutUint64(head[8:], uint64(r.size)/sector)
		for flag, set := range map[uint64]bool{flagFlush: r.flush, flagFUA: r.durable, flagDiscard: r.discard} {
			if set {
				head[16] |= byte(flag)
			}
		}
		log = append(log, head...)
		if !r.discard {
			log = append(log, bytes.Repeat([]byte{byte(i + 1)}, int(r.size))...)
		}
	}
	return log
}

func TestLog(t *testing.T) {
	want := []request{
		{off: 4096, size: 8192}, {flush: true}, {off: 0, size: 512, durable: true}, {off: 8192, size: 4096, discard: true}, {off: 512, size: 1024},
	}
	raw := logOf(want...)
	got, err := readLog(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, r := range got {
		if !r.discard && r.size > 0 && raw[r.data] != byte(i+1) {
			t.Errorf("the data of request %d is elsewhere", i)
		}
		r.data, r.end = 0, 0
		if r != want[i] {
			t.Errorf("request %d is %+v, want %+v", i, r, want[i])
		}
	}
	if got, err := readLog(bytes.NewReader(raw), int64(len(raw)-1)); err != nil || len(got) != len(want)-1 {
		t.Errorf("cut short: %+v, %v", got, err)
	}
	raw[0]++
	if _, err := readLog(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrLog) {
		t.Errorf("of something else: %v", err)
	}
}

// scratch is a folder in memory where the system has one.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stead-cut-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestCuts wants on the disk all that was flushed before a cut, nothing that was
// written after it, and of the rest now this and now that.
func TestCuts(t *testing.T) {
	const size = 64 << 10
	d := &Disk{dir: scratch(t), size: size}
	raw := logOf(
		request{off: 0, size: 16384}, request{flush: true}, request{off: 16384, size: 16384}, request{off: 0, size: 4096},
		request{flush: true}, request{off: 32768, size: 4096, durable: true}, request{off: 40960, size: 4096},
	)
	for name, data := range map[string][]byte{logName: raw, durableName: make([]byte, size)} {
		if err := os.WriteFile(d.file(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	seen := map[string]int{}
	for _, cut := range d.Cuts(1, 200, 1000) {
		if err := d.replay(cut); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadFile(d.file(leftName))
		if err != nil {
			t.Fatal(err)
		}
		pages := ""
		for at := 0; at < size; at += 4096 {
			pages += fmt.Sprint(left[at])
			if !bytes.Equal(left[at:at+4096], bytes.Repeat(left[at:at+1], 4096)) {
				t.Fatalf("page %d is mixed", at/4096)
			}
		}
		seen[fmt.Sprintf("%d-%d %s", cut.flushed, cut.until, pages)]++
		first := "1111000000000000"
		if cut.flushed == 5 {
			first = "4111333300000000"
		}
		if cut.until == cut.flushed && pages != first {
			t.Errorf("after %d requests it is %s, want %s", cut.flushed, pages, first)
		}
		if cut.until >= 6 && pages[8] != '6' {
			t.Errorf("a write that was durable by itself is lost: %s", pages)
		}
		if cut.flushed == 2 && pages[8:] != "00000000" {
			t.Errorf("%s has what was written after the cut", pages)
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d outcomes: %v", len(seen), seen)
	}
}

// TestDisk writes to a filesystem: what was synced is there after every later
// cut, and what was not is sometimes gone.
func TestDisk(t *testing.T) {
	d, err := New(t.Context(), scratch(t), 16<<20, "mkfs.ext4", "-q", "-E", "nodiscard")
	if errors.Is(err, ErrUnable) {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	marks := map[string]Mark{}
	for i := range 4 {
		name, data := fmt.Sprintf("file-%d", i), bytes.Repeat([]byte{byte(i + 1)}, 20_000)
		f, err := os.Create(filepath.Join(d.Path(), name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if marks[name], err = d.Now(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	absent := 0
	for _, cut := range d.Cuts(7, 2, 20) {
		err := d.Left(t.Context(), cut, func(path string) {
			for name, at := range marks {
				got, err := os.ReadFile(filepath.Join(path, name))
				if at > cut.At && err != nil {
					absent++
				}
				if at <= cut.At && (err != nil || len(got) != 20_000 || got[19_999] != name[5]-'0'+1) {
					t.Errorf("%s, synced at %d, has %d bytes after a cut at %d (%v)", name, at, len(got), cut.At, err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if absent == 0 {
		t.Error("no cut took anything away")
	}
}

func FuzzLog(f *testing.F) {
	f.Add(logOf(request{off: 512, size: 1024}, request{flush: true}))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		requests, _ := readLog(bytes.NewReader(raw), int64(len(raw)))
		for _, r := range requests {
			if r.end > int64(len(raw)) || r.size < 0 || r.off < 0 {
				panic(fmt.Sprintf("%+v", r))
			}
		}
	})
}
