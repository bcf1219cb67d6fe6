package volume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const changesSize = 5*ChangeUnit + 1

// changedVolume is a volume with saved changes.
func changedVolume(t *testing.T) (*Dir, Changes) {
	t.Helper()
	d := open(t, t.TempDir())
	if err := d.Create(t.Context(), "vol-1", changesSize); err != nil {
		t.Fatal(err)
	}
	ch := Changes{Base: "snap-1", Blocks: []byte{0b100101}}
	if err := d.SaveChanges(t.Context(), "vol-1", ch); err != nil {
		t.Fatal(err)
	}
	return d, ch
}

func wantChanges(t *testing.T, d *Dir, want Changes) {
	t.Helper()
	got, err := d.Changes("vol-1")
	if err != nil || got.Base != want.Base || !bytes.Equal(got.Blocks, want.Blocks) {
		t.Errorf("changes %+v, %v; want %+v", got, err, want)
	}
}

func wantDoubt(t *testing.T, d *Dir) {
	t.Helper()
	if got, err := d.Changes("vol-1"); !errors.Is(err, ErrNoChanges) {
		t.Errorf("changes %+v, %v; want ErrNoChanges", got, err)
	}
	if base, carried, err := d.CarryChanges("vol-1"); !errors.Is(err, ErrNoChanges) {
		t.Errorf("carried %s %s, %v; want ErrNoChanges", base, carried, err)
	}
}

func TestChangesAreTakenOnce(t *testing.T) {
	d, ch := changedVolume(t)
	wantChanges(t, d, ch)
	base, carried, err := d.CarryChanges("vol-1")
	if err != nil || base != ch.Base {
		t.Fatalf("carried %s of %s, %v", carried, base, err)
	}
	wantDoubt(t, d)
	for range 2 { // as often as daemons come and go while the machine runs
		got, err := d.CarriedChanges("vol-1", carried)
		if err != nil || !bytes.Equal(got.Blocks, ch.Blocks) {
			t.Errorf("carried changes %+v, %v", got, err)
		}
	}
	if _, err := d.CarriedChanges("vol-1", "0123456789abcdef"); !errors.Is(err, ErrNoChanges) {
		t.Errorf("changes of another start: %v, want ErrNoChanges", err)
	}
	// The next record takes the place of the first at the next start, and only
	// then is the first forgotten.
	if err := d.SaveChanges(t.Context(), "vol-1", Changes{Base: "snap-2", Blocks: ch.Blocks}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CarriedChanges("vol-1", carried); err != nil {
		t.Errorf("the changes of this start are gone: %v", err)
	}
	_, next, err := d.CarryChanges("vol-1")
	if err != nil || next == carried {
		t.Errorf("two starts have the name %s (%v)", next, err)
	}
	if _, err := d.CarriedChanges("vol-1", carried); !errors.Is(err, ErrNoChanges) {
		t.Errorf("changes of an earlier start: %v, want ErrNoChanges", err)
	}
}

// Whatever is done to the file behind our back puts what is known of it in doubt.
func TestChangesOfAnotherFileAreDoubted(t *testing.T) {
	for name, meddle := range map[string]func(path string) error{
		"written": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, 3*ChangeUnit)
			return errors.Join(err, f.Close())
		},
		"written with its times put back": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(path, make([]byte, changesSize), 0o600), os.Chtimes(path, time.Time{}, info.ModTime()))
		},
		"longer": func(path string) error { return os.Truncate(path, changesSize+1) },
		"exchanged": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(path+"2", b, 0o600), os.Rename(path+"2", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := changedVolume(t)
			if err := meddle(d.Path("vol-1")); err != nil {
				t.Fatal(err)
			}
			wantDoubt(t, d)
		})
	}
}

// A record that is cut off anywhere, or has any bit flipped, is none.
func TestDamagedChangesAreDoubted(t *testing.T) {
	d, _ := changedVolume(t)
	path := d.sidecar("vol-1", changedSuffix)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, ok := decodeChanges(whole[:n]); ok {
			t.Errorf("%d of %d bytes are taken for a record", n, len(whole))
		}
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[n] ^= 1 << bit
			if _, ok := decodeChanges(b); ok {
				t.Errorf("flipping bit %d of byte %d goes unseen", bit, n)
			}
		}
	}
	if err := os.WriteFile(path, whole[:len(whole)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	wantDoubt(t, d)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged record is kept: %v", err)
	}
}

func TestChangesGoOnToHoldWhenAVolumeGrows(t *testing.T) {
	d, ch := changedVolume(t)
	if err := d.Grow(t.Context(), "vol-1", changesSize*2); err != nil {
		t.Fatal(err)
	}
	wantChanges(t, d, ch)
}

func TestChangesOfAVolumeThatWasRead(t *testing.T) {
	d, _ := changedVolume(t)
	r, err := d.Reader("vol-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Keep("snap-2"); err != nil {
		t.Fatal(err)
	}
	wantChanges(t, d, Changes{Base: "snap-2", Blocks: []byte{0}})
	f, err := os.OpenFile(d.Path("vol-1"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), r.Keep("snap-3"), r.Close()); err == nil {
		t.Error("a volume that was changed while it was read is taken for the snapshot")
	}
	wantDoubt(t, d)
}

func TestChangesAreNotSavedWhileAMachineHasTheVolume(t *testing.T) {
	d, ch := changedVolume(t)
	release, err := d.Lock("vol-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SaveChanges(t.Context(), "vol-1", ch); !errors.Is(err, ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	release()
}

func TestChangesGoWithTheirVolume(t *testing.T) {
	d, ch := changedVolume(t)
	if _, _, err := d.CarryChanges("vol-1"); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveChanges(t.Context(), "vol-1", ch); err != nil {
		t.Fatal(err)
	}
	if ids, err := d.List(); err != nil || len(ids) != 1 {
		t.Errorf("volumes %v, %v", ids, err)
	}
	if err := d.Delete(t.Context(), "vol-1"); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(d.path, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// TestChangesOfAnotherBoot: after a power cut a file may hold what was written to
// it and have its old times.
func TestChangesOfAnotherBoot(t *testing.T) {
	d, ch := changedVolume(t)
	if err := d.SaveChanges(t.Context(), "vol-1", ch); err != nil {
		t.Fatal(err)
	}
	wantChanges(t, d, ch)
	path := d.sidecar("vol-1", changedSuffix)
	rec, err := readChanges(path)
	if err != nil {
		t.Fatal(err)
	}
	rec.boot[3]++
	if err := os.WriteFile(path, rec.encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	wantDoubt(t, d)
}

func FuzzChanges(f *testing.F) {
	f.Add(changeRecord{Changes: unchanged("snap-1", changesSize)}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if rec, ok := decodeChanges(b); ok && !bytes.Equal(rec.encode(), b) {
			t.Errorf("%x is read as %+v, which is written otherwise", b, rec)
		}
	})
}
