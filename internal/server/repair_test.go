package server_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// fakeGuest answers the scripts as a system on which all goes well.
type fakeGuest struct {
	answer func(s *server.Server, script string) (string, error)
	runs   atomic.Int32
}

func (g *fakeGuest) Run(ctx context.Context, s *server.Server, script string) (string, error) {
	g.runs.Add(1)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if g.answer != nil {
		return g.answer(s, script)
	}
	return "device\t/dev/vdb\nmount\t/mnt/web\nshell\t/bin/sh\n", nil
}

// guarded is a Manager with a way into its machines.
func (b *bench) guarded(api server.EC2, g server.Guest) *server.Manager {
	c := b.config(api)
	c.Guest = g
	return server.New(c)
}

var repairKey = server.RepairOptions{HelperOptions: server.HelperOptions{Key: []byte(publicKey)}}

// noHelpers checks that a repair left nothing.
func (b *bench) noHelpers() {
	b.t.Helper()
	for _, i := range b.inventory().live {
		if tag(i.Tags, "stead:helper") != "" {
			b.t.Errorf("helper %s is left", *i.InstanceId)
		}
	}
	for id, v := range b.inventory().volumes {
		if tag(v.Tags, "stead:helper") != "" || strings.HasPrefix(tag(v.Tags, "stead:step"), "repair") {
			b.t.Errorf("volume %s is left, tagged %v", id, v.Tags)
		}
	}
	groups, err := b.client.DescribeSecurityGroups(context.Background(), &ec2.DescribeSecurityGroupsInput{})
	b.check(err)
	for _, g := range groups.SecurityGroups {
		if strings.HasPrefix(*g.GroupName, "stead helper") {
			b.t.Errorf("group %s is left", *g.GroupName)
		}
	}
}

func TestMachineRepairKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.guarded(b.client, &fakeGuest{})
	before, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	everyStep(t, k,
		func(int) {},
		func(ctx context.Context, _ int) error {
			if _, err := m.RepairBegin(ctx, "web", repairKey); err != nil {
				return err
			}
			_, err := m.RepairFinish(ctx, "web", false, server.WaitSSH)
			return err
		},
		func(int) {
			b.whole(m, 2)
			b.noHelpers()
			if s, err := m.Get(t.Context(), "web"); err != nil || disks(s)[0] != disks(before)[0] {
				t.Errorf("root is %v, %v", disks(s), err)
			}
		})
}

// watcher sees what is plugged in where.
type watcher struct {
	server.EC2
	b      *bench
	wrongs []string
}

func (w *watcher) AttachVolume(ctx context.Context, in *ec2.AttachVolumeInput, opts ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error) {
	for _, i := range w.b.inventory().live {
		if *i.InstanceId != *in.InstanceId {
			continue
		}
		if helper := tag(i.Tags, "stead:helper") != ""; helper && i.State.Name != types.InstanceStateNameRunning {
			w.wrongs = append(w.wrongs, "plugged into a helper that is "+string(i.State.Name))
		} else if !helper && len(i.BlockDeviceMappings) > 0 && *in.Device != *i.RootDeviceName {
			w.wrongs = append(w.wrongs, "plugged into the server as "+*in.Device)
		}
	}
	return w.EC2.AttachVolume(ctx, in, opts...)
}

// Trap 7: two disks with the same UUIDs and labels are never plugged in
// together when a machine boots. The helper gets the root after it has booted,
// and gives it back before it goes.
func TestTrap07RepairPlugsInAfterBoot(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	w := &watcher{EC2: b.client, b: b}
	m := b.guarded(w, &fakeGuest{})
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	r, err := m.RepairBegin(t.Context(), "web", repairKey)
	b.check(err)
	if r.Mount != "/mnt/web" || r.Helper.State != server.StateRunning || !strings.HasPrefix(r.CommandLine("ls /"), "chroot '/mnt/web' /bin/sh -c 'ls /'") {
		t.Errorf("repair is %+v", r)
	}
	s, err := m.Get(t.Context(), "web")
	b.check(err)
	if s.State != server.StateRepairing || len(s.Warnings) == 0 || s.Root.InstanceID != r.Helper.InstanceID {
		t.Errorf("meanwhile the server is %+v", s)
	}
	for verb, err := range map[string]error{
		"start":     second(m.Start(t.Context(), "web", server.WaitNone)),
		"stop":      second(m.Stop(t.Context(), "web", false)),
		"rescue":    second(m.Rescue(t.Context(), "web", server.RescueOptions{})),
		"terminate": second(m.Terminate(t.Context(), "web")),
		"snapshot":  second(m.Snapshot(t.Context(), "web", server.SnapshotOptions{})),
		"resize":    second(m.Resize(t.Context(), "web", server.ResizeOptions{Type: "t3.small"})),
		"volume":    second(m.VolumeCreate(t.Context(), server.VolumeOptions{Server: "web", SizeGiB: 1})),
		"detach":    second(m.VolumeDetach(t.Context(), s.Data[0].VolumeID, true)),
	} {
		if !errors.Is(err, server.ErrExists) || !strings.Contains(server.Remedy(err), "stead repair web --finish") {
			t.Errorf("%s: %v, remedy %s", verb, err, server.Remedy(err))
		}
	}
	_, err = m.RepairFinish(t.Context(), "web", false, server.WaitSSH)
	b.check(err)
	b.whole(m, 2)
	b.noHelpers()
	if len(w.wrongs) > 0 {
		t.Error(w.wrongs)
	}
	if _, err := m.RepairFinish(t.Context(), "web", false, server.WaitSSH); !errors.Is(err, server.ErrExists) {
		t.Errorf("finished twice: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// A server without an instance is repaired too, and stays without one.
func TestRepairDetached(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ill := errors.New("the file system is in use")
	g := &fakeGuest{}
	m := b.guarded(b.client, g)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	_, err = m.RepairBegin(t.Context(), "web", repairKey)
	b.check(err)
	g.answer = func(*server.Server, string) (string, error) { return "", ill }
	if _, err := m.RepairFinish(t.Context(), "web", false, server.WaitSSH); !errors.Is(err, ill) || !strings.Contains(server.Remedy(err), "--force") {
		t.Errorf("not unmounted: %v, remedy %s", err, server.Remedy(err))
	}
	if r, err := m.RepairBegin(t.Context(), "web", repairKey); err != nil || !r.Ending {
		t.Errorf("begun again while it ends: %+v, %v", r, err)
	}
	s, err := m.RepairFinish(t.Context(), "web", true, server.WaitSSH)
	if err != nil || s.State != server.StateDetached || s.Root.State != "available" || len(s.Warnings) != 0 {
		t.Errorf("finished: %+v, %v", s, err)
	}
	b.noHelpers()
	if _, err := b.manager(b.client).RepairBegin(t.Context(), "web", repairKey); !errors.Is(err, server.ErrUnsupported) {
		t.Errorf("without a way in: %v", err)
	}
}

// noHelper is a cloud that has no room for a helper.
type noHelper struct{ server.EC2 }

func (noHelper) RunInstances(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	return nil, apiError("InsufficientInstanceCapacity")
}

// A helper that can't be had leaves the server as it was, and running.
func TestRepairWithoutRoom(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = b.guarded(noHelper{b.client}, &fakeGuest{}).RepairBegin(t.Context(), "web", repairKey)
	if server.KindOf(err) != server.KindCapacity || !strings.Contains(server.Remedy(err), "--type") {
		t.Errorf("got %v, remedy %s", err, server.Remedy(err))
	}
	b.whole(m, 2)
}
