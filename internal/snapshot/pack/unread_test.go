package pack

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// sick is a store on a disk that can't read some bytes of one object.
type sick struct {
	objects.Store
	object   string
	from, to int64
}

func (s *sick) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if name == s.object && off < s.to && off+int64(len(p)) > s.from {
		return 0, objects.ErrDamaged
	}
	return s.Store.ReadAt(ctx, name, p, off)
}

// TestUnreadableBlob wants a block that the disk has lost to be damage like any
// other: named, noted, and healed by the next upload; and its neighbours not to
// be touched.
func TestUnreadableBlob(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 3, 5000)
	f.add(blobs...)
	p, name, err := f.find(t.Context(), id(Sum(blobs[1])))
	f.ok(err)
	object := kindPacks + "/" + name
	f.Store.objs = &sick{f.objs, object, int64(p.off) + 100, int64(p.off) + 101}
	bad := map[Digest]error{}
	f.ok(f.Verify(t.Context(), 1, func(sum Digest, _ int, err error) {
		if err != nil {
			bad[sum] = err
		}
	}))
	if len(bad) != 1 || !errors.Is(bad[Sum(blobs[1])], ErrCorrupt) {
		t.Fatalf("found %v, want the one that can't be read", bad)
	}
	_, err = f.Get(t.Context(), Sum(blobs[1]), nil)
	f.wantErr(err, ErrCorrupt)
	f.want(blobs[0], blobs[2])
	f.ok(f.Rebuild(t.Context())) // as Repair does: the note stays
	_, err = f.Stat(t.Context(), Sum(blobs[1]))
	f.wantErr(err, ErrCorrupt)
	f.add(blobs[1])
	f.want(blobs...)
}

// TestUnreadableFooter wants the blobs of a pack to be found though its footer is
// lost, and one of which a part can't be read never to be swept: nobody knows what
// is in it.
func TestUnreadableFooter(t *testing.T) {
	f := newFixture(t)
	blobs := noises(0, 8, 30_000) // more than one pack
	f.add(blobs...)
	_, name, err := f.find(t.Context(), id(Sum(blobs[0])))
	f.ok(err)
	object := kindPacks + "/" + name
	info, err := f.objs.Stat(t.Context(), object)
	f.ok(err)
	f.reopen()
	f.Store.objs = &sick{f.objs, object, info.Size - 4, info.Size}
	f.want(blobs[0])
	_, err = f.Stat(t.Context(), Sum(blobs[7]))
	f.ok(err)
	f.sweep(blobs[7])
	if _, err := f.objs.Stat(t.Context(), object); err != nil {
		t.Errorf("the pack that can't be read was swept: %v", err)
	}
	f.Store.objs = f.objs // the disk has had a bad moment
	f.reopen()
	f.want(blobs[0], blobs[1], blobs[7])
}

// TestRotOutlivesTrash puts a pack with a rotten blob into the trash and has it
// back: the blob is still known to be rotten.
func TestRotOutlivesTrash(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	sums := f.add(a, b)
	p, name, err := f.find(t.Context(), id(Sum(a)))
	f.ok(err)
	f.flip(kindPacks+"/"+name, (int64(p.off)+200)*8)
	_, err = f.Get(t.Context(), Sum(a), nil)
	f.wantErr(err, ErrCorrupt)
	f.sweep()
	f.ok(f.Rebuild(t.Context()))
	f.ok(f.Recover(t.Context(), sums[1:]))
	for range 2 {
		f.want(b)
		u := f.begin()
		f.wantErr(u.Keep(t.Context(), Sum(a)), ErrCorrupt)
		u.Close()
		f.reopen()
	}
	// With a rotten blob, too, the rest is worth having.
	f.ok(f.Recover(t.Context(), sums))
	f.sweep()
	f.time.now = f.time.now.Add(30 * 24 * time.Hour)
	_, err = f.ExpireTrash(t.Context())
	f.ok(err)
	if left := f.files(kindRot); len(left) != 0 {
		t.Errorf("notes %v of a pack that is gone for good", left)
	}
}

// restless lets go of the index whenever the trash is listed.
type restless struct {
	objects.Store
	rest func()
}

func (r *restless) List(ctx context.Context, kind string, fn func(objects.Info) error) error {
	if kind == kindTrash {
		r.rest()
	}
	return r.Store.List(ctx, kind, fn)
}

// TestRestWhileRecovering lets go of the index in the middle of bringing blobs
// back: what isn't in the trash isn't lost, it is where it was.
func TestRestWhileRecovering(t *testing.T) {
	f := newFixture(t)
	a, b := noise(1, 5000), noise(2, 5000)
	sums := append(f.add(a), f.add(b)...)
	f.sweep(b)
	f.Store.objs = &restless{f.objs, f.Rest}
	f.ok(f.Recover(t.Context(), sums))
	f.want(a, b)
}

// TestDeletedLastComesFirst deletes two roots of one name within a second.
func TestDeletedLastComesFirst(t *testing.T) {
	f := newFixture(t)
	for _, root := range []string{"first", "second"} {
		f.ok(f.CreateRoot(t.Context(), "snap-1", []byte(root)))
		f.ok(f.DeleteRoot(t.Context(), "snap-1"))
		f.time.now = f.time.now.Add(time.Millisecond)
	}
	roots, err := f.DeletedRoots(t.Context())
	f.ok(err)
	raw, err := f.DeletedRootData(t.Context(), roots[0])
	if err != nil || !bytes.Equal(raw, []byte("second")) {
		t.Errorf("%q comes first (%v), want the one deleted last", raw, err)
	}
}

// forgetful does what it is asked and says that it was done before, or that it
// can't: the answer of an attempt was lost.
type forgetful struct {
	objects.Store
	renames int // that fail
}

func (s *forgetful) Create(ctx context.Context, name string, data []byte) error {
	if err := s.Store.Create(ctx, name, data); err != nil {
		return err
	}
	return objects.ErrExists
}

func (s *forgetful) Rename(ctx context.Context, from, to string) error {
	err := s.Store.Rename(ctx, from, to)
	if s.renames--; s.renames >= 0 {
		return errors.Join(objects.ErrUnavailable, err)
	}
	return err
}

// TestLostAnswers wants what was done to count, also for those who learn only
// later that it was.
func TestLostAnswers(t *testing.T) {
	dir, err := objects.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lost := &forgetful{Store: dir}
	s, err := Open(t.Context(), lost, slog.New(slog.DiscardHandler), Options{PackSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, Store: s, objs: dir, time: &clock{}}
	t.Cleanup(f.shut)
	a := noise(1, 5000)
	sums := f.add(a)
	f.want(a)
	f.sweep()
	lost.renames = 1
	f.wantErr(f.Recover(t.Context(), sums), objects.ErrUnavailable)
	f.ok(f.Recover(t.Context(), sums))
	f.want(a)
}
