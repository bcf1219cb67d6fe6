package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
)

// benchVolume is half compressible by about three, a quarter noise and a
// quarter holes, as a system disk roughly is.
func benchVolume(b *testing.B) memory {
	b.Helper()
	const size = 256 << 20
	rng := rand.New(rand.NewPCG(1, 2))
	m := make(memory, size)
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = fmt.Appendf(nil, "%x ", rng.Uint32())
	}
	for at := 0; at < size; at += 1 << 20 {
		part := m[at : at+1<<20]
		switch at >> 20 % 4 {
		case 0, 1:
			for n := 0; n < len(part); {
				n += copy(part[n:], words[rng.IntN(len(words))])
			}
		case 2:
			copy(part, noise(1<<20))
			copy(part, fmt.Append(nil, at))
			copy(part[1<<19:], fmt.Append(nil, at))
		}
	}
	return m
}

func BenchmarkCreate(b *testing.B) {
	volume := benchVolume(b)
	b.SetBytes(volume.Size())
	for b.Loop() {
		b.StopTimer()
		store := openStore(b, b.TempDir())
		b.StartTimer()
		snap(b, store, "s", volume)
	}
}

// BenchmarkCreateAgain is a snapshot of a volume that didn't change.
func BenchmarkCreateAgain(b *testing.B) {
	volume := benchVolume(b)
	store := openStore(b, b.TempDir())
	snap(b, store, "first", volume)
	b.SetBytes(volume.Size())
	for i := 0; b.Loop(); i++ {
		snap(b, store, fmt.Sprint("s", i), volume)
	}
}

func BenchmarkRestore(b *testing.B) {
	volume := benchVolume(b)
	store := openStore(b, b.TempDir())
	snap(b, store, "s", volume)
	path := filepath.Join(b.TempDir(), "volume")
	b.SetBytes(volume.Size())
	for b.Loop() {
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Truncate(volume.Size()); err != nil {
			b.Fatal(err)
		}
		if err := store.Restore(context.Background(), "s", f, nil); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, volume) {
		b.Fatalf("restored volume differs: %v", err)
	}
}

func BenchmarkCheck(b *testing.B) {
	volume := benchVolume(b)
	store := openStore(b, b.TempDir())
	snap(b, store, "s", volume)
	b.SetBytes(volume.Size())
	for b.Loop() {
		if _, err := store.Check(context.Background(), true, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// numbered is a volume whose blocks each begin with a number and are else zero.
type numbered []uint64

func (n numbered) Size() int64 { return int64(len(n)) * snapshot.BlockSize }

func (n numbered) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	binary.LittleEndian.PutUint64(p, n[off/snapshot.BlockSize])
	return len(p), nil
}

func (n numbered) NextData(off int64) (start, end int64, err error) { return off, n.Size(), nil }

// BenchmarkCollect is a collection after which all stays: of 500 snapshots of
// 4 GiB, each with one block that the one before hadn't. So has each one page of
// its own and seven that others have, too.
func BenchmarkCollect(b *testing.B) {
	volume := make(numbered, 8<<10)
	for i := range volume {
		volume[i] = uint64(i) + 1
	}
	store := openStore(b, b.TempDir())
	for n := range 500 {
		var since *snapshot.Since
		changed := int64(n*1021) % int64(len(volume))
		if n > 0 {
			volume[changed] += uint64(n) << 32
			since = &snapshot.Since{Base: fmt.Sprint("s", n-1), Changed: func(i int64) bool { return i == changed }}
		}
		if _, err := store.Create(b.Context(), fmt.Sprint("s", n), volume, since, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := store.Collect(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
