package server

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// settleTime is how long a resource that was just made may be unknown: EC2's
// answers are consistent only in the end.
const settleTime = 30 * time.Second

// step runs one step of an operation and tells about it.
func (m *Manager) step(name, resource string, run func() error) error {
	began := m.now()
	m.notify(Event{State: StepStarted, Step: name, Resource: resource})
	err := run()
	e := Event{State: StepDone, Step: name, Resource: resource, Elapsed: m.now().Sub(began)}
	if err != nil {
		e.State, e.Detail = StepFailed, err.Error()
	}
	m.notify(e)
	m.log.Debug("step", "name", name, "resource", resource, "elapsed", e.Elapsed, "err", err)
	return err
}

// warn tells of something that stops nothing.
func (m *Manager) warn(step, resource, detail string) {
	m.notify(Event{State: StepWarning, Step: step, Resource: resource, Detail: detail})
	m.log.Warn(detail, "step", step, "resource", resource)
}

// poll looks until done, an error or the limit; limit 0 leaves it to ctx. The
// pauses grow from pollMin to pollMax. Throttling and broken connections are
// sat out, but not the end of the local cloud.
func (m *Manager) poll(ctx context.Context, limit time.Duration, what, resource string, look func(context.Context) (bool, error)) error {
	return m.pollWithin(ctx, m.pollMax, limit, what, resource, look)
}

// pollWithin is poll with an upper bound of its own for the pauses.
func (m *Manager) pollWithin(ctx context.Context, maxPause, limit time.Duration, what, resource string, look func(context.Context) (bool, error)) error {
	wctx, cancel := ctx, context.CancelFunc(func() {})
	if limit > 0 {
		wctx, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	pause := m.pollMin
	for {
		done, err := look(wctx)
		if err == nil && done {
			return nil
		}
		if err != nil && !m.sitsOut(err) && wctx.Err() == nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-wctx.Done():
			timer.Stop()
			return waitError(ctx, limit, what, resource, err)
		case <-timer.C:
		}
		pause = min(pause*5/4, maxPause)
	}
}

// sitsOut tells whether a wait goes on after an error. A local cloud that
// refuses connections has died, and is only started by the next command.
func (m *Manager) sitsOut(err error) bool {
	return transient(err) && !(m.local && errors.Is(err, syscall.ECONNREFUSED))
}

// waitError tells a limit that was reached from an interruption.
func waitError(ctx context.Context, limit time.Duration, what, resource string, last error) error {
	if err := ctx.Err(); err != nil { // the caller's own end, not this wait's limit
		kind := classify(err)
		return &Error{Op: "wait for", Resource: resource, Reason: what, Code: kind, Remedy: remedyFor(kind), Err: err}
	}
	if errors.Is(last, context.DeadlineExceeded) {
		last = nil // the limit cut the last look short
	}
	return &Error{
		Op: "wait for", Resource: resource, Reason: fmt.Sprintf("%s: not within %s", what, limit),
		Code: KindTimeout, Remedy: remedyFor(KindTimeout), Err: last,
	}
}

// waitInstance waits until an instance is in a state, and returns it. One that
// dies on the way is an error with EC2's reason.
func (m *Manager) waitInstance(ctx context.Context, id string, want types.InstanceStateName) (*types.Instance, error) {
	var found *types.Instance
	began := m.now()
	err := m.poll(ctx, m.stateTimeout, "to be "+string(want), "instance "+id, func(ctx context.Context) (bool, error) {
		i, err := m.instanceByID(ctx, id)
		if err != nil {
			return false, err
		}
		if i == nil {
			if want == types.InstanceStateNameTerminated {
				return true, nil
			}
			if m.now().Sub(began) < settleTime {
				return false, nil
			}
			return false, &Error{Op: "wait for", Resource: "instance " + id, Reason: "it is gone", Code: KindNotFound}
		}
		found = i
		if stateOf(i) == want {
			return true, nil
		}
		return false, diedWaiting(i, want)
	})
	return found, err
}

// diedWaiting tells whether the wanted state can't come any more.
func diedWaiting(i *types.Instance, want types.InstanceStateName) error {
	state := stateOf(i)
	over := state == types.InstanceStateNameTerminated ||
		(state == types.InstanceStateNameShuttingDown && want != types.InstanceStateNameTerminated) ||
		(want == types.InstanceStateNameRunning && state == types.InstanceStateNameStopped)
	if !over {
		return nil
	}
	e := &Error{Op: "wait for", Resource: "instance " + aws.ToString(i.InstanceId), Code: KindFailed, Reason: fmt.Sprintf("it is %s, not %s", state, want)}
	if name := tagOf(i.Tags, tagServer); name != "" && !diedByItself(i) {
		// Another command did it, which is no failure of this one's own.
		e.Code, e.Remedy = KindExists, wayBack(name, string(state))
	}
	if r := i.StateReason; r != nil {
		e.Reason += fmt.Sprintf(" (%s: %s)", aws.ToString(r.Code), aws.ToString(r.Message))
		switch aws.ToString(r.Code) {
		case "Server.InsufficientInstanceCapacity":
			e.Code, e.Remedy = KindCapacity, remedyFor(KindCapacity)
		case "Client.VolumeLimitExceeded":
			e.Code, e.Remedy = KindCapacity, "the quota of disks is full: stead volume ls shows what could go"
		case "Client.InternalError":
			e.Remedy = "this is usually a KMS key that may not be used: allow kms:CreateGrant and kms:Decrypt on the disks' key"
		case "Client.InvalidSnapshot.NotFound":
			e.Remedy = "a snapshot of the image is gone or not shared with you: choose another image"
		}
	}
	return e
}

// waitVolume waits until match, and returns the volume.
func (m *Manager) waitVolume(ctx context.Context, id, what string, match func(*types.Volume) bool) (*types.Volume, error) {
	var found *types.Volume
	began := m.now()
	err := m.poll(ctx, m.stateTimeout, what, "volume "+id, func(ctx context.Context) (bool, error) {
		v, err := m.volumeByID(ctx, id)
		if err != nil {
			return false, err
		}
		if v == nil {
			if m.now().Sub(began) < settleTime {
				return false, nil
			}
			return false, &Error{Op: "wait for", Resource: "volume " + id, Reason: "it is gone", Code: KindNotFound}
		}
		if v.State == types.VolumeStateError {
			return false, &Error{Op: "wait for", Resource: "volume " + id, Reason: "it is in state error"}
		}
		found = v
		return match(v), nil
	})
	return found, err
}

func (m *Manager) waitAvailable(ctx context.Context, id string) (*types.Volume, error) {
	return m.waitVolume(ctx, id, "to be available", func(v *types.Volume) bool {
		return v.State == types.VolumeStateAvailable && attachedTo(v) == ""
	})
}

// waitAttached waits for the attachment itself: a volume is in-use before it
// is attached.
func (m *Manager) waitAttached(ctx context.Context, id, instanceID string) error {
	_, err := m.waitVolume(ctx, id, "to be attached to "+instanceID, func(v *types.Volume) bool {
		for _, a := range v.Attachments {
			if aws.ToString(a.InstanceId) == instanceID && a.State == types.VolumeAttachmentStateAttached {
				return true
			}
		}
		return false
	})
	return err
}
