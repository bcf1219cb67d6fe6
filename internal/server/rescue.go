package server

import (
	"cmp"
	"context"
	"slices"

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
	w, err := m.ashore(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := m.planRescue(ctx, w, o)
	if err != nil {
		return nil, err
	}
	if p.Consent {
		return nil, p.refusal(name)
	}
	// Whoever wants it back doesn't go on with a purge that was cut off.
	if err := m.unmarkPurge(ctx, w); err != nil {
		return nil, err
	}
	if err := m.unmarkMoved(ctx, w); err != nil {
		return nil, err
	}
	m.notify(Event{State: StepDone, Step: "rescue by " + string(p.By), Resource: name, Detail: p.Why})
	had := w.facts().PrivateIP
	r, err := m.rescueBy(ctx, w, p, o)
	if err == nil && had != "" && r.Server.PrivateIP != "" && r.Server.PrivateIP != had {
		r.OldPrivateIP = had
	}
	return r, err
}

// rescueBy goes the way that was planned.
func (m *Manager) rescueBy(ctx context.Context, w *world, p *RescuePlan, o RescueOptions) (*RescueResult, error) {
	if p.By == RescueSnapshot {
		return m.rescueBySnapshot(ctx, w, p, o)
	}
	if p.Set != nil && w.instance == nil && w.standIn == nil {
		if err := m.disksFromSet(ctx, w, p.Set, ""); err != nil {
			return nil, err
		}
	}
	s, err := m.rescueBySwap(ctx, w.name, p.By, o)
	if err != nil {
		return nil, err
	}
	return m.rescued(ctx, &RescueResult{Server: s, By: p.By}, p.Set)
}

// PlanRescue says how Rescue would bring a server back, and changes nothing.
func (m *Manager) PlanRescue(ctx context.Context, name string, o RescueOptions) (*RescuePlan, error) {
	if err := CheckName(name); err != nil {
		return nil, wrap("rescue", "server "+name, err)
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, wrap("rescue", "server "+name, err)
	}
	if stateOf(w.instance) == types.InstanceStateNameShuttingDown || w.cutOff() {
		w.instance = nil
	}
	p, err := m.planRescue(ctx, w, o)
	return p, wrap("rescue", "server "+name, err)
}

// ashore observes a server whose instance, if it was on its way out, is gone.
func (m *Manager) ashore(ctx context.Context, name string) (*world, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	if stateOf(w.instance) == types.InstanceStateNameShuttingDown {
		if w, err = m.outlive(ctx, w); err != nil {
			return nil, err
		}
	}
	if err := w.underRepair(); err != nil {
		return nil, err
	}
	if w.cutOff() {
		return m.endInterrupted(ctx, w)
	}
	return w, nil
}

// rescued completes what a rescue tells: the set that it came from and the old
// disks that it leaves.
func (m *Manager) rescued(ctx context.Context, r *RescueResult, set *SnapshotSet) (*RescueResult, error) {
	if set == nil {
		return r, nil
	}
	r.Set = set.ID
	w, err := m.observe(ctx, r.Server.Name)
	if err != nil {
		return nil, err
	}
	r.Superseded = w.supersededDisks()
	return r, nil
}

// supersededDisks shows the old disks that are kept, the roots first.
func (w *world) supersededDisks() []Disk {
	var list []Disk
	for k := range w.superseded {
		list = append(list, diskOf(&w.superseded[k], nil))
	}
	slices.SortFunc(list, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(b.Role, a.Role), cmp.Compare(a.Device, b.Device), cmp.Compare(a.VolumeID, b.VolumeID))
	})
	return list
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

// comeBack brings a rescued instance that runs with its disks to a finished
// server.
func (m *Manager) comeBack(ctx context.Context, name, instanceID string, wait WaitFor) (*Server, error) {
	if err := m.guard(ctx, instanceID); err != nil {
		return nil, err
	}
	if err := m.address(ctx, name, instanceID, false); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := m.unmarkRestored(ctx, w); err != nil {
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
	if o.Zone != "" && o.Zone != f.Zone {
		f.Zone, f.PrivateIP, f.Subnet = o.Zone, "", "" // each zone has its own networks
	}
	return f
}

// rescueAccess makes sure of the group, and that the key pair still exists:
// the disk has the key already, so a server comes back without it too.
func (m *Manager) rescueAccess(ctx context.Context, name string, f *facts) (group string, err error) {
	rules, err := rulesOf(*f)
	if err != nil {
		return "", err
	}
	if f.KeyName != "" {
		found, err := m.hasKey(ctx, f.KeyName)
		if err != nil {
			return "", err
		}
		if !found {
			m.warn("launch", name, "key pair "+f.KeyName+" isn't there; the keys on the disk stay valid")
			f.KeyName = ""
		}
	}
	return m.ensureGroupIn(ctx, name, "", rules)
}
