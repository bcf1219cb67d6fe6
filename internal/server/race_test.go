package server_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// oneLaunch minds client tokens as EC2 does, for moto does not: the same one
// answers with the same instance. It counts what was launched and notes forced
// stops of an instance that has a disk that must not lose power.
type oneLaunch struct {
	server.EC2
	t        *testing.T
	mu       sync.Mutex
	launched map[string]*ec2.RunInstancesOutput
	root     string
}

func (o *oneLaunch) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if out := o.launched[aws.ToString(in.ClientToken)]; out != nil {
		return out, nil
	}
	out, err := o.EC2.RunInstances(ctx, in, opts...)
	if err == nil {
		o.launched[aws.ToString(in.ClientToken)] = out
	}
	return out, err
}

// StopInstances looks, as nobody can between a rescue's look and its stop.
func (o *oneLaunch) StopInstances(ctx context.Context, in *ec2.StopInstancesInput, opts ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error) {
	found, err := o.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: in.InstanceIds})
	if err != nil {
		return nil, err
	}
	for _, r := range found.Reservations {
		for _, i := range r.Instances {
			for _, bdm := range i.BlockDeviceMappings {
				if aws.ToString(bdm.Ebs.VolumeId) == o.root && i.State.Name == types.InstanceStateNameRunning {
					o.t.Errorf("%s is switched off with the server's root in it", *i.InstanceId)
				}
			}
		}
	}
	return o.EC2.StopInstances(ctx, in, opts...)
}

// However many rescue a server at once, all of them come back with the same
// one.
func TestManyRescuesAtOnce(t *testing.T) {
	t.Parallel()
	const rescuers, rounds = 5, 2
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	for range rounds {
		_, err = m.Terminate(ctx, "web")
		b.check(err)
		api := &oneLaunch{EC2: b.client, t: t, launched: map[string]*ec2.RunInstancesOutput{}, root: web.Root.VolumeID}
		barrier := make(chan struct{})
		type result struct {
			r   *server.RescueResult
			err error
		}
		results := make(chan result, rescuers)
		for range rescuers {
			go func() {
				<-barrier
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // so that they meet in every step
				r, err := b.manager(api).Rescue(ctx, "web", server.RescueOptions{})
				results <- result{r, err}
			}()
		}
		close(barrier)
		for range rescuers {
			got := <-results
			if got.err != nil {
				t.Errorf("one of the rescues: %v", got.err)
			} else if got.r.Server.State != server.StateRunning || got.r.Server.Root.VolumeID != web.Root.VolumeID {
				t.Errorf("one of the rescues came back with %+v", got.r.Server)
			}
		}
		if len(api.launched) != 1 {
			t.Errorf("%d stand-ins were launched, want 1", len(api.launched))
		}
		b.whole(m, 2)
		if t.Failed() {
			return
		}
	}
}
