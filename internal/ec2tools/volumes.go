package ec2tools

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/pflag"
)

const volumeColumns = "VolumeID Size SnapshotID Zone State CreateTime Type Iops"

type createVolume struct {
	size, iops, zone, snapshot, kind string
	encrypted                        bool
}

func (o *createVolume) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.size, "size", "s", "", "the size in `GIB`")
	fs.StringVarP(&o.zone, "availability-zone", "z", "", "the `ZONE`")
	fs.StringVar(&o.snapshot, "snapshot", "", "the `SNAPSHOT` to begin with")
	fs.StringVarP(&o.kind, "type", "t", "", "the volume `TYPE`, such as gp3")
	fs.StringVarP(&o.iops, "iops", "i", "", "the `IOPS` of an io1, io2 or gp3 volume")
	fs.BoolVar(&o.encrypted, "encrypted", false, "encrypt it")
}

func (o *createVolume) do(ctx context.Context, c *call) error {
	in := &ec2.CreateVolumeInput{AvailabilityZone: &o.zone, SnapshotId: optional(o.snapshot), VolumeType: types.VolumeType(o.kind)}
	if len(c.args) > 0 {
		return usageError("%q is left over", strings.Join(c.args, " "))
	}
	if o.zone == "" {
		return usageError("a volume needs a zone: -z ZONE")
	}
	if o.size == "" && o.snapshot == "" {
		return usageError("a volume needs a size or a snapshot: -s GIB, --snapshot SNAPSHOT")
	}
	if in.VolumeType != "" && !known(in.VolumeType) {
		return usageError("no volume type is called %q", o.kind)
	}
	var err error
	if o.size != "" {
		if in.Size, err = positive("size", o.size); err != nil {
			return err
		}
	}
	if o.iops != "" {
		if in.Iops, err = positive("IOPS", o.iops); err != nil {
			return err
		}
	}
	if o.encrypted {
		in.Encrypted = &o.encrypted
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	v, err := client.CreateVolume(ctx, in)
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	c.out.row("VOLUME", volumeColumns, v.VolumeId, v.Size, v.SnapshotId, v.AvailabilityZone, v.State, v.CreateTime, v.VolumeType, v.Iops)
	return nil
}

const attachmentColumns = "VolumeID InstanceID Device State AttachTime"

type attach struct{ instance, device string }

func (o *attach) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.instance, "instance", "i", "", "the `INSTANCE`")
	fs.StringVarP(&o.device, "device", "d", "", "the `DEVICE`, such as /dev/sdf")
}

func (o *attach) do(ctx context.Context, c *call) error {
	id, err := c.one("volume")
	if err != nil {
		return err
	}
	if o.instance == "" || o.device == "" {
		return usageError("where to: -i INSTANCE -d DEVICE")
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	a, err := client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &o.instance, Device: &o.device})
	if err != nil {
		return fmt.Errorf("attach volume %s to instance %s: %w", id, o.instance, err)
	}
	c.out.row("ATTACHMENT", attachmentColumns, a.VolumeId, a.InstanceId, a.Device, a.State, a.AttachTime)
	return nil
}

type detach struct {
	instance, device string
	force            bool
}

func (o *detach) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.instance, "instance", "i", "", "the `INSTANCE` that has it")
	fs.StringVarP(&o.device, "device", "d", "", "the `DEVICE` that it is there")
	fs.BoolVarP(&o.force, "force", "f", false, "also when the guest doesn't let go of it")
}

func (o *detach) do(ctx context.Context, c *call) error {
	id, err := c.one("volume")
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	in := &ec2.DetachVolumeInput{VolumeId: &id, InstanceId: optional(o.instance), Device: optional(o.device)}
	if o.force {
		in.Force = &o.force
	}
	a, err := client.DetachVolume(ctx, in)
	if err != nil {
		return fmt.Errorf("detach volume %s: %w", id, err)
	}
	c.out.row("ATTACHMENT", attachmentColumns, a.VolumeId, a.InstanceId, a.Device, a.State, a.AttachTime)
	return nil
}

type deleteVolume struct{}

func (*deleteVolume) flags(*pflag.FlagSet) {}

func (*deleteVolume) do(ctx context.Context, c *call) error {
	return c.dropOne(ctx, "delete", "volume", func(client EC2, id string) error {
		_, err := client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		return err
	})
}

type describeVolumes struct{}

func (*describeVolumes) flags(*pflag.FlagSet) {}

func (*describeVolumes) do(ctx context.Context, c *call) error {
	client, filters, err := c.listing(ctx)
	if err != nil {
		return err
	}
	pages := ec2.NewDescribeVolumesPaginator(client, &ec2.DescribeVolumesInput{VolumeIds: c.args, Filters: filters})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("describe volumes: %w", err)
		}
		for _, v := range page.Volumes {
			c.out.row("VOLUME", volumeColumns, v.VolumeId, v.Size, v.SnapshotId, v.AvailabilityZone, v.State, v.CreateTime, v.VolumeType, v.Iops)
			for _, a := range v.Attachments {
				c.out.row("ATTACHMENT", attachmentColumns+" DeleteOnTermination", a.VolumeId, a.InstanceId, a.Device, a.State, a.AttachTime, a.DeleteOnTermination)
			}
			if !c.common.hideTags {
				c.out.tags("volume", v.VolumeId, v.Tags)
			}
		}
	}
	return nil
}
