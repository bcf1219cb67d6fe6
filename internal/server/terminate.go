package server

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Terminate ends the server's instance, after it has made sure that every disk
// stays. Without an instance it only reports the disks, so that it can be
// repeated. The elastic IP and the security group stay with the disks.
func (m *Manager) Terminate(ctx context.Context, name string) (*TerminateResult, error) {
	w, err := m.world(ctx, "terminate", name)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && stateOf(w.instance) != types.InstanceStateNameShuttingDown {
		if err := m.unmarkPurge(ctx, w); err != nil {
			return nil, wrap("terminate", "server "+name, err)
		}
	}
	return m.terminate(ctx, name)
}

func (m *Manager) terminate(ctx context.Context, name string) (*TerminateResult, error) {
	w, err := m.world(ctx, "terminate", name)
	if err != nil {
		return nil, err
	}
	if err := w.underRepair(); err != nil {
		return nil, wrap("terminate", "server "+name, err)
	}
	if w.standIn != nil {
		return nil, &Error{
			Op: "terminate", Resource: "server " + name, Code: KindExists,
			Reason: "a rescue isn't finished", Remedy: "stead rescue " + name,
		}
	}
	if w.instance == nil {
		return m.terminated(ctx, name, "")
	}
	id := aws.ToString(w.instance.InstanceId)
	if stateOf(w.instance) != types.InstanceStateNameShuttingDown {
		if err := w.mayEnd("terminate"); err != nil {
			return nil, err
		}
		if err := m.endInstance(ctx, w); err != nil {
			return nil, wrap("terminate", "server "+name, err)
		}
	}
	if err := m.step("wait until terminated", id, func() error {
		_, err := m.waitInstance(ctx, id, types.InstanceStateNameTerminated)
		return err
	}); err != nil {
		return nil, wrap("terminate", "server "+name, err)
	}
	return m.terminated(ctx, name, id)
}

// mayEnd refuses to end a server that its user protected.
func (w *world) mayEnd(op string) error {
	if w.facts().Protected != "yes" {
		return nil
	}
	return &Error{
		Op: op, Resource: "server " + w.name, Code: KindProtected,
		Reason: "it is protected", Remedy: "stead unprotect " + w.name,
	}
}

// endInstance terminates the instance. Its order is the product's promise:
// tags, then every disk kept and seen to be kept, and only then the
// protection is lifted. A spot instance's request is cancelled before, or the
// endpoint would launch another one. The disks are looked at again right
// before the end, and the guest always gets the time to shut down.
func (m *Manager) endInstance(ctx context.Context, w *world) error {
	id := aws.ToString(w.instance.InstanceId)
	if err := m.step("check that every disk stays", id, func() error {
		return m.settle(ctx, w.name, id, w.facts())
	}); err != nil {
		return err
	}
	if err := m.cancelSpot(ctx, w.instance); err != nil {
		return err
	}
	return m.step("terminate", id, func() error {
		if !isSpot(w.instance) {
			_, err := m.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
				InstanceId: &id, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)},
			})
			if err != nil && !unsupported(err) {
				return wrap("lift the protection of", "instance "+id, err)
			}
			if err := m.keepDisks(ctx, id); err != nil {
				return err
			}
		}
		_, err := m.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		return wrap("terminate", "instance "+id, err)
	})
}

// cancelSpot cancels the request of a spot instance, which also terminates one
// that is stopped: so every disk must have been seen to be kept.
func (m *Manager) cancelSpot(ctx context.Context, i *types.Instance) error {
	request := aws.ToString(i.SpotInstanceRequestId)
	if request == "" {
		return nil
	}
	return m.step("cancel spot request", request, func() error {
		_, err := m.ec2.CancelSpotInstanceRequests(ctx, &ec2.CancelSpotInstanceRequestsInput{SpotInstanceRequestIds: []string{request}})
		if KindOf(err) == KindNotFound {
			return nil // gone since: it asks for nothing any more
		}
		return wrap("cancel", "spot request "+request, err)
	})
}

// terminated waits until the disks are free and reports them, the root first.
func (m *Manager) terminated(ctx context.Context, name, instanceID string) (*TerminateResult, error) {
	w, err := m.world(ctx, "terminate", name)
	if err != nil {
		return nil, err
	}
	result := &TerminateResult{Name: name, InstanceID: instanceID, ElasticIP: m.view(w).ElasticIP, Kept: []Disk{}}
	disks := w.data()
	if root := w.root(); root != nil {
		disks = append([]*types.Volume{root}, disks...)
	}
	for _, disk := range disks {
		v, err := m.waitAvailable(ctx, aws.ToString(disk.VolumeId))
		if err != nil {
			return nil, wrap("terminate", "server "+name, err)
		}
		result.Kept = append(result.Kept, diskOf(v, nil))
	}
	return result, nil
}
