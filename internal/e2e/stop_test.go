package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const bootID = "cat /proc/sys/kernel/random/boot_id"

// TestMachineStop ends daemons and machines in every way that there is.
func TestMachineStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--data", "1", "--type", "t3.nano")
	r.sh("web", "echo root > /root/kept; echo data > /data/kept")

	// Stopped by order, and again when there is no daemon to take it.
	r.stead("cloud", "stop")
	r.clean("web", 1)
	r.stead("cloud", "start")
	r.back("web")
	r.killDaemon()
	if len(r.processes("qemu")) != 1 {
		t.Fatal("the machine did not outlive its daemon")
	}
	r.stead("cloud", "stop")
	r.clean("web", 2)
	r.startTwice()
	r.back("web")

	// Told to end, it leaves the machines to the next one.
	boot := r.sh("web", bootID)
	if err := syscall.Kill(r.daemon().pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.waitUntil("the daemon is gone", func() bool { return len(r.processes("cloud")) == 0 })
	if again := r.sh("web", bootID); again != boot {
		t.Error("the machine was started again with its daemon")
	}
	if res := r.try("cloud", "run"); res.code != 5 || !strings.Contains(res.stderr, "another daemon") {
		t.Errorf("a second daemon on the same folder: %v", res)
	}
	r.tryHotplug("web")
	r.tryPoweroff("web")
}

// clean checks that no machine runs, that the guest said that it was powered
// down as often as it should, and that its file systems need no recovery.
func (r *rig) clean(server string, times int) {
	r.t.Helper()
	if left := r.processes(""); len(left) != 0 {
		r.t.Errorf("after cloud stop, these still run: %v", left)
	}
	consoles, _ := filepath.Glob(filepath.Join(r.data, "machines", "*", "serial.log"))
	if len(consoles) != 1 {
		r.t.Fatalf("consoles of %s: %v", server, consoles)
	}
	text, err := os.ReadFile(consoles[0])
	if err != nil {
		r.t.Fatal(err)
	}
	if n := strings.Count(string(text), "reboot: Power down"); n != times {
		r.t.Errorf("the guest was powered down %d times, want %d:\n%s", n, times, text)
	}
	for _, name := range r.names("volumes") {
		if !strings.HasSuffix(name, ".raw") {
			continue
		}
		disk := filepath.Join(r.data, "volumes", name)
		if out, err := exec.Command("/sbin/dumpe2fs", "-h", disk).CombinedOutput(); err != nil || strings.Contains(string(out), "needs_recovery") {
			r.t.Errorf("%s needs recovery (%v):\n%s", name, err, out)
		}
		// -n changes nothing, and fails where a check would find anything.
		if out, err := exec.Command("/sbin/e2fsck", "-fn", disk).CombinedOutput(); err != nil {
			r.t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// back waits until a server that was stopped with its cloud runs again.
func (r *rig) back(server string) {
	r.t.Helper()
	r.waitUntil(server+" answers", func() bool { return r.answers(server, "true") })
	if got := r.sh(server, "cat /root/kept /data/kept"); got != "root\ndata" {
		r.t.Errorf("%s has %q", server, got)
	}
	if n := r.sh(server, "dmesg | grep -ci 'recovery complete\\|i/o error' || true"); n != "0" {
		r.t.Errorf("the guest of %s had to recover, or met %s errors", server, n)
	}
}

// startTwice starts the cloud by two commands at once, which find one daemon.
func (r *rig) startTwice() {
	r.t.Helper()
	var both sync.WaitGroup
	results := make([]result, 2)
	for k := range results {
		both.Go(func() { results[k] = r.try("cloud", "start", "-o", "json") })
	}
	both.Wait()
	var pids [2]struct {
		PID int `json:"pid"`
	}
	for k, res := range results {
		if res.code != 0 {
			r.t.Fatalf("started twice at once: %v", res)
		}
		r.decode(res.stdout, &pids[k])
	}
	if pids[0] != pids[1] || pids[0].PID != r.daemon().pid {
		r.t.Errorf("two daemons were started: %v", pids)
	}
}

// tryHotplug plugs a disk into a running server, uses it, and moves it.
func (r *rig) tryHotplug(server string) {
	r.t.Helper()
	boot := r.sh(server, bootID)
	r.stead("volume", "create", server, "1")
	s := r.show(server)
	if len(s.Data) != 2 {
		r.t.Fatalf("%s has the data disks %+v", server, s.Data)
	}
	id := s.Data[1].VolumeID
	serial := strings.ReplaceAll(id, "-", "")
	device := "/dev/$(grep -l " + serial + " /sys/block/*/serial | cut -d/ -f4)"
	r.waitUntil("the disk is there", func() bool { return r.answers(server, "[ -b "+device+" ]") })
	r.sh(server, "umount "+device+" 2>/dev/null; mke2fs -q "+device+" || mkfs.ext2 "+device+" > /dev/null")
	dir := r.mount(server, id)
	r.sh(server, "echo moved > "+dir+"/file && umount "+device)
	r.stead("volume", "detach", id)
	if r.answers(server, "grep -q "+serial+" /sys/block/*/serial") {
		r.t.Error("the guest still has a detached disk")
	}
	r.stead("volume", "attach", id, server)
	if got := r.sh(server, "cat "+r.mount(server, id)+"/file"); got != "moved" {
		r.t.Errorf("the disk that came back has %q", got)
	}
	if now := r.sh(server, bootID); now != boot {
		r.t.Error("plugging a disk restarted the machine")
	}
}

// tryPoweroff has the guest power itself off: once it is stopped, then, as its
// attribute says, terminated.
func (r *rig) tryPoweroff(server string) {
	r.t.Helper()
	id := r.show(server).InstanceID
	r.poweroff(server, id, types.InstanceStateNameStopped)
	r.stead("start", server)
	r.back(server)
	_, err := r.client().ModifyInstanceAttribute(context.Background(), &ec2.ModifyInstanceAttributeInput{
		InstanceId: &id, InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String("terminate")},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.poweroff(server, id, types.InstanceStateNameTerminated)
	r.check(counts{volumes: 3, snapshots: 1, images: 1, addresses: 1, groups: 1})
}

func (r *rig) poweroff(server, id string, want types.InstanceStateName) {
	r.t.Helper()
	_ = r.try("ssh", server, "--", "poweroff") // it may take the connection with it
	r.waitUntil(id+" is "+string(want), func() bool { return r.instance(id).State.Name == want })
}
