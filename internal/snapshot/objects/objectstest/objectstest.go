// Package objectstest holds stores of objects to the contract of objects.Store.
package objectstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// Run tests the stores that open returns. Each call must return an empty one;
// Run closes it.
func Run(t *testing.T, open func(t *testing.T) objects.Store) {
	tests := []struct {
		name string
		run  func(*fixture)
	}{
		{"ObjectsComeBack", objectsComeBack},
		{"ReadsAtOffsets", readsAtOffsets},
		{"NamesAreTaken", namesAreTaken},
		{"OneOfManyCreates", oneOfManyCreates},
		{"AbsentIsNotFound", absentIsNotFound},
		{"BadNames", badNames},
		{"KindsAreApart", kindsAreApart},
		{"WalkStopsAtError", walkStopsAtError},
		{"WalkMayDelete", walkMayDelete},
		{"DeletedNameIsFree", deletedNameIsFree},
		{"RenameMoves", renameMoves},
		{"RenameIsRepeatable", renameIsRepeatable},
		{"CallerKeepsItsBytes", callerKeepsItsBytes},
		{"CancelledContext", cancelledContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fixture{T: t, Store: open(t)}
			t.Cleanup(func() {
				if err := f.Close(); err != nil {
					t.Errorf("close store: %v", err)
				}
			})
			test.run(f)
		})
	}
}

type fixture struct {
	*testing.T
	objects.Store
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error %v, want %v", err, want)
	}
}

func (f *fixture) add(name string, data []byte) {
	f.Helper()
	f.ok(f.Create(f.Context(), name, data))
}

// wantObject reads the object past its end.
func (f *fixture) wantObject(name string, want []byte) {
	f.Helper()
	got := make([]byte, len(want)+10)
	n, err := f.ReadAt(f.Context(), name, got, 0)
	f.wantErr(err, io.EOF)
	if !bytes.Equal(got[:n], want) {
		f.Fatalf("%s: %d bytes, want the %d that were put", name, n, len(want))
	}
}

func (f *fixture) wantNames(kind string, want ...string) {
	f.Helper()
	var got []string
	f.ok(f.List(f.Context(), kind, func(i objects.Info) error {
		got = append(got, i.Name)
		return nil
	}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.Fatalf("%s holds %q, want %q", kind, got, want)
	}
}

func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func objectsComeBack(f *fixture) {
	for i, size := range []int{0, 1, 511, 4096, 65537, 3 << 20} {
		name, data := fmt.Sprintf("packs/p-%d", i), noise(uint64(i), size)
		f.add(name, data)
		f.wantObject(name, data)
		info, err := f.Stat(f.Context(), name)
		f.ok(err)
		if info.Name != name || info.Size != int64(size) {
			f.Errorf("Stat %+v, want %s of %d bytes", info, name, size)
		}
	}
}

func readsAtOffsets(f *fixture) {
	data := noise(1, 10_000)
	f.add("packs/a", data)
	for _, off := range []int64{0, 1, 4095, 9_990} {
		p := make([]byte, 10)
		n, err := f.ReadAt(f.Context(), "packs/a", p, off)
		if n != 10 || err != nil && !errors.Is(err, io.EOF) {
			f.Fatalf("10 bytes at %d: %d, %v", off, n, err)
		}
		if !bytes.Equal(p, data[off:off+10]) {
			f.Errorf("wrong bytes at %d", off)
		}
	}
	n, err := f.ReadAt(f.Context(), "packs/a", make([]byte, 10), 9_995)
	if n != 5 || !errors.Is(err, io.EOF) {
		f.Errorf("10 bytes 5 before the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(f.Context(), "packs/a", make([]byte, 10), 20_000); n != 0 || !errors.Is(err, io.EOF) {
		f.Errorf("10 bytes past the end: %d, %v", n, err)
	}
}

func namesAreTaken(f *fixture) {
	f.add("packs/a", []byte("first"))
	f.wantErr(f.Create(f.Context(), "packs/a", []byte("second")), objects.ErrExists)
	f.wantObject("packs/a", []byte("first"))
}

func oneOfManyCreates(f *fixture) {
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			switch err := f.Create(f.Context(), "packs/a", noise(uint64(i), 50_000)); {
			case err == nil:
				if !won.CompareAndSwap(0, int64(i)+1) {
					f.Error("two have created one name")
				}
			case !errors.Is(err, objects.ErrExists):
				f.Error(err)
			}
		})
	}
	wg.Wait()
	f.wantObject("packs/a", noise(uint64(won.Load()-1), 50_000))
}

func absentIsNotFound(f *fixture) {
	_, err := f.ReadAt(f.Context(), "packs/a", make([]byte, 1), 0)
	f.wantErr(err, objects.ErrNotFound)
	_, err = f.Stat(f.Context(), "packs/a")
	f.wantErr(err, objects.ErrNotFound)
	f.wantErr(f.Rename(f.Context(), "packs/a", "trash/a"), objects.ErrNotFound)
	f.ok(f.Delete(f.Context(), "packs/a"))
	f.wantNames("packs")
}

func badNames(f *fixture) {
	longest := "packs/" + strings.Repeat("a", 200)
	f.ok(f.Create(f.Context(), longest, nil))
	for _, name := range []string{"", "a", "packs/", "/a", "packs/../a", "packs/.a", "packs/a/b", "Packs/a", "packs/a b", "../packs/a", longest + "a"} {
		f.wantErr(f.Create(f.Context(), name, nil), objects.ErrInvalid)
		_, err := f.ReadAt(f.Context(), name, make([]byte, 1), 0)
		f.wantErr(err, objects.ErrInvalid)
		_, err = f.Stat(f.Context(), name)
		f.wantErr(err, objects.ErrInvalid)
		f.wantErr(f.Delete(f.Context(), name), objects.ErrInvalid)
		f.wantErr(f.Rename(f.Context(), name, "packs/b"), objects.ErrInvalid)
		f.wantErr(f.Rename(f.Context(), "packs/b", name), objects.ErrInvalid)
	}
	nothing := func(objects.Info) error { return nil }
	f.wantErr(f.List(f.Context(), "..", nothing), objects.ErrInvalid)
	f.wantErr(f.List(f.Context(), "", nothing), objects.ErrInvalid)
}

func kindsAreApart(f *fixture) {
	f.add("packs/a", nil)
	f.add("packs/b", nil)
	f.add("roots/a", nil)
	f.wantNames("packs", "packs/a", "packs/b")
	f.wantNames("roots", "roots/a")
	f.wantNames("trash")
}

func walkStopsAtError(f *fixture) {
	f.add("packs/a", nil)
	f.add("packs/b", nil)
	enough, calls := errors.New("enough"), 0
	f.wantErr(f.List(f.Context(), "packs", func(objects.Info) error { calls++; return enough }), enough)
	if calls != 1 {
		f.Errorf("%d calls after the first error", calls-1)
	}
}

func walkMayDelete(f *fixture) {
	for i := range 20 {
		f.add(fmt.Sprintf("packs/%d", i), nil)
	}
	f.ok(f.List(f.Context(), "packs", func(i objects.Info) error { return f.Delete(f.Context(), i.Name) }))
	f.wantNames("packs")
}

func deletedNameIsFree(f *fixture) {
	f.add("packs/a", []byte("first"))
	f.wantObject("packs/a", []byte("first"))
	f.ok(f.Delete(f.Context(), "packs/a"))
	_, err := f.ReadAt(f.Context(), "packs/a", make([]byte, 1), 0)
	f.wantErr(err, objects.ErrNotFound)
	f.add("packs/a", []byte("second"))
	f.wantObject("packs/a", []byte("second"))
}

func renameMoves(f *fixture) {
	f.add("packs/a", []byte("first"))
	f.wantObject("packs/a", []byte("first"))
	f.ok(f.Rename(f.Context(), "packs/a", "trash/b"))
	f.wantObject("trash/b", []byte("first"))
	f.wantNames("packs")
	f.add("packs/a", []byte("second"))
	f.wantErr(f.Rename(f.Context(), "packs/a", "trash/b"), objects.ErrExists)
	f.wantObject("packs/a", []byte("second"))
	f.wantObject("trash/b", []byte("first"))
}

func renameIsRepeatable(f *fixture) {
	f.add("packs/a", []byte("first"))
	for range 2 {
		f.ok(f.Rename(f.Context(), "packs/a", "trash/a"))
	}
	f.wantObject("trash/a", []byte("first"))
}

func callerKeepsItsBytes(f *fixture) {
	data := []byte("mine")
	f.add("packs/a", data)
	copy(data, "gone")
	f.wantObject("packs/a", []byte("mine"))
}

func cancelledContext(f *fixture) {
	f.add("packs/a", []byte("first"))
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	f.wantErr(f.Create(ctx, "packs/b", nil), context.Canceled)
	_, err := f.ReadAt(ctx, "packs/a", make([]byte, 1), 0)
	f.wantErr(err, context.Canceled)
	_, err = f.Stat(ctx, "packs/a")
	f.wantErr(err, context.Canceled)
	f.wantErr(f.List(ctx, "packs", func(objects.Info) error { return nil }), context.Canceled)
	f.wantErr(f.Rename(ctx, "packs/a", "packs/c"), context.Canceled)
	f.wantErr(f.Delete(ctx, "packs/a"), context.Canceled)
	f.wantNames("packs", "packs/a")
}
