package dryrun

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// newImage puts an image on the shelf, under a name that must be the only one.
func (c *Cloud) newImage(ctx context.Context, i *types.Image) error {
	name := aws.ToString(i.Name)
	for id, other := range c.images.items {
		if other != nil && aws.ToString(other.Name) == name && Placeholder(id) {
			return refuse("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", name, id)
		}
	}
	out, err := c.real.DescribeImages(ctx, &ec2.DescribeImagesInput{
		Owners: []string{"self"}, Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}},
	})
	if err != nil {
		return err
	}
	for _, other := range out.Images {
		id := aws.ToString(other.ImageId)
		if v, known := c.images.items[id]; !known || v != nil {
			return refuse("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", name, id)
		}
	}
	c.shelve(i)
	return nil
}

// shelve makes an image one that can be launched.
func (c *Cloud) shelve(i *types.Image) {
	i.ImageId = aws.String(c.plan.id("ami"))
	i.State, i.ImageType, i.RootDeviceType = types.ImageStateAvailable, types.ImageTypeValuesMachine, types.DeviceTypeEbs
	i.CreationDate = aws.String(time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
	c.images.put(*i.ImageId, i)
}

func (c *Cloud) registerImage(ctx context.Context, in *ec2.RegisterImageInput) (any, error) {
	in = clone(in)
	i := &types.Image{
		Name: in.Name, Description: in.Description, Architecture: in.Architecture, RootDeviceName: in.RootDeviceName,
		KernelId: in.KernelId, RamdiskId: in.RamdiskId, EnaSupport: in.EnaSupport, BootMode: in.BootMode,
		TpmSupport: in.TpmSupport, ImdsSupport: in.ImdsSupport, SriovNetSupport: in.SriovNetSupport,
		VirtualizationType: types.VirtualizationType(aws.ToString(in.VirtualizationType)),
		Tags:               specTags(in.TagSpecifications, types.ResourceTypeImage),
	}
	for _, m := range in.BlockDeviceMappings {
		if m.Ebs != nil {
			if m.Ebs.DeleteOnTermination == nil {
				m.Ebs.DeleteOnTermination = aws.Bool(true)
			}
			if err := c.checkDisk(ctx, m.Ebs.SnapshotId, m.Ebs.VolumeSize); err != nil {
				return nil, err
			}
			if m.Ebs.VolumeSize == nil && m.Ebs.SnapshotId != nil {
				m.Ebs.VolumeSize = c.snapshots.items[*m.Ebs.SnapshotId].VolumeSize // which was just looked at
			}
		}
		i.BlockDeviceMappings = append(i.BlockDeviceMappings, m)
	}
	if err := c.newImage(ctx, i); err != nil {
		return nil, err
	}
	return &ec2.RegisterImageOutput{ImageId: aws.String(*i.ImageId)}, nil
}

func (c *Cloud) createImage(ctx context.Context, in *ec2.CreateImageInput) (any, error) {
	inst, err := c.instance(ctx, aws.ToString(in.InstanceId))
	if err != nil {
		return nil, err
	}
	i := &types.Image{
		Name: in.Name, Description: in.Description, Architecture: inst.Architecture, RootDeviceName: inst.RootDeviceName,
		KernelId: inst.KernelId, RamdiskId: inst.RamdiskId, EnaSupport: inst.EnaSupport, BootMode: inst.BootMode,
		VirtualizationType: inst.VirtualizationType, Tags: specTags(in.TagSpecifications, types.ResourceTypeImage),
	}
	for _, bdm := range inst.BlockDeviceMappings {
		if bdm.Ebs == nil {
			continue
		}
		v, err := c.volume(ctx, aws.ToString(bdm.Ebs.VolumeId))
		if err != nil {
			return nil, err
		}
		s := c.ofVolume(v, in.Description, specTags(in.TagSpecifications, types.ResourceTypeSnapshot))
		i.BlockDeviceMappings = append(i.BlockDeviceMappings, types.BlockDeviceMapping{
			DeviceName: aws.String(aws.ToString(bdm.DeviceName)),
			Ebs: &types.EbsBlockDevice{
				SnapshotId: s.SnapshotId, VolumeSize: v.Size, VolumeType: v.VolumeType,
				DeleteOnTermination: aws.Bool(aws.ToBool(bdm.Ebs.DeleteOnTermination)),
			},
		})
	}
	if err := c.newImage(ctx, i); err != nil {
		return nil, err
	}
	return &ec2.CreateImageOutput{ImageId: aws.String(*i.ImageId)}, nil
}

// imageIn returns a copy of an image in the region of that name.
func (c *Cloud) imageIn(ctx context.Context, region, id string) (types.Image, error) {
	if region == "" || region == c.region {
		i, err := c.image(ctx, id)
		if err != nil {
			return types.Image{}, err
		}
		return clone(*i), nil
	}
	other := c.of(region)
	if other == nil {
		return types.Image{}, refuse("UnsupportedOperation.DryRun", "a dry run can't look at region %s", region)
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	i, err := other.image(ctx, id)
	if err != nil {
		return types.Image{}, err
	}
	return clone(*i), nil
}

func (c *Cloud) copyImage(ctx context.Context, in *ec2.CopyImageInput) (any, error) {
	if made, again := c.tokens[aws.ToString(in.ClientToken)]; again && in.ClientToken != nil {
		return &ec2.CopyImageOutput{ImageId: aws.String(made[0])}, nil
	}
	n, err := c.imageIn(ctx, aws.ToString(in.SourceRegion), aws.ToString(in.SourceImageId))
	if err != nil {
		return nil, err
	}
	n.Name, n.Description, n.OwnerId, n.ImageOwnerAlias, n.Public = in.Name, in.Description, nil, nil, aws.Bool(false)
	if !aws.ToBool(in.CopyImageTags) {
		n.Tags = nil
	}
	for _, t := range specTags(in.TagSpecifications, types.ResourceTypeImage) {
		setTag(&n.Tags, t)
	}
	for _, bdm := range n.BlockDeviceMappings {
		if bdm.Ebs != nil && bdm.Ebs.SnapshotId != nil {
			bdm.Ebs.SnapshotId = c.newSnapshot(nil, bdm.Ebs.VolumeSize, in.Description, specTags(in.TagSpecifications, types.ResourceTypeSnapshot)).SnapshotId
		}
	}
	if err := c.newImage(ctx, &n); err != nil {
		return nil, err
	}
	if in.ClientToken != nil {
		c.tokens[*in.ClientToken] = []string{*n.ImageId}
	}
	return &ec2.CopyImageOutput{ImageId: aws.String(*n.ImageId)}, nil
}
