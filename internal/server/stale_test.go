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

// shelfOfTapes is an endpoint with snapshots, and with an instance that has
// ended.
type shelfOfTapes struct {
	EC2
	tapes map[string][]types.Snapshot // by set
	ended *types.Instance
}

func (s *shelfOfTapes) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	out := &ec2.DescribeSnapshotsOutput{}
	for _, f := range in.Filters {
		if aws.ToString(f.Name) == "tag:"+tagSet {
			out.Snapshots = s.tapes[f.Values[0]]
		}
	}
	return out, nil
}

func (s *shelfOfTapes) DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	out := &ec2.DescribeInstancesOutput{}
	if s.ended != nil {
		out.Reservations = []types.Reservation{{Instances: []types.Instance{*s.ended}}}
	}
	return out, nil
}

// A set that a move or a rescue took before it was cut off is no set of now
// once other tools may have used the disks, though its name follows from them.
func TestSpoiledSetIsNotGoneOnWith(t *testing.T) {
	const id = "rescue-0a1b2c3d4e5f"
	taken := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tags := tagMap{tagRole: RoleRoot, tagInstance: "i-1"}.list()
	instance := func(state types.InstanceStateName, launched time.Time) *types.Instance {
		return &types.Instance{InstanceId: aws.String("i-1"), LaunchTime: &launched, State: &types.InstanceState{Name: state}}
	}
	pluggedAt := func(at time.Time) []types.VolumeAttachment {
		return []types.VolumeAttachment{{InstanceId: aws.String("i-1"), AttachTime: &at, State: types.VolumeAttachmentStateAttached}}
	}
	plugged := []types.Tag{{Key: aws.String(tagSetLaunched), Value: aws.String("2026-03-01T11:00:00Z")}}
	for name, c := range map[string]struct {
		own, ended *types.Instance
		attached   []types.VolumeAttachment
		tape       types.Snapshot
		now        time.Time
		spoiled    bool
	}{
		"at rest":                     {own: instance("stopped", taken.Add(-time.Hour)), attached: pluggedAt(taken.Add(-time.Hour)), now: taken.Add(48 * time.Hour)},
		"started since":               {own: instance("stopped", taken.Add(time.Hour)), attached: pluggedAt(taken.Add(-time.Hour)), spoiled: true},
		"elsewhere meanwhile":         {own: instance("stopped", taken.Add(-time.Hour)), attached: pluggedAt(taken.Add(time.Minute)), spoiled: true},
		"running":                     {own: instance("running", taken.Add(-time.Hour)), attached: pluggedAt(taken.Add(-time.Hour)), spoiled: true},
		"ended as it was":             {ended: instance("terminated", taken.Add(-time.Hour)), tape: types.Snapshot{Tags: plugged}, now: taken.Add(48 * time.Hour)},
		"started, and ended":          {ended: instance("terminated", taken.Add(time.Minute)), tape: types.Snapshot{Tags: plugged}, now: taken.Add(2 * time.Minute), spoiled: true},
		"ended and no longer listed":  {tape: types.Snapshot{Tags: plugged}, now: taken.Add(time.Hour), spoiled: true},
		"ended unlisted, but just so": {tape: types.Snapshot{Tags: plugged}, now: taken.Add(10 * time.Minute)},
		"detached all the time":       {now: taken.Add(48 * time.Hour)},
		"failed":                      {tape: types.Snapshot{State: types.SnapshotStateError}, now: taken.Add(time.Minute), spoiled: true},
	} {
		c.tape.SnapshotId, c.tape.VolumeId, c.tape.StartTime = aws.String("snap-1"), aws.String("vol-1"), &taken
		api := &shelfOfTapes{tapes: map[string][]types.Snapshot{id: {c.tape}}, ended: c.ended}
		m := &Manager{ec2: api, now: func() time.Time { return c.now }}
		w := &world{name: "web", instance: c.own, volumes: []types.Volume{{VolumeId: aws.String("vol-1"), Tags: tags, Attachments: c.attached}}}
		got, err := m.unspoiled(t.Context(), w, id)
		if err != nil {
			t.Fatal(err)
		}
		if (got != id) != c.spoiled {
			t.Errorf("%s: the set to go on with is %s", name, got)
		}
		again, err := m.unspoiled(t.Context(), w, id)
		if err != nil || again != got {
			t.Errorf("%s: %s, and then %s, %v", name, got, again, err)
		}
	}
}

// Who deletes disks trusts a set for what it can be shown to hold alone: that
// of disks that have lain in the stopped instance.
func TestLastSetIsOfDisksThatLay(t *testing.T) {
	taken := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	before, after := taken.Add(-time.Hour), taken.Add(time.Hour)
	disk := func(id, device string, at *time.Time) types.Volume {
		v := types.Volume{VolumeId: &id, Tags: tagMap{tagServer: "web", tagRole: RoleData, tagDevice: device}.list()}
		if at != nil {
			v.Attachments = []types.VolumeAttachment{{InstanceId: aws.String("i-1"), AttachTime: at, State: types.VolumeAttachmentStateAttached}}
		}
		return v
	}
	tape := func(volume, device string) types.Snapshot {
		return types.Snapshot{SnapshotId: aws.String("of-" + volume), VolumeId: &volume, StartTime: &taken, Tags: tagMap{tagRole: RoleData, tagDevice: device}.list()}
	}
	api := &retiring{shelfOfTapes: shelfOfTapes{tapes: map[string][]types.Snapshot{"last-1": {
		tape("vol-lay", "/dev/sdf"), tape("vol-moved", "/dev/sdg"), tape("vol-out", "/dev/sdh"), tape("vol-gone", "/dev/sdi"), tape("vol-replaced", "/dev/sdj"),
	}}}}
	m := &Manager{ec2: api, now: time.Now, pollMin: time.Millisecond, pollMax: time.Millisecond}
	w := &world{
		name:     "web",
		instance: &types.Instance{InstanceId: aws.String("i-1"), LaunchTime: &before, State: &types.InstanceState{Name: types.InstanceStateNameStopped}},
		volumes:  []types.Volume{disk("vol-lay", "/dev/sdf", &before), disk("vol-moved", "/dev/sdg", &after), disk("vol-out", "/dev/sdh", nil), disk("vol-new", "/dev/sdj", &before)},
	}
	if err := m.retireDoubtful(t.Context(), w, "last-1"); err != nil {
		t.Fatal(err)
	}
	if len(api.tagged) != 1 || !slices.Equal(api.tagged[0].Resources, []string{"of-vol-moved", "of-vol-out", "of-vol-replaced"}) ||
		tagOf(api.tagged[0].Tags, tagSet) != "last-1-20260301T120000Z" {
		t.Errorf("retired by %+v", api.tagged)
	}
}

// retiring is a shelf whose snapshots leave their set when they are tagged.
type retiring struct {
	shelfOfTapes
	tagged []*ec2.CreateTagsInput
}

func (r *retiring) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	r.tagged = append(r.tagged, in)
	for set, tapes := range r.tapes {
		r.tapes[set] = slices.DeleteFunc(slices.Clone(tapes), func(s types.Snapshot) bool { return slices.Contains(in.Resources, aws.ToString(s.SnapshotId)) })
	}
	return &ec2.CreateTagsOutput{}, nil
}

// A set that lost a snapshot to another tool isn't waited for in vain.
func TestWaitSetEndsWhereASnapshotIsGone(t *testing.T) {
	tags := tagMap{tagServer: "web", tagSet: "last-1", tagSetSize: "2", tagSetInstant: "yes", tagRole: RoleRoot}.list()
	api := &shelfOfTapes{tapes: map[string][]types.Snapshot{"last-1": {{
		SnapshotId: aws.String("snap-1"), VolumeId: aws.String("vol-1"), State: types.SnapshotStateCompleted, StartTime: aws.Time(time.Now()), Tags: tags,
	}}}}
	clock := time.Now()
	m := New(Config{EC2: api, PollMin: time.Millisecond, PollMax: time.Millisecond, Now: func() time.Time { clock = clock.Add(time.Second); return clock }})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := m.waitSet(ctx, "web", "last-1"); KindOf(err) != KindPartial {
		t.Errorf("waited, and got %v", err)
	}
}
