package cloud

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

// wholeDigest is what a volume that lies still holds, all of it read.
func (r *rig) wholeDigest(vol string) snapshot.Digest {
	r.t.Helper()
	src, err := r.cloud.volumes.Reader(vol)
	if err != nil {
		r.t.Fatal(err)
	}
	id := "whole-" + vol
	info, err := r.cloud.snapshots.Create(r.t.Context(), id, src, nil, nil)
	if err := errors.Join(err, src.Close(), r.cloud.snapshots.Delete(r.t.Context(), id)); err != nil {
		r.t.Fatal(err)
	}
	return info.Digest
}

// snapshotOf takes a volume and returns the snapshot once it is complete.
func (r *rig) snapshotOf(vol string) string {
	r.t.Helper()
	out, err := r.client.CreateSnapshot(r.t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
	if err != nil {
		r.t.Fatal(err)
	}
	waitCompleted(r.t, r.client, *out.SnapshotId)
	return *out.SnapshotId
}

// differing is how many bytes the blocks have in which two snapshots differ.
func (r *rig) differing(a, b string) (bytes int64) {
	r.t.Helper()
	err := r.cloud.snapshots.Changed(r.t.Context(), a, b, 0, func(int64, snapshot.Digest, snapshot.Digest) error {
		bytes += snapshot.BlockSize
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes
}

// TestMachineSnapshotsByChanges goes with two disks of a guest through what can
// happen to them between snapshots. Each snapshot reads what changed and no more,
// and whenever the disks lie still, the last one is compared with all that they
// hold.
func TestMachineSnapshotsByChanges(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	ami := r.tiny()
	id := r.run(&ec2.RunInstancesInput{ImageId: &ami, BlockDeviceMappings: []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false)}},
		{DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1)}},
	}})
	reads := readingsOf(t, r.cloud)
	r.sh(id, "dd if=/dev/urandom of=/data/first bs=1M count=24 2>/dev/null && sync")
	var vols []string
	for _, m := range r.instance(id).BlockDeviceMappings {
		vols = append(vols, *m.Ebs.VolumeId)
	}
	last := map[string]string{}
	// incremental takes both disks and wants them read since their last ones.
	incremental := func(when string) {
		t.Helper()
		for _, vol := range vols {
			snap := r.snapshotOf(vol)
			got := reads.of(snap)
			if got.since != last[vol] {
				t.Errorf("%s: %s of %s was read since %q, want %q", when, snap, vol, got.since, last[vol])
			} else if last[vol] != "" {
				dirty := r.differing(last[vol], snap)
				t.Logf("%s: %s read %d KiB, of which %d KiB differ", when, vol, got.bytes>>10, dirty>>10)
				// A block may be written with what it held.
				if got.bytes > dirty+dirty/20+8*snapshot.BlockSize {
					t.Errorf("%s: %s of %s read %d bytes, and only %d differ", when, snap, vol, got.bytes, dirty)
				}
			}
			last[vol] = snap
		}
	}
	// exact compares disks that lie still with their last snapshots.
	exact := func(when string) {
		t.Helper()
		for _, vol := range vols {
			info, err := r.cloud.snapshots.Info(ctx, last[vol])
			if err != nil {
				t.Fatal(err)
			}
			if info.Digest != r.wholeDigest(vol) {
				t.Errorf("%s: %s is not what %s holds", when, last[vol], vol)
			}
		}
	}
	write := func(name string) {
		t.Helper()
		r.sh(id, fmt.Sprintf("echo %s > /root/%s && dd if=/dev/urandom of=/data/%s bs=64k count=9 2>/dev/null && sync", name, name, name))
	}
	stop := func() {
		t.Helper()
		if _, err := r.client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
			t.Fatal(err)
		}
		r.waitState(id, types.InstanceStateNameStopped)
	}
	begin := func() {
		t.Helper()
		if _, err := r.client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
			t.Fatal(err)
		}
		r.waitState(id, types.InstanceStateNameRunning)
		r.sh(id, "true")
	}

	// The root goes on from the image that it was made of, the data disk from
	// nothing.
	images, err := r.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{ami}})
	if err != nil {
		t.Fatal(err)
	}
	last[vols[0]] = *images.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId
	incremental("first")
	write("running")
	incremental("while it runs")
	r.sh(id, "rm /data/first && sync && fstrim /data 2>/dev/null || true")
	incremental("after a file was removed")
	write("again")
	r.reopen()
	reads = readingsOf(t, r.cloud)
	incremental("after a restart of the daemon")
	write("stopped")
	stop()
	incremental("at rest")
	exact("at rest")
	incremental("unchanged")
	for _, vol := range vols {
		if got := reads.of(last[vol]); got.bytes != 0 {
			t.Errorf("an unchanged disk cost %d bytes", got.bytes)
		}
	}
	begin()
	write("started")
	incremental("after a start")
	write("twice")
	stop()
	begin()
	stop()
	incremental("after two starts")
	exact("after two starts")

	// From here on something is in doubt.
	begin()
	write("killed")
	if err := r.cloud.running.get(id).vm.Kill(context.WithoutCancel(ctx)); err != nil {
		t.Fatal(err)
	}
	r.waitState(id, types.InstanceStateNameStopped)
	clear(last)
	incremental("after the machine was killed")
	exact("after the machine was killed")
	begin()
	write("alone")
	r.killQEMUWithoutDaemon(id)
	reads = readingsOf(t, r.cloud)
	clear(last)
	incremental("after the machine ended without a daemon")
	exact("after the machine ended without a daemon")
}

// killQEMUWithoutDaemon has a machine die while no daemon is there.
func (r *rig) killQEMUWithoutDaemon(id string) {
	r.t.Helper()
	v, ok := r.cloud.running.get(id).vm.(qemuVM)
	if !ok {
		r.t.Fatal("no QEMU")
	}
	pid := v.PID()
	r.end()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	r.open()
	r.waitState(id, types.InstanceStateNameStopped)
}
