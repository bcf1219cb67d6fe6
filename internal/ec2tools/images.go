package ec2tools

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/pflag"
)

type deregister struct{}

func (*deregister) flags(*pflag.FlagSet) {}

func (*deregister) do(ctx context.Context, c *call) error {
	return c.dropOne(ctx, "deregister", "image", func(client EC2, id string) error {
		_, err := client.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &id})
		return err
	})
}

type createImage struct {
	name, description string
	noReboot          bool
	mappings          []string
}

func (o *createImage) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.name, "name", "n", "", "the image's `NAME`")
	fs.StringVarP(&o.description, "description", "d", "", "`TEXT` on what it is")
	fs.BoolVar(&o.noReboot, "no-reboot", false, "don't stop the instance meanwhile")
	fs.StringArrayVarP(&o.mappings, "block-device-mapping", "b", nil, mappingUsage)
}

func (o *createImage) do(ctx context.Context, c *call) error {
	id, err := c.one("instance")
	if err != nil {
		return err
	}
	if o.name == "" {
		return usageError("an image needs a name: -n NAME")
	}
	mappings, err := parseMappings(o.mappings)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	out, err := client.CreateImage(ctx, &ec2.CreateImageInput{
		InstanceId: &id, Name: &o.name, Description: optional(o.description), NoReboot: &o.noReboot, BlockDeviceMappings: mappings,
	})
	if err != nil {
		return fmt.Errorf("create image of instance %s: %w", id, err)
	}
	c.out.row("IMAGE", "ImageID", out.ImageId)
	return nil
}

type describeImages struct {
	all           bool
	owners, users []string
}

func (o *describeImages) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.all, "all", "a", false, "all that the account may launch, not only its own")
	fs.StringArrayVarP(&o.owners, "owner", "o", nil, "images of `OWNER`: an account, self or amazon")
	fs.StringArrayVarP(&o.users, "executable-by", "x", nil, "images that `USER` may launch")
}

func (o *describeImages) do(ctx context.Context, c *call) error {
	client, filters, err := c.listing(ctx)
	if err != nil {
		return err
	}
	in := &ec2.DescribeImagesInput{ImageIds: c.args, Owners: o.owners, ExecutableUsers: o.users, Filters: filters}
	if !o.all && len(c.args)+len(o.owners)+len(o.users) == 0 {
		in.Owners = []string{"self"}
	}
	pages := ec2.NewDescribeImagesPaginator(client, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("describe images: %w", err)
		}
		slices.SortFunc(page.Images, func(a, b types.Image) int { return cmp.Compare(aws.ToString(a.ImageId), aws.ToString(b.ImageId)) })
		for k := range page.Images {
			c.out.image(&page.Images[k], !c.common.hideTags)
		}
	}
	return nil
}

func (r *rows) image(i *types.Image, tags bool) {
	location := aws.ToString(i.ImageLocation)
	if i.Name != nil {
		location = aws.ToString(i.OwnerId) + "/" + *i.Name
	}
	visibility := "private"
	if aws.ToBool(i.Public) {
		visibility = "public"
	}
	r.row("IMAGE", "ImageID Name Owner State Accessibility Architecture Type KernelID RamdiskID Platform RootDeviceType Virtualization Hypervisor",
		i.ImageId, location, cmp.Or(aws.ToString(i.ImageOwnerAlias), aws.ToString(i.OwnerId)), i.State, visibility, i.Architecture, i.ImageType,
		i.KernelId, i.RamdiskId, i.Platform, i.RootDeviceType, i.VirtualizationType, i.Hypervisor)
	for _, m := range i.BlockDeviceMappings {
		switch {
		case m.VirtualName != nil:
			r.row("BLOCKDEVICEMAPPING", "MappingType DeviceName Disk", "EPHEMERAL", m.DeviceName, m.VirtualName)
		case m.Ebs != nil:
			r.row("BLOCKDEVICEMAPPING", "MappingType DeviceName SnapshotID Size DeleteOnTermination VolumeType Iops",
				"EBS", m.DeviceName, m.Ebs.SnapshotId, m.Ebs.VolumeSize, m.Ebs.DeleteOnTermination, m.Ebs.VolumeType, m.Ebs.Iops)
		}
	}
	if tags {
		r.tags("image", i.ImageId, i.Tags)
	}
}
