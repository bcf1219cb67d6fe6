package cloud

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// replaceRoot asks for a task and gives its ID.
func replaceRoot(t *testing.T, client *ec2.Client, in *ec2.CreateReplaceRootVolumeTaskInput) string {
	t.Helper()
	out, err := client.CreateReplaceRootVolumeTask(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if s := out.ReplaceRootVolumeTask.TaskState; s != types.ReplaceRootVolumeTaskStatePending {
		t.Errorf("a new task is %s", s)
	}
	return *out.ReplaceRootVolumeTask.ReplaceRootVolumeTaskId
}

// waitTask waits until nothing more is done for a task.
func waitTask(t *testing.T, client *ec2.Client, id string) types.ReplaceRootVolumeTask {
	t.Helper()
	var task types.ReplaceRootVolumeTask
	eventually(t, id+" is over", func() bool {
		out, err := client.DescribeReplaceRootVolumeTasks(t.Context(), &ec2.DescribeReplaceRootVolumeTasksInput{ReplaceRootVolumeTaskIds: []string{id}})
		if err != nil {
			t.Fatal(err)
		}
		task = out.ReplaceRootVolumeTasks[0]
		return task.CompleteTime != nil
	})
	return task
}

// rooted launches an instance with a root that is kept and a data disk.
func rooted(t *testing.T, c *Cloud, client *ec2.Client) (id, snap string) {
	t.Helper()
	snap = makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "rooted", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap, DeleteOnTermination: aws.Bool(false)}),
		ebs("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(2)}))
	return launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image}), snap
}

func volumeState(t *testing.T, client *ec2.Client, id string) types.VolumeState {
	t.Helper()
	out, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
	if err != nil {
		return "gone"
	}
	return out.Volumes[0].State
}

func TestReplaceRootFromEverySource(t *testing.T) {
	c, client := newTestCloud(t)
	client = steady(client)
	id, snap := rooted(t, c, client)
	other := makeSnapshot(t, c, client, "more")
	image := makeImage(t, client, "other", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &other, VolumeSize: aws.Int32(3)}))
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &other})
	before := describe(t, client, id)
	for _, tc := range []struct {
		name string
		in   ec2.CreateReplaceRootVolumeTaskInput
		head string
		del  bool
	}{
		{"volume", ec2.CreateReplaceRootVolumeTaskInput{VolumeId: &vol}, "more", false},
		{"image", ec2.CreateReplaceRootVolumeTaskInput{ImageId: &image, DeleteReplacedRootVolume: aws.Bool(true)}, "more", true},
		{"launch state", ec2.CreateReplaceRootVolumeTaskInput{}, "more", false},
		{"snapshot", ec2.CreateReplaceRootVolumeTaskInput{SnapshotId: &other}, "more", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
			tc.in.InstanceId, tc.in.DeleteReplacedRootVolume = &id, &tc.del
			tc.in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeReplaceRootVolumeTask, Tags: []types.Tag{{Key: aws.String("for"), Value: &tc.name}}}}
			task := waitTask(t, client, replaceRoot(t, client, &tc.in))
			if task.TaskState != types.ReplaceRootVolumeTaskStateSucceeded || *task.Tags[0].Value != tc.name {
				t.Fatalf("task is %s with tags %v", task.TaskState, task.Tags)
			}
			now := describe(t, client, id)
			if disk := diskOf(t, c, client, now.BlockDeviceMappings[0]); disk.head != tc.head || disk.device != "/dev/sda1" || !disk.stays {
				t.Errorf("the root is %+v", disk)
			}
			if got := *now.BlockDeviceMappings[0].Ebs.VolumeId; got == old || tc.in.VolumeId != nil && got != vol {
				t.Errorf("the root is %s, was %s", got, old)
			}
			if now.State.Name != types.InstanceStateNameRunning || *now.PrivateIpAddress != *before.PrivateIpAddress || len(now.BlockDeviceMappings) != 2 ||
				*now.BlockDeviceMappings[1].Ebs.VolumeId != *before.BlockDeviceMappings[1].Ebs.VolumeId || !now.LaunchTime.Equal(*before.LaunchTime) {
				t.Errorf("more than the root has changed: %+v", now)
			}
			want := types.VolumeStateAvailable
			if tc.del {
				want = "gone"
			}
			eventually(t, "the old root is "+string(want), func() bool { return volumeState(t, client, old) == want })
		})
	}
	if _, err := client.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err == nil {
		t.Error("the image's snapshot was deleted")
	}
	tasks := 0
	for p := ec2.NewDescribeReplaceRootVolumeTasksPaginator(client, &ec2.DescribeReplaceRootVolumeTasksInput{
		Filters: filters("instance-id", id), MaxResults: aws.Int32(3),
	}); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tasks += len(page.ReplaceRootVolumeTasks)
	}
	if tasks != 4 {
		t.Errorf("%d tasks are listed, want 4", tasks)
	}
}

func TestReplaceRootRefuses(t *testing.T) {
	c, client := newTestCloud(t)
	id, _ := rooted(t, c, client)
	foreign := makeSnapshot(t, c, client, "else")
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	far := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1b"), Size: aws.Int32(1)})
	data := *describe(t, client, id).BlockDeviceMappings[1].Ebs.VolumeId
	for name, tc := range map[string]struct {
		in   ec2.CreateReplaceRootVolumeTaskInput
		code string
	}{
		"two sources":      {ec2.CreateReplaceRootVolumeTaskInput{VolumeId: &vol, SnapshotId: &foreign}, "InvalidParameterCombination"},
		"unknown volume":   {ec2.CreateReplaceRootVolumeTaskInput{VolumeId: aws.String("vol-0123456789abcdef0")}, "InvalidVolume.NotFound"},
		"another zone":     {ec2.CreateReplaceRootVolumeTaskInput{VolumeId: &far}, "InvalidVolume.ZoneMismatch"},
		"attached":         {ec2.CreateReplaceRootVolumeTaskInput{VolumeId: &data}, "VolumeInUse"},
		"another lineage":  {ec2.CreateReplaceRootVolumeTaskInput{SnapshotId: &foreign}, "InvalidParameterValue"},
		"unknown image":    {ec2.CreateReplaceRootVolumeTaskInput{ImageId: aws.String("ami-0123456789abcdef0")}, "InvalidAMIID.NotFound"},
		"rate":             {ec2.CreateReplaceRootVolumeTaskInput{VolumeInitializationRate: aws.Int64(99)}, "InvalidParameterValue"},
		"unknown instance": {ec2.CreateReplaceRootVolumeTaskInput{InstanceId: aws.String("i-0123456789abcdef0")}, "InvalidInstanceID.NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.in.InstanceId == nil {
				tc.in.InstanceId = &id
			}
			_, err := client.CreateReplaceRootVolumeTask(t.Context(), &tc.in)
			wantCode(t, err, tc.code)
		})
	}
	if _, err := client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
	_, err := client.CreateReplaceRootVolumeTask(t.Context(), &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &vol})
	wantCode(t, err, "IncorrectInstanceState")
	_, err = client.DescribeReplaceRootVolumeTasks(t.Context(), &ec2.DescribeReplaceRootVolumeTasksInput{ReplaceRootVolumeTaskIds: []string{"replacevol-0123456789abcdef0"}})
	wantCode(t, err, "InvalidReplaceRootVolumeTaskId.NotFound")
}

// A snapshot that was taken of the root, or of one that it comes from, is of
// its lineage.
func TestReplaceRootWithItsOwnSnapshot(t *testing.T) {
	c, client := newTestCloud(t)
	id, first := rooted(t, c, client)
	root := describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	out, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: root})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "completed", func() bool {
		s, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*out.SnapshotId}})
		return err == nil && s.Snapshots[0].State == types.SnapshotStateCompleted
	})
	for _, snap := range []string{*out.SnapshotId, first} {
		task := waitTask(t, client, replaceRoot(t, client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, SnapshotId: &snap}))
		if task.TaskState != types.ReplaceRootVolumeTaskStateSucceeded || *task.SnapshotId != snap {
			t.Errorf("with %s the task is %s", snap, task.TaskState)
		}
	}
}

// While a task is under way its volume is nobody else's, its instance starts
// no other, and the same token names it again.
func TestReplaceRootReserves(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id, _ := rooted(t, c, client)
	old := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	slow := make(chan struct{})
	m.set(func() { m.slow = slow })
	in := ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &vol, ClientToken: aws.String("once")}
	task := replaceRoot(t, client, &in)
	if again, err := client.CreateReplaceRootVolumeTask(t.Context(), &in); err != nil || *again.ReplaceRootVolumeTask.ReplaceRootVolumeTaskId != task {
		t.Errorf("the token gives %v, %v", again, err)
	}
	_, err := client.CreateReplaceRootVolumeTask(t.Context(), &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id})
	wantCode(t, err, "IncorrectInstanceState")
	_, err = client.CreateImage(t.Context(), &ec2.CreateImageInput{InstanceId: &id, Name: aws.String("now")})
	wantCode(t, err, "IncorrectInstanceState")
	_, err = client.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &vol})
	wantCode(t, err, "VolumeInUse")
	_, err = client.AttachVolume(t.Context(), &ec2.AttachVolumeInput{VolumeId: &vol, InstanceId: &id, Device: aws.String("/dev/sdg")})
	wantCode(t, err, "VolumeInUse")
	close(slow)
	if got := waitTask(t, client, task); got.TaskState != types.ReplaceRootVolumeTaskStateSucceeded {
		t.Errorf("task is %s", got.TaskState)
	}
	if s := volumeState(t, client, old); s != types.VolumeStateAvailable {
		t.Errorf("the old root is %s", s)
	}
}

// A daemon that dies anywhere in a task leaves it to the next one.
func TestReplaceRootSurvivesItsDaemon(t *testing.T) {
	for name, tc := range map[string]struct {
		dies func(m *moody) // what is to happen before the daemon's end
	}{
		"before anything":      {func(m *moody) { m.rest() }},
		"while the guest ends": {func(m *moody) { m.set(func() { m.slow = make(chan struct{}) }) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := Dir(t.TempDir()), &moody{}
			c, client, end := openMoody(t, dir, m)
			id, _ := rooted(t, c, client)
			old := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
			vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
			c.work.kick() // at rest
			tc.dies(m)
			task := replaceRoot(t, client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &vol})
			if name != "before anything" {
				eventually(t, "in progress", func() bool {
					out, err := client.DescribeReplaceRootVolumeTasks(t.Context(), &ec2.DescribeReplaceRootVolumeTasksInput{ReplaceRootVolumeTaskIds: []string{task}})
					return err == nil && out.ReplaceRootVolumeTasks[0].TaskState == types.ReplaceRootVolumeTaskStateInProgress
				})
				// Its guest has powered itself off by the time that the next one looks.
				m.set(func() { m.state, m.first = machine.GuestShutdown, true })
			}
			end()
			m.set(func() { m.slow = nil })
			_, client, _ = openMoody(t, dir, m)
			if got := waitTask(t, client, task); got.TaskState != types.ReplaceRootVolumeTaskStateSucceeded {
				t.Fatalf("task is %s", got.TaskState)
			}
			stays(t, client, id, types.InstanceStateNameRunning)
			if got := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId; got != vol {
				t.Errorf("the root is %s, was %s, want %s", got, old, vol)
			}
			if s := volumeState(t, client, old); s != types.VolumeStateAvailable {
				t.Errorf("the old root is %s", s)
			}
		})
	}
}

// fussy starts no machine whose root is a certain volume.
type fussy struct {
	*moody
	refused string
}

func (f *fussy) start(ctx context.Context, spec machine.Spec) (vm, error) {
	if spec.Disks[0].VolumeID == f.refused {
		return nil, errors.New("that disk does not boot")
	}
	return f.moody.start(ctx, spec)
}

// Where no machine starts on the new root, the old one is put back and runs.
func TestReplaceRootThatDoesNotStart(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id, _ := rooted(t, c, client)
	old := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	c.work.wait()
	c.hyper = &fussy{m, vol}
	task := waitTask(t, client, replaceRoot(t, client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &vol, DeleteReplacedRootVolume: aws.Bool(true)}))
	if task.TaskState != types.ReplaceRootVolumeTaskStateFailed {
		t.Errorf("task is %s", task.TaskState)
	}
	waitInstance(t, client, id, types.InstanceStateNameRunning)
	if got := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId; got != old {
		t.Errorf("the root is %s, want %s", got, old)
	}
	if s := volumeState(t, client, vol); s != types.VolumeStateAvailable {
		t.Errorf("the volume that was refused is %s", s)
	}
}

// An instance that is stopped or terminated in the middle of a task has one
// root, and no volume stays reserved.
func TestReplaceRootOfAnInstanceThatEnds(t *testing.T) {
	for _, terminate := range []bool{false, true} {
		m := &moody{}
		c, client, _ := openMoody(t, Dir(t.TempDir()), m)
		id, _ := rooted(t, c, client)
		vol := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		slow := make(chan struct{})
		m.set(func() { m.slow = slow })
		task := replaceRoot(t, client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &vol})
		want, err := types.InstanceStateNameStopped, error(nil)
		if terminate {
			want = types.InstanceStateNameTerminated
			_, err = client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		} else {
			_, err = client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}})
		}
		if err != nil {
			t.Fatal(err)
		}
		close(slow)
		waitInstance(t, client, id, want)
		waitTask(t, client, task)
		err = c.db.View(func(tx *state.Tx) error {
			vols, err := state.All[state.Volume](tx)
			if err == nil && slices.ContainsFunc(vols, func(v *state.Volume) bool { return v.ReservedFor != "" }) {
				err = errors.New("a volume is reserved still")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if !terminate && len(describe(t, client, id).BlockDeviceMappings) != 2 {
			t.Error("the stopped instance has lost a disk")
		}
	}
}
