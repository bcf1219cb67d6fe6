package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// foreign launches an instance as somebody would who knows nothing of stead:
// its disks go with it.
func (b *bench) foreign() string {
	b.t.Helper()
	ctx := context.Background()
	group, err := b.client.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("theirs"), Description: aws.String("theirs")})
	if err != nil { // of the round before
		out, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("group-name"), Values: []string{"theirs"}}}})
		b.check(err)
		group = &ec2.CreateSecurityGroupOutput{GroupId: out.SecurityGroups[0].GroupId}
	} else {
		open := func(port int32, cidr string) types.IpPermission {
			return types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []types.IpRange{{CidrIp: &cidr}}}
		}
		_, err = b.client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId, IpPermissions: []types.IpPermission{open(22, "0.0.0.0/0"), open(80, "0.0.0.0/0"), open(5432, "10.0.0.0/8")}})
		b.check(err)
	}
	image, err := b.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{b.imageID}})
	b.check(err)
	root := types.BlockDeviceMapping{DeviceName: image.Images[0].RootDeviceName, Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(true), VolumeSize: aws.Int32(8)}}
	root.Ebs.SnapshotId = image.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId
	out, err := b.client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: &b.imageID, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		SecurityGroupIds: []string{*group.GroupId},
		BlockDeviceMappings: []types.BlockDeviceMapping{root, {
			DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1), DeleteOnTermination: aws.Bool(true)},
		}},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("my old box")}}}},
	})
	b.check(err)
	id := *out.Instances[0].InstanceId
	b.check(ec2.NewInstanceRunningWaiter(b.client, func(o *ec2.InstanceRunningWaiterOptions) { o.MinDelay, o.MaxDelay = soon, late }).
		Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}}, time.Minute))
	return id
}

func TestAdoptInstance(t *testing.T) {
	t.Parallel()
	onBoth(t, testAdoptInstance)
}

func testAdoptInstance(t *testing.T, b *bench, _ *killer) {
	m := b.manager(b.client)
	ctx := t.Context()
	id := b.foreign()
	s, err := m.Adopt(ctx, server.AdoptOptions{Name: "box", InstanceID: id, User: "me", Address: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.State != server.StateRunning || s.InstanceID != id || !s.Protected || len(s.Warnings) != 0 || len(s.Data) != 1 || s.SSH.User != "me" || s.ElasticIP == "" {
		t.Errorf("adopted %+v", s)
	}
	if !slices.Equal(s.Open, []string{"22", "80"}) || !slices.Equal(s.From, []string{"0.0.0.0/0"}) || !slices.Equal(s.Rules, []string{"5432@10.0.0.0/8"}) {
		t.Errorf("open are %v from %v, and %v", s.Open, s.From, s.Rules)
	}
	b.checkAttributes(id)
	for _, i := range b.inventory().live {
		if tag(i.Tags, "Name") != "my old box" {
			t.Errorf("its name is now %q", tag(i.Tags, "Name"))
		}
	}
	if _, err := m.Adopt(ctx, server.AdoptOptions{Name: "box", InstanceID: id}); err != nil {
		t.Errorf("adopting it again: %v", err)
	}
	if _, err := m.Adopt(ctx, server.AdoptOptions{Name: "other", InstanceID: id}); !errors.Is(err, server.ErrExists) || server.Remedy(err) != "stead rename box other" {
		t.Errorf("adopting it as another: %v", err)
	}
	if _, err := m.Adopt(ctx, server.AdoptOptions{Name: "box", InstanceID: b.foreign()}); !errors.Is(err, server.ErrExists) {
		t.Errorf("adopting another as it: %v", err)
	}
	if _, err := m.Adopt(ctx, server.AdoptOptions{Name: "nobody", InstanceID: "i-0123456789abcdef0"}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("adopting nothing: %v", err)
	}
	gone, err := m.Terminate(ctx, "box")
	b.check(err)
	if len(gone.Kept) != 2 {
		t.Errorf("kept %+v", gone.Kept)
	}
	if r, err := m.Rescue(ctx, "box", server.RescueOptions{}); err != nil || r.Server.PublicIP != s.PublicIP || len(r.Server.Data) != 1 {
		t.Errorf("rescued %+v, %v", r, err)
	}
}

func TestMachineAdoptKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	id := ""
	everyStep(t, k,
		func(int) { b.clear(m); id = b.foreign() },
		func(ctx context.Context, _ int) error {
			_, err := m.Adopt(ctx, server.AdoptOptions{Name: "web", InstanceID: id, Address: true, User: "me"})
			return err
		},
		func(int) {
			s, err := m.Get(context.Background(), "web")
			b.check(err)
			if !s.Protected || len(s.Warnings) != 0 || len(s.Data) != 1 || s.ElasticIP == "" || s.SSH.User != "me" || len(s.Open) != 2 {
				t.Errorf("the server is %+v", s)
			}
			b.checkAttributes(id)
			if inv := b.inventory(); len(inv.addresses) != 1 || len(inv.live) != 1 {
				t.Errorf("%d addresses, %d instances", len(inv.addresses), len(inv.live))
			}
		})
}

// loose makes the disks of a server that nothing else is left of.
func (b *bench) loose(m *server.Manager) *server.Server {
	b.t.Helper()
	s, err := m.Create(context.Background(), b.faultOptions())
	b.check(err)
	_, err = m.Terminate(context.Background(), "web")
	b.check(err)
	for _, id := range disks(s) {
		out, err := b.client.DescribeTags(context.Background(), &ec2.DescribeTagsInput{Filters: []types.Filter{{Name: aws.String("resource-id"), Values: []string{id}}}})
		b.check(err)
		var tags []types.Tag
		for _, t := range out.Tags {
			tags = append(tags, types.Tag{Key: t.Key})
		}
		_, err = b.client.DeleteTags(context.Background(), &ec2.DeleteTagsInput{Resources: []string{id}, Tags: tags})
		b.check(err)
	}
	return s
}

func TestMachineAdoptDisksKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	var s *server.Server
	everyStep(t, k,
		func(int) { b.clear(m); s = b.loose(m) },
		func(ctx context.Context, _ int) error {
			_, err := m.Adopt(ctx, server.AdoptOptions{
				Name: "web", Root: s.Root.VolumeID, Data: []server.AdoptDisk{{VolumeID: s.Data[0].VolumeID, Device: "/dev/sdh"}},
				Image: b.imageID, Type: "t3.small", User: "me", BootMode: "legacy-bios",
			})
			return err
		},
		func(int) {
			got, err := m.Get(context.Background(), "web")
			b.check(err)
			if !slices.Equal(disks(got), disks(s)) || got.State != server.StateDetached || got.Data[0].Device != "/dev/sdh" || got.Type != "t3.small" || got.Arch != "x86_64" || got.BootMode != "legacy-bios" {
				raw, _ := json.Marshal(got)
				t.Errorf("the server is %s", raw)
			}
		})
	if _, err := m.Adopt(t.Context(), server.AdoptOptions{Name: "db", Root: s.Root.VolumeID}); !errors.Is(err, server.ErrExists) {
		t.Errorf("adopting another's disk: %v", err)
	}
	r, err := m.Rescue(t.Context(), "web", server.RescueOptions{})
	if err != nil || !slices.Equal(disks(r.Server), disks(s)) {
		t.Fatalf("rescued %+v, %v", r, err)
	}
	if _, err := m.Adopt(t.Context(), server.AdoptOptions{Name: "db", Root: s.Root.VolumeID}); !errors.Is(err, server.ErrExists) || !strings.Contains(err.Error(), r.Server.InstanceID) {
		t.Errorf("adopting a disk in use: %v", err)
	}
}
