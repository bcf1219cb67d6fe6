package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// writer appends lines to a file on the root disk and one on the data disk,
// each on its disk before the next, and counts what is. /run is in memory.
const writer = `cat > /run/writer <<'EOF'
i=0
while :; do
	i=$((i+1))
	echo $i >> /root/log; sync -d /root/log 2>/dev/null || sync
	echo $i >> /data/log; sync -d /data/log 2>/dev/null || sync
	echo $i > /run/new && mv /run/new /run/count
done
EOF
setsid sh /run/writer > /run/writer.out 2>&1 < /dev/null &
while [ ! -s /run/count ]; do usleep 10000; done`

// TestMachineSnapshotRunning takes the disks of a server that writes all the
// time, while the copying takes long, and looks at them in another instance:
// all from before the instant is there, nothing from after it.
func TestMachineSnapshotRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--data", "1", "--type", "t3.nano")
	r.sh("web", "dd if=/dev/urandom of=/data/bulk bs=1M count=64 2>/dev/null && sync && sha256sum < /data/bulk > /data/sum && sync")
	r.sh("web", writer)

	s, c := r.show("web"), r.client()
	before := r.written("web")
	out, err := c.CreateSnapshots(context.Background(), &ec2.CreateSnapshotsInput{
		InstanceSpecification: &types.InstanceSpecification{InstanceId: aws.String(s.InstanceID)},
	})
	if err != nil {
		t.Fatal(err)
	}
	after := r.written("web") + 1 // one more may be on its way
	for _, snap := range out.Snapshots {
		r.completed(c, *snap.SnapshotId)
	}
	if later := r.written("web"); later <= after {
		t.Logf("the guest wrote %d before, %d after the instant and no more while it was copied", before, after)
	}
	if errs := r.sh("web", "dmesg | grep -ci 'i/o error' || true; cat /run/writer.out"); errs != "0" {
		t.Errorf("the server that was snapshotted has errors: %s", errs)
	}

	r.stead("create", "copy", "--type", "t3.nano")
	copied := r.show("copy")
	counts := map[string]int{}
	for _, snap := range out.Snapshots {
		device, file := "/dev/sdg", "root/log"
		if *snap.VolumeId == s.Data[0].VolumeID {
			device, file = "/dev/sdh", "log"
		}
		volume := r.restore(c, *snap.SnapshotId, copied.InstanceID, device)
		counts[file] = r.lines("copy", volume, file)
	}
	root, data := counts["root/log"], counts["log"]
	t.Logf("%d were written before, %d after; the snapshots hold %d and %d", before, after, root, data)
	if root < before || root > after || data < before || data > after {
		t.Errorf("the snapshots hold %d and %d lines; %d were written before, %d after", root, data, before, after)
	}
	if root != data && root != data+1 {
		t.Errorf("root has %d lines, data %d: not of one instant", root, data)
	}
}

// written is how many lines the server has on both disks.
func (r *rig) written(server string) int {
	r.t.Helper()
	n, err := strconv.Atoi(r.sh(server, "cat /run/count"))
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// restore makes a volume of a snapshot and plugs it into an instance.
func (r *rig) restore(c *ec2.Client, snapshot, instance, device string) string {
	r.t.Helper()
	ctx := context.Background()
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snapshot})
	if err != nil {
		r.t.Fatal(err)
	}
	r.waitVolume(c, *v.VolumeId, types.VolumeStateAvailable)
	if _, err := c.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: &instance, Device: &device}); err != nil {
		r.t.Fatal(err)
	}
	r.waitUntil("the volume is attached", func() bool {
		out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}})
		if err != nil {
			r.t.Fatal(err)
		}
		a := out.Volumes[0].Attachments
		return len(a) == 1 && a[0].State == types.VolumeAttachmentStateAttached
	})
	return *v.VolumeId
}

func (r *rig) waitVolume(c *ec2.Client, id string, want types.VolumeState) {
	r.t.Helper()
	r.waitUntil(id+" is "+string(want), func() bool {
		out, err := c.DescribeVolumes(context.Background(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		if err != nil {
			r.t.Fatal(err)
		}
		return out.Volumes[0].State == want
	})
}

// lines mounts a plugged-in disk and counts the lines of the log there, which
// must be 1, 2, 3, …; a last one may be half there.
func (r *rig) lines(server, volume, file string) int {
	r.t.Helper()
	dir := r.mount(server, volume)
	r.sh(server, fmt.Sprintf("cd %s && { [ ! -e bulk ] || [ \"$(sha256sum < bulk)\" = \"$(cat sum)\" ]; }", dir))
	lines := strings.Split(r.sh(server, "cat "+dir+"/"+file), "\n")
	for k, line := range lines {
		if line != strconv.Itoa(k+1) {
			if k != len(lines)-1 {
				r.t.Errorf("line %d of %s is %q", k+1, file, line)
			}
			return k
		}
	}
	return len(lines)
}

// mount mounts a volume that was plugged in, which the guest knows by its
// serial number, and gives the folder.
func (r *rig) mount(server, volume string) string {
	r.t.Helper()
	dir := "/mnt/" + volume
	r.waitUntil(volume+" is mounted", func() bool {
		return r.answers(server, fmt.Sprintf("disk=$(grep -l %s /sys/block/*/serial | cut -d/ -f4) && [ -n \"$disk\" ] && mkdir -p %s && mount /dev/$disk %s",
			strings.ReplaceAll(volume, "-", ""), dir, dir))
	})
	return dir
}
