package server

import (
	"context"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// RepairOptions says how to reach a server's root disk from outside.
type RepairOptions struct {
	HelperOptions
	// Force switches a server off that doesn't shut down.
	Force bool
}

// Repair is a server whose root disk is plugged into a helper.
type Repair struct {
	Helper *Server `json:"helper"`
	Disk   Disk    `json:"disk"`
	// Device is where the helper sees the file system, Mount where it has it
	// mounted: "" when it couldn't be.
	Device string `json:"device"`
	Mount  string `json:"mount,omitempty"`
	// Shell is the disk's own, to be run by chroot; "" when it has none that
	// runs.
	Shell string `json:"shell,omitempty"`
	// Problem says why the file system isn't mounted.
	Problem string `json:"problem,omitempty"`
	// Ending tells that an earlier run was putting the disk back already.
	Ending bool `json:"ending,omitempty"`
}

// RepairBegin plugs a server's root disk into a helper and mounts it there.
// Interrupted and repeated it goes on. RepairFinish puts all back.
func (m *Manager) RepairBegin(ctx context.Context, name string, o RepairOptions) (*Repair, error) {
	r, err := m.repairBegin(ctx, name, o)
	return r, wrap("repair", "server "+name, err)
}

// The order: the disk is marked first, so that whatever comes of it says so;
// the helper comes before the server is stopped, for the cloud may have none;
// and the disk is plugged in after the helper has booted.
func (m *Manager) repairBegin(ctx context.Context, name string, o RepairOptions) (*Repair, error) {
	if m.guest == nil {
		return nil, &Error{Code: KindUnsupported, Reason: "there is no way into a machine of this cloud"}
	}
	w, err := m.world(ctx, "repair", name)
	if err != nil {
		return nil, err
	}
	mark := repairing(w.root())
	if mark.back {
		return &Repair{Ending: true}, nil
	}
	if !mark.begun() {
		if err := w.atRest(); err != nil {
			return nil, err
		}
		if err := m.markRepair(ctx, w); err != nil {
			return nil, err
		}
		// Two commands at once go on with the mark that stayed.
		if w, err = m.world(ctx, "repair", name); err != nil {
			return nil, err
		}
		mark = repairing(w.root())
	}
	helper, err := m.ensureHelper(ctx, w, stepRepair, mark.nonce, o.HelperOptions)
	if err != nil {
		return nil, m.unmarkRepair(ctx, name, err)
	}
	root, err := m.takeRoot(ctx, w, helper, o.Force)
	if err != nil {
		return nil, err
	}
	return m.openRoot(ctx, name, helper, root)
}

// markRepair writes on the root what the server was before.
func (m *Manager) markRepair(ctx context.Context, w *world) error {
	was := StateDetached
	switch {
	case isUp(w.instance):
		was = StateRunning
	case w.instance != nil:
		was = StateStopped
	}
	mark := repairMark{was: was, nonce: digest(w.name, strconv.FormatInt(m.now().UnixNano(), 10))[:8]}
	return m.tag(ctx, aws.ToString(w.root().VolumeId), tagMap{tagStep: mark.String()})
}

// unmarkRepair takes the mark off where no helper could be had and nothing was
// touched, so that the server is free again. An interrupted repair keeps it.
func (m *Manager) unmarkRepair(ctx context.Context, name string, cause error) error {
	if kind := KindOf(cause); kind == KindInterrupted || kind == KindTimeout {
		return cause
	}
	w, err := m.observe(ctx, name)
	if err != nil || w.root() == nil {
		return cause
	}
	if helper, err := m.findHelper(ctx, name, stepRepair); err != nil || helper != nil {
		return cause
	}
	if w.instance != nil && attachedTo(w.root()) != aws.ToString(w.instance.InstanceId) {
		return cause
	}
	if err := m.untag(ctx, aws.ToString(w.root().VolumeId), tagStep); err != nil {
		m.warn("repair", name, "the mark of the repair stays: "+err.Error())
	}
	return cause
}

// takeRoot brings the root from the server to the helper.
func (m *Manager) takeRoot(ctx context.Context, w *world, helper *types.Instance, force bool) (*types.Volume, error) {
	root := w.root()
	id := aws.ToString(root.VolumeId)
	if w.instance != nil && attachedTo(root) == aws.ToString(w.instance.InstanceId) {
		instanceID := aws.ToString(w.instance.InstanceId)
		if err := m.stopInstance(ctx, instanceID, stateOf(w.instance), force); err != nil {
			return nil, err
		}
		if err := m.unplug(ctx, root, instanceID); err != nil {
			return nil, err
		}
	}
	root, err := m.volumeNamed(ctx, id)
	if err != nil {
		return nil, err
	}
	device, err := m.plugIntoHelper(ctx, root, helper)
	if err != nil {
		return nil, err
	}
	if root, err = m.volumeNamed(ctx, id); err != nil {
		return nil, err
	}
	m.log.DebugContext(ctx, "root is at the helper", "volume", id, "device", device)
	return root, nil
}

// unplug detaches a volume and waits until it is free.
func (m *Manager) unplug(ctx context.Context, v *types.Volume, instanceID string) error {
	id := aws.ToString(v.VolumeId)
	return m.step("unplug", id, func() error {
		if err := m.detach(ctx, id, instanceID, attachedAs(v)); err != nil {
			return err
		}
		_, err := m.waitAvailable(ctx, id)
		return m.explainStuck(err, id)
	})
}

// explainStuck says what mends a disk that doesn't let go.
func (m *Manager) explainStuck(err error, id string) error {
	if KindOf(err) != KindTimeout {
		return err
	}
	return &Error{
		Op: "unplug", Resource: "volume " + id, Code: KindTimeout, Err: err, Reason: "it doesn't let go",
		Remedy: "run the same command again later, or: aws ec2 detach-volume --force --volume-id " + id,
	}
}

// openRoot mounts the root in the helper.
func (m *Manager) openRoot(ctx context.Context, name string, helper *types.Instance, root *types.Volume) (*Repair, error) {
	r := &Repair{Helper: m.helperView(helper), Disk: diskOf(root, nil)}
	return r, m.step("open", "the disk of "+name, func() error {
		said, err := m.inHelper(ctx, helper, map[string]string{
			"volume": r.Disk.VolumeID, "device": r.Disk.Device, "dir": RepairMount(name),
		}, openScript, "stead repair "+name+", or with --finish to put the disk back")
		if err != nil {
			return err
		}
		r.Device, r.Mount, r.Shell, r.Problem = firstOf(said["device"]), firstOf(said["mount"]), firstOf(said["shell"]), firstOf(said["problem"])
		return nil
	})
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// RepairMount is where a helper mounts a server's root.
func RepairMount(name string) string { return "/mnt/" + name }

// RepairFinish puts a server's root back, starts the server if it ran before,
// and removes the helper. force goes on where the helper doesn't let go of the
// disk properly, at the risk of what it hadn't written yet.
func (m *Manager) RepairFinish(ctx context.Context, name string, force bool, wait WaitFor) (*Server, error) {
	s, err := m.repairFinish(ctx, name, force, wait)
	return s, wrap("end the repair of", "server "+name, err)
}

func (m *Manager) repairFinish(ctx context.Context, name string, force bool, wait WaitFor) (*Server, error) {
	w, err := m.world(ctx, "end the repair of", name)
	if err != nil {
		return nil, err
	}
	root := w.root()
	mark := repairing(root)
	if !mark.begun() {
		return nil, &Error{Code: KindExists, Reason: "no repair of it is under way", Remedy: "stead repair " + name}
	}
	id := aws.ToString(root.VolumeId)
	mark.back = true
	if err := m.tag(ctx, id, tagsOf(root.Tags).missing(tagMap{tagStep: mark.String()})); err != nil {
		return nil, err
	}
	if err := m.freeRoot(ctx, w, root, force); err != nil {
		return nil, err
	}
	if w.instance != nil {
		if err := m.restoreRoot(ctx, w, mark.was); err != nil {
			return nil, err
		}
	} else if mark.was != StateDetached {
		m.warn("put back", name, "its instance has gone meanwhile; stead rescue "+name+" brings it back")
	}
	if err := m.endHelper(ctx, name, stepRepair); err != nil {
		return nil, err
	}
	if err := m.untag(ctx, id, tagStep); err != nil {
		return nil, err
	}
	if w.instance == nil || mark.was != StateRunning {
		return m.Get(ctx, name)
	}
	return m.ready(ctx, stepRepair, name, aws.ToString(w.instance.InstanceId), wait)
}

// freeRoot takes the root off the helper, unmounted.
func (m *Manager) freeRoot(ctx context.Context, w *world, root *types.Volume, force bool) error {
	helper, err := m.findHelper(ctx, w.name, stepRepair)
	if err != nil {
		return err
	}
	id := aws.ToString(root.VolumeId)
	if helper == nil || attachedTo(root) != aws.ToString(helper.InstanceId) {
		if attachedTo(root) != "" && (w.instance == nil || attachedTo(root) != aws.ToString(w.instance.InstanceId)) {
			_, err := m.waitAvailable(ctx, id) // its helper is on its way out
			return err
		}
		return nil
	}
	if stateOf(helper) == types.InstanceStateNameRunning {
		err := m.step("unmount", id, func() error {
			_, err := m.inHelper(ctx, helper, map[string]string{"volume": id, "device": attachedAs(root), "dir": RepairMount(w.name)},
				closeScript, "stead repair "+w.name+" --finish --force, at the risk of what wasn't written yet")
			return err
		})
		if err != nil && (!force || ctx.Err() != nil) {
			return err
		}
		if err != nil {
			m.warn("unmount", id, err.Error())
		}
	}
	return m.unplug(ctx, root, aws.ToString(helper.InstanceId))
}

// restoreRoot makes the root the instance's again, and starts it if it ran.
func (m *Manager) restoreRoot(ctx context.Context, w *world, ran string) error {
	id := aws.ToString(w.instance.InstanceId)
	root, err := m.volumeNamed(ctx, aws.ToString(w.root().VolumeId))
	if err != nil {
		return err
	}
	if attachedTo(root) != id {
		i, err := m.waitInstance(ctx, id, types.InstanceStateNameStopped)
		if err != nil {
			return err
		}
		if err := m.plug(ctx, root, i, aws.ToString(i.RootDeviceName)); err != nil {
			return err
		}
	}
	if err := m.keepDisks(ctx, id); err != nil {
		return err
	}
	if ran != StateRunning {
		return nil
	}
	return m.startAgain(ctx, id)
}

// CommandLine is what runs a command of the user's, or a shell for "", on the
// disk: within it where it has a shell, else beside it.
func (r *Repair) CommandLine(command string) string {
	switch {
	case r.Shell != "" && command == "":
		return "chroot " + shellQuote(r.Mount) + " " + r.Shell + " -l"
	case r.Shell != "":
		return "chroot " + shellQuote(r.Mount) + " " + r.Shell + " -c " + shellQuote(command)
	case r.Mount != "" && command == "":
		return "sh -c " + shellQuote("cd "+shellQuote(r.Mount)+" && exec sh -l")
	case r.Mount != "":
		return "sh -c " + shellQuote("cd "+shellQuote(r.Mount)+" && "+command)
	case command == "":
		return "sh -l"
	}
	return "sh -c " + shellQuote(command)
}
