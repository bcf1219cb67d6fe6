package pack

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/objects/strictfs"
)

func TestFullStore(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	objs, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objs.Close() }()
	s, err := Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{PackSize: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, Store: s}
	before := noises(0, 5, 3000)
	f.add(before...)
	var full atomic.Bool
	full.Store(true)
	disk.Before = func(op, _ string) error {
		if op == "write" && full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}
	after := noises(10, 20, 3000)
	u := f.begin()
	for _, b := range after {
		f.put(u, b)
	}
	f.wantErr(u.Flush(t.Context()), objects.ErrNoSpace)
	u.Close()
	f.want(before...)
	full.Store(false)
	f.add(after...)
	f.want(after...)
}

// TestPowerCut cuts the power at every change of the filesystem during an
// upload, a deletion and a sweep, and wants all that was promised in everything
// that may be left.
func TestPowerCut(t *testing.T) {
	root := t.TempDir()
	old, gone, fresh := noises(0, 6, 700), noises(20, 6, 700), noises(40, 6, 700)
	old = append(old, gone[3]) // in a pack of the dead
	ctx, cut, outcomes := context.Background(), errors.New("power cut"), 0
	open := func(disk *strictfs.FS) (*fixture, error) {
		objs, err := objects.OpenDirOn(disk, root)
		if err != nil {
			return nil, err
		}
		s, err := Open(ctx, objs, slog.New(slog.DiscardHandler), Options{PackSize: 2000})
		if err != nil {
			_ = objs.Close()
			return nil, err
		}
		return &fixture{T: t, Store: s, objs: objs}, nil
	}
	for k, hit := 1, true; hit; k++ {
		disk, n := strictfs.New(root), 0
		f, err := open(disk)
		if err != nil {
			t.Fatal(err)
		}
		f.add(append(gone, old...)...)
		disk.Before = func(string, string) error {
			if n++; n >= k {
				return cut
			}
			return nil
		}
		promised := false
		func() { // a life
			u, err := f.Begin(ctx)
			if err != nil {
				return
			}
			defer u.Close()
			for _, b := range fresh {
				if _, err := u.Put(ctx, Block, Sum(b), b); err != nil {
					return
				}
			}
			if u.Flush(ctx) != nil || f.CreateRoot(ctx, "snap-1", []byte("root")) != nil {
				return
			}
			promised = true
			u.Close()
			w, err := f.BeginSweep(ctx)
			if err != nil {
				return
			}
			defer w.Close()
			_, _ = w.Run(ctx, marked(append(old, fresh...)...))
		}()
		f.Close()
		_ = f.objs.Close()
		hit = n >= k
		for left := range disk.Crashes(uint64(k), 32) {
			outcomes++
			f, err := open(left)
			if err != nil {
				t.Fatalf("cut at %d: %v", k, err)
			}
			_, err = f.Root(ctx, "snap-1")
			if there := err == nil; promised && !there {
				t.Fatalf("cut at %d: the root is gone, left:\n%s", k, left)
			} else if there {
				f.want(fresh...)
			}
			f.want(old...)
			f.add(fresh...)
			f.sweep(append(old, fresh...)...)
			f.want(append(old, fresh...)...)
			f.Close()
			_ = f.objs.Close()
		}
	}
	if outcomes < 100 {
		t.Errorf("only %d outcomes: the test has lost its teeth", outcomes)
	}
}

// TestCommitOrder writes down what reaches the disk, and when.
func TestCommitOrder(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	var trace []string
	disk.Before = func(op, path string) error {
		if kind, _, ok := strings.Cut(path, "/"); ok {
			path = kind + "/…"
		}
		trace = append(trace, op+" "+path)
		return nil
	}
	objs, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objs.Close() }()
	s, err := Open(t.Context(), objs, slog.New(slog.DiscardHandler), Options{})
	if err != nil {
		t.Fatal(err)
	}
	trace = nil
	f := &fixture{T: t, Store: s}
	f.add(noise(1, 100))
	f.ok(f.CreateRoot(t.Context(), "snap-1", []byte("root")))
	want := []string{
		"mkdir packs", "syncdir .", "create tmp/…", "write tmp/…", "sync tmp/…", "publish packs/…", "syncdir packs",
		"mkdir snapshots", "syncdir .", "create tmp/…", "write tmp/…", "sync tmp/…", "publish snapshots/…", "syncdir snapshots",
	}
	if !slices.Equal(trace, want) {
		t.Errorf("commit order:\n%s\nwant:\n%s", strings.Join(trace, "\n"), strings.Join(want, "\n"))
	}
}
