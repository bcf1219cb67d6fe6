package pack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// stampLayout dates what is in the trash, in names that sort by date. Nine
// digits of nanoseconds follow.
const stampLayout = "20060102T150405"

// CreateRoot keeps the root of a snapshot, durably; all that it leads to must be
// so before. A name that is taken is objects.ErrExists, one that can't be used
// objects.ErrInvalid.
func (s *Store) CreateRoot(ctx context.Context, name string, root []byte) error {
	return s.objs.Create(ctx, kindRoots+"/"+name, root)
}

// Root returns what CreateRoot was given: ErrNotFound where there is none.
func (s *Store) Root(ctx context.Context, name string) ([]byte, error) {
	raw, err := s.readAll(ctx, kindRoots+"/"+name)
	if errors.Is(err, objects.ErrNotFound) {
		err = fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	return raw, err
}

// Roots returns the names of all roots in order.
func (s *Store) Roots(ctx context.Context) ([]string, error) {
	return s.names(ctx, kindRoots)
}

func (s *Store) names(ctx context.Context, kind string) ([]string, error) {
	var names []string
	err := s.objs.List(ctx, kind, func(i objects.Info) error {
		names = append(names, strings.TrimPrefix(i.Name, kind+"/"))
		return nil
	})
	slices.Sort(names)
	return names, err
}

// DeleteRoot takes a root away, durably; an absent one is fine. It can be had
// back by RestoreRoot while the trash keeps it.
func (s *Store) DeleteRoot(ctx context.Context, name string) error {
	if s.opts.Trash < 0 {
		return s.objs.Delete(ctx, kindRoots+"/"+name)
	}
	err := s.rename(ctx, kindRoots+"/"+name, kindDeleted, name)
	if errors.Is(err, objects.ErrNotFound) {
		return nil
	}
	return err
}

// rename puts an object among the dated ones of a kind.
func (s *Store) rename(ctx context.Context, object, kind, name string) error {
	for at := s.opts.Now().UTC(); ; at = at.Add(1) {
		to := fmt.Sprintf("%s/%s%09d.%s", kind, at.Format(stampLayout), at.Nanosecond(), name)
		if err := s.objs.Rename(ctx, object, to); !errors.Is(err, objects.ErrExists) {
			return err
		}
	}
}

// DeletedRoot is a root in the trash.
type DeletedRoot struct {
	Name    string
	Deleted time.Time
	Until   time.Time // when it is gone for good

	object string
}

// DeletedRoots lists the roots in the trash, the newest first.
func (s *Store) DeletedRoots(ctx context.Context) ([]DeletedRoot, error) {
	names, err := s.names(ctx, kindDeleted)
	if err != nil {
		return nil, err
	}
	var roots []DeletedRoot
	for _, n := range names {
		if at, name, ok := parseStamp(n); ok {
			roots = append(roots, DeletedRoot{Name: name, Deleted: at, Until: at.Add(s.opts.Trash), object: kindDeleted + "/" + n})
		}
	}
	slices.SortStableFunc(roots, func(a, b DeletedRoot) int { return b.Deleted.Compare(a.Deleted) })
	return roots, nil
}

// parseStamp takes a name in the trash apart.
func parseStamp(n string) (at time.Time, name string, ok bool) {
	stamp, name, ok := strings.Cut(n, ".")
	if !ok || len(stamp) != len(stampLayout)+9 {
		return at, "", false
	}
	at, err := time.Parse(stampLayout, stamp[:len(stampLayout)])
	nanos, nerr := strconv.Atoi(stamp[len(stampLayout):])
	return at.Add(time.Duration(nanos)), name, err == nil && nerr == nil
}

// DeletedRootData returns the contents of a root in the trash.
func (s *Store) DeletedRootData(ctx context.Context, r DeletedRoot) ([]byte, error) {
	return s.readAll(ctx, r.object)
}

// RestoreRoot brings a root back from the trash, whose blobs are all there: see
// Recover. objects.ErrExists says that there is one of that name again.
func (s *Store) RestoreRoot(ctx context.Context, r DeletedRoot) error {
	return s.objs.Rename(ctx, r.object, kindRoots+"/"+r.Name)
}
