package cloud

import (
	"context"
	"log/slog"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
)

// lingering is a hypervisor whose machines let go of an instant when they are told
// to.
type lingering struct {
	*scribe
	closing chan struct{} // one sent when it is asked for
	gate    chan struct{} // closed when it may be
}

func (l lingering) start(ctx context.Context, spec machine.Spec) (vm, error) {
	v, err := l.scribe.start(ctx, spec)
	return lingeringVM{v, l}, err
}

type lingeringVM struct {
	vm
	l lingering
}

func (v lingeringVM) Snapshot(ctx context.Context, name string, disks []machine.Freeze) (instant, error) {
	at, err := v.vm.Snapshot(ctx, name, disks)
	return lingeringInstant{at, v.l}, err
}

type lingeringInstant struct {
	instant
	l lingering
}

func (i lingeringInstant) Close(ctx context.Context) error {
	i.l.closing <- struct{}{}
	<-i.l.gate
	return i.instant.Close(ctx)
}

// Who sees that a snapshot is complete may ask for the next one of the volume at
// once: it isn't said while the machine still keeps the last one's instant.
func TestCompleteSnapshotMakesWayForTheNext(t *testing.T) {
	dir := Dir(t.TempDir())
	l := lingering{
		&scribe{noMachines: noMachines{dir.Volumes()}, records: map[string]*machine.Recorded{}, begun: map[string]*machine.Recorded{}},
		make(chan struct{}, 2), make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: slog.New(slog.DiscardHandler)}, l)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	client := testClient(t, c, "us-east-1")
	id := doomed(t, c, client)
	waitInstance(t, client, id, types.InstanceStateNameRunning)
	vol := describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	snap, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: vol})
	if err != nil {
		t.Fatal(err)
	}
	<-l.closing
	out, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}})
	if err != nil {
		t.Fatal(err)
	}
	if s := out.Snapshots[0].State; s != types.SnapshotStatePending {
		t.Errorf("while the machine keeps its instant it is %s", s)
	}
	close(l.gate)
	waitCompleted(t, client, *snap.SnapshotId)
	if _, err := client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: vol}); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
