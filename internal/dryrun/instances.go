package dryrun

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func state(name types.InstanceStateName) *types.InstanceState {
	code := map[types.InstanceStateName]int32{
		types.InstanceStateNameRunning: 16, types.InstanceStateNameTerminated: 48, types.InstanceStateNameStopped: 80,
	}[name]
	return &types.InstanceState{Name: name, Code: &code}
}

func is(i *types.Instance, name types.InstanceStateName) bool {
	return i.State != nil && i.State.Name == name
}

func running(i *types.Instance) bool { return is(i, types.InstanceStateNameRunning) }
func stopped(i *types.Instance) bool { return is(i, types.InstanceStateNameStopped) }

func (c *Cloud) runInstances(ctx context.Context, in *ec2.RunInstancesInput) (any, error) {
	if made, again := c.tokens[aws.ToString(in.ClientToken)]; again && in.ClientToken != nil {
		out := &ec2.RunInstancesOutput{}
		for _, id := range made {
			out.Instances = append(out.Instances, clone(*c.instances.items[id]))
		}
		return out, nil
	}
	image, err := c.image(ctx, aws.ToString(in.ImageId))
	if err != nil {
		return nil, err
	}
	mappings := launchMappings(image.BlockDeviceMappings, in.BlockDeviceMappings)
	if err := c.mayLaunch(ctx, in, mappings); err != nil {
		return nil, err
	}
	out := &ec2.RunInstancesOutput{}
	var made []string
	for range max(1, aws.ToInt32(in.MaxCount)) {
		i, err := c.newInstance(ctx, in, image)
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			if err := c.launchDisk(ctx, i, m, specTags(in.TagSpecifications, types.ResourceTypeVolume)); err != nil {
				return nil, err
			}
		}
		c.instances.put(*i.InstanceId, i)
		made = append(made, *i.InstanceId)
		out.Instances = append(out.Instances, clone(*i))
	}
	if in.ClientToken != nil {
		c.tokens[*in.ClientToken] = made
	}
	return out, nil
}

// newInstance is an instance without disks.
func (c *Cloud) newInstance(ctx context.Context, in *ec2.RunInstancesInput, image *types.Image) (*types.Instance, error) {
	i := &types.Instance{
		InstanceId: aws.String(c.plan.id("i")), ImageId: in.ImageId, InstanceType: in.InstanceType, KeyName: in.KeyName,
		State: state(types.InstanceStateNameRunning), LaunchTime: aws.Time(time.Now()), ClientToken: in.ClientToken,
		Architecture: image.Architecture, VirtualizationType: image.VirtualizationType, RootDeviceName: image.RootDeviceName,
		RootDeviceType: types.DeviceTypeEbs, EnaSupport: image.EnaSupport, BootMode: image.BootMode,
		KernelId: image.KernelId, RamdiskId: image.RamdiskId, EbsOptimized: in.EbsOptimized,
		Tags: specTags(in.TagSpecifications, types.ResourceTypeInstance), SubnetId: in.SubnetId,
	}
	if in.KernelId != nil {
		i.KernelId, i.RamdiskId = in.KernelId, in.RamdiskId
	}
	if i.InstanceType == "" {
		i.InstanceType = types.InstanceTypeM1Small // EC2's own default
	}
	if len(in.NetworkInterfaces) > 0 && i.SubnetId == nil {
		i.SubnetId = in.NetworkInterfaces[0].SubnetId
	}
	private, public := c.net()
	i.PrivateIpAddress, i.PublicIpAddress = &private, &public
	if in.PrivateIpAddress != nil {
		i.PrivateIpAddress = in.PrivateIpAddress
	}
	if !aws.ToBool(i.EnaSupport) && c.needsENA(ctx, i.InstanceType) {
		i.EnaSupport = aws.Bool(true) // or it couldn't run on this type
	}
	var err error
	if i.Placement, err = c.placement(ctx, in.Placement, i.SubnetId); err != nil {
		return nil, err
	}
	if i.SubnetId == nil {
		i.SubnetId = c.defaultSubnet(ctx, i.Placement.AvailabilityZone)
	}
	if i.SecurityGroups, err = c.groupsOf(ctx, in.SecurityGroupIds, in.SecurityGroups); err != nil {
		return nil, err
	}
	if in.IamInstanceProfile != nil {
		i.IamInstanceProfile = &types.IamInstanceProfile{Arn: in.IamInstanceProfile.Arn, Id: in.IamInstanceProfile.Name}
	}
	if m := in.InstanceMarketOptions; m != nil && m.MarketType == types.MarketTypeSpot {
		c.newSpot(i, m.SpotOptions)
	}
	a := c.attribute(*i.InstanceId)
	a.terminate, a.stop = aws.Bool(aws.ToBool(in.DisableApiTermination)), aws.Bool(aws.ToBool(in.DisableApiStop))
	a.userData = in.UserData
	if in.InstanceInitiatedShutdownBehavior != "" {
		a.shutdown = aws.String(string(in.InstanceInitiatedShutdownBehavior))
	}
	return i, nil
}

// needsENA tells whether a type runs nothing without enhanced networking.
func (c *Cloud) needsENA(ctx context.Context, t types.InstanceType) bool {
	out, err := c.real.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{t}})
	if err != nil || len(out.InstanceTypes) == 0 || out.InstanceTypes[0].NetworkInfo == nil {
		return false // an endpoint that doesn't say doesn't ask
	}
	return out.InstanceTypes[0].NetworkInfo.EnaSupport == types.EnaSupportRequired
}

func (c *Cloud) placement(ctx context.Context, asked *types.Placement, subnet *string) (*types.Placement, error) {
	p := &types.Placement{}
	if asked != nil {
		*p = clone(*asked)
	}
	if p.AvailabilityZone != nil {
		return p, nil
	}
	if subnet != nil {
		out, err := c.real.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{*subnet}})
		if err != nil {
			return nil, err
		}
		if len(out.Subnets) > 0 {
			p.AvailabilityZone = out.Subnets[0].AvailabilityZone
			return p, nil
		}
	}
	zone, err := c.zone(ctx)
	p.AvailabilityZone = &zone
	return p, err
}

// defaultSubnet is where a zone puts an instance when nobody says where, nil
// where the endpoint doesn't tell.
func (c *Cloud) defaultSubnet(ctx context.Context, zone *string) *string {
	out, err := c.real.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []types.Filter{
		{Name: aws.String("availability-zone"), Values: []string{aws.ToString(zone)}},
		{Name: aws.String("default-for-az"), Values: []string{"true"}},
	}})
	if err != nil || len(out.Subnets) == 0 {
		return nil
	}
	return out.Subnets[0].SubnetId
}

func (c *Cloud) newSpot(i *types.Instance, o *types.SpotMarketOptions) {
	id := c.plan.id("sir")
	i.InstanceLifecycle, i.SpotInstanceRequestId = types.InstanceLifecycleTypeSpot, &id
	r := &types.SpotInstanceRequest{
		SpotInstanceRequestId: &id, InstanceId: i.InstanceId, State: types.SpotInstanceStateActive,
		Type: types.SpotInstanceTypeOneTime, Status: &types.SpotInstanceStatus{Code: aws.String("fulfilled")},
	}
	if o != nil {
		r.Type, r.InstanceInterruptionBehavior = o.SpotInstanceType, o.InstanceInterruptionBehavior
	}
	c.spots.put(id, r)
}

func (c *Cloud) cancelSpots(in *ec2.CancelSpotInstanceRequestsInput) (any, error) {
	out := &ec2.CancelSpotInstanceRequestsOutput{}
	for _, id := range in.SpotInstanceRequestIds {
		r := c.spots.items[id]
		if r == nil {
			r = &types.SpotInstanceRequest{SpotInstanceRequestId: aws.String(id)}
		}
		r.State = types.SpotInstanceStateCancelled
		c.spots.put(id, r)
		out.CancelledSpotInstanceRequests = append(out.CancelledSpotInstanceRequests, types.CancelledSpotInstanceRequest{
			SpotInstanceRequestId: aws.String(id), State: types.CancelSpotInstanceRequestStateCancelled,
		})
	}
	return out, nil
}

// launchMappings are an image's mappings with a launch's own laid over them.
func launchMappings(image, own []types.BlockDeviceMapping) []types.BlockDeviceMapping {
	all := clone(image)
	for _, m := range clone(own) {
		k := slices.IndexFunc(all, func(x types.BlockDeviceMapping) bool {
			return aws.ToString(x.DeviceName) == aws.ToString(m.DeviceName)
		})
		switch {
		case m.NoDevice != nil && k >= 0:
			all = slices.Delete(all, k, k+1)
		case m.NoDevice != nil:
		case k < 0:
			all = append(all, m)
		default:
			all[k] = overlaid(all[k], m)
		}
	}
	return all
}

// overlaid is mapping b where it says something, and a elsewhere.
func overlaid(a, b types.BlockDeviceMapping) types.BlockDeviceMapping {
	if a.Ebs == nil || b.Ebs == nil {
		return b
	}
	if b.Ebs.SnapshotId == nil {
		b.Ebs.SnapshotId = a.Ebs.SnapshotId
	}
	if b.Ebs.VolumeSize == nil {
		b.Ebs.VolumeSize = a.Ebs.VolumeSize
	}
	if b.Ebs.VolumeType == "" {
		b.Ebs.VolumeType = a.Ebs.VolumeType
	}
	if b.Ebs.DeleteOnTermination == nil {
		b.Ebs.DeleteOnTermination = a.Ebs.DeleteOnTermination
	}
	return b
}

// launchDisk makes a disk of a launch and plugs it in.
func (c *Cloud) launchDisk(ctx context.Context, i *types.Instance, m types.BlockDeviceMapping, tags []types.Tag) error {
	if m.Ebs == nil {
		return nil // instance store
	}
	v, err := c.newVolume(ctx, m.Ebs.SnapshotId, m.Ebs.VolumeSize, m.Ebs.VolumeType, i.Placement.AvailabilityZone)
	if err != nil {
		return err
	}
	v.Tags, v.Iops, v.Throughput = clone(tags), m.Ebs.Iops, m.Ebs.Throughput
	if m.Ebs.Encrypted != nil {
		v.Encrypted, v.KmsKeyId = m.Ebs.Encrypted, m.Ebs.KmsKeyId
	}
	gone := m.Ebs.DeleteOnTermination == nil || *m.Ebs.DeleteOnTermination
	plug(v, i, aws.ToString(m.DeviceName), gone)
	return nil
}

// groupsOf finds security groups by ID and by name.
func (c *Cloud) groupsOf(ctx context.Context, ids, names []string) ([]types.GroupIdentifier, error) {
	var list []types.GroupIdentifier
	for _, id := range ids {
		g, err := c.group(ctx, id)
		if err != nil {
			return nil, err
		}
		list = append(list, types.GroupIdentifier{GroupId: g.GroupId, GroupName: g.GroupName})
	}
	for _, name := range names {
		found, err := c.groupsNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, refuse("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
		}
		list = append(list, types.GroupIdentifier{GroupId: found[0].GroupId, GroupName: &name})
	}
	return list, nil
}

// all loads instances before one of them is changed: a call that names one that
// isn't there changes none.
func (c *Cloud) all(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if _, err := c.instance(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) startInstances(ctx context.Context, in *ec2.StartInstancesInput) (any, error) {
	if err := c.all(ctx, in.InstanceIds); err != nil {
		return nil, err
	}
	out := &ec2.StartInstancesOutput{}
	for _, id := range in.InstanceIds {
		i, err := c.instance(ctx, id)
		if err != nil {
			return nil, err
		}
		before := i.State
		switch {
		case running(i), is(i, types.InstanceStateNamePending):
		case !stopped(i):
			return nil, refuse("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started.", id)
		case mapped(i, aws.ToString(i.RootDeviceName)) == nil:
			return nil, refuse("IncorrectState", "Instance does not have a volume attached at root (%s)", aws.ToString(i.RootDeviceName))
		default:
			i.State, i.LaunchTime, i.StateReason, i.StateTransitionReason = state(types.InstanceStateNameRunning), aws.Time(time.Now()), nil, nil
			if i.PublicIpAddress == nil {
				_, public := c.net()
				i.PublicIpAddress = &public
			}
		}
		out.StartingInstances = append(out.StartingInstances, types.InstanceStateChange{InstanceId: i.InstanceId, PreviousState: before, CurrentState: i.State})
	}
	return clone(out), nil
}

func (c *Cloud) stopInstances(ctx context.Context, in *ec2.StopInstancesInput) (any, error) {
	if err := c.all(ctx, in.InstanceIds); err != nil {
		return nil, err
	}
	out := &ec2.StopInstancesOutput{}
	for _, id := range in.InstanceIds {
		i, err := c.instance(ctx, id)
		if err != nil {
			return nil, err
		}
		if is(i, types.InstanceStateNameTerminated) || is(i, types.InstanceStateNameShuttingDown) {
			return nil, refuse("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be stopped.", id)
		}
		if !stopped(i) && c.protected(ctx, id, types.InstanceAttributeNameDisableApiStop) {
			return nil, refuse("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", id)
		}
		before := i.State
		c.halt(ctx, i, types.InstanceStateNameStopped)
		out.StoppingInstances = append(out.StoppingInstances, types.InstanceStateChange{InstanceId: i.InstanceId, PreviousState: before, CurrentState: i.State})
	}
	return clone(out), nil
}

// halt ends an instance's run. What address it was lent goes; a fixed one
// stays with a stopped instance.
func (c *Cloud) halt(ctx context.Context, i *types.Instance, to types.InstanceStateName) {
	i.State = state(to)
	i.StateReason = &types.StateReason{Code: aws.String("Client.UserInitiatedShutdown"), Message: aws.String("Client.UserInitiatedShutdown: User initiated shutdown")}
	i.StateTransitionReason = aws.String("User initiated")
	fixed := c.addressOf(ctx, aws.ToString(i.InstanceId))
	if fixed == nil || to == types.InstanceStateNameTerminated {
		i.PublicIpAddress = nil
	}
	if fixed != nil && to == types.InstanceStateNameTerminated {
		fixed.InstanceId, fixed.AssociationId, fixed.NetworkInterfaceId, fixed.PrivateIpAddress = nil, nil, nil, nil
	}
}

func (c *Cloud) terminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput) (any, error) {
	if err := c.all(ctx, in.InstanceIds); err != nil {
		return nil, err
	}
	out := &ec2.TerminateInstancesOutput{}
	for _, id := range in.InstanceIds {
		i, err := c.instance(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.protected(ctx, id, types.InstanceAttributeNameDisableApiTermination) {
			return nil, refuse("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", id)
		}
		before := i.State
		for _, bdm := range i.BlockDeviceMappings {
			if bdm.Ebs == nil {
				continue
			}
			v, err := c.volume(ctx, aws.ToString(bdm.Ebs.VolumeId))
			if err != nil {
				return nil, err
			}
			v.Attachments, v.State = nil, types.VolumeStateAvailable
			if aws.ToBool(bdm.Ebs.DeleteOnTermination) {
				c.volumes.put(*v.VolumeId, nil)
			}
		}
		i.BlockDeviceMappings = nil
		c.halt(ctx, i, types.InstanceStateNameTerminated)
		out.TerminatingInstances = append(out.TerminatingInstances, types.InstanceStateChange{InstanceId: i.InstanceId, PreviousState: before, CurrentState: i.State})
	}
	return clone(out), nil
}
