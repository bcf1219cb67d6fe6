package dryrun

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// mayLaunch refuses a launch for what the endpoint would refuse it for, before
// anything of it is on a shelf.
func (c *Cloud) mayLaunch(ctx context.Context, in *ec2.RunInstancesInput, mappings []types.BlockDeviceMapping) error {
	if err := c.checkType(ctx, in.InstanceType); err != nil {
		return err
	}
	if err := c.checkKey(ctx, in.KeyName); err != nil {
		return err
	}
	if in.Placement != nil {
		if err := c.checkZone(ctx, in.Placement.AvailabilityZone); err != nil {
			return err
		}
	}
	if _, err := c.groupsOf(ctx, in.SecurityGroupIds, in.SecurityGroups); err != nil {
		return err
	}
	for _, m := range mappings {
		if m.Ebs != nil {
			if err := c.checkDisk(ctx, m.Ebs.SnapshotId, m.Ebs.VolumeSize); err != nil {
				return err
			}
		}
	}
	return c.checkAddress(ctx, in)
}

// checkType refuses a type that the endpoint hasn't got. One that doesn't list
// its types is believed to have it.
func (c *Cloud) checkType(ctx context.Context, t types.InstanceType) error {
	if t == "" {
		return nil
	}
	_, err := c.real.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{t}})
	if code := codeOf(err); code == "InvalidInstanceType" || code == "InvalidParameterValue" {
		return refuse("InvalidParameterValue", "Value (%s) for parameter instanceType is invalid.", t)
	}
	return nil
}

func (c *Cloud) checkKey(ctx context.Context, name *string) error {
	if name == nil {
		return nil
	}
	known, err := c.hasKey(ctx, *name)
	if err == nil && !known {
		err = refuse("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", *name)
	}
	return err
}

// hasKey tells whether there is a key pair of that name.
func (c *Cloud) hasKey(ctx context.Context, name string) (bool, error) {
	if k, known := c.keys.items[name]; known {
		return k != nil, nil
	}
	out, err := c.real.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{
		Filters: []types.Filter{{Name: aws.String("key-name"), Values: []string{name}}},
	})
	return err == nil && len(out.KeyPairs) > 0, err
}

func (c *Cloud) checkZone(ctx context.Context, zone *string) error {
	if zone == nil {
		return nil
	}
	out, err := c.real.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(out.AvailabilityZones, func(z types.AvailabilityZone) bool { return aws.ToString(z.ZoneName) == *zone }) {
		return refuse("InvalidZone.NotFound", "The zone '%s' does not exist.", *zone)
	}
	return nil
}

// checkDisk refuses a disk of a snapshot that isn't there, or that is larger.
func (c *Cloud) checkDisk(ctx context.Context, snapshot *string, size *int32) error {
	if snapshot == nil {
		return nil
	}
	s, err := c.snapshot(ctx, *snapshot)
	if err != nil {
		return err
	}
	if size != nil && s.VolumeSize != nil && *size < *s.VolumeSize {
		return refuse("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", *size, *snapshot, *s.VolumeSize)
	}
	return nil
}

// checkAddress refuses a private address that another instance has.
func (c *Cloud) checkAddress(ctx context.Context, in *ec2.RunInstancesInput) error {
	if in.PrivateIpAddress == nil {
		return nil
	}
	all, err := c.instancesWith(ctx, "private-ip-address", *in.PrivateIpAddress)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(i types.Instance) bool {
		return !is(&i, types.InstanceStateNameTerminated) && (in.SubnetId == nil || aws.ToString(i.SubnetId) == *in.SubnetId)
	}) {
		return refuse("InvalidIPAddress.InUse", "Address %s is in use.", *in.PrivateIpAddress)
	}
	return nil
}

// instancesWith are the instances, as they would be by now, that a filter
// matches.
func (c *Cloud) instancesWith(ctx context.Context, name, value string) ([]types.Instance, error) {
	filters := []types.Filter{{Name: &name, Values: []string{value}}}
	var listed []types.Instance
	if !Placeholder(value) {
		out, err := c.real.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: filters})
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			listed = append(listed, r.Instances...)
		}
	}
	return c.instances.overlay(listed, func(i *types.Instance) *string { return i.InstanceId }, search[types.Instance]{
		first: true, match: func(i *types.Instance) (bool, error) { return matches(filters, i.Tags, instanceFields(i)) },
	})
}
