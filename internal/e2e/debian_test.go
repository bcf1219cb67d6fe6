package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/image"
)

// debianPatience bounds what takes minutes: installing Debian, and booting it
// where machines are emulated.
const debianPatience = 20 * time.Minute

// slowly runs stead with more patience, which must succeed.
func (r *rig) slowly(args ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), debianPatience)
	defer cancel()
	start := time.Now()
	res := r.finish(r.command(ctx, nil, "stead", append([]string{"--timeout", debianPatience.String()}, args...)...), nil)
	if res.code != 0 {
		r.t.Fatalf("stead %s: %v", strings.Join(args, " "), res)
	}
	r.t.Logf("stead %s: %.0f s", strings.Join(args, " "), time.Since(start).Seconds())
	return strings.TrimSpace(res.stdout)
}

// debianUserData names the server and leaves a trace.
const debianUserData = "#!/bin/sh\n# stead: hostname deb\necho run >>/root/runs\n"

// TestMachineDebian builds Debian and takes one disk through a server's life:
// a first boot on a larger disk, and a rescue.
func TestMachineDebian(t *testing.T) {
	r := newRig(t)
	if m := image.MissingForDebian(); len(m) > 0 {
		skip(t, fmt.Sprintf("the Debian image cannot be built: %v", &image.MissingError{Missing: m}))
	}
	r.slowly("image", "build", "debian")
	script := filepath.Join(r.root, "user-data")
	if err := os.WriteFile(script, []byte(debianUserData), 0o644); err != nil {
		t.Fatal(err)
	}
	r.slowly("create", "deb", "--image", "debian", "--disk", "5", "--data", "1:/dev/sdf1", "--user-data", script)
	r.checkDebian(t)
	checkMetadata(t, r)
	keys, id := r.sh("deb", "sudo cat /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_ecdsa_key.pub"), r.sh("deb", "cat /etc/machine-id")
	t.Run("TestTrap11IdentityOutlivesTheInstance", func(t *testing.T) {
		r.slowly("terminate", "deb", "--yes")
		r.slowly("rescue", "deb")
		r.checkDebian(t)
		if now := r.sh("deb", "sudo cat /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_ecdsa_key.pub"); now != keys {
			t.Errorf("the host keys changed:\n%s\n%s", keys, now)
		}
		if now := r.sh("deb", "cat /etc/machine-id"); now != id {
			t.Errorf("the machine ID changed: %s, %s", id, now)
		}
	})
}

// checkDebian looks around on the server.
func (r *rig) checkDebian(t *testing.T) {
	t.Helper()
	if out := r.slowly("ssh", "deb", "--", "cloud-init status --wait >/dev/null; cloud-init status; whoami; hostname; sudo cat /root/runs; findmnt -no SOURCE /data; readlink -f /dev/sdf1 /dev/xvdf /dev/sda1"); out !=
		"status: done\nadmin\ndeb\nrun\n/dev/vdb\n/dev/vdb\n/dev/vdb\n/dev/vda1" {
		t.Errorf("on the server:\n%s", out)
	}
	if out := r.sh("deb", "df -BM --output=size / | tail -1 | tr -dc 0-9"); len(out) != 4 || out < "4700" {
		t.Errorf("the root has %s MiB of a disk of 5 GiB", out)
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
