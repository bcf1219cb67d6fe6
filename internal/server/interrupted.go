package server

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// reasonInterrupted is why EC2 stops a spot instance whose capacity it takes
// back.
const reasonInterrupted = "Server.SpotInstanceShutdown"

// interrupted tells a spot instance that EC2 stopped to take its capacity back.
// EC2 alone starts it again, when there is some.
func interrupted(i *types.Instance) bool {
	return i != nil && isSpot(i) && i.StateReason != nil && aws.ToString(i.StateReason.Code) == reasonInterrupted &&
		(stateOf(i) == types.InstanceStateNameStopped || stateOf(i) == types.InstanceStateNameStopping)
}

// cutOff tells a server whose instance was interrupted, and of which nothing is
// under way.
func (w *world) cutOff() bool {
	return interrupted(w.instance) && w.standIn == nil && !hasTag(w.instance.Tags, tagStep)
}

// endInterrupted ends an interrupted instance, so that its disks can go on in another
// one. It ends as any does: every disk is seen to be kept, and the request is
// cancelled before, or the endpoint would launch another one. Nothing of a
// protected server ends that runs, so protection is no hindrance.
func (m *Manager) endInterrupted(ctx context.Context, w *world) (*world, error) {
	id := aws.ToString(w.instance.InstanceId)
	m.notify(Event{State: StepDone, Step: "rescue an interrupted spot instance", Resource: id, Detail: "only EC2 could start it again, so its disks go on in another one"})
	if stateOf(w.instance) == types.InstanceStateNameStopping {
		if _, err := m.waitInstance(ctx, id, types.InstanceStateNameStopped); err != nil {
			return nil, err
		}
	}
	if err := m.endInstance(ctx, w); err != nil {
		return nil, err
	}
	return m.outlive(ctx, w)
}

// launchOnMarket launches a server as it was: a spot instance where it was one.
// Where the market has no room, the server comes back on demand, and a warning
// says so. It stays one that wants to be on spot: the next rescue tries again.
func (m *Manager) launchOnMarket(ctx context.Context, verb, name string, ids []string, in *ec2.RunInstancesInput, f facts) (*types.Instance, error) {
	if f.Market != marketSpot {
		return m.launchAt(ctx, verb, name, ids, in, f)
	}
	onDemand := *in
	onDemand.TagSpecifications = slices.Clone(in.TagSpecifications)
	onSpot(in, name)
	i, err := m.launchAt(ctx, verb, name, ids, in, f)
	if KindOf(err) != KindCapacity {
		return i, err
	}
	m.warn("launch", name, "there is no spot capacity for a "+string(in.InstanceType)+" now ("+causeOf(err)+
		"), so it runs on demand, at that price; to try again later: stead terminate "+name+", then stead rescue "+name)
	return m.launchAt(ctx, verb, name, append(slices.Clone(ids), "on demand"), &onDemand, f)
}
