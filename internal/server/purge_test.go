package server_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// nothingLeft checks that a server is gone, but for its snapshots.
func (b *bench) nothingLeft(snapshots int) {
	b.t.Helper()
	inv := b.inventory()
	if len(inv.live) != 0 || len(inv.volumes) != 0 || len(inv.addresses) != 0 || inv.groups != 0 || inv.snapshots != snapshots {
		b.t.Errorf("left: %d instances, %d volumes, %d addresses, %d groups, %d snapshots (want %d)", len(inv.live), len(inv.volumes), len(inv.addresses), inv.groups, inv.snapshots, snapshots)
	}
}

func TestMachinePurgeKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	round := 0
	everyStep(t, k,
		func(int) {
			round++
			_, err := m.Create(t.Context(), b.faultOptions())
			b.check(err)
		},
		func(ctx context.Context, _ int) error {
			r, err := m.Purge(ctx, "web", server.PurgeOptions{})
			if err == nil && r.Set == "" && len(r.Disks) > 0 {
				t.Errorf("purged %+v without a last set", r)
			}
			return err
		},
		func(int) {
			sets, err := m.Snapshots(t.Context(), "web")
			b.check(err)
			// The last set of each, and what was taken anew where one was cut off
			// with its disks detached.
			whole, all := 0, 0
			for _, s := range sets {
				all += len(s.Snapshots)
				if s.Complete && s.Note == "before purge" && len(s.Snapshots) == 2 {
					whole++
				}
			}
			b.nothingLeft(all)
			if whole < round {
				t.Errorf("after %d purges the sets are %+v", round, sets)
			}
		})
}

func TestPurge(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, set := b.quietServer(m)
	_, err := m.Protect(ctx, "web")
	b.check(err)
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, server.ErrProtected) || server.Remedy(err) != "stead unprotect web" {
		t.Errorf("a protected one: %v (%s)", err, server.Remedy(err))
	}
	_, err = m.Unprotect(ctx, "web")
	b.check(err)
	_, err = m.Restore(ctx, "web", server.RestoreOptions{Set: set.ID, Part: server.RoleData}) // leaves an old disk
	b.check(err)
	plan, err := m.PlanPurge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	if len(plan.Disks) != 3 || plan.InstanceID != web.InstanceID || plan.PublicIP == "" {
		t.Errorf("planned %+v", plan)
	}
	r, err := m.Purge(ctx, "web", server.PurgeOptions{})
	b.check(err)
	b.nothingLeft(2 + 2 + 2 + 1) // the set, the one before the restore, the last one, that of the old disk
	// It comes back from its last set.
	back, err := m.Rescue(ctx, "web", server.RescueOptions{Set: r.Set})
	b.check(err)
	if back.Server.State != server.StateRunning || len(back.Server.Data) != 1 {
		t.Errorf("back as %+v", back.Server)
	}
	_, err = m.Purge(ctx, "web", server.PurgeOptions{Snapshots: true})
	b.check(err)
	b.nothingLeft(0)
	if inv := b.inventory(); len(inv.images) != 0 {
		t.Errorf("images left: %v", inv.images)
	}
	if _, err := m.Purge(ctx, "web", server.PurgeOptions{}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("purged again: %v", err)
	}
}

// A purge that was cut off before its end leaves marks on the disks. What the
// server wrote since is in no set of that day: the next purge takes its own.
func TestPurgeTakesNoOldSetForTheLast(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		b := newBench(t, nil)
		m := b.manager(b.client)
		ctx := t.Context()
		web, _ := b.quietServer(m)
		for _, mark := range []string{"purge last-0a1b2c3d4e5f", "purge none"} {
			if mark == "purge none" && !ended {
				continue
			}
			_, err := b.client.CreateTags(ctx, &ec2.CreateTagsInput{
				Resources: []string{web.Root.VolumeID, web.Data[0].VolumeID},
				Tags:      []types.Tag{{Key: aws.String("stead:step"), Value: &mark}},
			})
			b.check(err)
		}
		if ended {
			_, err := m.Terminate(ctx, "web")
			b.check(err)
		}
		r, err := m.Purge(ctx, "web", server.PurgeOptions{})
		b.check(err)
		sets, err := m.Snapshots(ctx, "web")
		b.check(err)
		at := slices.IndexFunc(sets, func(s server.SnapshotSet) bool { return s.ID == r.Set })
		if at < 0 || !sets[at].Complete || sets[at].Note != "before purge" {
			t.Errorf("purged with last set %q of %+v", r.Set, sets)
		}
	}
}

// A server that was renamed keeps a group of its old name. Who has that name
// now must not take the group away.
func TestPurgeLeavesTheGroupOfARenamedServer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Rename(ctx, "web", "shop")
	b.check(err)
	_, err = m.Terminate(ctx, "shop")
	b.check(err)
	_, err = m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Purge(ctx, "web", server.PurgeOptions{NoSnapshot: true})
	b.check(err)
	out, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{"stead:server"}}},
	})
	b.check(err)
	if len(out.SecurityGroups) != 1 || aws.ToString(out.SecurityGroups[0].GroupName) != "stead-web" {
		t.Errorf("left are the groups %+v", out.SecurityGroups)
	}
}

// Who starts or rescues a server takes back a purge that was cut off: its last
// set doesn't show what is written from then on.
func TestStartAndRescueTakeBackAPurge(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, _ := b.quietServer(m)
	disks := []string{web.Root.VolumeID, web.Data[0].VolumeID}
	mark := func() {
		_, err := b.client.CreateTags(ctx, &ec2.CreateTagsInput{
			Resources: disks, Tags: []types.Tag{{Key: aws.String("stead:step"), Value: aws.String("purge last-0a1b2c3d4e5f")}},
		})
		b.check(err)
	}
	unmarked := func(verb string) {
		t.Helper()
		out, err := b.client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{
			VolumeIds: disks, Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{"stead:step"}}},
		})
		b.check(err)
		if len(out.Volumes) > 0 {
			t.Errorf("after a %s %d disks are marked for the purge", verb, len(out.Volumes))
		}
	}
	_, err := m.Stop(ctx, "web", false)
	b.check(err)
	mark()
	_, err = m.Start(ctx, "web", server.WaitSSH)
	b.check(err)
	unmarked("start")
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	mark()
	_, err = m.Rescue(ctx, "web", server.RescueOptions{})
	b.check(err)
	unmarked("rescue")
}
