package server

import (
	"context"
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
	if err := m.settle(ctx, name, id, w.facts()); err != nil {
		return nil, wrap("start", "server "+name, err)
	}
	if stateOf(w.instance) == types.InstanceStateNameStopped {
		if err := m.startInstance(ctx, id); err != nil {
			return nil, wrap("start", "server "+name, err)
		}
	}
	return m.ready(ctx, "start", name, id, wait)
}

// startInstance starts a stopped instance.
func (m *Manager) startInstance(ctx context.Context, id string) error {
	return m.step("start", id, func() error {
		_, err := m.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
		return wrap("start", "instance "+id, err)
	})
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
// for the guest.
func (m *Manager) Stop(ctx context.Context, name string, force bool) (*Server, error) {
	w, err := m.machine(ctx, "stop", name)
	if err != nil {
		return nil, err
	}
	id := aws.ToString(w.instance.InstanceId)
	if err := m.stopInstance(ctx, id, stateOf(w.instance), force); err != nil {
		return nil, wrap("stop", "server "+name, err)
	}
	return m.Get(ctx, name)
}

// stopInstance brings an instance from any live state to stopped. force is
// sent again to one that is stopping already.
func (m *Manager) stopInstance(ctx context.Context, id string, state types.InstanceStateName, force bool) error {
	if state == types.InstanceStateNameStopped {
		return nil
	}
	return m.step("stop", id, func() error {
		if state == types.InstanceStateNamePending {
			if _, err := m.waitInstance(ctx, id, types.InstanceStateNameRunning); err != nil {
				return err
			}
			state = types.InstanceStateNameRunning
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
		_, err := m.waitInstance(ctx, id, types.InstanceStateNameStopped)
		return err
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
	if s.SSH.Host == "" || !opens(s.Open, sshPort) {
		return
	}
	err := m.poll(ctx, rebootSilence, "ssh to stop", "server "+s.Name, func(ctx context.Context) (bool, error) {
		return !m.sshAnswers(ctx, s.SSH), nil
	})
	m.log.DebugContext(ctx, "reboot seen to begin", "server", s.Name, "err", err)
}
