package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// TestMachineHostDiskTrouble gives a guest what can happen to the disk of its
// host: the folder of volumes is full, the store of snapshots is, a write of a
// volume fails, a flush fails. The guest never sees an error; where it must stand
// still that is said, and what it takes to go on.
func TestMachineHostDiskTrouble(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tank := filepath.Join(r.root, "tank")
	r.mountTank(tank, "1g")
	r.data = filepath.Join(tank, "data")
	r.tiny()
	r.stead("create", "web", "--data", "1", "--type", "t3.nano")
	c, web := r.client(), r.show("web")
	r.copyPulse("web")
	sum := r.fullFolder(c, web, tank)
	r.fullStore(c, web, sum)
	r.dyingDisk(c, web.InstanceID)
}

// mountTank makes a small filesystem.
func (r *rig) mountTank(dir, size string) {
	r.t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mount("stead", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		skip(r.t, fmt.Sprintf("mounting a small filesystem takes root: %v", err))
	}
	r.mounts = append(r.mounts, dir)
}

// fill takes all room of a filesystem but for some, until the function that it
// returns is called.
func (r *rig) fill(dir string, leave int64) (free func()) {
	r.t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-leave); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		r.t.Helper()
		if err := os.Remove(path); err != nil {
			r.t.Error(err)
		}
	}
}

// ailing waits until a server is said to stand still, everywhere, and why.
func (r *rig) ailing(server, why string) {
	r.t.Helper()
	s := r.show(server)
	r.waitUntil("the server stands still", func() bool { return !r.healthy(s.InstanceID) })
	r.waitUntil("it is said why", func() bool {
		for _, text := range []string{r.try("ls").String(), r.try("show", server).String(), r.try("doctor").String()} {
			if !strings.Contains(text, why) {
				r.t.Logf("%q isn't in\n%s", why, text)
				return false
			}
		}
		return true
	})
}

func (r *rig) healthy(instance string) bool {
	r.t.Helper()
	out, err := r.client().DescribeInstanceStatus(context.Background(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{instance}})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.InstanceStatuses[0].InstanceStatus.Status == types.SummaryStatusOk
}

// fullFolder has the guest write more than the host has room for, and gives the
// sum of what it wrote.
func (r *rig) fullFolder(c *ec2.Client, web status, tank string) string {
	r.t.Helper()
	free := r.fill(tank, 8<<20)
	r.sh("web", "dd if=/dev/urandom of=/run/big bs=1M count=24 2>/dev/null; { cp /run/big /data/big && sync && echo done > /run/copied; } > /run/copying 2>&1 &")
	r.ailing("web", "full")
	// Nobody has to wait for a snapshot that can't be.
	if why := r.failedSnapshot(c, web.Data[0].VolumeID); !strings.Contains(why, "no space left") {
		r.t.Errorf("a snapshot on a full disk: %s", why)
	}
	free()
	r.waitUntil("the server goes on by itself", func() bool { return r.healthy(r.show("web").InstanceID) })
	r.waitUntil("the guest has written all", func() bool { return r.answers("web", "[ -s /run/copied ]") })
	sums := r.sh("web", "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /run/big; sha256sum < /data/big; cat /run/copying; dmesg | grep -i 'i/o error' || true")
	lines := strings.Split(sums, "\n")
	if len(lines) != 2 || lines[0] != lines[1] {
		r.t.Errorf("the guest wrote, has and says\n%s", sums)
	}
	return lines[0]
}

// failedSnapshot takes a snapshot that is to fail, and gives the reason that is
// told.
func (r *rig) failedSnapshot(c *ec2.Client, volume string) (why string) {
	r.t.Helper()
	ctx := context.Background()
	snap, err := c.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
	if err != nil {
		return err.Error()
	}
	r.waitUntil("the snapshot has failed", func() bool {
		out, err := c.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}})
		if err != nil {
			r.t.Fatal(err)
		}
		why = aws.ToString(out.Snapshots[0].StateMessage)
		if out.Snapshots[0].State == types.SnapshotStateCompleted {
			r.t.Fatalf("%s is complete", *snap.SnapshotId)
		}
		return out.Snapshots[0].State == types.SnapshotStateError
	})
	return why
}

// fullStore has a snapshot find no room in its store, while the folder of volumes
// has some.
func (r *rig) fullStore(c *ec2.Client, web status, sum string) {
	r.t.Helper()
	store, small := filepath.Join(r.data, "snapshots"), filepath.Join(r.root, "small")
	r.mountTank(small, "256m")
	if out, err := exec.Command("cp", "-a", store+"/.", small).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	if err := unix.Mount(small, store, "", unix.MS_BIND, ""); err != nil {
		r.t.Fatal(err)
	}
	r.mounts = append(r.mounts, store)
	free := r.fill(small, 4<<20)
	volume := web.Data[0].VolumeID
	if why := r.failedSnapshot(c, volume); !strings.Contains(why, "no space left") {
		r.t.Errorf("a snapshot without room in the store: %s", why)
	}
	r.sh("web", "echo more > /data/more && sync && ! dmesg | grep -i 'i/o error'")
	free()
	snap := r.snapshot(c, volume)
	r.completed(c, snap)
	back := r.mount("web", r.restore(c, snap, web.InstanceID, "/dev/sdp"))
	if got := r.sh("web", "sha256sum < "+back+"/big; cat "+back+"/more"); got != sum+"\nmore" {
		r.t.Errorf("the snapshot taken when there was room has %q, want %q", got, sum)
	}
}

// dyingDisk puts a volume behind a disk that fails when it is told to: writes,
// which are tried again until they succeed, and flushes, after which nothing is
// trusted until the server was stopped.
func (r *rig) dyingDisk(c *ec2.Client, instance string) {
	r.t.Helper()
	ctx := context.Background()
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.waitVolume(c, *v.VolumeId, types.VolumeStateAvailable)
	disk := r.faultyDisk(filepath.Join(r.data, "volumes", *v.VolumeId+".raw"))
	r.plugIn(c, *v.VolumeId, instance, "/dev/sdg")
	p := r.startDetached("web", r.deviceOf("web", *v.VolumeId))
	before := p.phase("healthy")
	disk.fails("write")
	r.ailing("web", "nput/output error")
	disk.fails("")
	r.waitUntil("the server goes on by itself", func() bool { return r.healthy(instance) })
	r.waitUntil("the guest writes again", func() bool { return p.phase("mended") > before+20 })

	durable := p.phase("flush")
	disk.fails("flush")
	r.ailing("web", "`stead stop --force`")
	r.stead("stop", "web", "--force")
	r.stead("start", "web")
	r.copyPulse("web")
	p = r.startDetached("web", r.deviceOf("web", *v.VolumeId))
	if now := p.phase("again"); now < durable {
		r.t.Errorf("the disk has write %d, and %d was durable", now, durable)
	}
	p.finish()
}

// faultyDisk is a file that is served over itself, and fails when it is told to.
type faultyDisk struct {
	r *rig
	q *qmp.Client
}

func (r *rig) faultyDisk(path string) *faultyDisk {
	r.t.Helper()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		skip(r.t, "needs qemu-storage-daemon")
	}
	socket := filepath.Join(r.root, "faulty.sock")
	cmd := exec.Command("qemu-storage-daemon",
		"--blockdev", "file,node-name=good,filename="+path+",locking=off,discard=unmap",
		"--blockdev", "blkdebug,node-name=write,image=good,inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5",
		// One flush fails, and not yet the one that makes this node the disk's.
		"--blockdev", "blkdebug,node-name=flush,image=good,set-state.0.event=flush_to_disk,set-state.0.state=1,set-state.0.new_state=2,"+
			"set-state.1.event=flush_to_disk,set-state.1.state=2,set-state.1.new_state=3,"+
			"inject-error.0.event=flush_to_disk,inject-error.0.iotype=flush,inject-error.0.state=3,inject-error.0.once=on,inject-error.0.errno=5",
		"--blockdev", "raw,node-name=disk,file=good,discard=unmap",
		"--chardev", "socket,id=q,server=on,wait=off,path="+socket, "--monitor", "chardev=q",
		"--export", "fuse,id=e,node-name=disk,mountpoint="+path+",writable=on,allow-other=on")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := &faultyDisk{r: r}
	r.waitUntil("the faulty disk is served", func() bool {
		var fs unix.Statfs_t
		const fuseMagic = 0x65735546
		if err := unix.Statfs(path, &fs); err != nil || fs.Type != fuseMagic {
			return false
		}
		q, err := qmp.Dial(ctx, socket, func(qmp.Event) {})
		d.q = q
		return err == nil
	})
	r.t.Cleanup(func() { _ = d.q.Close() })
	if err := os.Chmod(path, 0o666); err != nil { // the daemon may be another user
		r.t.Fatalf("%v\n%s", err, said.String())
	}
	return d
}

// fails has all writes fail from now on, or one flush, or nothing ("").
func (d *faultyDisk) fails(kind string) {
	d.r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if kind == "" {
		kind = "good"
	}
	node := map[string]any{"driver": "raw", "node-name": "disk", "file": kind, "discard": "unmap"}
	if err := d.q.Execute(ctx, "blockdev-reopen", map[string]any{"options": []any{node}}, nil); err != nil {
		d.r.t.Fatal(err)
	}
}
