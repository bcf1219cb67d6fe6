package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/image"
)

// debianPatience bounds what takes minutes: installing Debian, and booting it
// where machines are emulated.
const debianPatience = 20 * time.Minute

// slowly runs stead with more patience, which must succeed.
func (r *rig) slowly(args ...string) string {
	r.t.Helper()
	res := r.trySlowly(args...)
	if res.code != 0 {
		r.t.Fatalf("stead %s: %v", strings.Join(args, " "), res)
	}
	return strings.TrimSpace(res.stdout)
}

// trySlowly runs stead with more patience, and gives what came of it.
func (r *rig) trySlowly(args ...string) result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), debianPatience)
	defer cancel()
	start := time.Now()
	res := r.finish(r.command(ctx, nil, "stead", append([]string{"--timeout", debianPatience.String()}, args...)...), nil)
	r.t.Logf("stead %s: %.0f s", strings.Join(args, " "), time.Since(start).Seconds())
	return res
}

// debianUserData names the server and leaves a trace.
const debianUserData = "#!/bin/sh\n# stead: hostname deb\necho run >>/root/runs\n"

// TestMachineDebian builds Debian and takes one disk through a server's life:
// a first boot on a larger disk by UEFI, a disk that comes later, more growth, a
// rescue to a type that has BIOS alone, which finds it unfit to boot, its
// repair, and a clone.
func TestMachineDebian(t *testing.T) {
	r := newRig(t)
	if m := image.MissingForDebian(); len(m) > 0 {
		skip(t, fmt.Sprintf("the Debian image cannot be built: %v", &image.MissingError{Missing: m}))
	}
	r.nvmeAtSdh()
	r.slowly("image", "build", "debian")
	script := filepath.Join(r.root, "user-data")
	if err := os.WriteFile(script, []byte(debianUserData), 0o644); err != nil {
		t.Fatal(err)
	}
	r.slowly("create", "deb", "--image", "debian", "--disk", "5", "--data", "1:/dev/sdf1", "--data", "1:/dev/sdh", "--fs", "xfs", "--user-data", script)
	r.checkDebian(t, "uefi")
	checkMetadata(t, r)
	checkNVMe(t, r)
	r.sh("deb", "echo kept | sudo tee /data2/mark >/dev/null")
	t.Run("a disk that comes later", r.checkHotPlug)
	checkDebianDisks(t, r)
	was := r.identity("deb")
	t.Run("TestTrap11IdentityOutlivesTheInstance", func(t *testing.T) {
		breakDebian(t, r)
		r.slowly("terminate", "deb", "--yes")
		r.slowly("rescue", "deb", "--type", "t2.micro", "--wait", "running")
		repairDebian(t, r)
		r.checkDebian(t, "legacy-bios")
		checkNVMe(t, r)
		r.sh("deb", "grep -q kept /data2/mark")
		if now := r.identity("deb"); now != was {
			t.Errorf("it is another server now:\n%s\nand was\n%s", now, was)
		}
	})
	t.Run("a clone is another server", func(t *testing.T) {
		r.slowly("clone", "deb", "twin")
		now, old := strings.Fields(r.identity("twin")), strings.Fields(was)
		for _, word := range old {
			if strings.HasPrefix(word, "ssh-") || strings.HasPrefix(word, "ecdsa-") || strings.HasPrefix(word, "root@") {
				continue // kinds of keys, and what is said of them
			}
			if slices.Contains(now, word) {
				t.Errorf("the clone shares %s", word)
			}
		}
		if now[0] != "twin" || len(now) != len(old) {
			t.Errorf("the clone is %v", now)
		}
	})
}

// identity is what tells a server from others: its name, machine ID and host
// keys.
func (r *rig) identity(server string) string {
	r.t.Helper()
	return r.slowly("ssh", server, "--", "hostname; cat /etc/machine-id; sudo cat /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_ecdsa_key.pub")
}

// checkDebian looks around on the server, which booted by some firmware.
func (r *rig) checkDebian(t *testing.T, firmware string) {
	t.Helper()
	if out := r.slowly("ssh", "deb", "--", "cloud-init status --wait >/dev/null; cloud-init status; whoami; hostname; sudo cat /root/runs; findmnt -no SOURCE /data; readlink -f /dev/sdf1 /dev/xvdf /dev/sda1"); out !=
		"status: done\nadmin\ndeb\nrun\n/dev/vdb\n/dev/vdb\n/dev/vdb\n/dev/vda1" {
		t.Errorf("on the server:\n%s", out)
	}
	if out := r.sh("deb", "df -BM --output=size / | tail -1 | tr -dc 0-9"); len(out) != 4 || out < "4700" {
		t.Errorf("the root has %s MiB of a disk of 5 GiB", out)
	}
	was := r.sh("deb", "test -d /sys/firmware/efi && echo uefi || echo legacy-bios")
	out, err := r.client().DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{Filters: []types.Filter{
		{Name: aws.String("instance-state-name"), Values: []string{"running"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if says := out.Reservations[0].Instances[0].CurrentInstanceBootMode; was != firmware || string(says) != firmware {
		t.Errorf("it booted by %s and is said to have by %s, want %s", was, says, firmware)
	}
}

// checkHotPlug gives the running server another disk, which it finds under EC2's
// names.
func (r *rig) checkHotPlug(t *testing.T) {
	var d disk
	r.decode(r.slowly("volume", "create", "deb", "1", "-o", "json"), &d)
	link := "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_" + strings.ReplaceAll(d.VolumeID, "-", "")
	if out := r.sh("deb", "udevadm settle; readlink -f /dev/sdg /dev/sdg1 /dev/xvdg "+link); out != "/dev/vdc\n/dev/vdc\n/dev/vdc\n/dev/vdc" {
		t.Errorf("the names of disk %s lead to\n%s", d.VolumeID, out)
	}
}

// checkMetadata fails where cloud-init was denied something that it asks for
// again and again.
func checkMetadata(t *testing.T, r *rig) {
	t.Helper()
	if out := r.sh("deb", "sudo grep -cE 'Calling .* failed|Max retries' /var/log/cloud-init.log || true"); out != "0" {
		t.Errorf("cloud-init tried %s times in vain:\n%s", out, r.sh("deb", "sudo grep -E 'failed|retries' /var/log/cloud-init.log | tail"))
	}
}
