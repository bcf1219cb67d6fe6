package server

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rebootSilence is how long a guest may take to end its ssh after it was told
// to reboot.
const rebootSilence = 20 * time.Second

// machine observes a server that must have an instance of its own.
func (m *Manager) machine(ctx context.Context, op, name string) (*world, error) {
	w, err := m.world(ctx, op, name)
	if err != nil {
		return nil, err
	}
	if err := w.underRepair(); err != nil {
		return nil, wrap(op, "server "+name, err)
	}
	if w.instance != nil && strings.HasPrefix(tagOf(w.instance.Tags, tagStep), stepRestore+" ") {
		// Half of the disks may be of one moment, and half of another.
		return nil, &Error{Op: op, Resource: "server " + name, Code: KindExists, Reason: "a restore isn't finished", Remedy: "stead restore " + name}
	}
	if w.instance != nil && w.standIn == nil {
		return w, nil
	}
	e := &Error{Op: op, Resource: "server " + name, Code: KindExists, Remedy: wayBack(name, StateDetached), Reason: "its disks have no instance"}
	if w.standIn != nil {
		e.Reason = "a rescue isn't finished"
	}
	return nil, e
}

// wayBack is the command that brings a server from a state to running.
func wayBack(name, state string) string {
	switch state {
	case StateRunning, StatePending, StateStopping, StateStopped:
		return "stead start " + name
	}
	return "stead rescue " + name
}

// Start starts a stopped server and waits. On a running one it only waits,
// and repairs what an interrupted command left. One without an instance needs
// Rescue.
func (m *Manager) Start(ctx context.Context, name string, wait WaitFor) (*Server, error) {
	w, err := m.machine(ctx, "start", name)
	if err != nil {
		return nil, err
	}
	id := aws.ToString(w.instance.InstanceId)
	if stateOf(w.instance) == types.InstanceStateNameStopping {
		if _, err := m.waitInstance(ctx, id, types.InstanceStateNameStopped); err != nil {
			return nil, wrap("start", "server "+name, err)
		}
		w.instance.State.Name = types.InstanceStateNameStopped
	}
	if interrupted(w.instance) {
		return nil, &Error{
			Op: "start", Resource: "server " + name, Code: KindCapacity,
			Reason: "its spot capacity was taken back, and EC2 alone starts it again, when there is some",
			Remedy: "wait, or bring it back in another instance at once: stead rescue " + name,
		}
	}
	if err := m.settle(ctx, name, id, w.facts()); err != nil {
		return nil, wrap("start", "server "+name, err)
	}
	if stateOf(w.instance) == types.InstanceStateNameStopped {
		// A purge that was cut off goes by its marks: what is written from here
		// on is in no set that it took.
		if err := m.unmarkPurge(ctx, w); err != nil {
			return nil, wrap("start", "server "+name, err)
		}
		if err := m.unmarkMoved(ctx, w); err != nil {
			return nil, wrap("start", "server "+name, err)
		}
		if err := m.startInstance(ctx, id); err != nil {
			return nil, wrap("start", "server "+name, m.roomElsewhere(ctx, w, err))
		}
	}
	s, err := m.ready(ctx, "start", name, id, wait)
	return s, wrap("start", "server "+name, m.roomElsewhere(ctx, w, err))
}

// startInstance starts a stopped instance.
func (m *Manager) startInstance(ctx context.Context, id string) error {
	return m.step("start", id, func() error {
		_, err := m.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
		if apiCode(err) == "IncorrectSpotRequestState" {
			return &Error{
				Op: "start", Resource: "instance " + id, Code: KindCapacity, Err: err,
				Reason: "its spot capacity was taken back, and EC2 alone starts it again, when there is some",
				Remedy: "wait, or bring it back in another instance at once by stead rescue",
			}
		}
		return wrap("start", "instance "+id, err)
	})
}

// roomElsewhere adds to a refusal for want of capacity which types the server
// could run on as well.
func (m *Manager) roomElsewhere(ctx context.Context, w *world, err error) error {
	f := w.facts()
	if KindOf(err) != KindCapacity || isSpot(w.instance) {
		return err
	}
	e := &Error{
		Op: "start", Resource: "server " + w.name, Code: KindCapacity, Err: err,
		Reason: "zone " + f.Zone + " has no room for type " + f.Type + " now",
		Remedy: "stead resize " + w.name + " --type TYPE, or later",
	}
	if like := m.likeType(ctx, f, f.Type); len(like) > 0 {
		e.Remedy = "stead resize " + w.name + " --type " + strings.Join(like, " or ") + ", or later"
	}
	return e
}

// ready waits as asked, takes the mark of an unfinished step off the instance
// and returns the server.
func (m *Manager) ready(ctx context.Context, op, name, id string, wait WaitFor) (*Server, error) {
	if err := m.waitReady(ctx, name, id, wait); err != nil {
		return nil, wrap(op, "server "+name, err)
	}
	w, err := m.world(ctx, op, name)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && hasTag(w.instance.Tags, tagStep) {
		if err := m.untag(ctx, id, tagStep); err != nil {
			return nil, wrap(op, "server "+name, err)
		}
		dropTag(w.instance, tagStep)
	}
	return m.view(w), nil
}

// dropTag takes a tag off what was observed, as it was just taken off.
func dropTag(i *types.Instance, key string) {
	tags := tagsOf(i.Tags)
	delete(tags, key)
	i.Tags = tags.list()
}

// Stop shuts a server down and waits until it is stopped; force doesn't wait
// for the guest. Where another command starts it again at once, Stop tells so
// and returns it as it is: it was stopped, and no longer is.
func (m *Manager) Stop(ctx context.Context, name string, force bool) (*Server, error) {
	w, err := m.machine(ctx, "stop", name)
	if err != nil {
		return nil, err
	}
	id := aws.ToString(w.instance.InstanceId)
	if stateOf(w.instance) != types.InstanceStateNameStopped {
		if err := w.mayEnd("stop"); err != nil {
			return nil, err
		}
	}
	err = m.stopInstance(ctx, id, stateOf(w.instance), force)
	if errors.Is(err, errStartedAgain) {
		m.warn("stop", "server "+name, "another command has started it again")
		err = nil
	}
	if err != nil {
		return nil, wrap("stop", "server "+name, err)
	}
	return m.Get(ctx, name)
}

// errStartedAgain tells of an instance that was stopped and isn't any more.
var errStartedAgain = errors.New("another command has started it again")

// stopInstance brings an instance from any live state to stopped. force is
// sent again to one that is stopping already.
func (m *Manager) stopInstance(ctx context.Context, id string, state types.InstanceStateName, force bool) error {
	if state == types.InstanceStateNameStopped {
		return nil
	}
	return m.step("stop", id, func() error {
		i, err := m.instanceByID(ctx, id)
		if state == types.InstanceStateNamePending && err == nil {
			i, err = m.waitInstance(ctx, id, types.InstanceStateNameRunning)
			state = types.InstanceStateNameRunning
		}
		if err != nil {
			return err
		}
		if state == types.InstanceStateNameRunning || force {
			in := &ec2.StopInstancesInput{InstanceIds: []string{id}}
			if force {
				in.Force = aws.Bool(true)
			}
			if _, err := m.ec2.StopInstances(ctx, in); err != nil {
				return wrap("stop", "instance "+id, err)
			}
		}
		return m.waitStopped(ctx, id, i)
	})
}

// waitStopped waits for an instance that was told to stop. One that is about
// to run, or runs, under a later launch time than before has been stopped and
// started again between two looks.
func (m *Manager) waitStopped(ctx context.Context, id string, before *types.Instance) error {
	began, stopping := m.now(), false
	return m.poll(ctx, m.stateTimeout, "to be stopped", "instance "+id, func(ctx context.Context) (bool, error) {
		i, err := m.instanceByID(ctx, id)
		if err != nil {
			return false, err
		}
		if i == nil {
			if m.now().Sub(began) < settleTime {
				return false, nil
			}
			return false, &Error{Op: "stop", Resource: "instance " + id, Reason: "it is gone", Code: KindNotFound}
		}
		switch stateOf(i) {
		case types.InstanceStateNameStopped:
			return true, nil
		case types.InstanceStateNameStopping:
			stopping = true
		case types.InstanceStateNamePending, types.InstanceStateNameRunning:
			if stopping || before != nil && aws.ToTime(i.LaunchTime).After(aws.ToTime(before.LaunchTime)) {
				return false, &Error{Op: "stop", Resource: "instance " + id, Code: KindExists, Err: errStartedAgain, Remedy: "run the same command again"}
			}
		default: // it has ended
		}
		return false, diedWaiting(i, types.InstanceStateNameStopped)
	})
}

// Reboot restarts a running server.
func (m *Manager) Reboot(ctx context.Context, name string, wait WaitFor) (*Server, error) {
	w, err := m.machine(ctx, "reboot", name)
	if err != nil {
		return nil, err
	}
	if stateOf(w.instance) != types.InstanceStateNameRunning {
		return nil, &Error{
			Op: "reboot", Resource: "server " + name, Code: KindExists,
			Reason: "it is " + string(stateOf(w.instance)), Remedy: wayBack(name, string(stateOf(w.instance))),
		}
	}
	id := aws.ToString(w.instance.InstanceId)
	if err := m.step("reboot", id, func() error {
		_, err := m.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: []string{id}})
		return wrap("reboot", "instance "+id, err)
	}); err != nil {
		return nil, wrap("reboot", "server "+name, err)
	}
	if wait == WaitSSH || wait == "" {
		m.awaitSilence(ctx, m.view(w))
	}
	return m.ready(ctx, "reboot", name, id, wait)
}

// awaitSilence waits until ssh stops answering, so that a reboot isn't taken
// to be over before it began. The API shows a rebooting instance as running
// throughout, so a guest that reboots between two looks can't be seen: the
// wait is short and its end is no error.
func (m *Manager) awaitSilence(ctx context.Context, s *Server) {
	if s.SSH.Host == "" || !opensSSH(s.Open) {
		return
	}
	err := m.poll(ctx, rebootSilence, "ssh to stop", "server "+s.Name, func(ctx context.Context) (bool, error) {
		return !m.sshAnswers(ctx, s.SSH), nil
	})
	m.log.DebugContext(ctx, "reboot seen to begin", "server", s.Name, "err", err)
}
