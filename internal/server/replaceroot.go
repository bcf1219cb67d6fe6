package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepReplaceRoot marks a stand-in that is to get its root by a task of the
// endpoint's, while it runs.
const stepReplaceRoot = "replace-root"

// byTask tells a stand-in that is to get its root by a task.
func (w *world) byTask() bool {
	return w.standIn != nil && tagOf(w.standIn.Tags, tagStep) == stepReplaceRoot
}

// replaceRoot brings a running stand-in one step nearer to having the server's
// root in place of its stub. The task does what a swap does, inside the
// endpoint: it ends the guest, exchanges the volumes and boots again. An
// endpoint that can't is served by a swap, and so is a task that failed.
func (m *Manager) replaceRoot(ctx context.Context, w *world, root *types.Volume) error {
	task, err := m.rootTask(ctx, aws.ToString(w.standIn.InstanceId))
	if lacksTask(err) {
		return m.swapInstead(ctx, w, root, "the endpoint has no such task")
	}
	if err != nil {
		return err
	}
	plugged := attachedTo(root) == aws.ToString(w.standIn.InstanceId)
	if plugged && (task == nil || taskFailed(task)) {
		return m.becomeServer(ctx, w) // a swap has put it in
	}
	if task == nil {
		return m.startRootTask(ctx, w, root)
	}
	switch task.TaskState {
	case types.ReplaceRootVolumeTaskStateSucceeded:
		if !plugged {
			return m.awaitChange(ctx, w) // its success is listed before the attachment
		}
		return m.becomeServer(ctx, w)
	case types.ReplaceRootVolumeTaskStateFailed, types.ReplaceRootVolumeTaskStateFailedDetached:
		return m.swapInstead(ctx, w, root, "the task ended as "+string(task.TaskState))
	default:
		return m.awaitTask(ctx, aws.ToString(w.standIn.InstanceId), aws.ToString(task.ReplaceRootVolumeTaskId))
	}
}

func taskFailed(t *types.ReplaceRootVolumeTask) bool {
	return t.TaskState == types.ReplaceRootVolumeTaskStateFailed || t.TaskState == types.ReplaceRootVolumeTaskStateFailedDetached
}

// rootTask returns the newest task on an instance, nil when there is none.
func (m *Manager) rootTask(ctx context.Context, instanceID string) (*types.ReplaceRootVolumeTask, error) {
	out, err := m.ec2.DescribeReplaceRootVolumeTasks(ctx, &ec2.DescribeReplaceRootVolumeTasksInput{Filters: []types.Filter{filter("instance-id", instanceID)}})
	if err != nil {
		return nil, wrap("list the root volume tasks of", "instance "+instanceID, err)
	}
	if len(out.ReplaceRootVolumeTasks) == 0 {
		return nil, nil
	}
	newest := slices.MaxFunc(out.ReplaceRootVolumeTasks, func(a, b types.ReplaceRootVolumeTask) int {
		return cmp.Compare(aws.ToString(a.StartTime), aws.ToString(b.StartTime))
	})
	return &newest, nil
}

func (m *Manager) startRootTask(ctx context.Context, w *world, root *types.Volume) error {
	id, rootID := aws.ToString(w.standIn.InstanceId), aws.ToString(root.VolumeId)
	var task *types.ReplaceRootVolumeTask
	err := m.step("replace root", rootID+" in "+id, func() error {
		if _, err := m.waitAvailable(ctx, rootID); err != nil {
			return err
		}
		out, err := m.ec2.CreateReplaceRootVolumeTask(ctx, &ec2.CreateReplaceRootVolumeTaskInput{
			InstanceId: &id, VolumeId: &rootID, DeleteReplacedRootVolume: aws.Bool(true),
			ClientToken: aws.String(clientToken(stepReplaceRoot, w.name, []string{id, rootID})),
		})
		if err == nil {
			task = out.ReplaceRootVolumeTask
		}
		return err
	})
	if lacksTask(err) {
		return m.swapInstead(ctx, w, root, "the endpoint can't: "+causeOf(err))
	}
	if err != nil || task == nil {
		return wrap("replace the root of", "instance "+id, err)
	}
	return m.awaitTask(ctx, id, aws.ToString(task.ReplaceRootVolumeTaskId))
}

// awaitTask waits until a task has come to an end, whichever.
func (m *Manager) awaitTask(ctx context.Context, instanceID, taskID string) error {
	return m.step("wait for the new root", instanceID, func() error {
		return m.poll(ctx, m.stateTimeout, "its root to be replaced", "instance "+instanceID, func(ctx context.Context) (bool, error) {
			task, err := m.rootTask(ctx, instanceID)
			if err != nil || task == nil {
				return false, err
			}
			switch task.TaskState {
			case types.ReplaceRootVolumeTaskStatePending, types.ReplaceRootVolumeTaskStateInProgress, types.ReplaceRootVolumeTaskStateFailing:
				return false, nil
			default:
			}
			m.log.DebugContext(ctx, "root volume task ended", "task", taskID, "state", task.TaskState)
			return true, nil
		})
	})
}

// lacksTask tells an endpoint that doesn't know the task, or doesn't know it
// for a volume: that came years after the action did.
func lacksTask(err error) bool {
	switch apiCode(err) {
	case "UnknownParameter", "InvalidParameter", "InvalidParameterCombination", "InvalidParameterValue", "MissingParameter":
		return true
	}
	return err != nil && (unsupported(err) || endpointBroke(err))
}

// swapInstead goes on with a stand-in by swap, for a reason.
func (m *Manager) swapInstead(ctx context.Context, w *world, root *types.Volume, why string) error {
	m.warn("replace root", w.name, why+"; the disks are swapped while it is stopped instead")
	if err := m.untag(ctx, aws.ToString(w.standIn.InstanceId), tagStep); err != nil {
		return err
	}
	return m.stopStub(ctx, w, root)
}
