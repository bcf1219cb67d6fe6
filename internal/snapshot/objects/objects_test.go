package objects_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
	"github.com/steadcloud/stead/internal/snapshot/objects/bucket"
	"github.com/steadcloud/stead/internal/snapshot/objects/objectstest"
	"github.com/steadcloud/stead/internal/snapshot/objects/strictfs"
)

func openDir(t *testing.T) objects.Store {
	d, err := objects.OpenDir(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func openStrict(t *testing.T) objects.Store {
	root := t.TempDir()
	d, err := objects.OpenDirOn(strictfs.New(root), root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStores(t *testing.T) {
	stores := map[string]func(t *testing.T) objects.Store{
		"Dir":      openDir,
		"StrictFS": openStrict,
		"Limit":    func(t *testing.T) objects.Store { return objects.Limit(openDir(t), 1<<30, 1<<30) },
		"Concurrency": func(t *testing.T) objects.Store {
			return objects.Concurrency(openDir(t), 1)
		},
		"Retry": func(t *testing.T) objects.Store {
			return objects.Retry(&moody{Store: openDir(t)}, slog.New(slog.DiscardHandler), 40, time.Microsecond)
		},
		"Bucket": func(t *testing.T) objects.Store {
			b := bucket.New(rand.Uint64())
			b.Trouble, b.Stale = 25, 20
			return objects.Retry(openBucket(t, b, time.Now), slog.New(slog.DiscardHandler), 60, time.Microsecond)
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { objectstest.Run(t, open) })
	}
}

func openBucket(t *testing.T, b *bucket.Bucket, now func() time.Time) *bucket.Store {
	t.Helper()
	for {
		s, err := bucket.Open(t.Context(), b, now, time.Minute)
		if err == nil {
			return s
		}
		if !errors.Is(err, objects.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// TestBucketHasOneWriter wants a second writer to be refused while the first has
// its lease, and the first once the second has it.
func TestBucketHasOneWriter(t *testing.T) {
	b, now := bucket.New(1), time.Now()
	clock := func() time.Time { return now }
	first := openBucket(t, b, clock)
	for i := range 5 { // it renews what it uses
		now = now.Add(40 * time.Second)
		if err := create(first, fmt.Sprintf("packs/%d", i), "mine"); err != nil {
			t.Fatal(err)
		}
		if _, err := bucket.Open(t.Context(), b, clock, time.Minute); !errors.Is(err, objects.ErrLocked) {
			t.Fatalf("a second writer: %v, want ErrLocked", err)
		}
	}
	now = now.Add(time.Minute)
	second := openBucket(t, b, clock)
	for name, err := range map[string]error{
		"create": create(first, "packs/a", "mine"),
		"delete": first.Delete(t.Context(), "packs/1"),
		"rename": first.Rename(t.Context(), "packs/1", "trash/1"),
	} {
		if !errors.Is(err, objects.ErrLocked) {
			t.Errorf("%s without the lease: %v, want ErrLocked", name, err)
		}
	}
	if err := create(second, "packs/a", "theirs"); err != nil {
		t.Error(err)
	}
	_ = first.Close()
	if err := create(second, "packs/b", "theirs"); err != nil {
		t.Error(err)
	}
	_ = second.Close()
	_ = openBucket(t, b, clock).Close()
}

// linked is a filesystem that can't rename without replacing, and on which the
// process dies between the two steps that stand for it.
type linked struct {
	objects.OS
	dies bool
}

func (l *linked) Publish(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	if l.dies {
		l.dies = false
		return errors.New("killed")
	}
	return os.Remove(from)
}

// TestRenameGoesOn has a rename interrupted while the object has both names.
func TestRenameGoesOn(t *testing.T) {
	disk := &linked{}
	s, err := objects.OpenDirOn(disk, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := create(s, "packs/a", "aaaa"); err != nil {
		t.Fatal(err)
	}
	disk.dies = true
	if err := s.Rename(t.Context(), "packs/a", "trash/a"); err == nil {
		t.Fatal("it wasn't interrupted")
	}
	if err := s.Rename(t.Context(), "packs/a", "trash/a"); err != nil {
		t.Fatal(err)
	}
	if a, trash := content(t, s, "packs/a"), content(t, s, "trash/a"); a != "" || trash != "aaaa" {
		t.Errorf("it is %q and %q, want one in the trash", a, trash)
	}
}

// moody is unavailable half of the time: before it does what it is asked, or
// after.
type moody struct{ objects.Store }

func (m *moody) mood(do func() error) error {
	switch rand.IntN(4) {
	case 0:
		return objects.ErrUnavailable
	case 1:
		return errors.Join(objects.ErrUnavailable, do())
	}
	return do()
}

func (m *moody) Create(ctx context.Context, name string, data []byte) error {
	return m.mood(func() error { return m.Store.Create(ctx, name, data) })
}

func (m *moody) ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error) {
	err = m.mood(func() (err error) { n, err = m.Store.ReadAt(ctx, name, p, off); return err })
	return n, err
}

func (m *moody) List(ctx context.Context, kind string, fn func(objects.Info) error) error {
	return m.mood(func() error {
		return m.Store.List(ctx, kind, func(i objects.Info) error {
			if rand.IntN(8) == 0 {
				return objects.ErrUnavailable // a page that doesn't come
			}
			return fn(i)
		})
	})
}

func (m *moody) Rename(ctx context.Context, from, to string) error {
	return m.mood(func() error { return m.Store.Rename(ctx, from, to) })
}

func TestRetryGivesUp(t *testing.T) {
	down := &down{}
	s := objects.Retry(down, slog.New(slog.DiscardHandler), 3, time.Microsecond)
	if err := s.Create(t.Context(), "packs/a", nil); !errors.Is(err, objects.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	if n := down.calls.Load(); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

type down struct {
	objects.Store
	calls atomic.Int64
}

func (d *down) Create(context.Context, string, []byte) error {
	d.calls.Add(1)
	return objects.ErrUnavailable
}

// TestRetryDoesNotAdopt wants a name that somebody else has taken with other
// bytes to stay taken, also when an answer was lost in between.
func TestRetryDoesNotAdopt(t *testing.T) {
	inner := openDir(t)
	t.Cleanup(func() { _ = inner.Close() })
	if err := inner.Create(t.Context(), "packs/a", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	s := objects.Retry(&lostOnce{Store: inner}, slog.New(slog.DiscardHandler), 3, time.Microsecond)
	if err := s.Create(t.Context(), "packs/a", []byte("mine")); !errors.Is(err, objects.ErrExists) {
		t.Errorf("error %v, want ErrExists", err)
	}
}

type lostOnce struct {
	objects.Store
	lost bool
}

func (l *lostOnce) Create(ctx context.Context, name string, data []byte) error {
	if !l.lost {
		l.lost = true
		return objects.ErrUnavailable
	}
	return l.Store.Create(ctx, name, data)
}

func TestConcurrencyIsBounded(t *testing.T) {
	busy := &busy{Store: openDir(t)}
	s := objects.Concurrency(busy, 3)
	t.Cleanup(func() { _ = s.Close() })
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if err := s.Create(t.Context(), fmt.Sprintf("packs/%d", i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most := busy.most.Load(); most != 3 {
		t.Errorf("%d at a time, want 3", most)
	}
}

type busy struct {
	objects.Store
	now, most atomic.Int64
}

func (b *busy) Create(ctx context.Context, name string, data []byte) error {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for {
		most := b.most.Load()
		if n <= most || b.most.CompareAndSwap(most, n) {
			break
		}
	}
	time.Sleep(time.Millisecond)
	return b.Store.Create(ctx, name, data)
}

func TestLimitSlowsDown(t *testing.T) {
	s := objects.Limit(openDir(t), 10_000, 0)
	t.Cleanup(func() { _ = s.Close() })
	start := time.Now()
	for i := range 3 {
		if err := s.Create(t.Context(), fmt.Sprintf("packs/%d", i), make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	// The first thousand pass at once, the rest at ten thousand a second.
	if took := time.Since(start); took < 190*time.Millisecond {
		t.Errorf("3000 bytes took %v at 10,000 a second", took)
	}
}

func TestDirIsForOneProcess(t *testing.T) {
	path := t.TempDir()
	first, err := objects.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.OpenDir(path); !errors.Is(err, objects.ErrLocked) {
		t.Errorf("the second open: %v, want ErrLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := objects.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// TestPowerCut cuts the power at every change of the filesystem, wants what was
// answered to be so in all that may be left, what wasn't to be whole or absent,
// and the same steps to succeed when done again.
func TestPowerCut(t *testing.T) {
	root := t.TempDir()
	steps := []struct {
		name string
		do   func(s objects.Store) error
		// want is the contents under a name from then on, nil for none.
		want map[string]string
	}{
		{"create a", func(s objects.Store) error { return create(s, "packs/a", "aaaa") }, map[string]string{"packs/a": "aaaa"}},
		{"create b", func(s objects.Store) error { return create(s, "roots/b", "bb") }, map[string]string{"roots/b": "bb"}},
		{"rename a", func(s objects.Store) error { return s.Rename(context.Background(), "packs/a", "trash/a") }, map[string]string{"packs/a": "", "trash/a": "aaaa"}},
		{"delete b", func(s objects.Store) error { return s.Delete(context.Background(), "roots/b") }, map[string]string{"roots/b": ""}},
		{"create a again", func(s objects.Store) error { return create(s, "packs/a", "other") }, map[string]string{"packs/a": "other"}},
		{"delete trash", func(s objects.Store) error { return s.Delete(context.Background(), "trash/a") }, map[string]string{"trash/a": ""}},
	}
	cut, outcomes := errors.New("power cut"), 0
	for k, hit := 1, true; hit; k++ {
		disk, n := strictfs.New(root), 0
		disk.Before = func(string, string) error {
			if n++; n >= k {
				return cut
			}
			return nil
		}
		want, doing := map[string]string{}, ""
		if s, err := objects.OpenDirOn(disk, root); err == nil {
			for _, step := range steps {
				if doing = step.name; step.do(s) != nil {
					break
				}
				doing = ""
				for name, data := range step.want {
					want[name] = data
				}
			}
			_ = s.Close()
		}
		hit = n >= k
		for left := range disk.Crashes(uint64(k), 64) {
			outcomes++
			s, err := objects.OpenDirOn(left, root)
			if err != nil {
				t.Fatalf("cut at %d: %v", k, err)
			}
			at := fmt.Sprintf("cut at %d in %q, left:\n%s", k, doing, left)
			var after map[string]string // what the step under way may have done
			for _, step := range steps {
				if step.name == doing {
					after = step.want
				}
			}
			for _, name := range []string{"packs/a", "roots/b", "trash/a"} {
				got := content(t, s, name)
				if may, ok := after[name]; got != want[name] && (!ok || got != may) {
					t.Fatalf("%s holds %q, want %q or %q: %s", name, got, want[name], may, at)
				}
			}
			if doing == "rename a" && content(t, s, "packs/a")+content(t, s, "trash/a") == "" {
				t.Fatalf("a is nowhere: %s", at)
			}
			_ = s.Close()
		}
	}
	if outcomes < 100 {
		t.Errorf("only %d outcomes: the test has lost its teeth", outcomes)
	}
}

func create(s objects.Store, name, data string) error {
	return s.Create(context.Background(), name, []byte(data))
}

func content(t *testing.T, s objects.Store, name string) string {
	t.Helper()
	p := make([]byte, 100)
	n, err := s.ReadAt(t.Context(), name, p, 0)
	if err != nil && n == 0 && !errors.Is(err, objects.ErrNotFound) {
		t.Fatalf("%s: %v", name, err)
	}
	return string(p[:n])
}

// TestFailedSyncIsNotTrusted wants a file whose sync failed to be gone, and the
// next attempt to write it anew.
func TestFailedSyncIsNotTrusted(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	s, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	fails := true
	disk.Before = func(op, _ string) error {
		if op == "sync" && fails {
			fails = false
			return syscall.EIO
		}
		return nil
	}
	if err := create(s, "packs/a", "aaaa"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("error %v, want EIO", err)
	}
	if got := content(t, s, "packs/a"); got != "" {
		t.Errorf("%q is there after a failed sync", got)
	}
	if err := create(s, "packs/a", "aaaa"); err != nil {
		t.Fatal(err)
	}
}

// TestTakenNameMustLast wants a name that is taken to be told of only when it is
// known to outlive a power cut: the caller relies on what is there.
func TestTakenNameMustLast(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	s, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	disk.Before = func(op, path string) error {
		if op == "syncdir" && path == "packs" {
			return syscall.EIO
		}
		return nil
	}
	for range 2 { // the second finds what the first may not have made durable
		if err := create(s, "packs/a", "aaaa"); !errors.Is(err, syscall.EIO) || errors.Is(err, objects.ErrExists) {
			t.Fatalf("error %v, want EIO alone", err)
		}
	}
	disk.Before = nil
	if err := create(s, "packs/a", "aaaa"); !errors.Is(err, objects.ErrExists) {
		t.Fatalf("error %v, want ErrExists", err)
	}
}

// deaf is a disk that can't read its files.
type deaf struct{ objects.OS }

type deafFile struct{ objects.File }

func (deafFile) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

func (d deaf) Open(path string) (objects.File, error) {
	f, err := d.OS.Open(path)
	return deafFile{f}, err
}

func TestUnreadableObject(t *testing.T) {
	s, err := objects.OpenDirOn(deaf{}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := create(s, "packs/a", "aaaa"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAt(t.Context(), "packs/a", make([]byte, 4), 0); !errors.Is(err, objects.ErrDamaged) || !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want ErrDamaged", err)
	}
}

func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	disk := strictfs.New(root)
	s, err := objects.OpenDirOn(disk, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	disk.Before = func(op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	if err := create(s, "packs/a", "aaaa"); !errors.Is(err, objects.ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
	disk.Before = nil
	if err := create(s, "packs/a", "aaaa"); err != nil {
		t.Error(err)
	}
}
