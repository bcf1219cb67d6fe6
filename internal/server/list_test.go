package server_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// crowd is an EC2 with n servers, each an instance, a root disk, a fixed
// address and a snapshot set, in pages of the size that is asked for, which is
// small unless it is.
type crowd struct {
	server.EC2
	n     int
	mu    sync.Mutex
	calls map[string]int
}

const (
	smallPage = 50
	waitLong  = time.Minute
)

func (c *crowd) page(action string, limit *int32, token *string) (from, to int, next *string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[action]++
	size := int(aws.ToInt32(limit))
	if size == 0 {
		size = smallPage
	}
	from, _ = strconv.Atoi(aws.ToString(token))
	if to = from + size; to >= c.n {
		return from, c.n, nil
	}
	return from, to, aws.String(strconv.Itoa(to))
}

func crowdTags(k int, more ...string) []types.Tag {
	tags := []types.Tag{{Key: aws.String("stead:server"), Value: aws.String(fmt.Sprintf("s%d", k))}}
	for i := 0; i < len(more); i += 2 {
		tags = append(tags, types.Tag{Key: &more[i], Value: &more[i+1]})
	}
	return tags
}

func (c *crowd) DescribeInstances(_ context.Context, in *ec2.DescribeInstancesInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	from, to, next := c.page("DescribeInstances", in.MaxResults, in.NextToken)
	out := &ec2.DescribeInstancesOutput{NextToken: next}
	for k := from; k < to; k++ {
		out.Reservations = append(out.Reservations, types.Reservation{Instances: []types.Instance{{
			InstanceId: aws.String(fmt.Sprintf("i-%d", k)), State: &types.InstanceState{Name: types.InstanceStateNameRunning}, InstanceType: "t3.micro",
			RootDeviceName: aws.String("/dev/sda1"), Tags: crowdTags(k),
			BlockDeviceMappings: []types.InstanceBlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsInstanceBlockDevice{VolumeId: aws.String(fmt.Sprintf("vol-%d", k)), DeleteOnTermination: aws.Bool(false)}}},
		}}})
	}
	return out, nil
}

func (c *crowd) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	from, to, next := c.page("DescribeVolumes", in.MaxResults, in.NextToken)
	out := &ec2.DescribeVolumesOutput{NextToken: next}
	for k := from; k < to; k++ {
		out.Volumes = append(out.Volumes, types.Volume{
			VolumeId: aws.String(fmt.Sprintf("vol-%d", k)), State: types.VolumeStateInUse, Size: aws.Int32(10), VolumeType: types.VolumeTypeGp3, Tags: crowdTags(k, "stead:role", "root"),
			Attachments: []types.VolumeAttachment{{InstanceId: aws.String(fmt.Sprintf("i-%d", k)), Device: aws.String("/dev/sda1"), State: types.VolumeAttachmentStateAttached}},
		})
	}
	return out, nil
}

func (c *crowd) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	from, to, next := c.page("DescribeSnapshots", in.MaxResults, in.NextToken)
	out := &ec2.DescribeSnapshotsOutput{NextToken: next}
	for k := from; k < to; k++ {
		out.Snapshots = append(out.Snapshots, types.Snapshot{
			SnapshotId: aws.String(fmt.Sprintf("snap-%d", k)), State: types.SnapshotStateCompleted, StartTime: aws.Time(time.Unix(int64(k), 0)),
			Tags: crowdTags(k, "stead:role", "root", "stead:set", "one", "stead:set-size", "1"),
		})
	}
	return out, nil
}

func (c *crowd) DescribeAddresses(context.Context, *ec2.DescribeAddressesInput, ...func(*ec2.Options)) (*ec2.DescribeAddressesOutput, error) {
	c.page("DescribeAddresses", nil, nil)
	out := &ec2.DescribeAddressesOutput{}
	for k := range c.n {
		out.Addresses = append(out.Addresses, types.Address{AllocationId: aws.String(fmt.Sprintf("eipalloc-%d", k)), Tags: crowdTags(k)})
	}
	return out, nil
}

// Half of the instances are impaired: telling why takes no call each.
func (c *crowd) DescribeInstanceStatus(_ context.Context, in *ec2.DescribeInstanceStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceStatusOutput, error) {
	from, to, next := c.page("DescribeInstanceStatus", in.MaxResults, in.NextToken)
	out := &ec2.DescribeInstanceStatusOutput{NextToken: next}
	for k := from; k < to; k++ {
		status := types.SummaryStatusOk
		if k%2 == 1 {
			status = types.SummaryStatusImpaired
		}
		out.InstanceStatuses = append(out.InstanceStatuses, types.InstanceStatus{InstanceId: aws.String(fmt.Sprintf("i-%d", k)), InstanceStatus: &types.InstanceStatusSummary{Status: status}})
	}
	return out, nil
}

func (c *crowd) DescribeVolumeStatus(_ context.Context, in *ec2.DescribeVolumeStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumeStatusOutput, error) {
	from, to, next := c.page("DescribeVolumeStatus", in.MaxResults, in.NextToken)
	out := &ec2.DescribeVolumeStatusOutput{NextToken: next}
	for k := from; k < to; k++ {
		out.VolumeStatuses = append(out.VolumeStatuses, types.VolumeStatusItem{
			VolumeId: aws.String(fmt.Sprintf("vol-%d", k)), VolumeStatus: &types.VolumeStatusInfo{Status: types.VolumeStatusInfoStatusImpaired},
			Events: []types.VolumeStatusEvent{{Description: aws.String("the host's disk is full")}},
		})
	}
	return out, nil
}

func newCrowd(tb testing.TB, n int) (*crowd, *server.Manager) {
	prices, err := price.New()
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowd{n: n, calls: map[string]int{}}
	return c, server.New(server.Config{EC2: c, Region: price.TableRegion, Prices: prices})
}

// A listing takes as many calls for every thousand records of a kind, and no
// more for what ails them.
func TestListCallsAreConstantPerThousand(t *testing.T) {
	for n, pages := range map[int]int{1: 1, 1000: 1, 3000: 3} {
		c, m := newCrowd(t, n)
		list, err := m.List(t.Context())
		if err != nil || len(list) != n {
			t.Fatalf("%d servers, %v; want %d", len(list), err, n)
		}
		for action, calls := range c.calls {
			want := pages
			if action == "DescribeAddresses" {
				want = 1 // EC2 has no pages of them
			}
			if calls > want {
				t.Errorf("%d servers take %d calls of %s, want %d", n, calls, action, want)
			}
		}
		for _, s := range list {
			if s.NewestSnapshot == nil || s.Month == nil || s.ElasticIP == "" || s.Month.Cents() != "12.04" {
				t.Fatalf("%s is %+v, a month %v", s.Name, s, s.Month)
			}
			k, _ := strconv.Atoi(s.Name[1:])
			if told := strings.Contains(strings.Join(s.Warnings, ""), "disk is full"); told != (k%2 == 1) {
				t.Fatalf("%s warns %q", s.Name, s.Warnings)
			}
		}
	}
}

// BenchmarkList is what a listing of a thousand servers costs beyond the API.
func BenchmarkList(b *testing.B) {
	_, m := newCrowd(b, 1000)
	for b.Loop() {
		if list, err := m.List(b.Context()); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}

// A server of which only snapshots are left is told apart from one that has
// disks, and what its root recorded is shown.
func TestListAllShowsSnapshotsOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	list, err := m.List(t.Context())
	b.check(err)
	if len(list) != 1 || list[0].NewestSnapshot == nil {
		t.Fatalf("with a snapshot the list is %+v", list)
	}
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	for id := range b.inventory().volumes {
		b.deleteVolume(id)
	}
	if list, err = m.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("without disks the list is %+v, %v", list, err)
	}
	list, err = m.ListAll(t.Context())
	b.check(err)
	if len(list) != 1 || list[0].State != server.StateSnapshots || list[0].Type != "t3.micro" || list[0].NewestSnapshot == nil || len(list[0].Warnings) > 0 || list[0].Month != nil {
		t.Errorf("all are %+v", list)
	}
	if !slices.Contains(list[0].Open, "22") {
		t.Errorf("its ports are %v", list[0].Open)
	}
}
