package server

import (
	"errors"
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

// A disk that was formatted and couldn't be mounted then may hold data when
// the command is repeated: it is formatted once, whatever happens after.
func TestMountFormatsOnce(t *testing.T) {
	dir := t.TempDir()
	_, functions, _ := strings.Cut(mountScript, "\n# zeros DEVICE MIB")
	functions, _, found := strings.Cut("#"+functions, "\n# note_fstab ")
	if !found {
		t.Fatal("mount.sh has no format")
	}
	functions = strings.NewReplacer("/var/lib/stead-format", dir+"/intent", "/dev/", dir+"/", "/sys/block/", dir+"/sys/").Replace(functions)
	const uuid = "0a1b2c3d-0000-4000-8000-000000000001"
	format := func() string {
		script := "fail() { echo \"$*\"; exit 1; }\nhave() { true; }\nsync() { :; }\nparts_of() { :; }\nblkid() { :; }\n" +
			"uuid_of() { cat " + dir + "/uuid 2>/dev/null; }\nPATH=" + dir + ":$PATH\n" +
			"volume=vol-1 fs=ext4\n" + functions + "\nformat sdf\n"
		out, _ := exec.Command("sh", "-c", script).CombinedOutput()
		ran, _ := os.ReadFile(filepath.Join(dir, "ran"))
		return strings.Repeat("formatted ", len(ran)/2) + string(out)
	}
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("mkfs.ext4", "#!/bin/sh\necho \"$4\" >"+dir+"/uuid\necho x >>"+dir+"/ran\n")
	if err := os.Chmod(filepath.Join(dir, "mkfs.ext4"), 0o755); err != nil {
		t.Fatal(err)
	}
	put("intent/vol-1", uuid+"\n") // cut off in the making
	put("uuid", uuid+"\n")
	if got := format(); got != "formatted " {
		t.Errorf("one that was cut off: %s", got)
	}
	if got := format(); got != "formatted " {
		t.Errorf("one that is made: %s", got)
	}
	put("intent/vol-1", uuid+"\n") // somebody else's since
	put("uuid", "9999\n")
	put("sys/sdf/size", "16384\n")
	put("sdf", strings.Repeat("data", 2<<20))
	if got := format(); !strings.Contains(got, "it is left alone") || strings.Contains(got, "formatted formatted") {
		t.Errorf("one with data: %s", got)
	}
	if err := os.Remove(filepath.Join(dir, "intent/vol-1")); err != nil {
		t.Fatal(err)
	}
	put("sdf", strings.Repeat("\000", 8<<20))
	if got := format(); got != "formatted " && !strings.HasPrefix(got, "formatted formatted") {
		t.Errorf("a blank one: %s", got)
	}
}
