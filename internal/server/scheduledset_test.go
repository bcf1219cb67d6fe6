package server_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// lifecycle shows tags of the Data Lifecycle Manager, which no user may write
// and which the tests write under another name.
type lifecycle struct{ server.EC2 }

const asPolicy, asSchedule = "test:dlm:lifecycle-policy-id", "test:dlm:lifecycle-schedule-name"

func (l lifecycle) DescribeSnapshots(ctx context.Context, in *ec2.DescribeSnapshotsInput, opts ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	out, err := l.EC2.DescribeSnapshots(ctx, in, opts...)
	if err != nil {
		return nil, err
	}
	for _, s := range out.Snapshots {
		for k, t := range s.Tags {
			if rest, ok := strings.CutPrefix(*t.Key, "test:dlm:"); ok {
				s.Tags[k].Key = aws.String("aws:dlm:" + rest)
			}
		}
	}
	return out, nil
}

// policyRun takes a snapshot of each disk, one after the other, with the tags
// that a policy's run gives it: the disk's own, and more.
func (b *bench) policyRun(s *server.Server, more ...types.Tag) {
	b.t.Helper()
	inv := b.inventory()
	for _, id := range disks(s) {
		tags := append(slices.Clone(inv.volumes[id].Tags), types.Tag{Key: aws.String(asPolicy), Value: aws.String("policy-1")}, types.Tag{Key: aws.String(asSchedule), Value: aws.String("stead")})
		made, err := b.client.CreateSnapshot(context.Background(), &ec2.CreateSnapshotInput{
			VolumeId: &id, TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: append(tags, more...)}},
		})
		b.check(err)
		b.completed(*made.SnapshotId)
	}
}

// What a schedule took is one complete set, which a restore and a rescue take.
// Its disks are of one instant only where the policy says so: one that goes by
// volumes takes each at another moment.
func TestScheduledSetComesBack(t *testing.T) {
	t.Parallel()
	b := newForeignBench(t, nil)
	c := b.config(lifecycle{b.client})
	c.DLM, c.STS = newShelf(), b.sts()
	m := server.New(c)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	web, err := m.Stop(t.Context(), "web", true)
	b.check(err)
	b.policyRun(web)
	sets, err := m.Snapshots(t.Context(), "web")
	b.check(err)
	if len(sets) != 1 || !sets[0].Complete || len(sets[0].Snapshots) != 2 || sets[0].By != server.BySchedule || sets[0].OneInstant || sets[0].Frozen {
		t.Fatalf("the sets are %+v", sets)
	}
	set := &sets[0]
	r, err := m.Restore(t.Context(), "web", server.RestoreOptions{Set: set.ID})
	b.check(err)
	b.fromSet(r.Server, set, disks(web)...)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	back, err := m.Rescue(t.Context(), "web", server.RescueOptions{Set: set.ID})
	b.check(err)
	b.fromSet(back.Server, set, disks(r.Server)...)
	for id, v := range b.inventory().volumes {
		if tag(v.Tags, asPolicy) != "" {
			t.Errorf("disk %s was given the policy's tags: %v", id, v.Tags)
		}
	}
	b.pruneBySchedule(m, back.Server)
}

// pruneBySchedule checks that what a schedule took of an instance that is gone,
// which no schedule deletes, is found and pruned to what the schedule keeps.
func (b *bench) pruneBySchedule(m *server.Manager, web *server.Server) {
	b.t.Helper()
	ctx := b.t.Context()
	if _, err := m.PlanPrune(ctx, "web", server.PruneOptions{}); !errors.Is(err, server.ErrUsage) {
		b.t.Errorf("a prune without a rule or a schedule: %v", err)
	}
	_, err := m.Schedule(ctx, "web", server.ScheduleOptions{Every: 24, Keep: 2})
	b.check(err)
	for range 2 {
		nextSecond()
		b.policyRun(web)
	}
	forgotten := func() (n int) {
		found, err := m.Doctor(ctx, server.DoctorOptions{Name: "web"})
		b.check(err)
		for _, f := range found {
			if f.Check == "forgotten-snapshots" && f.Remedy == "stead prune web" {
				n++
			}
		}
		return n
	}
	if n := forgotten(); n != 0 {
		b.t.Errorf("one set more than the schedule keeps, which may be going, and %d findings", n)
	}
	nextSecond()
	b.policyRun(web)
	if n := forgotten(); n != 1 {
		b.t.Errorf("two sets too many, and %d findings", n)
	}
	plan, err := m.Prune(ctx, "web", server.PruneOptions{})
	b.check(err)
	// What a restore kept stays as long as it may be the last of a disk.
	left := slices.DeleteFunc(b.setIDs(m), func(id string) bool { return strings.HasPrefix(id, "before-") })
	if len(plan.Delete) < 2 || len(left) != 2 || forgotten() != 0 {
		b.t.Errorf("pruned %+v, and %v are left", plan.Delete, b.setIDs(m))
	}
}
