package dryrun

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// read answers a call that only reads: the endpoint's answer with the overlay
// on it. Reads of what the overlay has nothing of go through as they are.
func (c *Cloud) read(ctx context.Context, in any, ask asker) (any, error) {
	switch in := in.(type) {
	case *ec2.DescribeInstancesInput:
		return c.describeInstances(ctx, in, ask)
	case *ec2.DescribeInstanceStatusInput:
		return c.describeInstanceStatus(ctx, in, ask)
	case *ec2.DescribeInstanceAttributeInput:
		return c.describeInstanceAttribute(ctx, in, ask)
	case *ec2.DescribeVolumesInput:
		return c.describeVolumes(ctx, in, ask)
	case *ec2.DescribeVolumeStatusInput:
		return c.describeVolumeStatus(ctx, in, ask)
	case *ec2.DescribeVolumesModificationsInput:
		return c.describeModifications(ctx, in, ask)
	case *ec2.DescribeSnapshotsInput:
		return c.describeSnapshots(ctx, in, ask)
	case *ec2.DescribeImagesInput:
		return c.describeImages(ctx, in, ask)
	case *ec2.DescribeAddressesInput:
		return c.describeAddresses(ctx, in, ask)
	case *ec2.DescribeSecurityGroupsInput:
		return c.describeGroups(ctx, in, ask)
	case *ec2.DescribeKeyPairsInput:
		return c.describeKeys(ctx, in, ask)
	case *ec2.DescribeReplaceRootVolumeTasksInput:
		return c.describeTasks(ctx, in, ask)
	case *ec2.DescribeSpotInstanceRequestsInput:
		return c.describeSpots(ctx, in, ask)
	case *dlm.GetLifecyclePoliciesInput:
		return c.getPolicies(ctx, in, ask)
	case *dlm.GetLifecyclePolicyInput:
		return c.getPolicy(ctx, in, ask)
	case *ec2.GetConsoleOutputInput:
		if Placeholder(aws.ToString(in.InstanceId)) {
			return &ec2.GetConsoleOutputOutput{InstanceId: in.InstanceId}, nil
		}
	case *ec2.GetInstanceUefiDataInput:
		if Placeholder(aws.ToString(in.InstanceId)) {
			return &ec2.GetInstanceUefiDataOutput{InstanceId: in.InstanceId}, nil
		}
	}
	return ask(ctx, in)
}

// page asks the endpoint for a page of a list, unless the shelf alone can
// answer, and lays the overlay on it.
func page[T any, O any](ctx context.Context, c *Cloud, s *shelf[T], ids *[]string, filters []types.Filter, in any, ask asker, list func(*O) *[]T, id func(*T) *string, q search[T]) (*O, error) {
	c.mu.Lock()
	wanted := s.narrow(ids, filters)
	c.mu.Unlock()
	out := new(O)
	if wanted {
		res, err := ask(ctx, in)
		if err != nil {
			return nil, err
		}
		out = res.(*O)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := s.overlay(*list(out), id, q)
	*list(out) = all
	return out, err
}

func (c *Cloud) describeVolumes(ctx context.Context, in *ec2.DescribeVolumesInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.volumes, &q.VolumeIds, q.Filters, q, ask,
		func(o *ec2.DescribeVolumesOutput) *[]types.Volume { return &o.Volumes },
		func(v *types.Volume) *string { return v.VolumeId },
		search[types.Volume]{ids: in.VolumeIds, first: in.NextToken == nil, notFound: "InvalidVolume.NotFound", match: func(v *types.Volume) (bool, error) {
			return matches(in.Filters, v.Tags, volumeFields(v))
		}})
}

// own tells whether a list of owners has the caller in it.
func own(owners []string, owner *string) bool {
	return len(owners) == 0 || slices.Contains(owners, "self") || owner != nil && slices.Contains(owners, *owner)
}

func (c *Cloud) describeSnapshots(ctx context.Context, in *ec2.DescribeSnapshotsInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.snapshots, &q.SnapshotIds, q.Filters, q, ask,
		func(o *ec2.DescribeSnapshotsOutput) *[]types.Snapshot { return &o.Snapshots },
		func(v *types.Snapshot) *string { return v.SnapshotId },
		search[types.Snapshot]{ids: in.SnapshotIds, first: in.NextToken == nil, notFound: "InvalidSnapshot.NotFound", match: func(v *types.Snapshot) (bool, error) {
			if !own(in.OwnerIds, v.OwnerId) {
				return false, nil
			}
			return matches(in.Filters, v.Tags, snapshotFields(v))
		}})
}

func (c *Cloud) describeImages(ctx context.Context, in *ec2.DescribeImagesInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.images, &q.ImageIds, q.Filters, q, ask,
		func(o *ec2.DescribeImagesOutput) *[]types.Image { return &o.Images },
		func(v *types.Image) *string { return v.ImageId },
		search[types.Image]{ids: in.ImageIds, first: in.NextToken == nil, notFound: "InvalidAMIID.NotFound", match: func(v *types.Image) (bool, error) {
			if !Placeholder(aws.ToString(v.ImageId)) && len(in.Owners) > 0 && !slices.Contains(in.Owners, aws.ToString(v.OwnerId)) &&
				!slices.Contains(in.Owners, aws.ToString(v.ImageOwnerAlias)) && !slices.Contains(in.Owners, "self") {
				return false, nil
			}
			if Placeholder(aws.ToString(v.ImageId)) && !own(in.Owners, v.OwnerId) {
				return false, nil
			}
			return matches(in.Filters, v.Tags, imageFields(v))
		}})
}

func (c *Cloud) describeAddresses(ctx context.Context, in *ec2.DescribeAddressesInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.addresses, &q.AllocationIds, q.Filters, q, ask,
		func(o *ec2.DescribeAddressesOutput) *[]types.Address { return &o.Addresses },
		func(v *types.Address) *string { return v.AllocationId },
		search[types.Address]{ids: in.AllocationIds, first: true, notFound: "InvalidAllocationID.NotFound", match: func(v *types.Address) (bool, error) {
			if len(in.PublicIps) > 0 && !slices.Contains(in.PublicIps, aws.ToString(v.PublicIp)) {
				return false, nil
			}
			return matches(in.Filters, v.Tags, addressFields(v))
		}})
}

func (c *Cloud) describeGroups(ctx context.Context, in *ec2.DescribeSecurityGroupsInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.groups, &q.GroupIds, q.Filters, q, ask,
		func(o *ec2.DescribeSecurityGroupsOutput) *[]types.SecurityGroup { return &o.SecurityGroups },
		func(v *types.SecurityGroup) *string { return v.GroupId },
		search[types.SecurityGroup]{ids: in.GroupIds, first: in.NextToken == nil, notFound: "InvalidGroup.NotFound", match: func(v *types.SecurityGroup) (bool, error) {
			if len(in.GroupNames) > 0 && !slices.Contains(in.GroupNames, aws.ToString(v.GroupName)) {
				return false, nil
			}
			return matches(in.Filters, v.Tags, groupFields(v))
		}})
}

func (c *Cloud) describeKeys(ctx context.Context, in *ec2.DescribeKeyPairsInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.keys, &q.KeyNames, q.Filters, q, ask,
		func(o *ec2.DescribeKeyPairsOutput) *[]types.KeyPairInfo { return &o.KeyPairs },
		func(v *types.KeyPairInfo) *string { return v.KeyName },
		search[types.KeyPairInfo]{ids: in.KeyNames, first: true, notFound: "InvalidKeyPair.NotFound", match: func(v *types.KeyPairInfo) (bool, error) {
			return matches(in.Filters, v.Tags, keyFields(v))
		}})
}

func (c *Cloud) describeModifications(ctx context.Context, in *ec2.DescribeVolumesModificationsInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.modifications, &q.VolumeIds, q.Filters, q, ask,
		func(o *ec2.DescribeVolumesModificationsOutput) *[]types.VolumeModification {
			return &o.VolumesModifications
		},
		func(v *types.VolumeModification) *string { return v.VolumeId },
		search[types.VolumeModification]{ids: in.VolumeIds, first: in.NextToken == nil, notFound: "InvalidVolumeModification.NotFound", match: func(v *types.VolumeModification) (bool, error) {
			return matches(in.Filters, nil, fields{"volume-id": one(v.VolumeId), "modification-state": word(v.ModificationState)})
		}})
}

func (c *Cloud) describeTasks(ctx context.Context, in *ec2.DescribeReplaceRootVolumeTasksInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.tasks, &q.ReplaceRootVolumeTaskIds, q.Filters, q, ask,
		func(o *ec2.DescribeReplaceRootVolumeTasksOutput) *[]types.ReplaceRootVolumeTask {
			return &o.ReplaceRootVolumeTasks
		},
		func(v *types.ReplaceRootVolumeTask) *string { return v.ReplaceRootVolumeTaskId },
		search[types.ReplaceRootVolumeTask]{ids: in.ReplaceRootVolumeTaskIds, first: in.NextToken == nil, notFound: "InvalidReplaceRootVolumeTaskId.NotFound", match: func(v *types.ReplaceRootVolumeTask) (bool, error) {
			return matches(in.Filters, v.Tags, fields{"instance-id": one(v.InstanceId), "replace-root-volume-task-id": one(v.ReplaceRootVolumeTaskId)})
		}})
}

func (c *Cloud) describeSpots(ctx context.Context, in *ec2.DescribeSpotInstanceRequestsInput, ask asker) (any, error) {
	q := clone(in)
	return page(ctx, c, c.spots, &q.SpotInstanceRequestIds, q.Filters, q, ask,
		func(o *ec2.DescribeSpotInstanceRequestsOutput) *[]types.SpotInstanceRequest {
			return &o.SpotInstanceRequests
		},
		func(v *types.SpotInstanceRequest) *string { return v.SpotInstanceRequestId },
		search[types.SpotInstanceRequest]{ids: in.SpotInstanceRequestIds, first: in.NextToken == nil, notFound: "InvalidSpotInstanceRequestID.NotFound", match: func(v *types.SpotInstanceRequest) (bool, error) {
			return matches(in.Filters, v.Tags, fields{
				"spot-instance-request-id": one(v.SpotInstanceRequestId), "instance-id": one(v.InstanceId), "state": word(v.State),
			})
		}})
}

// describeInstances keeps the endpoint's reservations and puts each instance
// of the overlay into one of its own.
func (c *Cloud) describeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, ask asker) (any, error) {
	q := clone(in)
	type flat struct {
		list []types.Instance
		out  *ec2.DescribeInstancesOutput
	}
	var kept []types.Reservation
	through := func(ctx context.Context, in any) (any, error) {
		res, err := ask(ctx, in)
		if err != nil {
			return nil, err
		}
		o := res.(*ec2.DescribeInstancesOutput)
		kept = o.Reservations
		return &flat{out: o}, nil
	}
	f, err := page(ctx, c, c.instances, &q.InstanceIds, q.Filters, q, through,
		func(o *flat) *[]types.Instance { return &o.list },
		func(v *types.Instance) *string { return v.InstanceId },
		search[types.Instance]{ids: in.InstanceIds, first: in.NextToken == nil, notFound: "InvalidInstanceID.NotFound", match: func(v *types.Instance) (bool, error) {
			return matches(in.Filters, v.Tags, instanceFields(v))
		}})
	if err != nil {
		return nil, err
	}
	if f.out == nil {
		f.out = &ec2.DescribeInstancesOutput{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.out.Reservations = nil
	for _, r := range kept {
		r.Instances = slices.DeleteFunc(r.Instances, func(i types.Instance) bool {
			_, known := c.instances.items[aws.ToString(i.InstanceId)]
			return known
		})
		if len(r.Instances) > 0 {
			f.out.Reservations = append(f.out.Reservations, r)
		}
	}
	for _, i := range f.list {
		f.out.Reservations = append(f.out.Reservations, types.Reservation{Instances: []types.Instance{i}})
	}
	return f.out, nil
}

// describeInstanceStatus says of what the overlay runs that it is well.
func (c *Cloud) describeInstanceStatus(ctx context.Context, in *ec2.DescribeInstanceStatusInput, ask asker) (any, error) {
	q := clone(in)
	c.mu.Lock()
	wanted := c.instances.narrow(&q.InstanceIds, q.Filters)
	c.mu.Unlock()
	out := &ec2.DescribeInstanceStatusOutput{}
	if wanted {
		res, err := ask(ctx, q)
		if err != nil {
			return nil, err
		}
		out = res.(*ec2.DescribeInstanceStatusOutput)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out.InstanceStatuses = slices.DeleteFunc(out.InstanceStatuses, func(s types.InstanceStatus) bool {
		_, known := c.instances.items[aws.ToString(s.InstanceId)]
		return known
	})
	ok := &types.InstanceStatusSummary{Status: types.SummaryStatusOk}
	for _, id := range c.instances.order {
		i := c.instances.items[id]
		if i == nil || in.NextToken != nil || len(in.InstanceIds) > 0 && !slices.Contains(in.InstanceIds, id) ||
			!running(i) && !aws.ToBool(in.IncludeAllInstances) {
			continue
		}
		out.InstanceStatuses = append(out.InstanceStatuses, types.InstanceStatus{
			InstanceId: i.InstanceId, InstanceState: i.State, InstanceStatus: ok, SystemStatus: ok, AttachedEbsStatus: &types.EbsStatusSummary{Status: types.SummaryStatusOk},
		})
	}
	return out, nil
}

func (c *Cloud) describeVolumeStatus(ctx context.Context, in *ec2.DescribeVolumeStatusInput, ask asker) (any, error) {
	q := clone(in)
	q.VolumeIds = slices.DeleteFunc(q.VolumeIds, Placeholder)
	if len(in.VolumeIds) > 0 && len(q.VolumeIds) == 0 {
		return &ec2.DescribeVolumeStatusOutput{}, nil
	}
	return ask(ctx, q)
}
