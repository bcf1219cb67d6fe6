package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fixIn runs a fix on a folder, with programs of the test's in front.
func fixIn(t *testing.T, root, fix string, programs map[string]string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", "fix="+shellQuote(fix)+"\n"+fixScript)
	cmd.Env = append(os.Environ(), "STEAD_ROOT="+root, "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// folder makes files, by path, below a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFixFstab(t *testing.T) {
	const before = "# by hand\n\nUUID=1 / ext4 defaults 0 1\nUUID=2\t/srv  xfs\tnoatime  0 2\nUUID=3 /old ext4 defaults,nofail 0 2\n" +
		"/dev/sdg /data ext4 defaults\nUUID=4 none swap sw 0 0\ntmpfs /tmp tmpfs size=1g 0 0\nUUID=5 /var ext4 defaults 0 2\n"
	want := strings.NewReplacer("xfs\tnoatime", "xfs\tnoatime,nofail", "/data ext4 defaults", "/data ext4 defaults,nofail").Replace(before)
	root := folder(t, map[string]string{"etc/fstab": before})
	for range 2 {
		if out, err := fixIn(t, root, "fstab", nil); err != nil {
			t.Fatal(out, err)
		}
		if got := content(t, root, "etc/fstab"); got != want {
			t.Fatalf("it is\n%s, want\n%s", got, want)
		}
		if got := content(t, root, "etc/fstab.before-stead"); got != before {
			t.Fatalf("it was\n%s", got)
		}
	}
	if out, err := fixIn(t, t.TempDir(), "fstab", nil); err == nil {
		t.Errorf("without one: %s", out)
	}
}

func TestFixSSHD(t *testing.T) {
	takesGood := map[string]string{"sshd": `grep -q good "$3" || { echo "line 1: bad"; exit 255; }`}
	files := map[string]string{"etc/ssh/ssh_host_ed25519_key": "k", "etc/ssh/sshd_config": "bad", "usr/share/openssh/sshd_config": "good"}
	root := folder(t, files)
	for range 2 {
		if out, err := fixIn(t, root, "sshd", takesGood); err != nil {
			t.Fatal(out, err)
		}
		kept, err := filepath.Glob(filepath.Join(root, "etc/ssh/sshd_config.*.before-stead"))
		if err != nil || len(kept) != 1 || content(t, kept[0]) != "bad" || content(t, root, "etc/ssh/sshd_config") != "good" {
			t.Fatalf("kept %v, %v", kept, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the host key is %v, %v", info.Mode(), err)
	}
	// Of several files only the one that is refused goes.
	parts := map[string]string{"etc/ssh/sshd_config": "mine", "etc/ssh/sshd_config.d/1.conf": "fine", "etc/ssh/sshd_config.d/2.conf": "bad", "usr/share/openssh/sshd_config": "good"}
	root = folder(t, parts)
	part := filepath.Join(root, "etc/ssh/sshd_config.d/2.conf")
	if out, err := fixIn(t, root, "sshd", map[string]string{"sshd": `p=$(dirname "$3")/sshd_config.d/2.conf; ! test -e $p || { echo "$p: line 1: bad"; exit 255; }`}); err != nil {
		t.Fatal(out, err)
	}
	if kept, err := filepath.Glob(part + ".*.before-stead"); err != nil || len(kept) != 1 || content(t, root, "etc/ssh/sshd_config") != "mine" || content(t, root, "etc/ssh/sshd_config.d/1.conf") != "fine" {
		t.Errorf("kept %v, %v", kept, err)
	}
	files["usr/share/openssh/sshd_config"] = "bad too"
	root = folder(t, files)
	if out, err := fixIn(t, root, "sshd", takesGood); err == nil || content(t, root, "etc/ssh/sshd_config") != "bad" {
		t.Errorf("both are refused: %s", out)
	}
	// Cut off between the two configurations, neither is lost.
	root = folder(t, map[string]string{"etc/ssh/ssh_host_ed25519_key": "k", "etc/ssh/sshd_config": "bad too", "etc/ssh/sshd_config.stead-refused": "bad", "usr/share/openssh/sshd_config": "bad too"})
	if out, err := fixIn(t, root, "sshd", takesGood); err == nil || content(t, root, "etc/ssh/sshd_config") != "bad" {
		t.Errorf("after it was cut off: %s", out)
	}
}

func TestFixDiskFull(t *testing.T) {
	root := folder(t, map[string]string{"srv/data/big": strings.Repeat("x", 1<<20), "home/a": "mine"})
	log := filepath.Join(t.TempDir(), "log")
	said := map[string]string{"apt-get": "echo apt-get $* >>" + log, "journalctl": "echo journalctl $* >>" + log}
	said["df"] = "echo x; echo disk 9 9 70000 9% /"
	out, err := fixIn(t, root, "disk-full", said)
	if err != nil || !strings.Contains(out, root+"/srv/data") {
		t.Errorf("it says %s, %v", out, err)
	}
	if got := content(t, log); got != "apt-get clean\njournalctl -q --vacuum-size=32M\n" {
		t.Errorf("it ran %s", got)
	}
	if content(t, root, "home/a") != "mine" || len(content(t, root, "srv/data/big")) != 1<<20 {
		t.Error("files were touched")
	}
}

// On a full disk nothing is begun that can't be ended.
func TestFixWithoutRoom(t *testing.T) {
	files := map[string]string{"etc/fstab": "UUID=2 /srv ext4 defaults 0 2\n", "etc/ssh/sshd_config": "bad", "usr/share/openssh/sshd_config": "good"}
	root := folder(t, files)
	cleaned := filepath.Join(t.TempDir(), "cleaned")
	programs := map[string]string{
		"df": `echo x; echo disk 9 9 0 100% /`, "apt-get": "true", "journalctl": "true",
		"sshd": `grep -q good "$3" || { echo "line 1: bad"; exit 255; }`, "ssh-keygen": "true",
	}
	for _, fix := range []string{"fstab", "sshd", "disk-full", "all"} {
		out, err := fixIn(t, root, fix, programs)
		if err == nil || !strings.Contains(out, "stead resize NAME --disk SIZE") {
			t.Errorf("%s: %s, %v", fix, out, err)
		}
	}
	for name, text := range files {
		if got := content(t, root, name); got != text {
			t.Errorf("%s is %q", name, got)
		}
	}
	// With the room that the first of them makes, the others go on.
	programs["df"] = `test -e ` + cleaned + ` && echo disk 9 9 90000 9% / || echo disk 9 9 0 100% /`
	programs["apt-get"] = "touch " + cleaned
	if out, err := fixIn(t, root, "all", programs); err != nil {
		t.Fatal(out, err)
	}
	if got := content(t, root, "etc/fstab") + content(t, root, "etc/ssh/sshd_config"); got != "UUID=2 /srv ext4 defaults,nofail 0 2\ngood" {
		t.Errorf("all left %q", got)
	}
}
