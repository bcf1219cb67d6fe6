package cloud

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func webTags(kind types.ResourceType, more ...string) []types.TagSpecification {
	tags := []types.Tag{{Key: aws.String("app"), Value: aws.String("web")}}
	for i := 0; i < len(more); i += 2 {
		tags = append(tags, types.Tag{Key: &more[i], Value: &more[i+1]})
	}
	return []types.TagSpecification{{ResourceType: kind, Tags: tags}}
}

// disk makes a volume tagged app=web.
func (e *timed) disk() string {
	e.t.Helper()
	return makeVolume(e.t, e.ec2, &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), TagSpecifications: webTags(types.ResourceTypeVolume, "which", "disk"),
	})
}

func TestPolicyTakesAndKeeps(t *testing.T) {
	dir := Dir(t.TempDir())
	e := openTimed(t, dir, &clock{at: noon})
	vol := e.disk()
	id := e.policy(everySix(dlmtypes.ResourceTypeValuesVolume))
	e.turn(noon.Add(2*time.Hour + 59*time.Minute))
	if got := e.snapshots(); len(got) != 0 {
		t.Fatalf("before its time there are %d", len(got))
	}
	e.turn(noon.Add(3 * time.Hour))
	got := e.snapshots()
	if len(got) != 1 || *got[0].VolumeId != vol {
		t.Fatalf("at 15:00 there are %+v", got)
	}
	tags := map[string]string{}
	for _, tag := range got[0].Tags {
		tags[*tag.Key] = *tag.Value
	}
	if tags[tagPolicyID] != id || tags[tagScheduleName] != "six" || tags["app"] != "web" || tags["which"] != "disk" || tags["made"] != "by schedule" || tags[tagManaged] != "true" {
		t.Errorf("its tags are %v", tags)
	}
	if !strings.Contains(*got[0].Description, "Created for policy: "+id) {
		t.Errorf("it is described as %q", *got[0].Description)
	}
	for n := 2; n <= 5; n++ {
		e.turn(noon.Add(3*time.Hour + time.Duration(n-1)*6*time.Hour))
	}
	kept := e.snapshots()
	if len(kept) != 2 || !kept[0].StartTime.Equal(noon.Add(21*time.Hour)) || !kept[1].StartTime.Equal(noon.Add(27*time.Hour)) {
		t.Errorf("of five, two were to be kept: %+v", kept)
	}
	// No user writes or removes the cloud's tags.
	_, err := e.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{*kept[0].SnapshotId}})
	if err != nil {
		t.Fatal(err)
	}
	if left := e.snapshots(); len(left) != 2 || len(left[0].Tags) != 2 {
		t.Errorf("after all tags were deleted: %+v", left)
	}
	_, err = e.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{*kept[0].SnapshotId}, Tags: []types.Tag{{Key: aws.String(tagPolicyID)}}})
	wantCode(t, err, "InvalidParameterValue")
}

// What was missed while no daemon ran is made up for once; and a daemon that
// dies in the middle of a run does nothing twice.
func TestPolicyOverRestarts(t *testing.T) {
	dir, k := Dir(t.TempDir()), &clock{at: noon}
	e := openTimed(t, dir, k)
	vols := []string{e.disk(), e.disk(), e.disk()}
	id := e.policy(everySix(dlmtypes.ResourceTypeValuesVolume))
	e.turn(noon)
	e.end()
	k.set(noon.Add(72*time.Hour + 5*time.Minute)) // twelve times missed, the last at 09:00
	e = openTimed(t, dir, k)
	e.settleDown()
	if got := e.snapshots(); len(got) != 3 {
		t.Fatalf("after three days off there are %d snapshots of 3 disks", len(got))
	}
	// The next run: two of its three snapshots are taken, and then the daemon dies.
	due := noon.Add(75 * time.Hour)
	e.end()
	k.set(due)
	e = cutOff(t, dir, k, id, due, vols[:2])
	e.settleDown()
	perVolume := map[string]int{}
	for _, s := range e.snapshots() {
		if s.StartTime.Equal(due) {
			perVolume[*s.VolumeId]++
		}
	}
	if len(perVolume) != 3 || perVolume[vols[0]] != 1 || perVolume[vols[1]] != 1 || perVolume[vols[2]] != 1 {
		t.Errorf("the run that was cut off took %v", perVolume)
	}
}

// cutOff leaves a run as a daemon leaves it that died in it, and starts the
// next.
func cutOff(t *testing.T, dir Dir, k *clock, id string, due time.Time, taken []string) *timed {
	t.Helper()
	before := k.now()
	k.set(due.Add(-time.Minute)) // so that this daemon does nothing by itself
	e := openTimed(t, dir, k)
	e.settleDown()
	k.set(before)
	err := e.cloud.db.Update(func(tx *state.Tx) error {
		p, err := state.Get[state.LifecyclePolicy](tx, testScope, id)
		if err != nil {
			return err
		}
		p.Schedules[0].Due, p.Schedules[0].Begun = due, due
		for _, v := range taken {
			snap := &state.Snapshot{
				Meta: e.cloud.meta(testScope, "snap"), State: state.SnapshotPending, VolumeID: v, VolumeSize: 1,
				Run: &state.PolicyRun{Policy: id, Schedule: "six", Due: due, Target: v},
			}
			snap.Tags = map[string]string{tagPolicyID: id}
			if err := state.Put(tx, snap); err != nil {
				return err
			}
		}
		return state.Put(tx, p)
	})
	if err != nil {
		t.Fatal(err)
	}
	e.end()
	return openTimed(t, dir, k)
}

// An instance's disks are taken at one instant, or not at all, and kept as
// long as the rule says, but for what an image needs.
func TestPolicyOfInstances(t *testing.T) {
	e := openTimed(t, Dir(t.TempDir()), &clock{at: noon})
	ctx := t.Context()
	snap := makeSnapshot(t, e.cloud, e.ec2, "root")
	image := makeImage(t, e.ec2, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}), ebs("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)}))
	specs := append(webTags(types.ResourceTypeInstance), webTags(types.ResourceTypeVolume, "server", "web")...)
	inst := launchOne(t, e.ec2, &ec2.RunInstancesInput{ImageId: &image, TagSpecifications: specs})
	other := launchOne(t, e.ec2, &ec2.RunInstancesInput{ImageId: &image})
	if _, err := e.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{inst, other}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, e.ec2, inst, types.InstanceStateNameStopped)
	in := everySix(dlmtypes.ResourceTypeValuesInstance)
	s := &in.PolicyDetails.Schedules[0]
	s.RetainRule = &dlmtypes.RetainRule{Interval: aws.Int32(1), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesDays}
	s.VariableTags = []dlmtypes.Tag{{Key: aws.String("of"), Value: aws.String("$(instance-id)")}}
	id := e.policy(in)
	e.turn(noon.Add(3 * time.Hour))
	first := e.snapshots()
	if len(first) != 2 || !first[0].StartTime.Equal(*first[1].StartTime) {
		t.Fatalf("of one instance with two disks: %+v", first)
	}
	for _, want := range []string{"of=" + inst, "server=web", tagExpires + "=2026-11-23T15:00:00Z"} {
		key, value, _ := strings.Cut(want, "=")
		if !slices.ContainsFunc(first[0].Tags, func(tag types.Tag) bool { return *tag.Key == key && *tag.Value == value }) {
			t.Errorf("tag %s is missing: %+v", want, first[0].Tags)
		}
	}
	// An image of one of them: that one stays for ever, the other goes.
	makeImage(t, e.ec2, "kept", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: first[0].SnapshotId}))
	for h := 9; h <= 33; h += 6 {
		e.turn(noon.Add(time.Duration(h) * time.Hour))
	}
	var from15 []string
	for _, s := range e.snapshots() {
		if s.StartTime.Equal(noon.Add(3 * time.Hour)) {
			from15 = append(from15, *s.SnapshotId)
		}
	}
	if !slices.Equal(from15, []string{*first[0].SnapshotId}) {
		t.Errorf("of the first run, past its time, there is %v", from15)
	}
	// Off: nothing is taken, and nothing is made up for afterwards.
	e.state(id, dlmtypes.SettablePolicyStateValuesDisabled)
	had := len(e.snapshots())
	e.set(noon.Add(57 * time.Hour))
	e.state(id, dlmtypes.SettablePolicyStateValuesEnabled)
	e.turn(noon.Add(57*time.Hour + time.Minute))
	if got := e.snapshots(); len(got) > had {
		t.Errorf("there were %d, and while it was off it became %d", had, len(got))
	}
}

func (e *timed) state(id string, want dlmtypes.SettablePolicyStateValues) {
	e.t.Helper()
	if _, err := e.dlm.UpdateLifecyclePolicy(e.t.Context(), &dlm.UpdateLifecyclePolicyInput{PolicyId: &id, State: want}); err != nil {
		e.t.Fatal(err)
	}
}

// The last whole run of a disk is kept, and one that failed stands for none.
func TestPastTime(t *testing.T) {
	at := func(h int, whole, pending bool) *pastRun {
		return &pastRun{due: noon.Add(time.Duration(h) * time.Hour), taken: noon.Add(time.Duration(h) * time.Hour), whole: whole, pending: pending}
	}
	runs := []*pastRun{at(5, false, true), at(4, false, false), at(3, true, false), at(2, false, false), at(1, true, false), at(0, true, false)}
	past := func(s state.PolicySchedule, now time.Time) (hours []int) {
		for _, r := range pastTime(&s, runs, now) {
			hours = append(hours, int(r.due.Sub(noon).Hours()))
		}
		return hours
	}
	if got := past(state.PolicySchedule{KeepCount: 1}, noon); !slices.Equal(got, []int{2, 1, 0}) {
		t.Errorf("one kept: %v go", got)
	}
	if got := past(state.PolicySchedule{KeepCount: 2}, noon); !slices.Equal(got, []int{0}) {
		t.Errorf("two kept: %v go", got)
	}
	if got := past(state.PolicySchedule{KeepFor: 1, KeepUnit: "DAYS"}, noon.AddDate(1, 0, 0)); !slices.Equal(got, []int{2, 1, 0}) {
		t.Errorf("all past their day: %v go", got)
	}
}

// A schedule that counts forgets what it took of a disk that is gone, or that
// isn't its any more; one that goes by age keeps the last of it. So it is on
// AWS.
func TestPolicyOfTargetsThatAreGone(t *testing.T) {
	for name, tt := range map[string]struct {
		keep *dlmtypes.RetainRule
		gone []int // how many stay of the disk that is deleted
		free int   // and of the one that loses the tag
	}{
		"count": {&dlmtypes.RetainRule{Count: aws.Int32(2)}, []int{2, 2}, 2},
		"age":   {&dlmtypes.RetainRule{Interval: aws.Int32(1), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesDays}, []int{2, 1}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := openTimed(t, Dir(t.TempDir()), &clock{at: noon})
			gone, free := e.disk(), e.disk()
			in := everySix(dlmtypes.ResourceTypeValuesVolume)
			in.PolicyDetails.Schedules[0].RetainRule = tt.keep
			id := e.policy(in)
			e.turn(noon.Add(3 * time.Hour))
			e.turn(noon.Add(9 * time.Hour))
			if _, err := e.ec2.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &gone}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{free}, Tags: []types.Tag{{Key: aws.String("app")}}}); err != nil {
				t.Fatal(err)
			}
			of := func(vol string) (n int) {
				for _, s := range e.snapshots() {
					if *s.VolumeId == vol {
						n++
					}
				}
				return n
			}
			if tt.keep.Count != nil { // also where fewer are kept from now on
				in.PolicyDetails.Schedules[0].RetainRule = &dlmtypes.RetainRule{Count: aws.Int32(1)}
				if _, err := e.dlm.UpdateLifecyclePolicy(t.Context(), &dlm.UpdateLifecyclePolicyInput{PolicyId: &id, PolicyDetails: &dlmtypes.PolicyDetails{Schedules: in.PolicyDetails.Schedules}}); err != nil {
					t.Fatal(err)
				}
			}
			for k, at := range []time.Time{noon.Add(15 * time.Hour), noon.AddDate(0, 1, 0)} {
				e.turn(at)
				if of(gone) != tt.gone[k] || of(free) != tt.free {
					t.Errorf("at %v there are %d of the disk that is gone and %d of the one without the tag, want %d and %d", at, of(gone), of(free), tt.gone[k], tt.free)
				}
			}
		})
	}
}

// What was taken to be kept for a day is kept for a day, whatever the rule is
// then; and no rule becomes one of the other kind.
func TestPolicyRuleIsForWhatComes(t *testing.T) {
	e := openTimed(t, Dir(t.TempDir()), &clock{at: noon})
	e.disk()
	in := everySix(dlmtypes.ResourceTypeValuesVolume)
	keep := func(rule *dlmtypes.RetainRule) *dlmtypes.PolicyDetails {
		in.PolicyDetails.Schedules[0].RetainRule = rule
		return &dlmtypes.PolicyDetails{Schedules: in.PolicyDetails.Schedules}
	}
	keep(&dlmtypes.RetainRule{Interval: aws.Int32(1), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesDays})
	id := e.policy(in)
	change := func(rule *dlmtypes.RetainRule) error {
		_, err := e.dlm.UpdateLifecyclePolicy(t.Context(), &dlm.UpdateLifecyclePolicyInput{PolicyId: &id, PolicyDetails: keep(rule)})
		return err
	}
	e.turn(noon.Add(3 * time.Hour))
	if err := change(&dlmtypes.RetainRule{Interval: aws.Int32(1), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesYears}); err != nil {
		t.Fatal(err)
	}
	e.turn(noon.Add(9 * time.Hour))
	e.turn(noon.Add(33 * time.Hour))
	got := e.snapshots()
	if len(got) != 2 || !got[0].StartTime.Equal(noon.Add(9*time.Hour)) {
		t.Errorf("after a day there are %+v", got)
	}
	wantCode(t, change(&dlmtypes.RetainRule{Count: aws.Int32(2)}), "InvalidRequestException")
}
