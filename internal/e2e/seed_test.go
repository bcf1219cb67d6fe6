package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMachineSeedByAWSCLI is the seed's recipe by unmodified tools: a base
// image, servers that delete nothing when they are terminated, and one of them
// back from snapshots of its disks. The lines that begin with ec2reg are the
// seed's own, IDs put in.
func TestMachineSeedByAWSCLI(t *testing.T) {
	if _, err := os.Stat("/usr/bin/aws"); err != nil {
		skip(t, "needs the aws command: apt-get install awscli")
	}
	t.Parallel()
	r := newRig(t)
	l, key := newLogin(t, r)
	ami := r.tiny()
	r.aws("ec2", "import-key-pair", "--key-name", "k", "--public-key-material", "fileb://"+key)
	r.aws("ec2", "authorize-security-group-ingress", "--group-name", "default", "--protocol", "tcp", "--port", "22", "--cidr", "0.0.0.0/0")

	// Launch it, and Create Image. Write down the snapshot and the kernel.
	first := l.run(ami, 1)[0]
	l.sh(first, "echo base > /root/base && sync")
	base := r.aws("ec2", "create-image", "--instance-id", first, "--name", "base of base", "--no-reboot", "--query", "ImageId")
	r.awaits("available", "ec2", "describe-images", "--image-ids", base, "--query", "Images[0].State")
	snap := r.aws("ec2", "describe-images", "--image-ids", base, "--query", "Images[0].BlockDeviceMappings[0].Ebs.SnapshotId")
	kernel := r.aws("ec2", "describe-images", "--image-ids", base, "--query", "Images[0].KernelId")
	r.aws("ec2", "terminate-instances", "--instance-ids", first)

	r.ec2reg(fmt.Sprintf(`ec2reg -n 'Ubuntu 10.04 20110201.1 Base' -d 'Basic ubuntu server configuration' --root-device-name /dev/sda1 -b /dev/sda1=%s:8:false -a x86_64 --kernel %s`, snap, kernel))
	image := r.ec2reg(fmt.Sprintf(`ec2reg -n 'Ubuntu server with 10GB at sdf1' -d 'Ubuntu 10.04 with new 10GB volume at /dev/sdf1' --root-device-name /dev/sda1 -b /dev/sda1=%s:8:false -b /dev/sdf1=:10:false -a x86_64 --kernel %s`, snap, kernel))

	// Launch as many as you like, and terminate them.
	servers := l.run(image, 3)
	for _, id := range servers {
		if got := l.sh(id, fmt.Sprintf("echo root of %s > /root/kept && echo data of %s > /data/kept && sync && cat /root/base", id, id)); got != "base" {
			t.Errorf("%s has %q of its image", id, got)
		}
	}
	disks := l.disks(servers...)
	r.aws(append([]string{"ec2", "terminate-instances", "--instance-ids"}, servers...)...)
	for _, id := range servers {
		r.awaits("terminated", "ec2", "describe-instances", "--instance-ids", id, "--query", "Reservations[0].Instances[0].State.Name")
	}
	if left := r.aws("ec2", "describe-volumes", "--filters", "Name=status,Values=available", "--query", "Volumes[].VolumeId"); !slices.Equal(sorted(left), sorted(strings.Join(disks, " "))) || len(disks) != 6 {
		t.Errorf("volumes were %v, and %s are left", disks, left)
	}
	r.check(counts{volumes: 6, snapshots: 2, images: 4})

	// Snapshot one's disks and put them into a rescue image.
	lost := disks[:2]
	var snaps []any
	for _, d := range lost {
		id := r.aws("ec2", "create-snapshot", "--volume-id", d, "--query", "SnapshotId")
		r.awaits("completed", "ec2", "describe-snapshots", "--snapshot-ids", id, "--query", "Snapshots[0].State")
		snaps = append(snaps, id)
	}
	rescue := r.ec2reg(fmt.Sprintf(`ec2reg -n 'Redis slave server rescue AMI' -d 'Rescuing the redis slave from snapshots' --root-device-name /dev/sda1 -b /dev/sda1=%s:8:false -b /dev/sdf1=%s:10:false -a x86_64 --kernel %s`, append(snaps, kernel)...))
	back := l.run(rescue, 1)[0]
	want := fmt.Sprintf("root of %s\ndata of %s", servers[0], servers[0])
	if got := l.sh(back, "cat /root/kept /data/kept"); got != want {
		t.Errorf("the rescued server has %q, want %q", got, want)
	}
	if errs := l.sh(back, "dmesg | grep -ci 'i/o error' || true"); errs != "0" {
		t.Errorf("%s I/O errors", errs)
	}
	r.check(counts{instances: 1, volumes: 8, snapshots: 4, images: 5})
}

// awaits asks the aws command until it gives the wanted answer. Its own
// waiters look four times a minute.
func (r *rig) awaits(want string, args ...string) {
	r.t.Helper()
	r.waitUntil(strings.Join(args, " ")+" is "+want, func() bool { return r.aws(args...) == want })
}

// ec2reg runs one command line as a shell does, and gives the image's ID.
func (r *rig) ec2reg(line string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res := r.finish(r.command(ctx, nil, "/bin/sh", "-c", line), nil)
	id, ok := strings.CutPrefix(strings.TrimSpace(res.stdout), "IMAGE\t")
	if res.code != 0 || !ok {
		r.t.Fatalf("%s: %v", line, res)
	}
	return id
}

// run launches instances of an image.
func (l login) run(image string, count int) []string {
	l.t.Helper()
	ids := strings.Fields(l.aws("ec2", "run-instances", "--image-id", image, "--count", fmt.Sprint(count), "--key-name", "k",
		"--instance-type", "t3.nano", "--query", "Instances[].InstanceId"))
	if len(ids) != count {
		l.t.Fatalf("%d instances were asked for, and %v came", count, ids)
	}
	return ids
}

// disks lists the instances' volumes, each one's root first.
func (l login) disks(instances ...string) []string {
	l.t.Helper()
	var ids []string
	for _, id := range instances {
		ids = append(ids, strings.Fields(l.aws("ec2", "describe-instances", "--instance-ids", id,
			"--query", "Reservations[].Instances[].BlockDeviceMappings[].Ebs.VolumeId"))...)
	}
	return ids
}

func sorted(list string) []string {
	ids := strings.Fields(list)
	slices.Sort(ids)
	return ids
}
