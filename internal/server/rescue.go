package server

import (
	"cmp"
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Rescue brings a server without an instance back. Killed at any moment, the
// same call finds what there is by its tags and goes on.
func (m *Manager) Rescue(ctx context.Context, name string, o RescueOptions) (*RescueResult, error) {
	r, err := m.rescue(ctx, name, o)
	return r, wrap("rescue", "server "+name, err)
}

func (m *Manager) rescue(ctx context.Context, name string, o RescueOptions) (*RescueResult, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && stateOf(w.instance) == types.InstanceStateNameShuttingDown {
		if w, err = m.outlive(ctx, w); err != nil {
			return nil, err
		}
	}
	if err := w.underRepair(); err != nil {
		return nil, err
	}
	by, err := m.chooseRescue(w, o)
	if err != nil {
		return nil, err
	}
	if by == RescueSwap {
		return m.rescueBySwap(ctx, name, o)
	}
	return m.rescueBySnapshot(ctx, w, o)
}

// outlive waits for an instance that is on its way out, and looks again.
func (m *Manager) outlive(ctx context.Context, w *world) (*world, error) {
	id := aws.ToString(w.instance.InstanceId)
	if err := m.step("wait until terminated", id, func() error {
		_, err := m.waitInstance(ctx, id, types.InstanceStateNameTerminated)
		return err
	}); err != nil {
		return nil, err
	}
	return m.observe(ctx, w.name)
}

// chooseRescue picks the way, or says why there is nothing to rescue. What is
// under way decides over what is asked for, unless both are explicit and
// differ.
func (m *Manager) chooseRescue(w *world, o RescueOptions) (RescueBy, error) {
	asked := cmp.Or(o.By, RescueAuto)
	under := RescueBy("")
	switch {
	case asked != RescueAuto && asked != RescueSwap && asked != RescueSnapshot:
		return "", &Error{Code: KindUsage, Reason: "no way to rescue is called " + string(asked), Remedy: "--by auto, swap or snapshot"}
	case w.standIn != nil:
		under = RescueSwap
	case w.instance != nil && tagOf(w.instance.Tags, tagStep) == stepRescue:
		under = RescueSwap
		if hasTag(w.instance.Tags, tagSet) {
			under = RescueSnapshot
		}
	case w.instance != nil:
		e := &Error{Code: KindExists, Reason: "it has an instance, " + aws.ToString(w.instance.InstanceId) + ", which is " + string(stateOf(w.instance))}
		e.Remedy = "stead terminate " + w.name + " first, if it must go"
		if stateOf(w.instance) == types.InstanceStateNameStopped {
			e.Remedy = "stead start " + w.name
		}
		return "", e
	}
	switch {
	case under != "" && asked != RescueAuto && asked != under:
		return "", &Error{Code: KindExists, Reason: "a rescue by " + string(under) + " isn't finished", Remedy: "stead rescue " + w.name + " --by " + string(under)}
	case under != "":
		return under, nil
	case asked == RescueSwap && w.root() == nil:
		return "", &Error{Code: KindNotFound, Reason: "no root disk is tagged as this server's", Remedy: "stead rescue " + w.name + " --by snapshot"}
	case asked == RescueAuto && w.root() != nil:
		return RescueSwap, nil
	case asked == RescueAuto:
		return RescueSnapshot, nil
	}
	return asked, nil
}

// comeBack brings a rescued instance that runs with its disks to a finished
// server.
func (m *Manager) comeBack(ctx context.Context, name, instanceID string, wait WaitFor) (*Server, error) {
	if err := m.guard(ctx, instanceID); err != nil {
		return nil, err
	}
	if err := m.address(ctx, name, instanceID, false); err != nil {
		return nil, err
	}
	return m.ready(ctx, stepRescue, name, instanceID, wait)
}

// machineFacts are the facts to launch with: what the disks recorded, or the
// user chose, with what can't be known filled in.
func machineFacts(f facts, o RescueOptions) facts {
	f.Type = cmp.Or(o.Type, f.Type, DefaultType)
	f.Arch = cmp.Or(f.Arch, archX86)
	f.From = cmp.Or(f.From, anywhere)
	return f
}

// rescueAccess makes sure of the group, and that the key pair still exists:
// the disk has the key already, so a server comes back without it too.
func (m *Manager) rescueAccess(ctx context.Context, name string, f *facts) (group string, err error) {
	open, err := ParsePorts(f.Open)
	if err != nil {
		return "", err
	}
	if f.KeyName != "" {
		found, err := m.hasKey(ctx, f.KeyName)
		if err != nil {
			return "", err
		}
		if !found {
			m.warn("launch", name, "key pair "+f.KeyName+" is gone; the keys on the disk stay valid")
			f.KeyName = ""
		}
	}
	return m.ensureGroup(ctx, name, open, splitList(f.From))
}
