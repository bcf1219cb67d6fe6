package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nvmePort is the root port of /dev/sdh.
const nvmePort = "rp7"

// nvmeAtSdh has the local cloud plug what is at /dev/sdh in as an NVMe disk, as
// EC2's newer types have all of them. QEMU's doesn't stop at a full host disk
// and doesn't grow live, so the local cloud itself has none.
func (r *rig) nvmeAtSdh() {
	r.t.Helper()
	dir := filepath.Join(r.root, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	script := `#!/bin/sh
for a; do
	shift
	case $a in *'"bus":"` + nvmePort + `"'*)
		a=$(echo "$a" | sed 's/"virtio-blk-pci"/"nvme"/; s/,"[rw]error":"[a-z]*"//g')
		;;
	esac
	set -- "$@" "$a"
done
PATH=${PATH#*:}
exec qemu-system-x86_64 "$@"
`
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.first = dir + ":"
}

// fileOnDisk is what checkDebianDisks leaves on the data disk.
const fileOnDisk = "/data/deep/file"

// checkDebianDisks has the disks of a server grow, whose owner isn't root
// there, whose root has partitions and whose data is on XFS, and copies in and
// out.
func checkDebianDisks(t *testing.T, r *rig) {
	t.Helper()
	// growpart is how it goes, also when there is no room left; without it, sfdisk.
	for i, prepare := range []string{"sudo fallocate -l 100G /full 2>/dev/null; sync", "sudo rm /full; sudo chmod -x /usr/bin/growpart"} {
		size := string("67"[i])
		r.sh("deb", prepare)
		out := r.slowly("resize", "deb", "--disk", size, "--data", "sdf="+string("23"[i]))
		if !strings.Contains(out, "ext4 on /: "+string("56"[i])+".") || !strings.Contains(out, "xfs on /data: "+string("12"[i])+".9 GiB") {
			t.Errorf("resize says\n%s", out)
		}
		if got := r.sh("deb", "lsblk -no SIZE /dev/vda1"); strings.TrimSpace(got) != size+"G" {
			t.Errorf("the root's partition has %s", got)
		}
	}
	r.sh("deb", "sudo chmod +x /usr/bin/growpart")
	if got := r.sh("deb", "df -BM --output=size /data | tail -1 | tr -dc 0-9"); len(got) != 4 || got < "2900" {
		t.Errorf("the data has %s MiB of 3 GiB", got)
	}

	in, out := filepath.Join(r.root, "in"), filepath.Join(r.root, "out")
	if err := os.WriteFile(in, []byte(strings.Repeat("precious\n", 100_000)), 0o640); err != nil {
		t.Fatal(err)
	}
	r.sh("deb", "sudo mkdir -p "+filepath.Dir(fileOnDisk))
	if res := r.try("cp", in, "deb:"+fileOnDisk); res.code != 1 || !strings.Contains(res.stderr, "--root reads and writes as root") {
		t.Errorf("copied as %s: %v", "admin", res)
	}
	r.stead("cp", "--root", in, "deb:"+fileOnDisk)
	r.stead("cp", "--root", "deb:"+fileOnDisk, out)
	same(t, in, out)
}

// checkNVMe looks at the disk that the kernel has as NVMe: it is found by its
// serial number alone.
func checkNVMe(t *testing.T, r *rig) {
	t.Helper()
	if got := r.sh("deb", "findmnt -no FSTYPE,SOURCE /data2 | tr -s ' '; readlink -f /dev/sdh /dev/sdh1"); got != "xfs /dev/nvme0n1\n/dev/nvme0n1\n/dev/nvme0n1" {
		t.Errorf("the NVMe disk is\n%s", got)
	}
}

// unbootable does to a server what keeps it from booting, three times over.
const unbootable = `set -e
echo UUID=0badc0de-0000-4000-8000-000000000000 /gone ext4 defaults,x-systemd.device-timeout=10s 0 2 >>/etc/fstab
echo Nonsense yes >>/etc/ssh/sshd_config
fallocate -l 100G /var/cache/apt/archives/big.deb 2>/dev/null || sync
[ "$(df -k --output=avail / | tail -n 1)" -eq 0 ]`

// breakDebian takes a snapshot set of a server, and makes it unfit to boot.
func breakDebian(t *testing.T, r *rig) {
	t.Helper()
	r.tiny()
	r.stead("snapshot", "deb")
	r.sh("deb", "sudo rm "+fileOnDisk+" && echo '"+unbootable+"' | sudo sh")
}

// repairDebian sees that the server doesn't boot, and mends it. In the meantime
// a file comes back from a tape.
func repairDebian(t *testing.T, r *rig) {
	t.Helper()
	started := time.Now()
	// The helper is a Debian too, for the tiny image knows no XFS.
	back := filepath.Join(r.root, "back")
	r.slowly("cp", "deb@latest:"+fileOnDisk, back)
	same(t, filepath.Join(r.root, "in"), back)

	r.waitUntil("it fails to boot", func() bool {
		return strings.Contains(r.stead("serial", "deb"), "You are in emergency mode")
	})
	t.Logf("in emergency mode after at most %.0f s", time.Since(started).Seconds())
	if res := r.try("ssh", "deb", "--", "true"); res.code == 0 {
		t.Fatalf("it lets in: %v", res)
	}
	// A repair that has no room, and then all of them.
	if res := r.trySlowly("repair", "deb", "--yes", "--image", "tiny", "--hold", "--fix", "fstab"); res.code != 1 || !strings.Contains(res.stdout, "--fix disk-full first") {
		t.Fatalf("repair of a full disk: %v", res)
	}
	said := r.slowly("repair", "deb", "--fix", "all", "--wait", "ssh")
	for _, want := range []string{"/gone ext4 defaults,x-systemd.device-timeout=10s,nofail 0 2", "the one of its package"} {
		if !strings.Contains(said, want) {
			t.Errorf("repair says nothing of %q:\n%s", want, said)
		}
	}
	if got := r.sh("deb", "sudo grep -h Nonsense /etc/ssh/*.before-stead; grep -c gone /etc/fstab.before-stead; findmnt -no TARGET /data"); got != "Nonsense yes\n1\n/data" {
		t.Errorf("after the repair:\n%s", got)
	}
}
