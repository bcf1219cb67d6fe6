package ec2tools

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/spf13/pflag"
)

const snapshotColumns = "SnapshotID VolumeID State StartTime Progress Owner VolumeSize Description"

type createSnapshot struct{ description string }

func (o *createSnapshot) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.description, "description", "d", "", "`TEXT` on what it is")
}

func (o *createSnapshot) do(ctx context.Context, c *call) error {
	id, err := c.one("volume")
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	s, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &id, Description: optional(o.description)})
	if err != nil {
		return fmt.Errorf("take snapshot of volume %s: %w", id, err)
	}
	c.out.row("SNAPSHOT", snapshotColumns, s.SnapshotId, s.VolumeId, s.State, s.StartTime, s.Progress, s.OwnerId, s.VolumeSize, s.Description)
	return nil
}

type deleteSnapshot struct{}

func (*deleteSnapshot) flags(*pflag.FlagSet) {}

func (*deleteSnapshot) do(ctx context.Context, c *call) error {
	return c.dropOne(ctx, "delete", "snapshot", func(client EC2, id string) error {
		_, err := client.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
		return err
	})
}

type describeSnapshots struct {
	all           bool
	owners, users []string
}

func (o *describeSnapshots) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.all, "all", "a", false, "all that the account may use, not only its own")
	fs.StringArrayVarP(&o.owners, "owner", "o", nil, "snapshots of `OWNER`: an account, self or amazon")
	fs.StringArrayVarP(&o.users, "restorable-by", "r", nil, "snapshots that `USER` may use")
}

func (o *describeSnapshots) do(ctx context.Context, c *call) error {
	client, filters, err := c.listing(ctx)
	if err != nil {
		return err
	}
	in := &ec2.DescribeSnapshotsInput{SnapshotIds: c.args, OwnerIds: o.owners, RestorableByUserIds: o.users, Filters: filters}
	if !o.all && len(c.args)+len(o.owners)+len(o.users) == 0 {
		in.OwnerIds = []string{"self"}
	}
	pages := ec2.NewDescribeSnapshotsPaginator(client, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("describe snapshots: %w", err)
		}
		for _, s := range page.Snapshots {
			c.out.row("SNAPSHOT", snapshotColumns, s.SnapshotId, s.VolumeId, s.State, s.StartTime, s.Progress, s.OwnerId, s.VolumeSize, s.Description)
			if !c.common.hideTags {
				c.out.tags("snapshot", s.SnapshotId, s.Tags)
			}
		}
	}
	return nil
}
