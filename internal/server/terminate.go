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

// endInstance terminates the instance. Its order is the product's promise:
// tags, then every disk kept and seen to be kept, and only then the
// protection is lifted.
func (m *Manager) endInstance(ctx context.Context, w *world) error {
	id := aws.ToString(w.instance.InstanceId)
	if err := m.step("check that every disk stays", id, func() error {
		err := m.settle(ctx, w.name, id, w.facts())
		return err
	}); err != nil {
		return err
	}
	return m.step("terminate", id, func() error {
		_, err := m.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
			InstanceId: &id, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)},
		})
		if err != nil && !unsupported(err) {
			return wrap("lift the protection of", "instance "+id, err)
		}
		_, err = m.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		return wrap("terminate", "instance "+id, err)
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
