package server

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// shelfOfTapes is an endpoint with snapshots that can be listed and tagged.
type shelfOfTapes struct {
	EC2
	tapes  []types.Snapshot
	tagged []*ec2.CreateTagsInput
}

func (s *shelfOfTapes) DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	return &ec2.DescribeSnapshotsOutput{Snapshots: s.tapes}, nil
}

func (s *shelfOfTapes) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	s.tagged = append(s.tagged, in)
	return &ec2.CreateTagsOutput{}, nil
}

// A set that a move took before it was cut off is no set of now once the
// server has been started again, though its name follows from the same disks.
func TestStaleSetIsRetired(t *testing.T) {
	taken := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	api := &shelfOfTapes{tapes: []types.Snapshot{
		{SnapshotId: aws.String("snap-1"), StartTime: aws.Time(taken)},
		{SnapshotId: aws.String("snap-2"), StartTime: aws.Time(taken.Add(time.Second))},
	}}
	m := &Manager{ec2: api}
	w := &world{name: "web"}
	retire := func(launched time.Time) {
		t.Helper()
		w.instance = &types.Instance{InstanceId: aws.String("i-1"), LaunchTime: &launched}
		if err := m.retireStale(t.Context(), w, "rescue-0a1b2c3d4e5f"); err != nil {
			t.Fatal(err)
		}
	}
	retire(taken.Add(-time.Hour))
	if len(api.tagged) > 0 {
		t.Errorf("a set of the instance at rest was retired: %v", api.tagged)
	}
	retire(taken.Add(time.Hour))
	if len(api.tagged) != 1 || !slices.Equal(api.tagged[0].Resources, []string{"snap-1", "snap-2"}) ||
		tagOf(api.tagged[0].Tags, tagSet) != "rescue-0a1b2c3d4e5f-20260301T120000Z" {
		t.Errorf("a stale set was retired by %+v", api.tagged)
	}
}
