package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What testdata/guest's writer does; see there.
const (
	stampBlock   = 4096
	stampedPart  = 8 << 20
	discardEvery = 4
	writerDisk   = 24 << 20
)

// newWriterDisk is a disk whose second part is full of data for the guest to
// discard.
func newWriterDisk(t *testing.T, n int) Disk {
	t.Helper()
	d := newDisk(t, n, writerDisk)
	f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0x5a}, writerDisk-stampedPart), stampedPart)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return d
}

// startWriter boots the writing guest and waits until it has written count times.
func startWriter(t *testing.T, count int) (*Machine, []string) {
	t.Helper()
	disks := []Disk{newWriterDisk(t, 1), newWriterDisk(t, 2)}
	m := start(t, newSpec(t, "write", disks...))
	waitConsole(t, m, fmt.Sprintf("WROTE %d\n", count))
	return m, []string{disks[0].VolumeID, disks[1].VolumeID}
}

// freeze asks for an instant of volumes, for the snapshots name-0, name-1 and so
// on.
func freeze(name string, volumes ...string) []Freeze {
	var disks []Freeze
	for n, id := range volumes {
		disks = append(disks, Freeze{VolumeID: id, Snapshot: fmt.Sprintf("%s-%d", name, n), Record: true})
	}
	return disks
}

// written is how often the guest has said that it wrote.
func written(t *testing.T, m *Machine) uint64 {
	t.Helper()
	text := console(t, m)
	at := strings.LastIndex(text, "WROTE ")
	var k uint64
	if at >= 0 {
		_, _ = fmt.Sscanf(text[at:], "WROTE %d", &k)
	}
	return k
}

// pull reads a source as a snapshot engine does: the ranges with data.
func pull(s *Source) ([]byte, error) {
	image := make([]byte, s.Size())
	for off := int64(0); ; {
		from, to, err := s.NextData(off)
		if errors.Is(err, io.EOF) {
			return image, nil
		}
		if err != nil {
			return nil, err
		}
		if from < off || to <= from || to > s.Size() {
			return nil, fmt.Errorf("NextData(%d) returned %d, %d", off, from, to)
		}
		if _, err := s.ReadAt(image[from:to], from); err != nil {
			return nil, err
		}
		off = to
	}
}

// newest returns the highest stamp of an image, and checks that the image holds
// exactly the writes and discards up to it.
func newest(t *testing.T, image []byte) uint64 {
	t.Helper()
	const blocks = stampedPart / stampBlock
	stamp := func(block uint64) uint64 { return binary.LittleEndian.Uint64(image[block*stampBlock:]) }
	var last uint64
	for b := range uint64(blocks) {
		last = max(last, stamp(b))
	}
	for b := range uint64(blocks) {
		want := last - (last%blocks+blocks-b)%blocks // the latest k ≤ last with k mod blocks = b
		if want > last {
			want = 0 // before the first write to it
		}
		if got := stamp(b); got != want {
			t.Errorf("block %d has stamp %d, want %d of %d", b, got, want, last)
		}
		for at := range stampBlock / 8 {
			if got := binary.LittleEndian.Uint64(image[b*stampBlock+uint64(at)*8:]); got != stamp(b) {
				t.Errorf("block %d is torn: stamps %d and %d", b, stamp(b), got)
				break
			}
		}
	}
	checkDiscards(t, image, last)
	return last
}

// checkDiscards checks that the chunks discarded up to write last read as zeroes
// and later ones hold their data. The discard before write last+1 may be in.
func checkDiscards(t *testing.T, image []byte, last uint64) {
	t.Helper()
	zero, full := make([]byte, cluster), bytes.Repeat([]byte{0x5a}, cluster)
	for c := uint64(0); stampedPart+(c+1)*cluster <= uint64(len(image)); c++ {
		chunk := image[stampedPart+c*cluster : stampedPart+(c+1)*cluster]
		at := c * discardEvery // the write that it came before; 0 is never discarded
		switch {
		case c > 0 && at <= last && !bytes.Equal(chunk, zero):
			t.Errorf("chunk %d was discarded before write %d, and holds data at write %d", c, at, last)
		case (c == 0 || at > last+1) && !bytes.Equal(chunk, full):
			t.Errorf("chunk %d has lost its data at write %d; it was discarded before write %d", c, last, at)
		}
	}
}

func TestMachineSnapshotIsOneInstantOfTwoDisks(t *testing.T) {
	m, volumes := startWriter(t, 100)
	clean := nodeNames(t, m)
	for n := range 3 {
		before := written(t, m)
		inst, err := m.Snapshot(t.Context(), "set", freeze(fmt.Sprintf("snap-%d", n), volumes...))
		if err != nil {
			t.Fatal(err)
		}
		// Let the guest overwrite and discard what is to be read.
		waitFor(t, "more writes", bootTime, func() bool { return written(t, m) >= before+60 })
		var stamps []uint64
		for _, id := range volumes {
			src, err := inst.Source(id)
			if err != nil {
				t.Fatal(err)
			}
			if src.Size() != writerDisk {
				t.Fatalf("size %d, want %d", src.Size(), writerDisk)
			}
			image, err := pull(src)
			if err != nil {
				t.Fatal(err)
			}
			stamps = append(stamps, newest(t, image))
			again := make([]byte, src.Size())
			if _, err := src.ReadAt(again, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(image, again) {
				t.Error("a full read differs from reading the ranges with data")
			}
		}
		if stamps[0] < stamps[1] || stamps[0] > stamps[1]+1 {
			t.Errorf("disks are of different instants: writes %d and %d", stamps[0], stamps[1])
		}
		if stamps[0] < before {
			t.Errorf("write %d was done before the snapshot and isn't in it: newest is %d", before, stamps[0])
		}
		if err := inst.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := nodeNames(t, m); strings.Join(now, " ") != strings.Join(clean, " ") {
			t.Errorf("nodes %v are left, want %v", now, clean)
		}
	}
	noGuestErrors(t, m)
	onlyFiles(t, m.spec.Dir, fileRecord, fileConsole, fileLog, filePID, fileQMP, fileSerial)
}

// Ranges that were read and given up don't change what is read elsewhere.
func TestMachineSnapshotDiscardsWhatWasRead(t *testing.T) {
	m, volumes := startWriter(t, 40)
	inst, err := m.Snapshot(t.Context(), "set", freeze("snap", volumes[:1]...))
	if err != nil {
		t.Fatal(err)
	}
	src, err := inst.Source(volumes[0])
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, src.Size())
	const step = 512 << 10
	for off := int64(0); off < src.Size(); off += step {
		if _, err := src.ReadAt(image[off:off+step], off); err != nil {
			t.Fatal(err)
		}
		if err := src.Discard(off, step); err != nil {
			t.Fatal(err)
		}
	}
	newest(t, image)
	if _, _, err := src.NextData(src.Size()); !errors.Is(err, io.EOF) {
		t.Errorf("NextData at the end: %v, want io.EOF", err)
	}
	if _, err := src.ReadAt(make([]byte, cluster), step); err == nil {
		t.Error("a discarded range can be read")
	}
	if err := inst.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	noGuestErrors(t, m)
}

func TestMachineSnapshotOfASecondVolumeMeanwhile(t *testing.T) {
	m, volumes := startWriter(t, 20)
	first, err := m.Snapshot(t.Context(), "set", freeze("snap-1", volumes[:1]...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Snapshot(t.Context(), "set", freeze("snap-2", volumes...)); !errors.Is(err, ErrBusy) {
		t.Errorf("second instant of a volume: %v, want ErrBusy", err)
	}
	if err := m.Detach(t.Context(), volumes[0], time.Second); !errors.Is(err, ErrBusy) {
		t.Errorf("Detach meanwhile: %v, want ErrBusy", err)
	}
	second, err := m.Snapshot(t.Context(), "set", freeze("snap-3", volumes[1:]...))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	src, err := second.Source(volumes[1])
	if err != nil {
		t.Fatal(err)
	}
	image, err := pull(src)
	if err != nil {
		t.Fatalf("reading after another instant was closed: %v", err)
	}
	newest(t, image)
	// The guest is powered off, but the machine stays while it is being read.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := m.Shutdown(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown while a snapshot is being read: %v, want it to wait", err)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Snapshot(t.Context(), "set", freeze("snap-4", "vol-00000000000000009")); !errors.Is(err, ErrNotAttached) {
		t.Errorf("snapshot of a volume that isn't there: %v, want ErrNotAttached", err)
	}
	noGuestErrors(t, m)
}

// A daemon that dies while it reads leaves nodes in QEMU; the next one removes
// them and can make snapshots.
func TestMachineSnapshotIsClearedByTheNextDaemon(t *testing.T) {
	m, volumes := startWriter(t, 20)
	clean := nodeNames(t, m)
	inst, err := m.Snapshot(t.Context(), "set", freeze("snap-1", volumes...))
	if err != nil {
		t.Fatal(err)
	}
	src, err := inst.Source(volumes[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	m = reopen(t, m) // with the reader still connected
	if now := nodeNames(t, m); strings.Join(now, " ") != strings.Join(clean, " ") {
		t.Errorf("nodes %v are left, want %v", now, clean)
	}
	if _, err := src.ReadAt(make([]byte, 1<<20), 0); err == nil {
		t.Error("the old reader can still read")
	}
	before := written(t, m)
	waitFor(t, "more writes", bootTime, func() bool { return written(t, m) > before })
	inst, err = m.Snapshot(t.Context(), "set", freeze("snap-2", volumes...))
	if err != nil {
		t.Fatal(err)
	}
	if err := inst.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	noGuestErrors(t, m)
}

// smallFilesystem mounts a filesystem of a size.
func smallFilesystem(t *testing.T, size string) string {
	t.Helper()
	dir := shortDir(t)
	if err := unix.Mount("stead", dir, "tmpfs", 0, "size="+size); err != nil {
		skip(t, "mounting a small filesystem takes root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A fleece with no room breaks the snapshot and not the guest, and the reader
// learns of it even where it would see only holes.
func TestMachineSnapshotBreaksWhenTheFleeceIsFull(t *testing.T) {
	disks := []Disk{newWriterDisk(t, 1), newWriterDisk(t, 2)}
	spec := newSpec(t, "write", disks...)
	spec.Dir = smallFilesystem(t, "1m")
	m := start(t, spec)
	waitConsole(t, m, "WROTE 20\n")
	inst, err := m.Snapshot(t.Context(), "set", freeze("snap", disks[0].VolumeID))
	if err != nil {
		t.Fatal(err)
	}
	before := written(t, m)
	waitFor(t, "writes past the fleece's room", bootTime, func() bool { return written(t, m) > before+200 })
	src, err := inst.Source(disks[0].VolumeID)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.NextData(src.Size()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("NextData of a broken instant: %v, want an error", err)
	}
	if _, err := src.ReadAt(make([]byte, cluster), 0); err == nil {
		t.Error("a broken instant can be read")
	}
	if err := inst.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	noGuestErrors(t, m)
	if st, err := m.Status(t.Context()); err != nil || st.State != Running {
		t.Errorf("status %+v, %v; want running", st, err)
	}
}
