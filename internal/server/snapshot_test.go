package server_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// lackSets is an endpoint without CreateSnapshots.
type lackSets struct{ server.EC2 }

func (lackSets) CreateSnapshots(context.Context, *ec2.CreateSnapshotsInput, ...func(*ec2.Options)) (*ec2.CreateSnapshotsOutput, error) {
	return nil, &smithy.GenericAPIError{Code: "InvalidAction", Message: "The action CreateSnapshots is not valid for this web service."}
}

// running starts a server that is snapshotted while it runs. A local cloud
// without machines can't do that, and there it is stopped.
func (b *bench) running(m *server.Manager, o server.CreateOptions) *server.Server {
	b.t.Helper()
	web, err := m.Create(context.Background(), o)
	b.check(err)
	if !b.isMoto() {
		_, err = m.Stop(context.Background(), "web", true)
		b.check(err)
	}
	return web
}

// Disks that are written to together are taken together, or not at all: half
// an array of one instant and half of another is no array.
func TestTrap09OneInstant(t *testing.T) {
	t.Parallel()
	onBoth(t, testTrap09OneInstant)
}

func testTrap09OneInstant(t *testing.T, b *bench, _ *killer) {
	ctx := t.Context()
	m := b.manager(b.client)
	web := b.running(m, b.webOptions())
	set, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Wait: true})
	if err != nil || !set.OneInstant || !set.Complete || len(set.Snapshots) != 3 || set.SizeGiB != 35 || set.By != server.ByHand {
		t.Errorf("took %+v, %v", set, err)
	}
	parts := map[string]int{server.RoleRoot: 1, server.RoleData: 2}
	for part, want := range parts {
		set, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Part: part, Wait: true})
		if err != nil || set.Part != part || !set.Complete || len(set.Snapshots) != want || set.Snapshots[0].Role != part || !set.OneInstant {
			t.Errorf("the %s alone: %+v, %v", part, set, err)
		}
	}
	lack := b.manager(lackSets{b.client})
	if b.isMoto() {
		before := b.inventory().snapshots
		_, err = lack.Snapshot(ctx, "web", server.SnapshotOptions{})
		if server.KindOf(err) != server.KindUnsupported || !strings.Contains(server.Remedy(err), "stead stop web") || b.inventory().snapshots != before {
			t.Errorf("three running disks one after the other: %v", err)
		}
		set, err = lack.Snapshot(ctx, "web", server.SnapshotOptions{Loose: true, Note: "loose", Wait: true})
		if err != nil || set.OneInstant || !set.Complete {
			t.Errorf("as agreed to: %+v, %v", set, err)
		}
		_, err = m.Stop(ctx, "web", true)
		b.check(err)
	}
	for _, state := range []string{"stopped", "detached"} {
		set, err := lack.Snapshot(ctx, "web", server.SnapshotOptions{Note: state, Wait: true})
		if err != nil || !set.OneInstant || !set.Complete || len(set.Snapshots) != 3 {
			t.Errorf("%s: %+v, %v", state, set, err)
		}
		_, err = m.Terminate(ctx, "web")
		b.check(err)
	}
	// A part never stands for the whole.
	b.deleteVolume(web.Root.VolumeID)
	if _, err := m.Snapshot(ctx, "web", server.SnapshotOptions{}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("without its root: %v", err)
	}
	if set, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Part: server.RoleData, Wait: true}); err != nil || set.Part != server.RoleData {
		t.Errorf("without its root, the data: %+v, %v", set, err)
	}
}

// lost loses the answer to the first call of an action that was carried out.
type lost struct {
	action string
	mu     sync.Mutex
	done   bool
	calls  int
}

func (l *lost) RoundTrip(r *http.Request) (*http.Response, error) {
	action := actionOf(r)
	res, err := http.DefaultTransport.RoundTrip(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if action != l.action || err != nil {
		return res, err
	}
	if l.calls++; l.done {
		return res, nil
	}
	l.done = true
	_ = res.Body.Close()
	return nil, errors.New("the connection broke")
}

// CreateSnapshot and CreateSnapshots take no client token: when an answer is
// lost, what was made is looked for before anything is made again.
func TestTrap15LostAnswers(t *testing.T) {
	t.Parallel()
	for action, stopped := range map[string]bool{"CreateSnapshots": false, "CreateSnapshot": true} {
		t.Run(action, func(t *testing.T) {
			l := &lost{action: action}
			b := newRunningBench(t, l)
			m := b.manager(b.client)
			_, err := m.Create(t.Context(), b.faultOptions())
			b.check(err)
			if stopped {
				_, err = m.Stop(t.Context(), "web", true)
				b.check(err)
			}
			set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
			if err != nil || !set.Complete || len(set.Snapshots) != 2 {
				t.Errorf("took %+v, %v", set, err)
			}
			if n := b.inventory().snapshots; !l.done || n != 2 {
				t.Errorf("there are %d snapshots of two disks after %d calls", n, l.calls)
			}
		})
	}
}

func TestSnapshotKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	benches := map[bool]func(*testing.T, http.RoundTripper) *bench{true: newBench, false: newRunningBench}
	for name, stop := range map[string]bool{"running": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			k := &killer{}
			b := benches[stop](t, k)
			m := b.manager(b.client)
			_, err := m.Create(t.Context(), b.faultOptions())
			b.check(err)
			if stop {
				_, err = m.Stop(t.Context(), "web", true)
				b.check(err)
				b.tick()
			}
			everyStep(t, k, func(int) { b.dropSets(m) },
				func(ctx context.Context, _ int) error {
					_, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Note: "x", Wait: true})
					return err
				},
				func(at int) {
					sets, err := m.Snapshots(t.Context(), "web")
					b.check(err)
					// Killed after its last call it was done, and the repetition took another.
					if len(sets) > 2 || len(sets) == 2 && k.actions[len(k.actions)-1] != "DeleteTags" {
						t.Errorf("there are %d sets", len(sets))
					}
					for _, s := range sets {
						if !s.Complete || len(s.Snapshots) != 2 || !s.OneInstant {
							t.Errorf("killed at call %d there is %+v", at, s)
						}
					}
					if left := b.tagged("stead:step"); left != 0 {
						t.Errorf("%d snapshots are marked as unfinished", left)
					}
				})
		})
	}
}

// dropSets deletes all sets of web.
func (b *bench) dropSets(m *server.Manager) {
	b.t.Helper()
	sets, err := m.Snapshots(context.Background(), "web")
	b.check(err)
	for _, s := range sets {
		for _, one := range s.Snapshots {
			_, err := b.client.DeleteSnapshot(context.Background(), &ec2.DeleteSnapshotInput{SnapshotId: &one.SnapshotID})
			b.check(err)
		}
	}
}

// tagged counts the snapshots that have a tag.
func (b *bench) tagged(key string) int {
	b.t.Helper()
	out, err := b.client.DescribeSnapshots(context.Background(), &ec2.DescribeSnapshotsInput{
		OwnerIds: []string{"self"}, Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{key}}},
	})
	b.check(err)
	return len(out.Snapshots)
}

// tooSoon refuses the first snapshots of a disk, as EC2 does within seconds of
// the last one.
type tooSoon struct {
	server.EC2
	mu   sync.Mutex
	left int
}

func (s *tooSoon) CreateSnapshot(ctx context.Context, in *ec2.CreateSnapshotInput, o ...func(*ec2.Options)) (*ec2.CreateSnapshotOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left >= 0 {
		return nil, &smithy.GenericAPIError{Code: "SnapshotCreationPerVolumeRateExceeded", Message: "The maximum per volume CreateSnapshot request rate has been exceeded."}
	}
	return s.EC2.CreateSnapshot(ctx, in, o...)
}

func TestSnapshotTooSoonWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(&tooSoon{EC2: b.client, left: 3})
	o := b.faultOptions()
	_, err := m.Create(t.Context(), o)
	b.check(err)
	_, err = m.Stop(t.Context(), "web", true)
	b.check(err)
	set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	if err != nil || !set.Complete {
		t.Errorf("took %+v, %v", set, err)
	}
	if b.inventory().snapshots != 2 {
		t.Errorf("there are %d snapshots", b.inventory().snapshots)
	}
}

// frost is a guest whose data file system can stand still.
type frost struct {
	mu     sync.Mutex
	frozen bool
	thaws  int
	melts  bool // by itself, before the snapshot is taken
}

func (f *frost) Run(_ context.Context, _ *server.Server, script string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(script, "fsfreeze --freeze") {
		f.frozen = !f.melts
		return "/data\n", nil
	}
	if !strings.Contains(script, "fsfreeze --unfreeze") {
		return "", nil // another's
	}
	f.thaws++
	was := f.frozen
	f.frozen = false
	if was {
		return "/data\n", nil
	}
	return "", nil
}

// shutter tells whether the guest stood still when the snapshots were taken.
type shutter struct {
	server.EC2
	guest *frost
	still []bool
	fail  error
}

func (w *shutter) CreateSnapshots(ctx context.Context, in *ec2.CreateSnapshotsInput, o ...func(*ec2.Options)) (*ec2.CreateSnapshotsOutput, error) {
	w.guest.mu.Lock()
	w.still = append(w.still, w.guest.frozen)
	w.guest.mu.Unlock()
	if w.fail != nil {
		return nil, w.fail
	}
	return w.EC2.CreateSnapshots(ctx, in, o...)
}

func TestSnapshotFreezes(t *testing.T) {
	t.Parallel()
	b := newRunningBench(t, nil)
	guest := &frost{}
	w := &shutter{EC2: b.client, guest: guest}
	c := b.config(w)
	c.Guest = guest
	m := server.New(c)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Freeze: true, Wait: true})
	if err != nil || !set.Frozen || !w.still[0] || guest.frozen || guest.thaws != 1 {
		t.Errorf("took %+v, %v; still %v, thawed %d times", set, err, w.still, guest.thaws)
	}
	guest.melts = true
	set, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Freeze: true, Wait: true})
	if err != nil || set.Frozen {
		t.Errorf("one that thawed too soon: %+v, %v", set, err)
	}
	guest.melts, w.fail = false, errors.New("no")
	if _, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Freeze: true}); err == nil || guest.frozen {
		t.Errorf("a failure leaves it frozen: %v, %v", guest.frozen, err)
	}
}
