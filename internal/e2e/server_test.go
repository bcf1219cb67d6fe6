package e2e

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// status is what stead says of a server.
type status struct {
	State      string `json:"state"`
	InstanceID string `json:"instance_id"`
	PublicIP   string `json:"public_ip"`
	PrivateIP  string `json:"private_ip"`
	Protected  bool   `json:"protected"`
	ElasticIP  string `json:"elastic_ip"`
	Root       disk   `json:"root"`
	Data       []disk `json:"data"`
	SSH        struct {
		Port int `json:"port"`
	} `json:"ssh"`
	Warnings []string `json:"warnings"`
}

type disk struct {
	VolumeID string `json:"volume_id"`
}

func (r *rig) show(name string) status {
	r.t.Helper()
	var s status
	r.decode(r.stead("show", name, "-o", "json"), &s)
	return s
}

// whole checks that a server runs with everything that belongs to it.
func (r *rig) whole(name string) status {
	r.t.Helper()
	s := r.show(name)
	if s.State != "running" || !s.Protected || len(s.Data) != 1 || s.PublicIP == "" || s.ElasticIP == "" || len(s.Warnings) > 0 {
		r.t.Fatalf("server %s is %+v", name, s)
	}
	return s
}

// blankImage registers an image of an empty disk.
func (r *rig) blankImage() string {
	r.t.Helper()
	ctx, c := context.Background(), r.client()
	ok := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	ok(err)
	ok(ec2.NewVolumeAvailableWaiter(c, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay = 10 * time.Millisecond }).
		Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}}, patience))
	s, err := c.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId})
	ok(err)
	r.completed(c, *s.SnapshotId)
	_, err = c.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: v.VolumeId})
	ok(err)
	img, err := c.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("base"), Architecture: types.ArchitectureValuesX8664, RootDeviceName: aws.String("/dev/sda1"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: s.SnapshotId}}},
	})
	ok(err)
	return *img.ImageId
}

// completed waits for a snapshot.
func (r *rig) completed(c *ec2.Client, id string) {
	r.t.Helper()
	w := ec2.NewSnapshotCompletedWaiter(c, func(o *ec2.SnapshotCompletedWaiterOptions) {
		o.MinDelay, o.MaxDelay = 10*time.Millisecond, time.Second
	})
	if err := w.Wait(context.Background(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}}, patience); err != nil {
		r.t.Fatal(err)
	}
}
