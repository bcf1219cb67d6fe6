package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// oneShort has no room for one of the servers.
type oneShort struct {
	server.EC2
	mu    sync.Mutex
	short string
}

func (o *oneShort) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	o.mu.Lock()
	short := o.short
	o.mu.Unlock()
	for _, s := range in.TagSpecifications {
		if tag(s.Tags, "stead:server") == short {
			return nil, &smithy.GenericAPIError{Code: "InsufficientInstanceCapacity", Message: "no room"}
		}
	}
	return o.EC2.RunInstances(ctx, in, opts...)
}

// Several at once: what fails is named, what is made stays, and the same call
// makes the rest.
func TestCreateMany(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	api := &oneShort{EC2: b.client, short: "web-2"}
	m := b.manager(api)
	o := b.faultOptions()
	made, err := m.CreateMany(t.Context(), o, 3)
	if server.KindOf(err) != server.KindPartial || len(made) != 2 || made[0].Name != "web-1" || made[1].Name != "web-3" || !strings.Contains(err.Error(), "servers web-2") || !strings.Contains(err.Error(), "no room") {
		t.Errorf("made %+v, %v", made, err)
	}
	api.short = ""
	made, err = m.CreateMany(t.Context(), o, 3)
	if err != nil || len(made) != 3 {
		t.Errorf("again made %d, %v", len(made), err)
	}
	if inv := b.inventory(); len(inv.live) != 3 || len(inv.volumes) != 6 || len(inv.addresses) != 3 || inv.groups != 3 {
		t.Errorf("there are %d instances, %d volumes, %d addresses, %d groups", len(inv.live), len(inv.volumes), len(inv.addresses), inv.groups)
	}
	if _, err := m.CreateMany(t.Context(), o, 3); !errors.Is(err, server.ErrExists) {
		t.Errorf("when all are there: %v", err)
	}
	if _, err := m.CreateMany(t.Context(), o, 0); !errors.Is(err, server.ErrUsage) {
		t.Errorf("none of them: %v", err)
	}
}

// Each is a create of its own, which is killed at every call elsewhere: here
// it is a few calls among those of all.
func TestMachineCreateManyKilled(t *testing.T) {
	t.Parallel()
	for _, at := range []int{3, 8, 15} {
		k := &killer{}
		b := newBench(t, k)
		m := b.manager(b.client)
		run := func(ctx context.Context) error { _, err := m.CreateMany(ctx, b.faultOptions(), 2); return err }
		if fired, err := k.killed(at, run); !fired || server.KindOf(err) != server.KindInterrupted {
			t.Errorf("killed at call %d: %v", at, err)
		}
		b.check(run(t.Context()))
		for _, name := range server.Names("web", 2) {
			s, err := m.Get(t.Context(), name)
			b.check(err)
			if s.State != server.StateRunning || !s.Protected || len(s.Warnings) > 0 || len(s.Data) != 1 || s.ElasticIP == "" {
				t.Errorf("%s is %+v", name, s)
			}
		}
		if inv := b.inventory(); len(inv.live) != 2 || len(inv.volumes) != 4 || len(inv.addresses) != 2 {
			t.Errorf("killed at call %d, there are %d instances, %d volumes, %d addresses", at, len(inv.live), len(inv.volumes), len(inv.addresses))
		}
	}
}

// The facts of the data disks are in their tags from the first, whatever kills
// the create.
func TestMachineCreateRaidKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	o := b.faultOptions()
	o.Data = []server.DataSpec{{SizeGiB: 1, Device: "sdh", Type: "gp2"}, {SizeGiB: 1}}
	o.Raid, o.Mount, o.FS = "1", "/srv", "xfs"
	everyStep(t, k,
		func(int) { b.clear(m) },
		func(ctx context.Context, _ int) error { _, err := m.Create(ctx, o); return err },
		func(int) {
			s, err := m.Get(context.Background(), "web")
			b.check(err)
			if len(s.Data) != 2 || s.Data[0].Device != "/dev/sdf" || s.Data[1].Device != "/dev/sdh" || s.Data[1].Type != "gp2" {
				t.Fatalf("the server is %+v", s)
			}
			for i, want := range []string{"1 1/2", "1 2/2"} {
				if d := s.Data[i]; d.Raid != want || d.Mount != "/srv" || d.FS != "xfs" {
					t.Errorf("disk %s is %+v", d.Device, d)
				}
			}
		})
	out, err := b.client.DescribeInstanceAttribute(t.Context(), &ec2.DescribeInstanceAttributeInput{InstanceId: aws.String(b.inventory().instanceOf("web")), Attribute: "userData"})
	b.check(err)
	if out.UserData == nil || aws.ToString(out.UserData.Value) == "" {
		t.Error("nothing sets the disks up")
	}
}

func (inv inventory) instanceOf(name string) string {
	for _, i := range inv.live {
		if tag(i.Tags, "stead:server") == name {
			return *i.InstanceId
		}
	}
	return ""
}
