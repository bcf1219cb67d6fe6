package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestMachineSeedByEC2Tools is the article's recipe from the first step to the
// last by the commands that its author had: a base image that keeps its
// disks, servers that are stopped and terminated, the rescue, and the second
// way to a data disk, which is attached by hand and again after the rescue.
func TestMachineSeedByEC2Tools(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tiny := r.tiny()
	l := r.keyPair()
	r.tool("ec2auth default -p 22")

	// Launch it, and Create Image. Write down the snapshot and the kernel.
	first := r.launch(tiny)
	l.sh(first, "echo base > /root/base && sync")
	made := r.grab("IMAGE\t(ami-[0-9a-f]+)", "ec2cim %s -n 'base of base' -d 'Create Image (EBS AMI)'", first)
	r.toolUntil("\tavailable\t", "ec2dim %s", made)
	snap := r.grab("BLOCKDEVICEMAPPING\tEBS\t/dev/[a-z0-9]+\t(snap-[0-9a-f]+)", "ec2dim %s", made)
	kernel := r.grab("\tmachine\t(aki-[0-9a-f]+)\t", "ec2dim %s", made)
	r.tool("ec2kill %s", first)

	// The idea of a server, whose disks stay.
	base := r.grab("IMAGE\t(ami-[0-9a-f]+)", `ec2reg -n 'Ubuntu 10.04 20110201.1 Base' -d 'Basic ubuntu server configuration' --root-device-name /dev/sda1 -b /dev/sda1=%s:8:false -a x86_64 --kernel %s`, snap, kernel)
	server := r.launch(base)
	root := r.grab("BLOCKDEVICE\t/dev/sda1\t(vol-[0-9a-f]+)\t.*\tfalse", "ec2din %s", server)
	if got := l.sh(server, "cat /root/base && echo mine > /root/mine && sync"); got != "base" {
		t.Errorf("the server has %q of its image", got)
	}

	// The other way: create a volume and attach it. It isn't destroyed.
	zone := r.grab(`INSTANCE\t.*\t(us-[a-z0-9-]+)\taki-`, "ec2din %s", server)
	data := r.grab("VOLUME\t(vol-[0-9a-f]+)", "ec2addvol -s 1 -z %s", zone)
	r.toolUntil("\tavailable\t", "ec2dvol %s", data)
	r.tool("ec2attvol %s -i %s -d /dev/sdf", data, server)
	r.toolUntil("ATTACHMENT.*\tattached\t.*\tfalse", "ec2dvol %s", data)
	l.sh(server, "for i in $(seq 100); do test -b /dev/sdf1 && break; sleep 0.2; done; mkfs.ext4 -q /dev/sdf1 </dev/null && mkdir -p /srv && mount /dev/sdf1 /srv && echo redis > /srv/data && sync")

	// Only stop them: they work like servers with hard drives attached.
	r.tool("ec2stop %s", server)
	r.toolUntil("\tstopped\t", "ec2din %s", server)
	r.tool("ec2start %s", server)
	r.toolUntil("\trunning\t", "ec2din %s", server)
	if got := l.sh(server, "cat /root/mine"); got != "mine" {
		t.Errorf("after a stop the root disk says %q", got)
	}

	// Terminate one: the disks sit there detached in the list.
	r.tool("ec2kill %s", server)
	r.toolUntil("\tterminated\t", "ec2din %s", server)
	for _, id := range []string{root, data} {
		r.toolUntil("VOLUME\t"+id+"\t.*\tavailable\t", "ec2dvol %s", id)
	}

	// The runaround: a snapshot of the detached root, an image of that one
	// server, and an instance of it. Don't forget to reattach the data.
	tape := r.grab("SNAPSHOT\t(snap-[0-9a-f]+)", "ec2addsnap %s -d 'the lost root'", root)
	r.toolUntil("\tcompleted\t", "ec2dsnap %s", tape)
	rescue := r.grab("IMAGE\t(ami-[0-9a-f]+)", `ec2reg -n 'Redis slave server rescue AMI' -d 'Rescuing the redis slave from snapshots' --root-device-name /dev/sda1 -b /dev/sda1=%s:8:false -a x86_64 --kernel %s`, tape, kernel)
	back := r.launch(rescue)
	r.tool("ec2attvol %s -i %s -d /dev/sdf", data, back)
	want := "base\nmine\nredis"
	if got := l.sh(back, "for i in $(seq 100); do test -b /dev/sdf1 && break; sleep 0.2; done; mkdir -p /srv; mount /dev/sdf1 /srv 2>/dev/null; cat /root/base /root/mine /srv/data"); got != want {
		t.Errorf("the rescued server has %q, want %q", got, want)
	}
	r.tool("ec2dereg %s", rescue) // the important thing is the snapshot
	r.tool("ec2dsnap %s", tape)
	r.check(counts{instances: 1, volumes: 3, snapshots: 3, images: 3})
}

// tool runs one line of the EC2 API tools as a shell does.
func (r *rig) tool(format string, args ...any) string {
	r.t.Helper()
	line := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res := r.finish(r.command(ctx, nil, "/bin/sh", "-c", line), nil)
	if res.code != 0 {
		r.t.Fatalf("%s: %v", line, res)
	}
	return res.stdout
}

// grab is what the pattern's group finds in a tool's rows.
func (r *rig) grab(pattern, format string, args ...any) string {
	r.t.Helper()
	out := r.tool(format, args...)
	found := regexp.MustCompile("(?m)^.*" + pattern).FindStringSubmatch(out)
	if found == nil {
		r.t.Fatalf("no %q in\n%s", pattern, out)
	}
	return found[1]
}

// toolUntil repeats a line until a row of it matches.
func (r *rig) toolUntil(pattern, format string, args ...any) {
	r.t.Helper()
	want := regexp.MustCompile("(?m)" + pattern)
	r.waitUntil(fmt.Sprintf(format, args...)+" shows "+pattern, func() bool {
		return want.MatchString(r.tool(format, args...))
	})
}

// launch runs one instance and waits until it is running.
func (r *rig) launch(image string) string {
	r.t.Helper()
	id := r.grab("INSTANCE\t(i-[0-9a-f]+)", "ec2run %s -n 1 -k mine -t t3.nano", image)
	r.toolUntil("INSTANCE\t"+id+"\t.*\trunning\t", "ec2din %s", id)
	return id
}

// keyPair makes a key pair by ec2addkey and logs in with what it printed.
func (r *rig) keyPair() login {
	r.t.Helper()
	out := r.tool("ec2addkey mine")
	_, private, ok := strings.Cut(out, "\n")
	if !ok || !strings.HasPrefix(out, "KEYPAIR\tmine\t") {
		r.t.Fatalf("ec2addkey printed\n%s", out)
	}
	if err := os.WriteFile(filepath.Join(r.root, "mine.pem"), []byte(private), 0o600); err != nil {
		r.t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil {
		r.t.Fatal(err)
	}
	return login{r, signer}
}
