package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/steadcloud/stead/internal/server"
)

// publicImage is one of testdata/moto_amis.json, whose root is /dev/xvda.
const publicImage = "ami-0a00000000000001"

// How often the tests look whether something has come to pass.
const (
	soon = time.Millisecond
	late = 20 * time.Millisecond
)

// bench is one test's view of the endpoint.
type bench struct {
	t      *testing.T
	client *ec2.Client
	ssm    *ssm.Client
	site
	region  string
	account string // moto's, "" elsewhere
	imageID string
	sshd    net.Addr
	events  []server.Event
	mu      sync.Mutex
}

// makeImage registers an image of a blank disk.
func (b *bench) makeImage() string {
	b.t.Helper()
	ctx := context.Background()
	v, err := b.client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(b.region + "a"), Size: aws.Int32(1)})
	b.check(err)
	b.available(*v.VolumeId)
	s, err := b.client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId})
	b.check(err)
	b.completed(*s.SnapshotId)
	b.deleteVolume(*v.VolumeId)
	i, err := b.client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("base"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		RootDeviceName: aws.String("/dev/xvda"), BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: s.SnapshotId}}},
	})
	b.check(err)
	return *i.ImageId
}

// available waits until a volume is attached to nothing.
func (b *bench) available(id string) {
	b.t.Helper()
	w := ec2.NewVolumeAvailableWaiter(b.client, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = soon, late })
	b.check(w.Wait(context.Background(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}}, waitLong))
}

// completed waits until a snapshot is whole.
func (b *bench) completed(id string) {
	b.t.Helper()
	w := ec2.NewSnapshotCompletedWaiter(b.client, func(o *ec2.SnapshotCompletedWaiterOptions) { o.MinDelay, o.MaxDelay = soon, late })
	b.check(w.Wait(context.Background(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}}, waitLong))
}

// through returns a client of the endpoint whose calls go through rt.
func (b *bench) through(rt http.RoundTripper) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: b.region, BaseEndpoint: &b.url, HTTPClient: b.http(rt),
		Credentials: b.keys,
		// What is tried again is tried soon: nobody is spared by waiting.
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = 20 * time.Millisecond }),
	})
}

// bannerServer answers every connection as an ssh server begins.
func bannerServer(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w := bufio.NewWriter(c)
			fmt.Fprint(w, "a notice first\r\nSSH-2.0-test\r\n")
			_ = w.Flush()
			_ = c.Close()
		}
	}()
	return l.Addr()
}

// manager returns a Manager on the given API; its guests' ssh is the bench's.
func (b *bench) manager(api server.EC2) *server.Manager { return server.New(b.config(api)) }

func (b *bench) config(api server.EC2) server.Config {
	return server.Config{
		EC2: recorded(api), SSM: recordedSSM(b.ssm), Region: b.region,
		PollMin: soon, PollMax: late, StateTimeout: 20 * time.Second, SSHTimeout: 20 * time.Second,
		Notify: func(e server.Event) { b.mu.Lock(); b.events = append(b.events, e); b.mu.Unlock() },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, b.sshd.String())
		},
	}
}

// otherZone is a zone of the region that isn't the given one.
func (b *bench) otherZone(zone string) string {
	b.t.Helper()
	out, err := b.client.DescribeAvailabilityZones(b.t.Context(), &ec2.DescribeAvailabilityZonesInput{})
	b.check(err)
	for _, z := range out.AvailabilityZones {
		if name := aws.ToString(z.ZoneName); name != zone {
			return name
		}
	}
	b.t.Fatalf("%s has no zone but %s", b.region, zone)
	return ""
}

// inventory is everything in the region that a user pays for or trips over.
type inventory struct {
	live      []types.Instance
	volumes   map[string]types.Volume
	snapshots int // own ones with a set
	images    []string
	groups    int
	addresses []types.Address
}

func (b *bench) inventory() inventory {
	b.t.Helper()
	ctx := context.Background()
	inv := inventory{volumes: map[string]types.Volume{}}
	instances, err := b.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	b.check(err)
	for _, r := range instances.Reservations {
		for _, i := range r.Instances {
			if i.State.Name != types.InstanceStateNameTerminated {
				inv.live = append(inv.live, i)
			}
		}
	}
	volumes, err := b.client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
	b.check(err)
	for _, v := range volumes.Volumes {
		if v.State != types.VolumeStateDeleting {
			inv.volumes[*v.VolumeId] = v
		}
	}
	snaps, err := b.client.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{"stead:set"}}}})
	b.check(err)
	inv.snapshots = len(snaps.Snapshots)
	images, err := b.client.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}})
	b.check(err)
	for _, i := range images.Images {
		if aws.ToString(i.ImageId) == b.imageID {
			continue
		}
		inv.images = append(inv.images, aws.ToString(i.Name))
	}
	groups, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	b.check(err)
	for _, g := range groups.SecurityGroups {
		if strings.HasPrefix(aws.ToString(g.GroupName), "stead-") {
			inv.groups++
		}
	}
	addresses, err := b.client.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
	b.check(err)
	inv.addresses = addresses.Addresses
	return inv
}

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func (b *bench) deleteVolume(id string) {
	b.t.Helper()
	_, err := b.client.DeleteVolume(context.Background(), &ec2.DeleteVolumeInput{VolumeId: &id})
	b.check(err)
}

func (b *bench) releaseAddresses() {
	b.t.Helper()
	for _, a := range b.inventory().addresses {
		_, err := b.client.ReleaseAddress(context.Background(), &ec2.ReleaseAddressInput{AllocationId: a.AllocationId})
		b.check(err)
	}
}

// deleteAccess deletes the security groups and key pairs that servers leave.
func (b *bench) deleteAccess() {
	b.t.Helper()
	ctx := context.Background()
	groups, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	b.check(err)
	for _, g := range groups.SecurityGroups {
		if strings.HasPrefix(aws.ToString(g.GroupName), "stead-") {
			_, err := b.client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
			b.check(err)
		}
	}
	keys, err := b.client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{})
	b.check(err)
	for _, k := range keys.KeyPairs {
		_, err := b.client.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: k.KeyName})
		b.check(err)
	}
}

// doom makes the server's data disk go with its instance.
func (b *bench) doom(name string) {
	b.t.Helper()
	for _, i := range b.inventory().live {
		if tag(i.Tags, "stead:server") != name {
			continue
		}
		_, err := b.client.ModifyInstanceAttribute(context.Background(), &ec2.ModifyInstanceAttributeInput{
			InstanceId: i.InstanceId,
			BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
				DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
			}},
		})
		b.check(err)
	}
}
