package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// settle makes the truth hold for a server's instance: every disk that is
// plugged in is tagged with its server, role and device, the root with the
// facts as well, and no disk goes with the instance. It changes nothing that
// is right already.
func (m *Manager) settle(ctx context.Context, name, instanceID string, f facts) error {
	return m.settleWith(ctx, name, instanceID, f, func(*types.Instance, []types.Volume) func(device string) tagMap {
		return func(string) tagMap { return nil }
	})
}

// settleWith is settle with more facts for the data disks, by device: what is
// to become of them is known when they are made, and only then.
func (m *Manager) settleWith(ctx context.Context, name, instanceID string, f facts, about func(*types.Instance, []types.Volume) func(device string) tagMap) error {
	i, volumes, err := m.disksOf(ctx, instanceID)
	if err != nil {
		return err
	}
	f = f.observed(i)
	f.Disks = devicesOf(name, i, volumes)
	more := about(i, volumes)
	for k := range volumes {
		if err := m.settleVolume(ctx, name, i, &volumes[k], f, more); err != nil {
			return err
		}
	}
	return m.keepDisks(ctx, instanceID)
}

// disksOf returns an instance and its volumes, once all are listed. EC2 lists
// them some time after it answers RunInstances.
func (m *Manager) disksOf(ctx context.Context, instanceID string) (*types.Instance, []types.Volume, error) {
	var (
		i       *types.Instance
		volumes []types.Volume
	)
	err := m.poll(ctx, m.stateTimeout, "its disks to be listed", "instance "+instanceID, func(ctx context.Context) (bool, error) {
		var err error
		if i, err = m.instanceByID(ctx, instanceID); err != nil || i == nil {
			return false, err
		}
		if err := diedWaiting(i, types.InstanceStateNamePending); err != nil {
			return false, err
		}
		ids := mappedVolumes(i)
		if len(ids) == 0 || !slices.Contains(ids, rootVolumeID(i)) {
			return false, nil
		}
		volumes, err = m.findVolumes(ctx, filter("volume-id", ids...))
		// No endpoint promises an order; the steps that follow have one.
		slices.SortFunc(volumes, func(a, b types.Volume) int {
			return cmp.Compare(slices.Index(ids, aws.ToString(a.VolumeId)), slices.Index(ids, aws.ToString(b.VolumeId)))
		})
		return len(volumes) == len(ids), err
	})
	return i, volumes, err
}

// devicesOf lists where an instance's disks are that belong to a server, so
// that a snapshot of the root can tell which others belong with it.
func devicesOf(name string, i *types.Instance, volumes []types.Volume) string {
	var devices []string
	for k := range volumes {
		if owner := tagOf(volumes[k].Tags, tagServer); owner == "" || owner == name {
			devices = append(devices, deviceIn(i, aws.ToString(volumes[k].VolumeId)))
		}
	}
	slices.Sort(devices)
	return strings.Join(devices, " ")
}

func mappedVolumes(i *types.Instance) []string {
	var ids []string
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && bdm.Ebs.VolumeId != nil {
			ids = append(ids, *bdm.Ebs.VolumeId)
		}
	}
	return ids
}

// rootVolumeID returns the volume at the instance's root device, or "".
func rootVolumeID(i *types.Instance) string {
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && aws.ToString(bdm.DeviceName) == aws.ToString(i.RootDeviceName) {
			return aws.ToString(bdm.Ebs.VolumeId)
		}
	}
	return ""
}

// settleVolume makes a plugged-in volume's tags true. A volume of another
// server is left alone.
func (m *Manager) settleVolume(ctx context.Context, name string, i *types.Instance, v *types.Volume, f facts, more func(device string) tagMap) error {
	id := aws.ToString(v.VolumeId)
	have := tagsOf(v.Tags)
	if other := have[tagServer]; other != "" && other != name {
		m.warn("tag disks", id, "it belongs to server "+other+" and is left as it is")
		return nil
	}
	want := pluggedTags(name, i, id, f)
	if want[tagRole] == RoleData {
		want = want.with(more(want[tagDevice]))
	}
	// A name that somebody gave it stays; it is theirs alone to read.
	if n := have[tagName]; n != "" && n != name && !strings.HasPrefix(n, name+" data ") {
		delete(want, tagName)
	}
	return m.tag(ctx, id, have.missing(want))
}

// pluggedTags are the tags of a server's disk where it is plugged in.
func pluggedTags(name string, i *types.Instance, volumeID string, f facts) tagMap {
	want := serverTags(name)
	if volumeID == rootVolumeID(i) {
		want[tagRole], want[tagDevice] = RoleRoot, aws.ToString(i.RootDeviceName)
		return want.with(f.tags())
	}
	want[tagRole], want[tagDevice] = RoleData, deviceIn(i, volumeID)
	want[tagName] = name + " data " + want[tagDevice]
	return want
}

// deviceIn returns where a volume is plugged into an instance, or "".
func deviceIn(i *types.Instance, volumeID string) string {
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && aws.ToString(bdm.Ebs.VolumeId) == volumeID {
			return aws.ToString(bdm.DeviceName)
		}
	}
	return ""
}

// tag sets tags on one resource; none is no call.
func (m *Manager) tag(ctx context.Context, id string, tags tagMap) error {
	if len(tags) == 0 {
		return nil
	}
	_, err := m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: tags.list()})
	return wrap("tag", id, err)
}

// untag removes tags from one resource, whatever their values.
func (m *Manager) untag(ctx context.Context, id string, keys ...string) error {
	in := &ec2.DeleteTagsInput{Resources: []string{id}}
	for _, key := range keys {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key)})
	}
	_, err := m.ec2.DeleteTags(ctx, in)
	return wrap("untag", id, err)
}

// keepDisks makes sure that no disk is deleted with the instance: it looks,
// repairs what isn't so, and looks again until the endpoint agrees.
func (m *Manager) keepDisks(ctx context.Context, instanceID string) error {
	repaired := false
	return m.poll(ctx, settleTime, "every disk to be kept on termination", "instance "+instanceID, func(ctx context.Context) (bool, error) {
		i, err := m.instanceByID(ctx, instanceID)
		if err != nil || i == nil {
			return false, err
		}
		doomed := doomedDevices(i)
		if len(doomed) == 0 || repaired {
			return len(doomed) == 0, nil
		}
		in := &ec2.ModifyInstanceAttributeInput{InstanceId: &instanceID}
		for _, device := range doomed {
			in.BlockDeviceMappings = append(in.BlockDeviceMappings, types.InstanceBlockDeviceMappingSpecification{
				DeviceName: &device,
				Ebs:        &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(false)},
			})
		}
		m.log.InfoContext(ctx, "keep disks on termination", "instance", instanceID, "devices", strings.Join(doomed, " "))
		if _, err := m.ec2.ModifyInstanceAttribute(ctx, in); err != nil {
			return false, wrap("keep the disks of", "instance "+instanceID, err)
		}
		repaired = true
		return false, nil
	})
}

// doomedDevices lists the devices whose volumes would go with the instance.
func doomedDevices(i *types.Instance) []string {
	var doomed []string
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && aws.ToBool(bdm.Ebs.DeleteOnTermination) {
			doomed = append(doomed, aws.ToString(bdm.DeviceName))
		}
	}
	return doomed
}

// guard makes termination by accident hard: protection on, and a shutdown from
// inside only stops the machine. A server that the user protected can't be
// stopped either. A spot instance can't have such protection, and an endpoint
// that can't say or do so gets a warning: the disks are kept in any case.
func (m *Manager) guard(ctx context.Context, instanceID string) error {
	i, volumes, err := m.disksOf(ctx, instanceID)
	if err != nil {
		return err
	}
	if !isSpot(i) {
		err := m.guardAttribute(ctx, instanceID, types.InstanceAttributeNameDisableApiTermination,
			func(o *ec2.DescribeInstanceAttributeOutput) bool {
				return o.DisableApiTermination != nil && aws.ToBool(o.DisableApiTermination.Value)
			},
			&ec2.ModifyInstanceAttributeInput{InstanceId: &instanceID, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}})
		if err != nil {
			return err
		}
		if protectedBy(i, volumes) {
			if err := m.guardStop(ctx, instanceID, true); err != nil {
				return err
			}
		}
	}
	return m.guardAttribute(ctx, instanceID, types.InstanceAttributeNameInstanceInitiatedShutdownBehavior,
		func(o *ec2.DescribeInstanceAttributeOutput) bool {
			return o.InstanceInitiatedShutdownBehavior != nil && aws.ToString(o.InstanceInitiatedShutdownBehavior.Value) == string(types.ShutdownBehaviorStop)
		},
		&ec2.ModifyInstanceAttributeInput{InstanceId: &instanceID, InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String(string(types.ShutdownBehaviorStop))}})
}

// guardStop forbids or allows to stop an instance.
func (m *Manager) guardStop(ctx context.Context, instanceID string, on bool) error {
	return m.guardAttribute(ctx, instanceID, types.InstanceAttributeNameDisableApiStop,
		func(o *ec2.DescribeInstanceAttributeOutput) bool {
			return o.DisableApiStop != nil && aws.ToBool(o.DisableApiStop.Value) == on
		},
		&ec2.ModifyInstanceAttributeInput{InstanceId: &instanceID, DisableApiStop: &types.AttributeBooleanValue{Value: &on}})
}

func isSpot(i *types.Instance) bool { return i.InstanceLifecycle == types.InstanceLifecycleTypeSpot }

// protectedBy tells whether the user protected the server, as its root says.
func protectedBy(i *types.Instance, volumes []types.Volume) bool {
	return slices.ContainsFunc(volumes, func(v types.Volume) bool {
		return aws.ToString(v.VolumeId) == rootVolumeID(i) && tagOf(v.Tags, tagProtected) == "yes"
	})
}

func (m *Manager) guardAttribute(ctx context.Context, id string, name types.InstanceAttributeName, right func(*ec2.DescribeInstanceAttributeOutput) bool, repair *ec2.ModifyInstanceAttributeInput) error {
	out, err := m.ec2.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: name})
	if err == nil && right(out) {
		return nil
	}
	if err == nil || unsupported(err) {
		_, err = m.ec2.ModifyInstanceAttribute(ctx, repair)
	}
	if unsupported(err) {
		m.warn("protect", id, fmt.Sprintf("the endpoint can't set %s", name))
		return nil
	}
	return wrap("protect", "instance "+id, err)
}
