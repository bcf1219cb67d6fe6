package server

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// tape is a snapshot of web's disk, as it is listed.
func tape(id, volume string, began time.Time, tags tagMap) types.Snapshot {
	return types.Snapshot{
		SnapshotId: &id, VolumeId: &volume, StartTime: &began, State: types.SnapshotStateCompleted, VolumeSize: aws.Int32(1),
		Tags: tagMap{tagServer: "web"}.with(tags).list(),
	}
}

func scheduled(more tagMap) tagMap {
	return tagMap{tagPolicy: "policy-1", tagSchedule: "stead", tagSetInstant: "yes"}.with(more)
}

func TestScheduledRunsAreSets(t *testing.T) {
	root := tagMap{tagRole: RoleRoot, tagDevice: "/dev/sda1", tagDisks: "/dev/sda1 /dev/sdf"}
	data := tagMap{tagRole: RoleData, tagDevice: "/dev/xvdf"}
	day := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	sets := setsOf([]types.Snapshot{
		tape("snap-1", "vol-r", day, scheduled(root)),
		tape("snap-2", "vol-d", day.Add(2*time.Second), scheduled(data)),
		tape("snap-3", "vol-r", day.Add(24*time.Hour), scheduled(root)), // its data disk's failed to begin
		tape("snap-4", "vol-x", day.Add(24*time.Hour), scheduled(data).with(tagMap{tagPolicy: "policy-2"})),
		tape("snap-5", "vol-r", day.Add(25*time.Hour), scheduled(root)),
		tape("snap-6", "vol-r", day.Add(25*time.Hour+time.Minute), scheduled(root)), // by hand of the cloud's operator: twice
		tape("snap-7", "vol-r", day.Add(26*time.Hour), scheduled(tagMap{tagRole: RoleRoot, tagDevice: "/dev/sda1"})),
		tape("snap-8", "vol-r", day.Add(27*time.Hour), tagMap{}), // of no set
	})
	want := []struct {
		size     int
		complete bool
		lacks    string
	}{
		{1, false, "its root doesn't say which disks there were"},
		{1, false, "the disk at /dev/sdf is missing"},
		{1, false, "the disk at /dev/sdf is missing"},
		{1, false, "its root is missing"},
		{1, false, "the disk at /dev/sdf is missing"},
		{2, true, ""},
	}
	if len(sets) != len(want) {
		t.Fatalf("%d sets: %+v", len(sets), sets)
	}
	for k, w := range want {
		s := sets[k]
		if k == 3 || k == 4 { // of one instant: ordered by their IDs
			continue
		}
		if len(s.Snapshots) != w.size || s.Complete != w.complete || s.Lacks != w.lacks || s.By != BySchedule || s.Server != "web" {
			t.Errorf("set %d is %+v, want %+v", k, s, w)
		}
	}
	whole := sets[len(sets)-1]
	if !whole.OneInstant || whole.Started != day || whole.ID != "20261122T030000Z-"+digest("policy-1", "stead")[:4] {
		t.Errorf("the whole set is %+v", whole)
	}
}

// Two runs of one second have names of their own: else one of them couldn't be
// restored, and both would be deleted as one.
func TestRunsOfOneSecond(t *testing.T) {
	root := tagMap{tagRole: RoleRoot, tagDevice: "/dev/sda1", tagDisks: "/dev/sda1"}
	at := time.Date(2026, 11, 22, 3, 0, 0, 100e6, time.UTC)
	sets := setsOf([]types.Snapshot{
		tape("snap-1", "vol-r", at, scheduled(root)),
		tape("snap-2", "vol-r", at.Add(300*time.Millisecond), scheduled(root)),
	})
	if len(sets) != 2 || sets[0].ID == sets[1].ID {
		t.Errorf("sets %+v, want two of two names", sets)
	}
}

// A policy that goes by volumes takes each disk at a moment of its own, and
// says nothing of one instant; nor do the disks, whatever they were made of.
func TestRunByVolumesIsNotOfOneInstant(t *testing.T) {
	day := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	old := tagMap{tagSet: "old", tagSetSize: "2", tagSetInstant: "yes", tagSetPart: RoleRoot, tagSetFrozen: "yes", tagNote: "x"}
	disk := func(more tagMap) tagMap { // what a restore makes of a snapshot of a set
		return diskTags(old.with(more).list()).with(tagMap{tagPolicy: "policy-1", tagSchedule: "stead"})
	}
	sets := setsOf([]types.Snapshot{
		tape("snap-1", "vol-r", day, disk(tagMap{tagRole: RoleRoot, tagDevice: "/dev/sda1", tagDisks: "/dev/sda1 /dev/sdf"})),
		tape("snap-2", "vol-d", day.Add(time.Minute), disk(tagMap{tagRole: RoleData, tagDevice: "/dev/sdf"})),
	})
	if len(sets) != 1 || !sets[0].Complete || sets[0].OneInstant || sets[0].Frozen || sets[0].Part != "" || sets[0].Note != "" {
		t.Errorf("the sets are %+v", sets)
	}
}

func TestSetsByHand(t *testing.T) {
	began := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	member := func(set, size, role, part string) tagMap {
		m := tagMap{tagSet: set, tagSetSize: size, tagRole: role, tagSetInstant: "yes"}
		if part != "" {
			m[tagSetPart] = part
		}
		return m
	}
	failed := tape("snap-f", "vol-r", began, member("f", "1", RoleRoot, ""))
	failed.State = types.SnapshotStateError
	lacks := map[string]string{}
	for _, s := range setsOf([]types.Snapshot{
		tape("snap-1", "vol-r", began, member("whole", "2", RoleRoot, "")),
		tape("snap-2", "vol-d", began, member("whole", "2", RoleData, "")),
		tape("snap-3", "vol-r", began, member("cut", "2", RoleRoot, "")),
		tape("snap-4", "vol-d", began, member("rootless", "1", RoleData, "")),
		tape("snap-5", "vol-d", began, member("part", "1", RoleData, RoleData)),
		tape("snap-6", "vol-r", began, member("top", "1", RoleRoot, RoleRoot)),
		failed,
	}) {
		lacks[s.ID] = s.Lacks
		if s.Complete != (s.Lacks == "") {
			t.Errorf("%+v", s)
		}
	}
	for id, want := range map[string]string{
		"whole": "", "cut": "it has 1 of 2 snapshots", "rootless": "its root is missing", "part": "", "top": "", "f": "a snapshot failed",
	} {
		if got, ok := lacks[id]; !ok || got != want {
			t.Errorf("set %s lacks %q, want %q", id, got, want)
		}
	}
}
