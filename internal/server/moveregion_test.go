package server_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// farBench is another region of a bench's account.
func (b *bench) farBench(rt http.RoundTripper) *bench {
	b.t.Helper()
	far := &bench{t: b.t, site: b.site, region: freeFarRegion(b.t), account: b.account, sshd: b.sshd, ssm: b.ssm, imageID: b.imageID}
	far.client = far.through(rt)
	return far
}

// linked is a Manager that knows of the other region.
func (b *bench) linked(far *bench) *server.Manager {
	c := b.config(b.client)
	c.Regional = func(string) (*server.Manager, error) { return far.manager(far.client), nil }
	return server.New(c)
}

func TestMachineMoveRegionKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	far := b.farBench(k)
	m, there := b.linked(far), far.manager(far.client)
	ctx := t.Context()
	var web *server.Server
	everyStep(t, k,
		func(int) {
			b.clear(m)
			far.clear(there)
			var err error
			web, err = m.Create(ctx, b.faultOptions())
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Move(ctx, "web", server.MoveOptions{Region: far.region})
			return err
		},
		func(int) {
			far.whole(there, 2)
			old, err := m.Get(ctx, "web")
			b.check(err)
			if old.State != server.StateStopped || old.InstanceID != web.InstanceID || old.Root.VolumeID != web.Root.VolumeID || len(b.inventory().volumes) != 2 {
				t.Errorf("left behind %+v", old)
			}
		})
}

func TestMachineMoveRegionReleaseKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	far := b.farBench(k)
	m, there := b.linked(far), far.manager(far.client)
	ctx := t.Context()
	everyStep(t, k,
		func(int) {
			b.clear(m)
			far.clear(there)
			_, err := m.Create(ctx, b.faultOptions())
			b.check(err)
			_, err = m.Move(ctx, "web", server.MoveOptions{Region: far.region})
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Move(ctx, "web", server.MoveOptions{Region: far.region, Release: true})
			return err
		},
		func(int) {
			far.whole(there, 2)
			if inv := b.inventory(); len(inv.live)+len(inv.volumes)+len(inv.addresses) != 0 || inv.snapshots < 2 {
				t.Errorf("left behind %+v", inv)
			}
		})
}

func TestMoveRegionRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	far := b.farBench(nil)
	m := b.linked(far)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	to := server.MoveOptions{Region: far.region}
	refused := func(what string, o server.MoveOptions, want error) {
		t.Helper()
		_, err := m.Move(ctx, "web", o)
		if !errors.Is(err, want) || server.Remedy(err) == "" {
			t.Errorf("%s: %v (%s)", what, err, server.Remedy(err))
		}
		if s, err := m.Get(ctx, "web"); err != nil || s.State != server.StateRunning || b.inventory().snapshots != 0 {
			t.Fatalf("%s changed something: %+v %v", what, s, err)
		}
	}
	refused("its own region", server.MoveOptions{Region: b.region}, server.ErrUsage)
	refused("no such zone", server.MoveOptions{Region: far.region, Zone: b.region + "a"}, server.ErrNotFound)
	refused("release before the move", server.MoveOptions{Region: far.region, Release: true}, server.ErrExists)
	if _, err := b.manager(b.client).Move(ctx, "web", to); !errors.Is(err, server.ErrUnsupported) {
		t.Errorf("without other regions: %v", err)
	}
	_, err = b.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:kernel"), Value: aws.String("aki-0123456789abcdef0")}}})
	b.check(err)
	refused("a kernel that isn't there", to, server.ErrUnsupported)
	_, err = b.client.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:kernel")}}})
	b.check(err)
	// What has run since must not be released.
	_, err = m.Move(ctx, "web", to)
	b.check(err)
	_, err = m.Start(ctx, "web", server.WaitRunning)
	b.check(err)
	if _, err := m.Move(ctx, "web", server.MoveOptions{Region: far.region, Release: true}); !errors.Is(err, server.ErrProtected) {
		t.Errorf("released though it ran: %v", err)
	}
}
