package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Trap 8: the kernel's names of disks change from boot to boot, so a disk is
// written into fstab by its UUID, with nofail, once, and never over another's
// line.
func TestTrap08MountsByUUID(t *testing.T) {
	fstab := filepath.Join(t.TempDir(), "fstab")
	_, function, _ := strings.Cut(mountScript, "\nnote_fstab() {")
	function, _, found := strings.Cut(function, "\n}\n")
	if !found {
		t.Fatal("mount.sh has no note_fstab")
	}
	function = strings.ReplaceAll("note_fstab() {"+function+"\n}\n", "/etc/fstab", fstab)
	note := func(dir, uuid string) (string, error) {
		script := "fail() { echo \"$*\"; exit 1; }\nhave() { false; }\ndir=" + shellQuote(dir) + "\n" + function + "note_fstab " + uuid + " ext4\n"
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		return string(out), err
	}
	const before = "# by hand\nLABEL=root / ext4 defaults 0 1\n"
	if err := os.WriteFile(fstab, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if out, err := note("/srv", "1234-abcd"); err != nil {
			t.Fatal(err, out)
		}
	}
	if out, err := note("/elsewhere", "1234-abcd"); err == nil || !strings.Contains(out, "mounts it at /srv") {
		t.Errorf("the same disk elsewhere: %s, %v", out, err)
	}
	if out, err := note("/srv", "9999-ffff"); err == nil || !strings.Contains(out, "something else at /srv") {
		t.Errorf("another disk there: %s, %v", out, err)
	}
	got, err := os.ReadFile(fstab)
	if want := before + "UUID=1234-abcd /srv ext4 defaults,nofail 0 2\n"; err != nil || string(got) != want {
		t.Errorf("fstab is\n%s%v, want\n%s", got, err, want)
	}
}
