package cloud

import (
	"bufio"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// What can be done to a machine that runs: typing on its console, growing a
// disk, giving it another root.
func TestMachineLive(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	ami := r.tiny()
	id := r.run(&ec2.RunInstancesInput{ImageId: &ami, BlockDeviceMappings: []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false)}},
		{DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1)}},
	}})
	r.sh(id, "echo old > /root/which && echo data > /data/kept && sync")
	ctl := serveControl(t, r.cloud)

	t.Run("console", func(t *testing.T) {
		conn, from := serial(t, ctl, id)
		done := make(chan string, 1)
		go func() {
			// The login prompt would read what is typed.
			done <- r.sh(id, "until pidof getty >/dev/null; do sleep 0.1; done; kill -STOP $(pidof getty); stty -F /dev/ttyS0 -echo 2>/dev/null; "+
				"echo ready > /dev/ttyS0; head -n 1 < /dev/ttyS0; kill -CONT $(pidof getty)")
		}()
		readUntil(t, from, "ready")
		say(t, conn, "typed here")
		if got := <-done; got != "typed here" {
			t.Errorf("the guest read %q", got)
		}
		_ = conn.Close() // its end is part of the test
		r.sh(id, "echo nobody listens > /dev/ttyS0")
		text, _, err := tail(r.cloud.consoleLog(id), 64<<10)
		if err != nil || !strings.Contains(string(text), "ready") || !strings.Contains(string(text), "nobody listens") {
			t.Errorf("the log has (%v)\n%s", err, text)
		}
	})
	t.Run("grow", func(t *testing.T) {
		disk := *r.instance(id).BlockDeviceMappings[1].Ebs.VolumeId
		if _, err := r.client.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &disk, Size: aws.Int32(2)}); err != nil {
			t.Fatal(err)
		}
		if m := waitModified(t, r.client, disk); m.ModificationState != types.VolumeModificationStateCompleted {
			t.Fatalf("the modification is %+v", m)
		}
		const sectors = "4194304" // 2 GiB
		if got := r.sh(id, "cat /sys/class/block/vdb/size"); got != sectors {
			t.Errorf("the guest sees %s sectors, want %s", got, sectors)
		}
	})
	t.Run("root", func(t *testing.T) {
		was := r.instance(id)
		task := replaceRoot(t, r.client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id})
		r.reopen() // whatever it was doing, the next one goes on
		r.waitFor("the task is over", func() bool { return taskState(t, r.client, task) == types.ReplaceRootVolumeTaskStateSucceeded })
		if got := r.sh(id, "cat /root/which 2>/dev/null || echo fresh; ls /dev/vdb"); got != "fresh\n/dev/vdb" {
			t.Errorf("on its new root the guest has %q", got)
		}
		r.reopen() // a machine that was adopted has its console still
		conn, from := serial(t, serveControl(t, r.cloud), id)
		r.sh(id, "echo adopted > /dev/ttyS0")
		readUntil(t, from, "adopted")
		_ = conn.Close() // its end is part of the test
		old := *was.BlockDeviceMappings[0].Ebs.VolumeId
		now := r.instance(id)
		if *now.PrivateIpAddress != *was.PrivateIpAddress || aws.ToString(now.PublicIpAddress) != aws.ToString(was.PublicIpAddress) || *now.BlockDeviceMappings[0].Ebs.VolumeId == old {
			t.Errorf("the instance is %+v", now)
		}
		back := replaceRoot(t, r.client, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: &id, VolumeId: &old, DeleteReplacedRootVolume: aws.Bool(true)})
		r.waitFor("the task is over", func() bool {
			return taskState(t, r.client, back) == types.ReplaceRootVolumeTaskStateSucceeded
		})
		if got := r.sh(id, "cat /root/which /data/kept"); got != "old\ndata" {
			t.Errorf("back on its old root the guest reads %q", got)
		}
	})
}

func taskState(t *testing.T, client *ec2.Client, id string) types.ReplaceRootVolumeTaskState {
	t.Helper()
	out, err := client.DescribeReplaceRootVolumeTasks(t.Context(), &ec2.DescribeReplaceRootVolumeTasksInput{ReplaceRootVolumeTaskIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.ReplaceRootVolumeTasks[0].TaskState
}

func readUntil(t *testing.T, r *bufio.Reader, text string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("console ended at %q: %v", line, err)
		}
	}
}
