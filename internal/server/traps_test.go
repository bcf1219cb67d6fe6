package server_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// warp is an endpoint that differs from the bench's where a test says so.
type warp struct {
	server.EC2
	mu        sync.Mutex
	calls     []string
	run       func(*ec2.RunInstancesInput)
	instance  func(*types.Instance) // what is told of each instance
	start     func() error
	stopped   func()
	associate []*ec2.AssociateAddressInput
	terminate []*ec2.TerminateInstancesInput
	launched  []*ec2.RunInstancesInput
}

func (w *warp) note(call string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call)
}

func (w *warp) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	w.note("RunInstances")
	w.launched = append(w.launched, in)
	c := *in
	c.BlockDeviceMappings = slices.Clone(in.BlockDeviceMappings)
	if w.run != nil {
		w.run(&c)
	}
	return w.EC2.RunInstances(ctx, &c, opts...)
}

func (w *warp) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, opts ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	out, err := w.EC2.DescribeInstances(ctx, in, opts...)
	if err == nil && w.instance != nil {
		for r := range out.Reservations {
			for k := range out.Reservations[r].Instances {
				w.instance(&out.Reservations[r].Instances[k])
			}
		}
	}
	return out, err
}

func (w *warp) StartInstances(ctx context.Context, in *ec2.StartInstancesInput, opts ...func(*ec2.Options)) (*ec2.StartInstancesOutput, error) {
	if w.start != nil {
		if err := w.start(); err != nil {
			return nil, err
		}
	}
	return w.EC2.StartInstances(ctx, in, opts...)
}

func (w *warp) StopInstances(ctx context.Context, in *ec2.StopInstancesInput, opts ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error) {
	out, err := w.EC2.StopInstances(ctx, in, opts...)
	if err == nil && w.stopped != nil {
		w.stopped()
	}
	return out, err
}

func (w *warp) AssociateAddress(ctx context.Context, in *ec2.AssociateAddressInput, opts ...func(*ec2.Options)) (*ec2.AssociateAddressOutput, error) {
	w.associate = append(w.associate, in)
	return w.EC2.AssociateAddress(ctx, in, opts...)
}

func (w *warp) CancelSpotInstanceRequests(context.Context, *ec2.CancelSpotInstanceRequestsInput, ...func(*ec2.Options)) (*ec2.CancelSpotInstanceRequestsOutput, error) {
	w.note("CancelSpotInstanceRequests")
	return &ec2.CancelSpotInstanceRequestsOutput{}, nil
}

func (w *warp) ModifyInstanceAttribute(ctx context.Context, in *ec2.ModifyInstanceAttributeInput, opts ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error) {
	switch {
	case in.DisableApiTermination != nil:
		w.note("DisableApiTermination")
	case len(in.BlockDeviceMappings) > 0:
		w.note("DeleteOnTermination")
	}
	return w.EC2.ModifyInstanceAttribute(ctx, in, opts...)
}

func (w *warp) TerminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput, opts ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error) {
	w.note("TerminateInstances")
	w.terminate = append(w.terminate, in)
	return w.EC2.TerminateInstances(ctx, in, opts...)
}

// An endpoint that drops DeleteOnTermination=false at launch gets it said
// again, and a disk that is doomed later is kept all the same.
func TestTrap01EveryDiskIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	api := &warp{EC2: b.client, run: func(in *ec2.RunInstancesInput) {
		for k := range in.BlockDeviceMappings {
			ebs := *in.BlockDeviceMappings[k].Ebs
			ebs.DeleteOnTermination = aws.Bool(true)
			in.BlockDeviceMappings[k].Ebs = &ebs
		}
	}}
	m := b.manager(api)
	web, err := m.Create(t.Context(), b.webOptions())
	b.check(err)
	for _, bdm := range api.launched[0].BlockDeviceMappings {
		if bdm.Ebs.DeleteOnTermination == nil || *bdm.Ebs.DeleteOnTermination {
			t.Errorf("%s is launched to go with the instance", *bdm.DeviceName)
		}
	}
	b.checkAttributes(web.InstanceID)
	b.doom("web")
	gone, err := m.Terminate(t.Context(), "web")
	b.check(err)
	if len(gone.Kept) != 3 || len(b.inventory().volumes) != 3 {
		t.Errorf("kept %+v", gone.Kept)
	}
	for _, in := range api.terminate {
		if in.SkipOsShutdown != nil {
			t.Error("the guest isn't left the time to shut down")
		}
	}
}

// What protect forbids is forbidden until unprotect; what every server has
// stays after it.
func TestTrap02Protection(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	for range 2 { // it can be repeated
		if s, err := m.Protect(ctx, "web"); err != nil || !s.Locked {
			t.Fatalf("protected %+v, %v", s, err)
		}
	}
	if _, err := m.Terminate(ctx, "web"); !errors.Is(err, server.ErrProtected) || server.Remedy(err) != "stead unprotect web" {
		t.Errorf("terminating it: %v", err)
	}
	if _, err := m.Stop(ctx, "web", true); !errors.Is(err, server.ErrProtected) {
		t.Errorf("stopping it: %v", err)
	}
	attribute := func(name types.InstanceAttributeName) *ec2.DescribeInstanceAttributeOutput {
		out, err := b.client.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &web.InstanceID, Attribute: name})
		b.check(err)
		return out
	}
	if out := attribute(types.InstanceAttributeNameDisableApiStop); out.DisableApiStop == nil || !aws.ToBool(out.DisableApiStop.Value) {
		t.Error("other tools may stop it")
	}
	if out := attribute(types.InstanceAttributeNameInstanceInitiatedShutdownBehavior); aws.ToString(out.InstanceInitiatedShutdownBehavior.Value) != "stop" {
		t.Error("a shutdown from inside terminates it")
	}
	if s, err := m.Unprotect(ctx, "web"); err != nil || s.Locked {
		t.Fatalf("unprotected %+v, %v", s, err)
	}
	if out := attribute(types.InstanceAttributeNameDisableApiStop); out.DisableApiStop != nil && aws.ToBool(out.DisableApiStop.Value) {
		t.Error("nobody may stop it")
	}
	b.checkAttributes(web.InstanceID)
	if _, err := m.Stop(ctx, "web", true); err != nil {
		t.Errorf("stopping it then: %v", err)
	}
	_, err = m.Terminate(ctx, "web")
	b.check(err)
}

// A spot server asks for an instance that is only stopped when it is
// interrupted, and its request is cancelled before its instance is terminated,
// once every disk is kept.
func TestTrap10SpotIsCancelledFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	api := &warp{EC2: b.client, run: func(in *ec2.RunInstancesInput) {
		in.InstanceMarketOptions = nil // not every endpoint has such a market
		in.TagSpecifications = slices.DeleteFunc(slices.Clone(in.TagSpecifications), func(s types.TagSpecification) bool {
			return s.ResourceType == types.ResourceTypeSpotInstancesRequest
		})
	}, instance: func(i *types.Instance) {
		i.InstanceLifecycle, i.SpotInstanceRequestId = types.InstanceLifecycleTypeSpot, aws.String("sir-12345678")
	}}
	m := b.manager(api)
	o := b.faultOptions()
	o.Spot = true
	s, err := m.Create(t.Context(), o)
	b.check(err)
	in := api.launched[0]
	spot := in.InstanceMarketOptions
	if spot == nil || spot.SpotOptions == nil || spot.SpotOptions.SpotInstanceType != types.SpotInstanceTypePersistent ||
		spot.SpotOptions.InstanceInterruptionBehavior != types.InstanceInterruptionBehaviorStop || in.DisableApiTermination != nil {
		t.Errorf("launched with %+v, DisableApiTermination %v", spot, in.DisableApiTermination)
	}
	if !s.Spot || slices.Contains(api.calls, "DisableApiTermination") {
		t.Errorf("spot %v, calls %v", s.Spot, api.calls)
	}
	api.calls = nil
	b.doom("web")
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	if want := []string{"DeleteOnTermination", "CancelSpotInstanceRequests", "TerminateInstances"}; !slices.Equal(api.calls, want) {
		t.Errorf("terminated by %v, want %v", api.calls, want)
	}
}

// An address is never taken away from a live instance.
func TestTrap12AddressIsNotStolen(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	api := &warp{EC2: b.client}
	_, err := b.manager(api).Create(t.Context(), b.faultOptions())
	b.check(err)
	if len(api.associate) != 1 || api.associate[0].AllowReassociation == nil || *api.associate[0].AllowReassociation {
		t.Errorf("associated by %+v", api.associate)
	}
}

// An instance that dies at launch says why, and what mends it.
func TestTrap14DeathAtLaunchIsExplained(t *testing.T) {
	t.Parallel()
	for code, remedy := range map[string]string{
		"Client.VolumeLimitExceeded": "stead volume ls",
		"Client.InternalError":       "kms:CreateGrant",
	} {
		t.Run(code, func(t *testing.T) {
			b := newBench(t, nil)
			api := &warp{EC2: b.client, instance: func(i *types.Instance) {
				i.State = &types.InstanceState{Name: types.InstanceStateNameTerminated}
				i.StateReason = &types.StateReason{Code: aws.String(code), Message: aws.String("it can't be")}
			}}
			_, err := b.manager(api).Create(t.Context(), b.faultOptions())
			if err == nil || !strings.Contains(err.Error(), code+": it can't be") || !strings.Contains(server.Remedy(err), remedy) {
				t.Errorf("it says %v; try %q", err, server.Remedy(err))
			}
		})
	}
}

// AllocateAddress takes no client token: a create that was cut off in it finds
// the address by its tag.
func TestTrap15AddressIsFoundByTag(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	for range 30 { // each run gets one call further
		fired, _ := k.killed(1, func(ctx context.Context) error { _, err := m.Create(ctx, b.faultOptions()); return err })
		if !fired {
			t.Fatal("no address was allocated")
		}
		if k.actions[len(k.actions)-1] == "AllocateAddress" {
			break
		}
	}
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	b.whole(m, 2)
}

// A stop that another command's start overtakes tells so, and doesn't wait.
func TestStopSeesAnotherStart(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var again time.Time
	api := &warp{EC2: b.client, instance: func(i *types.Instance) {
		if !again.IsZero() {
			i.LaunchTime = &again
		}
	}}
	m := b.manager(api)
	web, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	api.stopped = func() {
		b.check(ec2.NewInstanceStoppedWaiter(b.client, func(o *ec2.InstanceStoppedWaiterOptions) { o.MinDelay, o.MaxDelay = soon, late }).
			Wait(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{web.InstanceID}}, time.Minute))
		_, err := b.client.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{web.InstanceID}})
		b.check(err)
		again = web.LaunchTime.Add(time.Hour)
	}
	s, err := m.Stop(t.Context(), "web", true)
	if err != nil || s.State == server.StateStopped {
		t.Errorf("stopped %+v, %v", s, err)
	}
	if !slices.ContainsFunc(b.events, func(e server.Event) bool {
		return e.State == server.StepWarning && strings.Contains(e.Detail, "another command")
	}) {
		t.Error("nothing was said")
	}
}

// No room at start or at launch: the error says what to try.
func TestTrap13NoRoomIsExplained(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	full := &smithy.GenericAPIError{Code: "InsufficientInstanceCapacity", Message: "no room"}
	m := b.manager(&warp{EC2: b.client, start: func() error { return full }})
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Stop(t.Context(), "web", true)
	b.check(err)
	_, err = m.Start(t.Context(), "web", server.WaitRunning)
	if server.KindOf(err) != server.KindCapacity || !strings.Contains(server.Remedy(err), "stead resize web --type ") || !strings.Contains(err.Error(), b.region+"a") {
		t.Errorf("start says %v; try %q", err, server.Remedy(err))
	}
	o := b.faultOptions()
	o.Name, o.Zone = "db", b.region+"a"
	_, err = b.manager(fullHouse{b.client, full}).Create(t.Context(), o)
	if server.KindOf(err) != server.KindCapacity || !strings.Contains(server.Remedy(err), "--zone "+b.region) {
		t.Errorf("create says %v; try %q", err, server.Remedy(err))
	}
}

type fullHouse struct {
	server.EC2
	err error
}

func (f fullHouse) RunInstances(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	return nil, f.err
}

// Ports are opened and closed in the group, and the facts say the same.
func TestOpenAndClose(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	_, err := m.Create(ctx, b.webOptions())
	b.check(err)
	ports := func(list string) []server.Port { p, err := server.ParsePorts(list); b.check(err); return p }
	s, err := m.Open(ctx, "web", ports("443,8000-8010"), nil)
	if err != nil || !slices.Equal(s.Open, []string{"22", "80", "443", "8000-8010"}) {
		t.Errorf("opened %v, %v", s, err)
	}
	s, err = m.Open(ctx, "web", ports("5432"), []string{"10.0.0.0/8"})
	if err != nil || !slices.Equal(s.Rules, []string{"5432@10.0.0.0/8"}) || len(s.Open) != 4 {
		t.Errorf("opened to one network %+v, %v", s, err)
	}
	if got := b.openTo("web"); got != "22@0.0.0.0/0 443@0.0.0.0/0 5432@10.0.0.0/8 8000@0.0.0.0/0 80@0.0.0.0/0" {
		t.Errorf("open are %s", got)
	}
	if _, err := m.Close(ctx, "web", ports("8001"), nil); !errors.Is(err, server.ErrUsage) {
		t.Errorf("closing a part of a range: %v", err)
	}
	for range 2 { // it can be repeated
		s, err = m.Close(ctx, "web", ports("80,5432,8000-8010"), nil)
		if err != nil || !slices.Equal(s.Open, []string{"22", "443"}) || len(s.Rules) != 0 {
			t.Errorf("closed %+v, %v", s, err)
		}
	}
	if got := b.openTo("web"); got != "22@0.0.0.0/0 443@0.0.0.0/0" {
		t.Errorf("open are %s", got)
	}
	// What a rescue opens is what the facts say, whatever became of the group.
	_, err = m.Open(ctx, "web", ports("5432"), []string{"10.0.0.0/8"})
	b.check(err)
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	b.deleteAccess()
	_, err = m.Rescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	if got := b.openTo("web"); got != "22@0.0.0.0/0 443@0.0.0.0/0 5432@10.0.0.0/8" {
		t.Errorf("open after the rescue are %s", got)
	}
}

// openTo lists the rules of a server's group by other means than the code.
func (b *bench) openTo(name string) string {
	b.t.Helper()
	out, err := b.client.DescribeSecurityGroups(b.t.Context(), &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("tag:stead:server"), Values: []string{name}}}})
	b.check(err)
	var list []string
	for _, g := range out.SecurityGroups {
		for _, p := range g.IpPermissions {
			for _, r := range p.IpRanges {
				list = append(list, strings.TrimSpace(strings.Join([]string{portText(p), *r.CidrIp}, "@")))
			}
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func portText(p types.IpPermission) string {
	return server.Port{From: int(*p.FromPort), To: int(*p.FromPort), Proto: *p.IpProtocol}.String()
}
