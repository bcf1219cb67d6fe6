package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMachineTended walks through what an owner does to one server over its
// years: more room, files in and out, a file back from a tape, another type,
// and a mistake in its fstab mended from outside (trap 8: what is mounted is
// there by UUID and with nofail).
func TestMachineTended(t *testing.T) {
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--data", "1", "--wait", "ssh")

	// A disk that comes later, mounted, and enlarged under way.
	var d disk
	r.decode(r.stead("volume", "create", "web", "1", "--mount", "/srv", "-o", "json"), &d)
	if fstab := r.sh("web", "cat /etc/fstab"); strings.Count(fstab, "\nUUID=") != 2 || !strings.Contains(fstab, "/srv ext4 defaults,nofail") || strings.Contains(fstab, "\n/dev/") {
		t.Errorf("fstab is\n%s", fstab)
	}
	kib := r.sh("web", "df -kP /srv | tail -n 1")
	r.stead("volume", "grow", d.VolumeID, "2")
	if now := r.sh("web", "df -kP /srv | tail -n 1"); now == kib || !strings.Contains(now, " /srv") {
		t.Errorf("before %s, after %s", kib, now)
	}

	// Files in and out, and back from a tape.
	in, out := filepath.Join(r.root, "in"), filepath.Join(r.root, "out")
	if err := os.WriteFile(in, []byte(strings.Repeat("precious\n", 100_000)), 0o640); err != nil {
		t.Fatal(err)
	}
	r.stead("cp", in, "web:/srv/file")
	r.stead("cp", "web:/srv/file", out)
	same(t, in, out)
	r.sh("web", "sync")
	r.stead("snapshot", "web")
	r.sh("web", "rm /srv/file; sync")
	back := filepath.Join(r.root, "back")
	r.stead("cp", "web@latest:/srv/file", back)
	same(t, in, back)

	// At a terminal.
	checkShell(t, r, "web", "# ")
	checkConsole(t, r, "web")

	// Another type, and its disk in a helper.
	r.stead("resize", "web", "--type", "t3.small", "--yes", "--wait", "running")
	checkRepairShell(t, r, "web")
	if res := r.try("repair", "web", "--yes", "--", "cat /etc/hostname >/etc/mended && exit 7"); res.code != 7 {
		t.Fatalf("repair: %v", res)
	}
	s := r.show("web")
	if s.State != "running" || len(s.Data) != 2 || len(s.Warnings) != 0 {
		t.Errorf("the server is %+v", s)
	}
	if got := r.sh("web", "cat /etc/mended; ls -d /srv/lost+found"); !strings.Contains(got, "/srv/lost+found") {
		t.Errorf("after the repair: %s", got)
	}
	r.stead("volume", "detach", d.VolumeID)
	if volumes := strings.Count(r.stead("volume", "ls"), "vol-"); volumes != 3 {
		t.Errorf("there are %d volumes: helpers' are left", volumes)
	}
}

func same(t *testing.T, a, b string) {
	t.Helper()
	want, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(b)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s has %d bytes, want %d: %v", b, len(got), len(want), err)
	}
	x, _ := os.Stat(a)
	if y, err := os.Stat(b); err != nil || x.Mode() != y.Mode() {
		t.Errorf("modes are %v and %v, %v", x.Mode(), y.Mode(), err)
	}
}
