package cloud

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// moody is a hypervisor without machines whose machines behave as they are
// told to: off, silent, or slow to power off.
type moody struct {
	noMachines
	mu     sync.Mutex
	state  machine.State // what they say they are; 0 is running
	ioErr  *machine.IOError
	first  bool          // only those that were adopted do so
	born   int           // how many were started
	silent bool          // they answer nothing, and cannot be adopted
	slow   chan struct{} // Shutdown waits for it to close

	// rest ends the workers of the cloud that was opened last: what it answers
	// from then on is committed, and nothing is done about it, as when the
	// daemon dies right after.
	rest context.CancelFunc
}

func (m *moody) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *moody) now() (machine.State, bool, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.silent, m.slow
}

func (m *moody) adoptedOnly() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first
}

func (m *moody) start(ctx context.Context, spec machine.Spec) (vm, error) {
	v, err := m.noMachines.start(ctx, spec)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.born++
	return moodyVM{v, m, m.born}, err
}

var errSilent = errors.New("QEMU does not answer")

func (m *moody) adopt(ctx context.Context, dir string) (vm, error) {
	v, err := m.noMachines.adopt(ctx, dir)
	if err != nil {
		return nil, err
	}
	if _, silent, _ := m.now(); silent {
		return nil, errSilent
	}
	return moodyVM{v, m, 0}, nil
}

type moodyVM struct {
	vm
	m    *moody
	born int // 0: adopted
}

func (v moodyVM) Status(ctx context.Context) (machine.Status, error) {
	s, silent, _ := v.m.now()
	if silent {
		return machine.Status{}, errSilent
	}
	if s != 0 && (!v.m.adoptedOnly() || v.born == 0) {
		v.m.mu.Lock()
		defer v.m.mu.Unlock()
		return machine.Status{State: s, IOError: v.m.ioErr}, nil
	}
	return v.vm.Status(ctx)
}

func (v moodyVM) Shutdown(ctx context.Context, grace time.Duration) error {
	if _, _, slow := v.m.now(); slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return v.vm.Shutdown(ctx, grace)
}

func (moodyVM) Accel() machine.Accel { return machine.AccelTCG }

// openMoody opens a cloud on the folder; end is the end of its daemon.
func openMoody(t *testing.T, dir Dir, m *moody) (c *Cloud, client *ec2.Client, end func()) {
	t.Helper()
	m.volumes = dir.Volumes()
	ctx, cancel := context.WithCancel(context.Background())
	m.rest = cancel
	c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: testLog(t, slog.LevelInfo)}, m)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(end)
	return c, testClient(t, c, "us-east-1"), end
}

// doomed launches an instance that a power-off of its guest would terminate,
// with its root disk.
func doomed(t *testing.T, c *Cloud, client *ec2.Client) string {
	t.Helper()
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap, DeleteOnTermination: aws.Bool(true)}))
	return launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image, InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate})
}

func stays(t *testing.T, client *ec2.Client, id string, want types.InstanceStateName) {
	t.Helper()
	waitInstance(t, client, id, want)
	for range 50 {
		if got := describe(t, client, id).State.Name; got != want {
			t.Fatalf("%s is %s, want %s", id, got, want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A daemon that dies while a guest is off for a reboot, or for an image, must
// not take the guest to have powered itself off.
func TestDaemonDiesWhileGuestIsOffOnPurpose(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, client *ec2.Client, id string){
		"reboot": func(t *testing.T, client *ec2.Client, id string) {
			if _, err := client.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
				t.Fatal(err)
			}
		},
		"image": func(t *testing.T, client *ec2.Client, id string) {
			if _, err := client.CreateImage(t.Context(), &ec2.CreateImageInput{InstanceId: &id, Name: aws.String("rest")}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := Dir(t.TempDir()), &moody{}
			c, client, end := openMoody(t, dir, m)
			id := doomed(t, c, client)
			m.set(func() { m.slow = make(chan struct{}) })
			ask(t, client, id)
			m.set(func() { m.state, m.first = machine.GuestShutdown, true })
			end()
			m.set(func() { m.slow = nil })
			_, client, _ = openMoody(t, dir, m)
			// The old process says that its guest is off, the new one runs.
			eventually(t, "process replaced", func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.born == 2
			})
			stays(t, client, id, types.InstanceStateNameRunning)
		})
	}
}

func TestFaultOfTheMachineStopsAndKeeps(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id := doomed(t, c, client)
	m.set(func() { m.state = machine.Failed })
	c.work.kick(job{"instance", testScope, id})
	stays(t, client, id, types.InstanceStateNameStopped)
}

// A machine that does not answer holds up neither the cloud's start nor its
// own end.
func TestSilentMachine(t *testing.T) {
	dir, m := Dir(t.TempDir()), &moody{}
	c, client, end := openMoody(t, dir, m)
	id := doomed(t, c, client)
	end()
	m.set(func() { m.silent = true })
	c, client, _ = openMoody(t, dir, m)
	stays(t, client, id, types.InstanceStateNameRunning)
	if _, err := os.Stat(dir.Machine(id)); err != nil {
		t.Error(err)
	}
	m.set(func() { m.silent = false })
	eventually(t, "adopted", func() bool { return c.running.get(id) != nil })
	m.set(func() { m.silent = true })
	if _, err := client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
}

// A snapshot that was answered has its volume until it is complete, whatever
// is done to the volume and whenever the daemon dies.
func TestPendingSnapshotKeepsItsVolume(t *testing.T) {
	dir := Dir(t.TempDir())
	var snaps []string
	func() {
		m := &moody{}
		c, client, end := openMoody(t, dir, m)
		var vols []string
		for range 8 {
			vols = append(vols, makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)}))
		}
		m.rest()
		c.work.wait()
		for _, v := range vols {
			out, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &v})
			if err != nil {
				t.Fatal(err)
			}
			snaps = append(snaps, *out.SnapshotId)
			if _, err := client.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &v}); err != nil {
				t.Fatal(err)
			}
		}
		end()
	}()
	c, client, _ := openMoody(t, dir, &moody{})
	eventually(t, "all complete", func() bool {
		out, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: snaps})
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		for _, s := range out.Snapshots {
			if s.State == types.SnapshotStateError {
				t.Fatalf("%s: %s", *s.SnapshotId, *s.StateMessage)
			}
			if s.State == types.SnapshotStateCompleted {
				done++
			}
		}
		return done == len(snaps)
	})
	eventually(t, "volumes gone", func() bool {
		var left []*state.Volume
		err := c.db.View(func(tx *state.Tx) (err error) {
			left, err = state.All[state.Volume](tx)
			return err
		})
		files, lsErr := c.volumes.List()
		return err == nil && lsErr == nil && len(left) == 0 && len(files) == 0
	})
}

// An instance that is terminated while it is being brought to rest for an
// image gives the image its disks first.
func TestTerminateDuringImage(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id := doomed(t, c, client)
	slow := make(chan struct{})
	m.set(func() { m.slow = slow })
	img, err := client.CreateImage(t.Context(), &ec2.CreateImageInput{InstanceId: &id, Name: aws.String("last")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CreateImage(t.Context(), &ec2.CreateImageInput{InstanceId: &id, Name: aws.String("other")})
	wantCode(t, err, "IncorrectInstanceState")
	if _, err := client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	close(slow)
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	eventually(t, "image available", func() bool {
		out, err := client.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{*img.ImageId}})
		if err != nil {
			t.Fatal(err)
		}
		if out.Images[0].State == types.ImageStateFailed {
			t.Fatal(*out.Images[0].StateReason.Message)
		}
		return out.Images[0].State == types.ImageStateAvailable
	})
	eventually(t, "root gone", func() bool {
		files, err := c.volumes.List()
		return err == nil && len(files) == 0
	})
}

// Who asks is told that a machine stands still, and why.
func TestFullHostDiskShows(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id := doomed(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	status := func() types.SummaryStatus {
		out, err := client.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}})
		if err != nil {
			t.Fatal(err)
		}
		return out.InstanceStatuses[0].InstanceStatus.Status
	}
	if got := status(); got != types.SummaryStatusOk {
		t.Errorf("at first the status is %s", got)
	}
	m.set(func() {
		m.state, m.ioErr = machine.Paused, &machine.IOError{VolumeID: root, Reason: "No space left on device", NoSpace: true}
	})
	c.work.kick(job{"instance", testScope, id})
	eventually(t, "impaired", func() bool { return status() == types.SummaryStatusImpaired })
	out, err := client.DescribeVolumeStatus(t.Context(), &ec2.DescribeVolumeStatusInput{VolumeIds: []string{root}})
	if err != nil {
		t.Fatal(err)
	}
	if v := out.VolumeStatuses[0]; v.VolumeStatus.Status != types.VolumeStatusInfoStatusImpaired || len(v.Events) != 1 || !strings.Contains(*v.Events[0].Description, "full") {
		t.Errorf("the volume's status is %+v with %d events", v.VolumeStatus, len(v.Events))
	}
	m.set(func() { m.state, m.ioErr = 0, nil })
	c.work.kick(job{"instance", testScope, id})
	eventually(t, "ok again", func() bool { return status() == types.SummaryStatusOk })
}

func TestVolumesAreNotSaidToBeEncrypted(t *testing.T) {
	_, client := newTestCloud(t)
	_, err := client.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), Encrypted: aws.Bool(true)})
	wantCode(t, err, "UnsupportedOperation")
}
