package snapshot_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
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
