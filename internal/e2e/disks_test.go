package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMachineJoinedDisks makes a server of two data disks that are one, writes
// to it, and has it back in another machine: mounted where it was, with what
// it held, and not formatted again. An instance that nobody made as a server
// becomes one on the way.
func TestMachineJoinedDisks(t *testing.T) {
	r := newRig(t)
	made := r.try("create", "db", "--data", "1:sdf", "--data", "1", "--raid", "1", "--mount", "/srv/db", "--type", "t3.micro",
		"--user-data", r.file("setup.sh", "#!/bin/sh\necho set up >/srv/db/made\n"))
	if made.code != 0 || !strings.Contains(made.stdout, "disks survive: yes") || !strings.Contains(made.stdout, "stead schedule db --every 24h --keep 7") {
		t.Fatalf("create: %v", made)
	}
	uuid := r.sh("db", "findmnt -n -o UUID /srv/db 2>/dev/null || blkid -s UUID -o value $(awk '$2 == \"/srv/db\" {print $1}' /proc/mounts)")
	if level := r.sh("db", "cat /sys/block/md*/md/level"); level != "raid1" || uuid == "" {
		t.Fatalf("it is a %q with UUID %q", level, uuid)
	}
	if line := r.sh("db", "grep /srv/db /etc/fstab"); line != "UUID="+uuid+" /srv/db ext4 defaults,nofail 0 2" {
		t.Errorf("fstab has %q", line)
	}
	for _, name := range []string{"sdf", "sdf1", "sdg", "sdg1"} {
		r.sh("db", "test -b /dev/"+name)
	}
	r.waitUntil("the user data has run", func() bool { return r.try("ssh", "db", "--", "test -s /srv/db/made").code == 0 })
	r.sh("db", "echo precious >/srv/db/data && sync")
	before := r.show("db")

	// A mirror grows when all of its disks have: by one command.
	mib := r.sh("db", "df -mP /srv/db | awk 'END {print $2}'")
	out := r.stead("resize", "db", "--data", "sdf=2")
	if now := r.sh("db", "df -mP /srv/db | awk 'END {print $2}'"); mib > "1000" && len(mib) > 3 || len(now) != 4 || now < "1800" || !strings.Contains(out, "ext4 on /srv/db: 1.9 GiB") {
		t.Errorf("the mirror had %s MiB, has %s:\n%s", mib, now, out)
	}
	// A file comes back from a tape of it.
	r.stead("snapshot", "db")
	r.sh("db", "echo spoilt >/srv/db/data && sync")
	back := filepath.Join(r.root, "back")
	r.stead("cp", "db@latest:/srv/db/data", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != "precious\n" {
		t.Errorf("from the tape comes %q, %v", got, err)
	}
	r.sh("db", "echo precious >/srv/db/data && sync")

	r.stead("terminate", "db", "--yes")
	r.stead("rescue", "db")
	after := r.show("db")
	if after.InstanceID == before.InstanceID || len(after.Data) != 2 {
		t.Errorf("rescued %+v", after)
	}
	if got := r.sh("db", "cat /srv/db/data /srv/db/made"); got != "precious\nset up" {
		t.Errorf("after the rescue there is %q", got)
	}
	if now := r.sh("db", "blkid -s UUID -o value $(awk '$2 == \"/srv/db\" {print $1}' /proc/mounts)"); now != uuid {
		t.Errorf("the file system is %s, was %s", now, uuid)
	}
	r.sh("db", "mdadm --detail --export /dev/md*[0-9] | grep -q MD_DEVICES=2")
}
