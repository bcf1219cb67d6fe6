package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
)

const (
	childChangesEnv = "STEAD_VOLUME_TEST_CHANGES"
	changesUnits    = 24
)

// childOfChanges is machine after machine that gets a volume, writes to it and
// gives it back, until it is killed. Its snapshot was taken when the volume was
// all zeros.
func childOfChanges(path string) error {
	d, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		blocks, err := carryAll(d)
		if err != nil {
			return err
		}
		i := rand.IntN(changesUnits)
		if err := mark(d, i); err != nil {
			return err
		}
		blocks[i/8] |= 1 << (i % 8)
		if err := d.SaveChanges(context.Background(), "vol-1", Changes{Base: "zeros", Blocks: blocks}); err != nil {
			return err
		}
	}
}

// carryAll takes what is known of the volume; where that is nothing, the whole of
// it is read, as a snapshot would.
func carryAll(d *Dir) ([]byte, error) {
	_, carried, err := d.CarryChanges("vol-1")
	if err == nil {
		fmt.Println("known")
		ch, err := d.CarriedChanges("vol-1", carried)
		return ch.Blocks, err
	}
	if !errors.Is(err, ErrNoChanges) {
		return nil, err
	}
	fmt.Println("doubt")
	return marked(d)
}

// mark changes a block of the volume for good.
func mark(d *Dir, i int) error {
	f, err := os.OpenFile(d.Path("vol-1"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{1}, int64(i)*ChangeUnit)
	return errors.Join(err, f.Close())
}

// marked is what has changed.
func marked(d *Dir) ([]byte, error) {
	f, err := os.Open(d.Path("vol-1"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	blocks := make([]byte, changesUnits/8)
	for i := range changesUnits {
		var b [1]byte
		if _, err := f.ReadAt(b[:], int64(i)*ChangeUnit); err != nil {
			return nil, err
		}
		blocks[i/8] |= b[0] << (i % 8)
	}
	return blocks, nil
}

// TestKillChanges kills whoever keeps what has changed of a volume, again and
// again, and now and then writes to the volume behind its back: what is known
// afterwards leaves nothing out.
func TestKillChanges(t *testing.T) {
	known, doubts := 0, 0
	for range 4 {
		path := fastDir(t)
		d := open(t, path)
		create(t, d, "vol-1", changesUnits*ChangeUnit)
		for range 4 {
			killOnce(t, path, func(line string) {
				if line == "known" {
					known++
				} else {
					doubts++
				}
			}, childChangesEnv+"=1")
			if rand.IntN(3) == 0 {
				if err := mark(d, rand.IntN(changesUnits)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := marked(d)
			if err != nil {
				t.Fatal(err)
			}
			ch, err := d.Changes("vol-1")
			if errors.Is(err, ErrNoChanges) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range want {
				if b&^ch.Blocks[i] != 0 {
					t.Fatalf("changed %08b, and known to be %08b", want, ch.Blocks)
				}
			}
		}
	}
	if known == 0 || doubts == 0 {
		t.Errorf("%d times it was known and %d times in doubt what has changed", known, doubts)
	}
	t.Logf("known %d times, in doubt %d times", known, doubts)
}
