package cloud

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/image"
	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// rig is a cloud with real machines, which can lose its daemon and get
// another.
type rig struct {
	t      *testing.T
	dir    Dir
	cloud  *Cloud
	client *ec2.Client
	signer ssh.Signer
	end    func()
}

func needMachines(t *testing.T) {
	t.Helper()
	skip := func(why string) {
		if os.Getenv("STEAD_STRICT") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if testing.Short() {
		skip("boots machines; not in a short run")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		skip("qemu-system-x86_64 is not installed")
	}
	if m := image.MissingForTiny(); len(m) > 0 {
		skip(fmt.Sprintf("the tiny image cannot be built: %v", m))
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	needMachines(t)
	dir, err := os.MkdirTemp("", "stead-") // short: its sockets' paths are limited
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: Dir(dir)}
	r.open()
	t.Cleanup(r.destroy)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if r.signer, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.client.ImportKeyPair(t.Context(), &ec2.ImportKeyPairInput{KeyName: aws.String("k"), PublicKeyMaterial: ssh.MarshalAuthorizedKey(sshPub)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open starts a daemon's worth of cloud on the folder.
func (r *rig) open() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := testLog(r.t, slog.LevelDebug)
	hyper := qemu{runner: machine.NewRunner(machine.Config{Accel: machine.AccelAuto}, log), kind: string(machine.AccelTCG)}
	c, err := Open(ctx, Options{Dir: r.dir, Account: DefaultAccount, Keys: testKeys, Log: log}, hyper)
	if err != nil {
		cancel()
		r.t.Fatal(err)
	}
	r.cloud, r.client = c, testClient(r.t, c, DefaultRegion)
	r.end = func() {
		cancel()
		if err := c.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

// reopen is a daemon that ends and another that takes over.
func (r *rig) reopen() {
	r.t.Helper()
	r.end()
	r.open()
}

func (r *rig) destroy() {
	running := r.cloud.running
	running.mu.Lock()
	handles := slices.Collect(maps.Values(running.byID))
	running.mu.Unlock()
	for _, h := range handles {
		if err := h.vm.Kill(context.Background()); err != nil {
			r.t.Error(err)
		}
	}
	r.end()
	if r.t.Failed() {
		logs, _ := filepath.Glob(string(r.dir) + "/machines/*/*.log")
		for _, l := range logs {
			text, _, _ := tail(l, 3000)
			r.t.Logf("%s:\n%s", l, text)
		}
	}
	if err := os.RemoveAll(string(r.dir)); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) tiny() string {
	r.t.Helper()
	id, err := r.cloud.BuildImage(r.t.Context(), state.Scope{Account: DefaultAccount, Region: DefaultRegion}, "tiny",
		func(step string, done, total int64) { r.t.Log(step, done, total) })
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) waitFor(what string, f func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			r.t.Fatalf("timed out: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *rig) instance(id string) types.Instance {
	r.t.Helper()
	out, err := r.client.DescribeInstances(r.t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

func (r *rig) waitState(id string, want types.InstanceStateName) types.Instance {
	r.t.Helper()
	var i types.Instance
	r.waitFor(id+" is "+string(want), func() bool {
		i = r.instance(id)
		if i.State.Name == types.InstanceStateNameTerminated && want != types.InstanceStateNameTerminated {
			r.t.Fatalf("%s is terminated: %s", id, aws.ToString(i.StateReason.Message))
		}
		return i.State.Name == want
	})
	return i
}

// run launches one instance with its port 22 open.
func (r *rig) run(in *ec2.RunInstancesInput) string {
	r.t.Helper()
	ctx := r.t.Context()
	_, err := r.client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupName: aws.String("default"), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), CidrIp: aws.String("0.0.0.0/0"),
	})
	if err != nil && !strings.Contains(err.Error(), "InvalidPermission.Duplicate") {
		r.t.Fatal(err)
	}
	in.MinCount, in.MaxCount, in.KeyName, in.InstanceType = aws.Int32(1), aws.Int32(1), aws.String("k"), types.InstanceTypeT3Nano
	out, err := r.client.RunInstances(ctx, in)
	if err != nil {
		r.t.Fatal(err)
	}
	return *out.Instances[0].InstanceId
}

// sh runs a command in the guest over ssh, waiting until ssh answers.
func (r *rig) sh(id, command string) string {
	r.t.Helper()
	var client *ssh.Client
	r.waitFor("ssh to "+id, func() bool {
		i := r.instance(id)
		port := "22"
		for _, tag := range i.Tags {
			if *tag.Key == portTag+"22" {
				port = *tag.Value
			}
		}
		var err error
		client, err = ssh.Dial("tcp", net.JoinHostPort(aws.ToString(i.PublicIpAddress), port), &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(r.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 5 * time.Second,
		})
		return err == nil
	})
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := session.CombinedOutput(command)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestMachineSeed is the seed's recipe: an image that deletes nothing, an
// instance with a data disk, its end, and its return from snapshots.
func TestMachineSeed(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	ami := r.tiny()
	start := time.Now()
	id := r.run(&ec2.RunInstancesInput{ImageId: &ami, BlockDeviceMappings: []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false)}},
		{DeviceName: aws.String("/dev/sdf1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1), DeleteOnTermination: aws.Bool(false)}},
	}})
	r.sh(id, "true")
	t.Logf("run to ssh: %v", time.Since(start))
	t.Log(r.sh(id, "cat /proc/mounts /etc/fstab; ls -l /dev/sd* /dev/disk/by-id; df"))
	r.sh(id, "echo root > /root/kept && echo data > /data/kept && sync")
	identity := "cat /etc/hostname /etc/dropbear/*.pub"
	was := r.sh(id, identity)

	before := time.Now()
	r.reopen()
	r.sh(id, "true")
	t.Logf("ssh after a restart of the daemon: %v", time.Since(before))

	disks := r.instance(id).BlockDeviceMappings
	if _, err := r.client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	r.waitState(id, types.InstanceStateNameTerminated)
	var maps []types.BlockDeviceMapping
	for _, d := range disks {
		snap, err := r.client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: d.Ebs.VolumeId})
		if err != nil {
			t.Fatal(err)
		}
		w := ec2.NewSnapshotCompletedWaiter(r.client, func(o *ec2.SnapshotCompletedWaiterOptions) {
			o.MinDelay = 50 * time.Millisecond
			o.MaxDelay = time.Second
		})
		if err := w.Wait(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}}, time.Minute); err != nil {
			t.Fatal(err)
		}
		maps = append(maps, types.BlockDeviceMapping{DeviceName: d.DeviceName, Ebs: &types.EbsBlockDevice{SnapshotId: snap.SnapshotId, DeleteOnTermination: aws.Bool(false)}})
	}
	images, err := r.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{ami}})
	if err != nil {
		t.Fatal(err)
	}
	rescue, err := r.client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("rescue"), RootDeviceName: aws.String("/dev/sda1"), Architecture: types.ArchitectureValuesX8664, KernelId: images.Images[0].KernelId,
		VirtualizationType: aws.String("hvm"), BlockDeviceMappings: maps,
	})
	if err != nil {
		t.Fatal(err)
	}
	again := r.run(&ec2.RunInstancesInput{ImageId: rescue.ImageId})
	if got := r.sh(again, "cat /root/kept /data/kept"); got != "root\ndata" {
		t.Errorf("the new instance reads %q", got)
	}
	if is := r.sh(again, identity); is != was {
		t.Errorf("host name and keys were\n%s\nand are\n%s", was, is)
	}
	console, err := r.client.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &again})
	if err != nil {
		t.Fatal(err)
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(console.Output))
	if err != nil || !bytes.Contains(text, []byte("BEGIN SSH HOST KEY KEYS")) {
		t.Errorf("no host keys on the console (%v):\n%s", err, text)
	}
}

// An image of a running instance, with and without a shutdown, has all disks
// as they were.
func TestMachineCreateImage(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	ami := r.tiny()
	id := r.run(&ec2.RunInstancesInput{ImageId: &ami, BlockDeviceMappings: []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1)}},
	}})
	for i, reboot := range []bool{false, true} {
		mark := fmt.Sprintf("mark%d", i)
		r.sh(id, "echo "+mark+" > /root/mark && echo "+mark+" > /data/mark && sync")
		booted := r.sh(id, "cat /proc/sys/kernel/random/boot_id")
		img, err := r.client.CreateImage(ctx, &ec2.CreateImageInput{InstanceId: &id, Name: &mark, NoReboot: aws.Bool(!reboot)})
		if err != nil {
			t.Fatal(err)
		}
		if !reboot {
			r.sh(id, "echo later > /root/mark && echo later > /data/mark && sync")
		}
		r.waitFor("image available", func() bool {
			out, err := r.client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{*img.ImageId}})
			if err != nil {
				t.Fatal(err)
			}
			if s := out.Images[0].State; s == types.ImageStateFailed {
				t.Fatalf("image failed: %s", *out.Images[0].StateReason.Message)
			}
			return out.Images[0].State == types.ImageStateAvailable
		})
		clone := r.run(&ec2.RunInstancesInput{ImageId: img.ImageId})
		if got := r.sh(clone, "cat /root/mark /data/mark"); got != mark+"\n"+mark {
			t.Errorf("reboot %v: the clone reads %q", reboot, got)
		}
		if again := r.sh(id, "cat /proc/sys/kernel/random/boot_id") != booted; again != reboot {
			t.Errorf("reboot %v: the instance rebooted: %v", reboot, again)
		}
		if n := r.sh(clone, "dmesg | grep -c -i 'i/o error\\|recovery complete' || true"); reboot && n != "0" {
			t.Errorf("the clone of a guest at rest had %s recoveries or errors", n)
		}
		if _, err := r.client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{clone}}); err != nil {
			t.Fatal(err)
		}
	}
}
