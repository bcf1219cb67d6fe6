package cli_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// apiRefusal is EC2's error code in a message.
var apiRefusal = regexp.MustCompile(`\b[A-Z][A-Za-z]+(\.[A-Z][A-Za-z]+)?: `)

// TestPlanFailsAsTheCloudDoes makes calls that the cloud refuses: a plan must
// be refused for the same reason, and nothing of a call that fails is in it.
func TestPlanFailsAsTheCloudDoes(t *testing.T) {
	d := newDesk(t)
	image := d.env["IMAGE"]
	field := func(out, row string, n int) string {
		t.Helper()
		for line := range strings.Lines(out) {
			if f := strings.Split(strings.TrimRight(line, "\n"), "\t"); f[0] == row {
				return f[n]
			}
		}
		t.Fatalf("no %s in\n%s", row, out)
		return ""
	}
	one := d.must("ec2", "run", image, "-t", "t3.micro", "-z", "us-east-1a", "--private-ip-address", "172.31.0.99", "--disable-api-termination")
	instance := field(one, "INSTANCE", 1)
	d.must("ec2", "run", image, "-t", "t3.micro", "-z", "us-east-1b")
	near := field(d.must("ec2", "addvol", "-s", "1", "-z", "us-east-1a"), "VOLUME", 1)
	far := field(d.must("ec2", "addvol", "-s", "1", "-z", "us-east-1b"), "VOLUME", 1)
	used := field(d.must("ec2", "addvol", "-s", "1", "-z", "us-east-1a"), "VOLUME", 1)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if out := d.must("ec2", "dvol") + d.must("ec2", "din"); !strings.Contains(out, "creating") && !strings.Contains(out, "pending") {
			break
		}
	}
	d.must("ec2", "attvol", used, "-i", instance, "-d", "/dev/sdf")
	root := field(d.must("ec2", "din", instance), "BLOCKDEVICE", 2)
	tape := field(d.must("ec2", "addsnap", near), "SNAPSHOT", 1)
	d.must("ec2", "addgrp", "mine", "-d", "a group")
	d.must("ec2", "auth", "mine", "-p", "22")
	const none = "00000000000000000"
	for _, line := range []string{
		"run " + image + " -t t3.micro -k nokey",
		"run " + image + " -t t3.micro -g nogroup",
		"run " + image + " -t t9.huge",
		"run " + image + " -t t3.micro -z nowhere-1a",
		"run " + image + " -t t3.micro -b /dev/sdf=snap-" + none + ":10",
		"run " + image + " -t t3.micro -b /dev/sda1=:0",
		"run " + image + " -t t3.micro -z us-east-1a --private-ip-address 172.31.0.99",
		"run ami-" + none + " -t t3.micro",
		"addvol -s 1 -z nowhere-1a",
		"addvol -s 1 -z us-east-1a -t floppy",
		"addvol -z us-east-1a",
		"addvol -z us-east-1a --snapshot snap-" + none,
		"attvol " + far + " -i " + instance + " -d /dev/sdg",
		"attvol " + used + " -i " + instance + " -d /dev/sdg",
		"attvol " + near + " -i " + instance + " -d /dev/sdf",
		"attvol " + near + " -i i-" + none + " -d /dev/sdf",
		"detvol " + near,
		"detvol " + root, // the root of what runs
		"delvol " + used,
		"delvol vol-" + none,
		"addsnap vol-" + none,
		"delsnap snap-" + none,
		"reg -n base -s " + tape + " -a x86_64 --root-device-name /dev/sda1",
		"reg -n other -s snap-" + none + " -a x86_64 --root-device-name /dev/sda1",
		"stop " + instance + " i-" + none,
		"kill " + instance,
		"minatt " + instance + " -t t3.large", // which runs
		"addgrp mine -d again",
		"auth mine -p 22",
		"addtag vol-" + none + " -t a=b",
		"addtag " + near + " vol-" + none + " -t a=b",
	} {
		args := append([]string{"ec2"}, strings.Fields(line)...)
		d.changes()
		out, planned, planCode := d.run(append([]string{"--dry-run"}, args...)...)
		if sent := d.changes(); len(sent) > 0 {
			t.Errorf("%s: planning sent %v", line, sent)
		}
		_, did, code := d.run(args...)
		if code == 0 {
			t.Errorf("%s: the cloud takes it", line)
		}
		want, got := apiRefusal.FindString(did), apiRefusal.FindString(planned)
		if planCode != code || got != want {
			t.Errorf("%s\nplanned %d %s%s\ndid     %d %s", line, planCode, planned, out, code, did)
		}
		if strings.Contains(out, " 1  ") {
			t.Errorf("%s: its plan has\n%s", line, out)
		}
	}
}
