package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

func TestResize(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	before, err := m.Create(ctx, b.faultOptions())
	b.check(err)

	r, err := m.Resize(ctx, "web", server.ResizeOptions{Type: "t3.large", DiskGiB: before.Root.SizeGiB + 2, Data: []server.DiskSize{{Disk: "sdf", GiB: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Server; r.OldType != "t3.micro" || s.Type != "t3.large" || s.State != server.StateRunning || len(s.Warnings) != 0 || s.Root.SizeGiB != before.Root.SizeGiB+2 || s.Data[0].SizeGiB != 3 {
		t.Errorf("resized: %+v, was %s", s, r.OldType)
	}
	if len(r.Disks) != 2 || r.Disks[0].OldGiB != before.Root.SizeGiB || r.Disks[1].OldGiB != 1 || r.Disks[0].Note == "" {
		t.Errorf("disks: %+v", r.Disks)
	}
	if root := b.inventory().volumes[r.Server.Root.VolumeID]; tag(root.Tags, "stead:type") != "t3.large" {
		t.Errorf("root is tagged %v", root.Tags)
	}
	// Repeated, it changes nothing.
	if r, err := m.Resize(ctx, "web", server.ResizeOptions{Type: "t3.large", Data: []server.DiskSize{{GiB: 3}}}); err != nil || r.Server.LaunchTime == nil {
		t.Errorf("again: %+v, %v", r, err)
	}
	for name, bad := range map[string]struct {
		o    server.ResizeOptions
		want error
		text string
	}{
		"smaller":   {server.ResizeOptions{DiskGiB: 1}, server.ErrUsage, "can't be made smaller"},
		"no disk":   {server.ResizeOptions{Data: []server.DiskSize{{Disk: "/dev/sdz", GiB: 9}}}, server.ErrNotFound, "/dev/sdf"},
		"nothing":   {server.ResizeOptions{}, server.ErrUsage, "nothing"},
		"arm":       {server.ResizeOptions{Type: "t4g.micro"}, server.ErrUsage, "t4g.micro"},
		"no type":   {server.ResizeOptions{Type: "t3.none"}, server.ErrUsage, "t3.none"},
		"no server": {server.ResizeOptions{Type: "t3.micro"}, server.ErrNotFound, ""},
	} {
		server := "web"
		if name == "no server" {
			server = "nobody"
		}
		if _, err := m.Resize(ctx, server, bad.o); !errors.Is(err, bad.want) || !strings.Contains(err.Error(), bad.text) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Stopped it stays stopped; without an instance the type is for later.
	_, err = m.Stop(ctx, "web", false)
	b.check(err)
	if r, err := m.Resize(ctx, "web", server.ResizeOptions{Type: "t3.small"}); err != nil || r.Server.State != server.StateStopped || r.Server.Type != "t3.small" || len(r.Server.Warnings) != 0 {
		t.Errorf("stopped: %+v, %v", r, err)
	}
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	if r, err := m.Resize(ctx, "web", server.ResizeOptions{Type: "t3.medium", DiskGiB: before.Root.SizeGiB + 3}); err != nil || r.Server.Type != "t3.medium" || r.Server.Root.SizeGiB != before.Root.SizeGiB+3 {
		t.Errorf("detached: %+v, %v", r, err)
	}
	if r, err := m.Rescue(ctx, "web", server.RescueOptions{}); err != nil || r.Server.Type != "t3.medium" {
		t.Errorf("rescued: %+v, %v", r, err)
	}
}

func TestMachineResizeKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	kinds := []string{"t3.large", "t3.small"}
	size := func(at int) int { return 1 + min(at, 3) } // four changes a day are allowed
	everyStep(t, k,
		func(int) {},
		func(ctx context.Context, at int) error {
			_, err := m.Resize(ctx, "web", server.ResizeOptions{Type: kinds[at%2], Data: []server.DiskSize{{GiB: size(at)}}})
			return err
		},
		func(at int) {
			s, err := m.Get(t.Context(), "web")
			b.check(err)
			if s.State != server.StateRunning || s.Type != kinds[at%2] || s.Data[0].SizeGiB != size(at) || len(s.Warnings) != 0 {
				t.Errorf("the server is %+v", s)
			}
			inv := b.inventory()
			if len(inv.live) != 1 || tag(inv.live[0].Tags, "stead:step") != "" || tag(inv.volumes[s.Root.VolumeID].Tags, "stead:type") != kinds[at%2] {
				t.Errorf("instances: %d, tagged %v", len(inv.live), inv.live[0].Tags)
			}
		})
}

// noRoom is a cloud that has no room for one type: it says so at a start, as
// EC2 does, and takes the type itself.
type noRoom struct {
	server.EC2
	b    *bench
	full types.InstanceType
}

func (n noRoom) StartInstances(ctx context.Context, in *ec2.StartInstancesInput, opts ...func(*ec2.Options)) (*ec2.StartInstancesOutput, error) {
	for _, i := range n.b.inventory().live {
		if *i.InstanceId == in.InstanceIds[0] && i.InstanceType == n.full {
			return nil, apiError("InsufficientInstanceCapacity")
		}
	}
	return n.EC2.StartInstances(ctx, in, opts...)
}

// Trap 13: a type for which there is no room must not cost the server that
// ran.
func TestTrap13ResizeGoesBackWhereThereIsNoRoom(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(noRoom{b.client, b, "t3.large"})
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Resize(t.Context(), "web", server.ResizeOptions{Type: "t3.large"})
	if server.KindOf(err) != server.KindCapacity || !strings.Contains(err.Error(), "has t3.micro again") || !strings.Contains(server.Remedy(err), "--type") {
		t.Errorf("got %v, remedy %s", err, server.Remedy(err))
	}
	b.whole(m, 2)
}

// fullVolume is a cloud that has changed each volume as often as it may.
type fullVolume struct{ server.EC2 }

func (fullVolume) ModifyVolume(context.Context, *ec2.ModifyVolumeInput, ...func(*ec2.Options)) (*ec2.ModifyVolumeOutput, error) {
	return nil, apiError("VolumeModificationRateExceeded")
}

// Trap 13: a volume can be changed four times in 24 hours, and the error says
// until when.
func TestTrap13ResizeTooOften(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	s, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.VolumeGrow(t.Context(), s.Data[0].VolumeID, 2)
	b.check(err)
	for gib := 3; err == nil && gib < 7 && !b.isMoto(); gib++ { // which has no such rule
		_, err = m.VolumeGrow(t.Context(), s.Data[0].VolumeID, gib)
	}
	if b.isMoto() {
		_, err = b.manager(fullVolume{b.client}).VolumeGrow(t.Context(), s.Data[0].VolumeID, 3)
	}
	if err == nil || !strings.Contains(err.Error(), "four times") && !strings.Contains(err.Error(), "being carried out") || !strings.Contains(server.Remedy(err), "same command") {
		t.Errorf("got %v, remedy %s", err, server.Remedy(err))
	}
}

// noModify is an endpoint that can't change volumes.
type noModify struct{ server.EC2 }

func (noModify) ModifyVolume(context.Context, *ec2.ModifyVolumeInput, ...func(*ec2.Options)) (*ec2.ModifyVolumeOutput, error) {
	return nil, apiError("InvalidAction")
}

func TestResizeUnsupported(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	s, err := b.manager(b.client).Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = b.manager(noModify{b.client}).VolumeGrow(t.Context(), s.Data[0].VolumeID, 3)
	if !errors.Is(err, server.ErrUnsupported) || !strings.Contains(server.Remedy(err), "snapshot") {
		t.Errorf("got %v, remedy %s", err, server.Remedy(err))
	}
}

func apiError(code string) error {
	return &smithy.GenericAPIError{Code: code, Message: "says the test"}
}
