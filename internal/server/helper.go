package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// A helper is a small instance of its own that a server's disks are plugged
// into when the server itself can't serve: to repair its root, or to read a
// snapshot. It carries stead:helper=SERVER and never stead:server, and goes
// with its own disk when it is terminated. The disks come after it has booted:
// its own may carry the same UUIDs and labels as theirs.

// stepTape marks a helper that reads a snapshot set.
const stepTape = "tape"

// HelperOptions says which instance helps.
type HelperOptions struct {
	Image string // image ID or alias; "" is the one that a stand-in would have
	Type  string // "" is a small one of the server's architecture
	Key   []byte // public key that logs in, in authorized_keys form
}

// findHelpers finds the live helpers of a server for a purpose. There is one,
// unless two commands ran at once.
func (m *Manager) findHelpers(ctx context.Context, name, purpose string) ([]types.Instance, error) {
	found, err := m.findInstances(ctx, filter("tag:"+tagHelper, name))
	return slices.DeleteFunc(found, func(i types.Instance) bool {
		return !live(&i) || tagOf(i.Tags, tagStep) != purpose
	}), err
}

// findHelper finds the helper that is to be used, nil when there is none.
func (m *Manager) findHelper(ctx context.Context, name, purpose string) (*types.Instance, error) {
	found, err := m.findHelpers(ctx, name, purpose)
	for k := range found {
		if stateOf(&found[k]) != types.InstanceStateNameShuttingDown {
			return &found[k], err
		}
	}
	return nil, err
}

// ensureHelper finds the server's helper for a purpose, or launches it, and
// waits until it lets in.
//
// nonce keeps the launch from being answered with the helper of an earlier
// time, which is dead.
func (m *Manager) ensureHelper(ctx context.Context, w *world, purpose, nonce string, o HelperOptions) (*types.Instance, error) {
	i, err := m.findHelper(ctx, w.name, purpose)
	if err != nil {
		return nil, err
	}
	if i == nil {
		if i, err = m.launchHelper(ctx, w, purpose, nonce, o); err != nil {
			return nil, err
		}
	}
	id := aws.ToString(i.InstanceId)
	err = m.step("wait for helper", id, func() error {
		if state := stateOf(i); state == types.InstanceStateNameStopped || state == types.InstanceStateNameStopping {
			if err := m.startAgain(ctx, id); err != nil {
				return err
			}
		}
		if i, err = m.waitInstance(ctx, id, types.InstanceStateNameRunning); err != nil {
			return err
		}
		return m.waitHelperSSH(ctx, i)
	})
	return i, err
}

// waitHelperSSH waits until the helper has booted: only then may a disk that
// looks like its own be plugged in.
func (m *Manager) waitHelperSSH(ctx context.Context, i *types.Instance) error {
	id := aws.ToString(i.InstanceId)
	return m.pollWithin(ctx, min(sshPause, m.pollMax), m.sshTimeout, "ssh to answer", "helper "+id, func(ctx context.Context) (bool, error) {
		now, err := m.instanceByID(ctx, id)
		if err != nil || now == nil {
			return false, err
		}
		*i = *now
		if err := diedWaiting(now, types.InstanceStateNameRunning); err != nil {
			return false, err
		}
		s := m.helperView(now)
		return s.SSH.Host != "" && m.sshAnswers(ctx, s.SSH), nil
	})
}

// helperView shows a helper as a server, for ssh. No server can have its name.
func (m *Manager) helperView(i *types.Instance) *Server {
	s := &Server{Name: tagOf(i.Tags, tagHelper) + ".helper." + aws.ToString(i.InstanceId), Data: []Disk{}}
	s.showInstance(i)
	s.Type, s.Arch, s.ImageID = string(i.InstanceType), string(i.Architecture), aws.ToString(i.ImageId)
	s.Root = Disk{VolumeID: rootVolumeID(i), Role: RoleRoot, Device: aws.ToString(i.RootDeviceName)}
	s.SSH = m.sshAddr(s, tagOf(i.Tags, tagUser))
	return s
}

func (m *Manager) launchHelper(ctx context.Context, w *world, purpose, nonce string, o HelperOptions) (*types.Instance, error) {
	f := machineFacts(w.facts(), RescueOptions{})
	image, user, err := m.helperImage(ctx, f, o)
	if err != nil {
		return nil, err
	}
	own := facts{Image: aws.ToString(image.ImageId), Type: cmp.Or(o.Type, builderType(image)), KeyName: f.KeyName}
	if len(o.Key) > 0 {
		if own.KeyName, err = m.ensureKey(ctx, o.Key); err != nil {
			return nil, err
		}
	}
	group, err := m.helperGroup(ctx, w.name, splitList(f.From))
	if err != nil {
		return nil, err
	}
	in := runInput(own, group, f.Zone)
	in.DisableApiTermination, in.InstanceInitiatedShutdownBehavior = nil, types.ShutdownBehaviorTerminate
	in.BlockDeviceMappings = stubMappings(image)
	tags := helperTags(w.name, purpose)
	ofInstance := tags
	if user != "" {
		ofInstance = tags.with(tagMap{tagUser: user})
	}
	in.TagSpecifications = []types.TagSpecification{ofInstance.spec(types.ResourceTypeInstance), tags.spec(types.ResourceTypeVolume)}
	var i *types.Instance
	err = m.step("launch helper", w.name, func() error {
		i, err = m.launch(ctx, "helper "+purpose, w.name, append(w.ids(), nonce), in)
		if KindOf(err) == KindCapacity {
			return &Error{Code: KindCapacity, Reason: "the cloud has no room for a helper of type " + own.Type, Remedy: "try another --type, or later", Err: err}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// Not every endpoint tags at launch, and the next run looks by tag.
	return i, m.tag(ctx, aws.ToString(i.InstanceId), tagsOf(i.Tags).missing(ofInstance))
}

// helperTags are those of a helper's instance and disks, and of disks that are
// made for it.
func helperTags(name, purpose string) tagMap {
	return tagMap{tagSchema: schemaVersion, tagHelper: name, tagStep: purpose, tagName: name + " helper"}
}

// helperImage is what a stand-in would be launched from, without the server's
// own kernel, and who logs in there.
func (m *Manager) helperImage(ctx context.Context, f facts, o HelperOptions) (image *types.Image, user string, err error) {
	if o.Image != "" {
		image, a, err := m.resolveImage(ctx, o.Image, f.Arch)
		if a != nil {
			user = a.user
		}
		return image, user, err
	}
	if image, err = m.standInImage(ctx, f, RescueOptions{}); err != nil {
		return nil, "", err
	}
	if aws.ToString(image.ImageId) == f.Image {
		return image, f.User, nil
	}
	if a := m.aliasByName(image); a != nil {
		user = a.user
	}
	return image, user, nil
}

// helperGroupName can't be a server's group's: those have no spaces.
func helperGroupName(name string) string { return "stead helper of " + name }

// helperGroup makes the security group that lets ssh in to the helper.
func (m *Manager) helperGroup(ctx context.Context, name string, from []string) (string, error) {
	group := helperGroupName(name)
	g, err := m.findGroup(ctx, group)
	if err != nil {
		return "", err
	}
	if g == nil {
		tags := tagMap{tagSchema: schemaVersion, tagHelper: name}
		out, err := m.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
			GroupName: &group, Description: aws.String("ssh to the helper of server " + name),
			TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeSecurityGroup)},
		})
		if err != nil {
			return "", wrap("create", "security group "+group, err)
		}
		g = &types.SecurityGroup{GroupId: out.GroupId}
	}
	return aws.ToString(g.GroupId), m.openPorts(ctx, g, []Port{{From: sshPort, To: sshPort, Proto: "tcp"}}, from)
}

// groupPatience is how long a group may be in use after the last instance in
// it has gone.
const groupPatience = 30 * time.Second

// endHelper removes a server's helper for a purpose, with all that was made
// for it. What of it is gone already is no error.
func (m *Manager) endHelper(ctx context.Context, name, purpose string) error {
	helpers, err := m.findHelpers(ctx, name, purpose)
	if err != nil {
		return err
	}
	for _, i := range helpers {
		id := aws.ToString(i.InstanceId)
		if err := m.step("end helper", id, func() error {
			if _, err := m.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil && KindOf(err) != KindNotFound {
				return wrap("terminate", "instance "+id, err)
			}
			_, err := m.waitInstance(ctx, id, types.InstanceStateNameTerminated)
			return err
		}); err != nil {
			return err
		}
	}
	if err := m.deleteHelperDisks(ctx, name, purpose); err != nil {
		return err
	}
	return m.deleteHelperGroup(ctx, name)
}

// deleteHelperDisks deletes what a helper leaves: disks that were made for it,
// and its own where an endpoint keeps it. Nothing that is a server's.
func (m *Manager) deleteHelperDisks(ctx context.Context, name, purpose string) error {
	volumes, err := m.findVolumes(ctx, filter("tag:"+tagHelper, name))
	if err != nil {
		return err
	}
	for k := range volumes {
		v := &volumes[k]
		id := aws.ToString(v.VolumeId)
		if tagOf(v.Tags, tagStep) != purpose || hasTag(v.Tags, tagServer) || v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted {
			continue
		}
		if _, err := m.waitAvailable(ctx, id); err != nil && KindOf(err) != KindNotFound {
			return err
		} else if err != nil {
			continue
		}
		if _, err := m.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id}); err != nil && KindOf(err) != KindNotFound {
			return wrap("delete", "volume "+id, err)
		}
	}
	return nil
}

// deleteHelperGroup deletes the helpers' security group unless another helper
// of the server is in it. It costs nothing, so it may also stay.
func (m *Manager) deleteHelperGroup(ctx context.Context, name string) error {
	others, err := m.findInstances(ctx, filter("tag:"+tagHelper, name))
	if err != nil {
		return err
	}
	for k := range others {
		if live(&others[k]) {
			return nil
		}
	}
	g, err := m.findGroup(ctx, helperGroupName(name))
	if err != nil || g == nil {
		return err
	}
	err = m.poll(ctx, groupPatience, "nothing to use it", "security group "+aws.ToString(g.GroupId), func(ctx context.Context) (bool, error) {
		_, err := m.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
		if KindOf(err) == KindNotFound || strings.HasPrefix(apiCode(err), "InvalidGroup") {
			return true, nil
		}
		if apiCode(err) == "DependencyViolation" {
			return false, nil
		}
		return err == nil, wrap("delete", "security group "+aws.ToString(g.GroupId), err)
	})
	if ctx.Err() == nil && KindOf(err) == KindTimeout {
		m.warn("end helper", name, "its security group is still in use and stays: "+helperGroupName(name))
		return nil
	}
	return err
}

// inHelper runs a script in a helper.
func (m *Manager) inHelper(ctx context.Context, i *types.Instance, vars map[string]string, script, remedy string) (map[string][]string, error) {
	if m.guest == nil {
		return nil, &Error{Code: KindUnsupported, Reason: "there is no way into a machine of this cloud"}
	}
	out, err := m.guest.Run(ctx, m.helperView(i), guestScript(vars, script))
	if err != nil {
		kind := KindOf(err)
		return nil, &Error{Op: "work in", Resource: "helper " + aws.ToString(i.InstanceId), Code: kind, Remedy: remedy, Err: err}
	}
	return guestLines(out), nil
}

// plugIntoHelper plugs a disk into a helper that has booted, and returns its
// device.
func (m *Manager) plugIntoHelper(ctx context.Context, v *types.Volume, i *types.Instance) (string, error) {
	id := aws.ToString(i.InstanceId)
	if attachedTo(v) == id {
		return attachedAs(v), m.waitAttached(ctx, aws.ToString(v.VolumeId), id)
	}
	now, err := m.instanceByID(ctx, id)
	if err != nil {
		return "", err
	}
	if now == nil {
		return "", &Error{Code: KindNotFound, Reason: fmt.Sprintf("helper %s is gone", id), Remedy: "run the same command again"}
	}
	var used []string
	for _, bdm := range now.BlockDeviceMappings {
		used = append(used, aws.ToString(bdm.DeviceName))
	}
	device, err := nextDevice(used)
	if err != nil {
		return "", err
	}
	return device, m.plug(ctx, v, i, device)
}
