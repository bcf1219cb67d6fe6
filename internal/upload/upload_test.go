package upload

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func blockOf(b byte) []byte { return bytes.Repeat([]byte{b}, BlockSize) }

func put(t *testing.T, u *Upload, index int64, data []byte) {
	t.Helper()
	if err := u.Put(index, data, sha256.Sum256(data), 0, t0); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T) *Upload {
	t.Helper()
	u, err := Create(filepath.Join(t.TempDir(), "snap-1"), t0)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// die lets go of the files as the end of the process does: nothing is synced or
// noted.
func die(t *testing.T, u *Upload) *Upload {
	t.Helper()
	if err := u.release(); err != nil {
		t.Fatal(err)
	}
	return reopen(t, u.path)
}

func reopen(t *testing.T, path string) *Upload {
	t.Helper()
	u, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func want(t *testing.T, u *Upload, blocks map[int64][]byte) {
	t.Helper()
	c, err := u.Contents()
	if err != nil {
		t.Fatal(err)
	}
	if c.Len() != len(blocks) || u.Count() != len(blocks) {
		t.Fatalf("there are %d blocks, want %d", c.Len(), len(blocks))
	}
	buf := make([]byte, BlockSize)
	for index, data := range blocks {
		if err := c.Read(index, buf); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, data) {
			t.Errorf("block %d begins with %x, want %x", index, buf[0], data[0])
		}
	}
}

// Blocks come back as they were put last, in whatever order, and whenever the
// process dies.
func TestBlocksOutliveTheProcess(t *testing.T) {
	u := begin(t)
	blocks := map[int64][]byte{}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		index, data := rng.Int64N(12)*1000, blockOf(byte(rng.IntN(5))) // also zeros, and over one another
		put(t, u, index, data)
		blocks[index] = data
		if i%7 == 0 {
			u = die(t, u)
		}
		if i%11 == 0 {
			if err := u.Close(); err != nil {
				t.Fatal(err)
			}
			u = reopen(t, u.path)
		}
	}
	want(t, u, blocks)
	if doubtful(t, u) {
		t.Error("in doubt, though the machine never went down")
	}
	if st, err := os.Stat(u.path + ".data"); err != nil || st.Size() > 16*BlockSize {
		t.Errorf("the data file has %d slots for 12 blocks (%v)", st.Size()/BlockSize, err)
	}
}

// A put that the process dies in leaves the block as it was.
func TestDyingPutHarmsNothing(t *testing.T) {
	u := begin(t)
	put(t, u, 3, blockOf(1))
	slot, done, err := u.begin(3, &Digest{9})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.write(slot, blockOf(2)); err != nil { // and no more
		t.Fatal(err)
	}
	done()
	u = die(t, u)
	want(t, u, map[int64][]byte{3: blockOf(1)})

	put(t, u, 4, blockOf(7))
	f, err := os.OpenFile(u.path+".journal", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(record{kind: kindPut, index: 3, at: t0}.encode()[:20]); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	u = die(t, u)
	put(t, u, 5, blockOf(8))
	u = die(t, u)
	want(t, u, map[int64][]byte{3: blockOf(1), 4: blockOf(7), 5: blockOf(8)})
}

func doubtful(t *testing.T, u *Upload) bool {
	t.Helper()
	c, err := u.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return c.Doubtful()
}

func otherBoot(n byte) func() (Digest, bool) {
	return func() (Digest, bool) { return Digest{n}, true }
}

// restart opens an upload as after a restart of the machine.
func restart(t *testing.T, u *Upload, boot byte) *Upload {
	t.Helper()
	again, err := open(u.path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	again.boot = otherBoot(boot)
	if err := again.load(); err != nil {
		t.Fatal(err)
	}
	return again
}

// After a power cut nothing is certain that was not synced, and it stays so.
func TestPowerCutIsNotForgotten(t *testing.T) {
	u := begin(t)
	put(t, u, 1, blockOf(1))
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	u = restart(t, u, 1)
	if doubtful(t, u) {
		t.Fatal("in doubt after a clean end")
	}
	put(t, u, 2, blockOf(2))
	u = restart(t, u, 2)
	if !doubtful(t, u) {
		t.Fatal("blocks were put and not synced before a power cut, and it is in no doubt")
	}
	put(t, u, 3, blockOf(3))
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	u = restart(t, u, 2)
	if !doubtful(t, u) {
		t.Error("the doubt is forgotten once others are synced")
	}
	want(t, u, map[int64][]byte{1: blockOf(1), 2: blockOf(2), 3: blockOf(3)})
}

// A block that is not what was put is never given out.
func TestDamageIsSeen(t *testing.T) {
	u := begin(t)
	put(t, u, 0, blockOf(1))
	f, err := os.OpenFile(u.path+".data", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0}, 1000); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	c, err := u.Contents()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Read(0, make([]byte, BlockSize)); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want ErrDamaged", err)
	}
	if err := os.Truncate(u.path+".data", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Read(0, make([]byte, BlockSize)); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want ErrDamaged", err)
	}
	if err := os.WriteFile(u.path+".journal", []byte("no journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(u.path); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want ErrDamaged", err)
	}
}

// After a failed sync nothing of it is trusted, whatever a second one says.
func TestFailedSyncEndsIt(t *testing.T) {
	u := begin(t)
	put(t, u, 0, blockOf(1))
	good := u.data
	_ = good.Close()
	if err := u.Seal(func(*Contents) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Fatalf("error %v, want ErrDamaged", err)
	}
	var err error
	if u.data, err = os.OpenFile(u.path+".data", os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	if err := u.Seal(func(*Contents) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("sealed after a failed sync: %v", err)
	}
	if err := u.Put(1, blockOf(2), sha256.Sum256(blockOf(2)), 0, t0); !errors.Is(err, ErrDamaged) {
		t.Errorf("put after a failed sync: %v", err)
	}
}

// Seal refuses by its check alone, and a sealed upload takes no more.
func TestSeal(t *testing.T) {
	u := begin(t)
	put(t, u, 5, blockOf(2))
	put(t, u, 1, blockOf(1))
	no := errors.New("no")
	if err := u.Seal(func(*Contents) error { return no }); !errors.Is(err, no) {
		t.Fatal(err)
	}
	put(t, u, 2, blockOf(0)) // goes on
	one, two, zero := sha256.Sum256(blockOf(1)), sha256.Sum256(blockOf(2)), sha256.Sum256(blockOf(0))
	linear := sha256.Sum256(append(append(append([]byte{}, one[:]...), zero[:]...), two[:]...))
	for range 2 {
		err := u.Seal(func(c *Contents) error {
			if c.Sum() != linear || c.Len() != 3 || !c.Has(2) || c.Has(3) {
				t.Error("the contents are not what was put")
			}
			if next, ok := c.NextData(2); next != 5 || !ok {
				t.Errorf("data after block 2 is at %d", next)
			}
			if _, ok := c.NextData(6); ok {
				t.Error("there is data after the last block")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Put(9, blockOf(1), one, 0, t0); !errors.Is(err, ErrSealed) {
		t.Errorf("put after the seal: %v", err)
	}
	if err := u.Discard(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(u.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Discard: %v", err)
	}
}

// Of blocks put at once in one place, one is there afterwards, and equal ones
// don't hurt each other.
func TestConcurrentPuts(t *testing.T) {
	u := begin(t)
	var wg sync.WaitGroup
	for i := range 8 {
		data := blockOf(byte(1 + i/4))
		for index := range int64(6) {
			wg.Go(func() {
				if err := u.Put(index, data, sha256.Sum256(data), 0, t0); err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if err := u.Seal(func(*Contents) error { return nil }); err != nil {
		t.Fatal(err)
	}
	c, err := u.Contents()
	if err != nil || c.Len() != 6 {
		t.Fatalf("%d blocks (%v)", c.Len(), err)
	}
	for index := range int64(6) {
		if err := c.Read(index, make([]byte, BlockSize)); err != nil {
			t.Error(err)
		}
	}
}

func TestProgressAndTimes(t *testing.T) {
	u := begin(t)
	if !u.Last().Equal(t0) {
		t.Errorf("begun at %s", u.Last())
	}
	sum := sha256.Sum256(blockOf(1))
	if err := u.Put(0, blockOf(1), sum, 40, t0.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := u.Put(1, blockOf(1), sum, 30, t0.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	u = die(t, u)
	if u.Progress() != 40 || !u.Last().Equal(t0.Add(time.Hour)) {
		t.Errorf("progress %d, last at %s", u.Progress(), u.Last())
	}
}

// A journal of any bytes is read, or refused, and what is read can be read again.
func FuzzJournal(f *testing.F) {
	good := append(header(), record{kind: kindBoot, at: t0}.encode()...)
	good = append(good, record{kind: kindPut, index: 7, slot: 1, at: t0}.encode()...)
	f.Add(good)
	f.Add(good[:100])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "u")
		if err := errors.Join(os.WriteFile(path+".journal", raw, 0o600), os.WriteFile(path+".data", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		u, err := Open(path)
		if err != nil {
			return
		}
		n := u.Count()
		u = die(t, u)
		if u.Count() != n {
			t.Errorf("%d blocks, then %d", n, u.Count())
		}
		_ = u.release()
	})
}
