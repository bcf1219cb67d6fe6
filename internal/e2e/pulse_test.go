package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// What pulse, which writes in the guest, does; see there.
const (
	pulseBlocks = 2048
	pulseBlock  = 4096
	pulseStride = 0x9e3779b1
)

// fifty is how many snapshots are taken of a guest that never stops writing.
const fifty = 50

// taken is a snapshot, and the newest writes that were on the disk before it was
// asked for and after the answer.
type taken struct {
	id            string
	before, after uint64
}

// TestMachineSnapshotsWhileItWrites takes fifty snapshots of a disk to which a
// guest writes and syncs without a pause. Each holds all that was on the disk
// before it was asked for and nothing that was written after the answer; the
// guest sees no error, and QEMU has nothing left of them. Then the same guest goes
// on writing while its other disk is unplugged during a snapshot and between two,
// and while the daemon stands still, crawls and is killed in the middle of one.
func TestMachineSnapshotsWhileItWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--type", "t3.nano")
	c := r.client()
	instance := r.show("web").InstanceID
	volume := r.plug(c, instance, "/dev/sdf")
	device := r.deviceOf("web", volume)
	r.copyPulse("web")

	p := r.startPulse("web", device)
	var all []taken
	back := false
	for range fifty {
		s := taken{before: p.phase("snapshot")}
		s.id = r.snapshot(c, volume)
		back = back || r.standsBack()
		s.after = p.phase("snapshot") + 1 // one more may be on its way
		r.completed(c, s.id)
		p.phase("idle")
		all = append(all, s)
	}
	p.finish()
	for _, s := range all {
		r.consistent(s)
	}
	if r.grouped() {
		if !back {
			t.Error("the daemon never stood back while it read the disk of a guest at work")
		}
		r.waitUntil("the daemon steps forward again", func() bool { return !r.standsBack() })
	}
	r.sh("web", "! dmesg | grep -i 'i/o error'")

	d := r.startDetached("web", device)
	d.phase("on")
	r.unplugAround(c, instance)
	r.trouble(c, volume)
	d.phase("off")
	r.sh("web", "! dmesg | grep -i 'i/o error'")
	t.Logf("while its other disk and the daemon were in trouble:\n%s", d.finish())
	r.nothingLeft(instance)
}

// grouped tells if the kernel shares processors out between sessions, so that the
// daemon's can stand back.
func (r *rig) grouped() bool { return r.session() != "" }

// standsBack tells if the daemon's session leaves the processors to the guests.
func (r *rig) standsBack() bool { return strings.HasSuffix(r.session(), " nice 10") }

// session is the kernel's word on the daemon's session, as "/autogroup-25 nice 0",
// and empty where sessions don't matter.
func (r *rig) session() string {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", r.daemon().pid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// plug makes a volume and plugs it into an instance.
func (r *rig) plug(c *ec2.Client, instance, device string) string {
	r.t.Helper()
	ctx := context.Background()
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.waitVolume(c, *v.VolumeId, types.VolumeStateAvailable)
	r.plugIn(c, *v.VolumeId, instance, device)
	return *v.VolumeId
}

func (r *rig) plugIn(c *ec2.Client, volume, instance, device string) {
	r.t.Helper()
	if _, err := c.AttachVolume(context.Background(), &ec2.AttachVolumeInput{VolumeId: &volume, InstanceId: &instance, Device: &device}); err != nil {
		r.t.Fatal(err)
	}
}

// deviceOf waits until a guest has a volume, and gives its name there.
func (r *rig) deviceOf(server, volume string) (name string) {
	r.t.Helper()
	r.waitUntil("the guest has "+volume, func() bool {
		name = r.sh(server, "grep -l "+strings.ReplaceAll(volume, "-", "")+" /sys/block/*/serial | cut -d/ -f4")
		return name != ""
	})
	return name
}

func (r *rig) snapshot(c *ec2.Client, volume string) string {
	r.t.Helper()
	out, err := c.CreateSnapshot(context.Background(), &ec2.CreateSnapshotInput{VolumeId: &volume})
	if err != nil {
		r.t.Fatal(err)
	}
	return *out.SnapshotId
}

// copyPulse builds the writing program and puts it into a guest.
func (r *rig) copyPulse(server string) {
	r.t.Helper()
	program := filepath.Join(r.root, "pulse")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./pulse")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		r.t.Fatalf("build pulse: %v\n%s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	put := r.command(ctx, nil, "stead", "exec", server, "--", "cat > /tmp/pulse && chmod 755 /tmp/pulse")
	put.Stdin = bytes.NewReader(code)
	if res := r.finish(put, nil); res.code != 0 {
		r.t.Fatal(res)
	}
}

// pulse is the writing program at work in a guest.
type pulse struct {
	r      *rig
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func (r *rig) startPulse(server, device string) *pulse {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	p := &pulse{r: r, cmd: r.command(ctx, nil, "stead", "exec", server, "--", fmt.Sprintf("/tmp/pulse /dev/%s %d", device, pulseBlocks))}
	p.cmd.Stderr = &p.stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// phase begins a phase and gives the newest write that is on the disk.
func (p *pulse) phase(name string) uint64 {
	p.r.t.Helper()
	var answer struct{ Last uint64 }
	_, err := fmt.Fprintln(p.in, name)
	if err == nil {
		var line []byte
		if line, err = p.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &answer)
		}
	}
	if err != nil {
		_ = p.in.Close()
		p.r.t.Fatalf("the writing guest: %v, %v\n%s", err, p.cmd.Wait(), p.stderr.Bytes())
	}
	return answer.Last
}

// finish ends the writing, which must not have failed, and shows what the writes
// have waited.
func (p *pulse) finish() {
	p.r.t.Helper()
	_ = p.in.Close() // its end is what is waited for
	told, err := io.ReadAll(p.out)
	if werr := p.cmd.Wait(); err != nil || werr != nil {
		p.r.t.Fatalf("the writing guest: %v, %v\n%s", err, werr, p.stderr.Bytes())
	}
	p.r.t.Logf("what the guest's writes took, in milliseconds:\n%s", told)
}

// detached is the writing program at work in a guest, which goes on without a
// connection to it: one is given up when the guest stands still for long.
type detached struct {
	r      *rig
	server string
}

func (r *rig) startDetached(server, device string) detached {
	r.t.Helper()
	r.sh(server, fmt.Sprintf("rm -f /run/in && mkfifo /run/in && { sleep 100000 > /run/in & } && "+
		"{ /tmp/pulse /dev/%s %d < /run/in > /run/out 2>&1 & }", device, pulseBlocks))
	return detached{r, server}
}

// phase begins a phase and gives the newest write that is on the disk.
func (d detached) phase(name string) uint64 {
	d.r.t.Helper()
	line := d.r.sh(d.server, "n=$(wc -l < /run/out); echo "+name+" > /run/in; "+
		"while [ $(wc -l < /run/out) = $n ]; do pidof pulse > /dev/null || break; sleep 0.05; done; tail -n 1 /run/out")
	var answer struct{ Last *uint64 }
	if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Last == nil {
		d.r.t.Fatalf("the writing guest says %q", line)
	}
	return *answer.Last
}

// finish ends the writing, which must not have failed, and gives what the writes
// have waited.
func (d detached) finish() string {
	d.r.t.Helper()
	out := d.r.sh(d.server, "kill $(pidof sleep); while pidof pulse > /dev/null; do sleep 0.05; done; cat /run/out")
	if !strings.Contains(out, `"phase"`) {
		d.r.t.Errorf("the writing guest says\n%s", out)
	}
	return out
}

// consistent checks that a snapshot holds exactly the writes up to one that lies
// within its bounds.
func (r *rig) consistent(s taken) {
	r.t.Helper()
	image := r.export(s.id, pulseBlocks*pulseBlock)
	stamps := make([]uint64, pulseBlocks)
	var last uint64
	for b := range stamps {
		block := image[b*pulseBlock:][:pulseBlock]
		stamps[b] = binary.LittleEndian.Uint64(block)
		if !bytes.Equal(block, bytes.Repeat(block[:8], pulseBlock/8)) {
			r.t.Errorf("%s: block %d is torn", s.id, b)
		}
		last = max(last, stamps[b])
	}
	if last < s.before || last > s.after {
		r.t.Errorf("%s holds writes up to %d; %d were on the disk before it, %d after", s.id, last, s.before, s.after)
	}
	for k := last; k > 0 && k+pulseBlocks > last; k-- {
		if got := stamps[k*pulseStride%pulseBlocks]; got != k {
			r.t.Errorf("%s, which holds write %d, has %d where write %d belongs", s.id, last, got, k)
			return
		}
	}
}

// export gives the first size bytes that a snapshot holds.
func (r *rig) export(id string, size int) []byte {
	r.t.Helper()
	file := filepath.Join(r.root, id+".raw")
	r.stead("blocks", "export", id, file, "-q")
	image := r.head(file, size)
	if err := os.Remove(file); err != nil {
		r.t.Error(err)
	}
	return image
}

// head gives the first size bytes of a file.
func (r *rig) head(file string, size int) []byte {
	r.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// unplugAround unplugs a disk while it is being read for a snapshot, and plugs it
// in again for the next.
func (r *rig) unplugAround(c *ec2.Client, instance string) {
	ctx := context.Background()
	volume := r.plug(c, instance, "/dev/sdg")
	const size = 32 << 20
	for range 2 {
		device := r.deviceOf("web", volume)
		r.sh("web", fmt.Sprintf("dd if=/dev/urandom of=/dev/%s bs=1M count=%d oflag=direct 2>/dev/null", device, size>>20))
		snap := r.snapshot(c, volume)
		if _, err := c.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &volume}); err != nil {
			r.t.Fatal(err)
		}
		r.completed(c, snap)
		r.waitVolume(c, volume, types.VolumeStateAvailable)
		if !bytes.Equal(r.export(snap, size), r.head(filepath.Join(r.data, "volumes", volume+".raw"), size)) {
			r.t.Errorf("%s differs from the disk that was unplugged while it was taken", snap)
		}
		r.plugIn(c, volume, instance, "/dev/sdg")
	}
	r.deviceOf("web", volume)
}

// trouble has the daemon stand still, crawl and die while it reads a disk to
// which the guest writes.
func (r *rig) trouble(c *ec2.Client, volume string) {
	stop := func(sig syscall.Signal) {
		r.t.Helper()
		if err := syscall.Kill(r.daemon().pid, sig); err != nil {
			r.t.Fatal(err)
		}
	}
	// A reader that doesn't read for longer than a write may wait for it, and one
	// that gets on by fits and starts, as with a store that is slow.
	snap := r.snapshot(c, volume)
	stop(syscall.SIGSTOP)
	time.Sleep(3 * time.Second)
	for range 10 {
		stop(syscall.SIGCONT)
		time.Sleep(10 * time.Millisecond)
		stop(syscall.SIGSTOP)
		time.Sleep(200 * time.Millisecond)
	}
	stop(syscall.SIGCONT)
	r.completed(c, snap)

	snap = r.snapshot(c, volume)
	r.killDaemon()
	c = r.client()
	out, err := c.DescribeSnapshots(context.Background(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snap}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("the snapshot that was being read when the daemon died is %s: %s", out.Snapshots[0].State, aws.ToString(out.Snapshots[0].StateMessage))
	r.completed(c, r.snapshot(c, volume))
}

// nothingLeft looks into QEMU, once its daemon is gone, for what a snapshot may
// leave: filters, fleeces, exports, more than one record of changes to a disk.
func (r *rig) nothingLeft(instance string) {
	r.t.Helper()
	r.killDaemon()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q, err := qmp.Dial(ctx, filepath.Join(r.data, "machines", instance, "qmp.sock"), func(qmp.Event) {})
	if err != nil {
		r.t.Fatal(err)
	}
	defer q.Close()
	var nodes []struct {
		Name    string `json:"node-name"`
		Driver  string `json:"drv"`
		Bitmaps []struct {
			Name string `json:"name"`
		} `json:"dirty-bitmaps"`
	}
	var exports []struct {
		ID string `json:"id"`
	}
	if err := q.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		r.t.Fatal(err)
	}
	if err := q.Execute(ctx, "query-block-exports", nil, &exports); err != nil {
		r.t.Fatal(err)
	}
	for _, n := range nodes {
		if !slices.Contains([]string{"file", "raw"}, n.Driver) || !strings.HasPrefix(n.Name, "b-vol-") && !strings.HasPrefix(n.Name, "v-vol-") {
			r.t.Errorf("QEMU has a node %s (%s)", n.Name, n.Driver)
		}
		if len(n.Bitmaps) > 1 {
			r.t.Errorf("node %s has the records %v", n.Name, n.Bitmaps)
		}
	}
	if len(exports) > 0 {
		r.t.Errorf("QEMU exports %v", exports)
	}
	if left, _ := filepath.Glob(filepath.Join(r.data, "machines", instance, "fleece-*")); len(left) > 0 {
		r.t.Errorf("there are %v", left)
	}
}
