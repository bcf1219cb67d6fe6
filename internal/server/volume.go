package server

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

var _ = errors.New

// plug attaches a volume and waits until it is attached. One that is still
// leaving another instance is waited for.
func (m *Manager) plug(ctx context.Context, v *types.Volume, i *types.Instance, device string) error {
	id, instanceID := aws.ToString(v.VolumeId), aws.ToString(i.InstanceId)
	return m.step("plug in", id+" at "+device, func() error {
		if other := attachedTo(v); other != "" && other != instanceID {
			if err := m.waitReleased(ctx, id, other); err != nil {
				return err
			}
		}
		if attachedTo(v) != instanceID {
			_, err := m.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &instanceID, Device: &device})
			if err != nil && apiCode(err) != "VolumeInUse" {
				return wrap("attach", "volume "+id, err)
			}
		}
		return m.waitAttached(ctx, id, instanceID)
	})
}

// waitReleased waits for a volume that a dying instance still holds. A live
// one is asked for nothing: its disk is in use.
func (m *Manager) waitReleased(ctx context.Context, id, holder string) error {
	i, err := m.instanceByID(ctx, holder)
	if err != nil {
		return err
	}
	if i != nil && live(i) && stateOf(i) != types.InstanceStateNameShuttingDown {
		return &Error{
			Op: "attach", Resource: "volume " + id, Code: KindExists,
			Reason: "instance " + holder + " has it and is " + string(stateOf(i)), Remedy: "detach it there first",
		}
	}
	_, err = m.waitAvailable(ctx, id)
	return err
}

// detach unplugs a volume; it needn't be plugged in. The instance and device
// are named: some endpoints want them.
func (m *Manager) detach(ctx context.Context, id, instanceID, device string) error {
	_, err := m.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &id, InstanceId: &instanceID, Device: &device})
	if apiCode(err) == "IncorrectState" {
		return nil // it is available already
	}
	return wrap("detach", "volume "+id, err)
}
