package server_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// market is an endpoint that takes the capacity of spot instances back: those
// that are stopped were interrupted. full, it has room for no other.
type market struct {
	server.EC2
	full bool
}

func (m *market) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, opts ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	out, err := m.EC2.DescribeInstances(ctx, in, opts...)
	if err != nil {
		return nil, err
	}
	for _, r := range out.Reservations {
		for k := range r.Instances {
			if i := &r.Instances[k]; i.InstanceLifecycle == types.InstanceLifecycleTypeSpot && i.State.Name == types.InstanceStateNameStopped {
				i.StateReason = &types.StateReason{Code: aws.String("Server.SpotInstanceShutdown"), Message: aws.String("no capacity")}
			}
		}
	}
	return out, nil
}

func (m *market) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	if m.full && in.InstanceMarketOptions != nil {
		return nil, &smithy.GenericAPIError{Code: "InsufficientInstanceCapacity", Message: "There is no Spot capacity available that matches your request."}
	}
	return m.EC2.RunInstances(ctx, in, opts...)
}

// A server whose spot instance was interrupted comes back by a rescue, killed
// at any call: on spot, or on demand where there is no room, and then it says
// so and tries spot again the next time.
func TestTrap10RescueOfInterruptedSpot(t *testing.T) {
	k := &killer{}
	b := newBench(t, k)
	ctx := t.Context()
	endpoint := &market{EC2: b.client}
	m := b.manager(endpoint)
	o := b.faultOptions()
	o.Spot = true
	web, err := m.Create(ctx, o)
	b.check(err)
	interrupt := func() {
		t.Helper()
		_, err := b.client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{web.InstanceID}})
		b.check(err)
		web, err = m.Wait(ctx, "web", server.StateStopped)
		b.check(err)
		if web.State != server.StateInterrupted || len(web.Warnings) == 0 {
			t.Fatalf("interrupted it is %s: %v", web.State, web.Warnings)
		}
	}
	interrupt()
	if _, err := m.Start(ctx, "web", server.WaitRunning); server.KindOf(err) != server.KindCapacity || server.Remedy(err) == "" {
		t.Errorf("start: %v", err)
	}
	if p, err := m.PlanRescue(ctx, "web", server.RescueOptions{}); err != nil || p.By != server.RescueSnapshot {
		t.Errorf("planned %+v, %v", p, err)
	}
	for at := 1; ; at++ { // each time it comes further
		fired, err := k.killed(at, func(ctx context.Context) error {
			_, err := m.Rescue(ctx, "web", server.RescueOptions{Wait: server.WaitRunning})
			return err
		})
		if !fired {
			b.check(err)
			break
		}
	}
	back, err := m.Get(ctx, "web")
	b.check(err)
	if back.State != server.StateRunning || !back.Spot || back.InstanceID == web.InstanceID || len(back.Data) != len(web.Data) {
		t.Errorf("it is back as %+v", back)
	}
	web = back
	interrupt()
	endpoint.full = true
	r, err := m.Rescue(ctx, "web", server.RescueOptions{Wait: server.WaitRunning})
	b.check(err)
	if r.Server.Spot || r.Server.State != server.StateRunning || !b.warned("runs on demand") {
		t.Errorf("without room on spot it is %+v; told %+v", r.Server, b.events)
	}
	if got := tag(b.inventory().volumes[r.Server.Root.VolumeID].Tags, "stead:market"); got != "spot" {
		t.Errorf("the next rescue would go by market %q", got)
	}
}
