package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// guestBox is a server's system as far as the disks' script sees it: files for
// disks, and tools that only pretend where they would touch this machine.
type guestBox struct {
	t    *testing.T
	root string
	bin  string
}

// tick is put before each tool: the script is killed after the tool that the
// test chose, as by a power cut.
const tick = `#!/bin/sh
die() {
	[ -n "$KILL_AT" ] || return 0
	n=$(($(cat "$STEAD_ROOT/ticks" 2>/dev/null || echo 0) + 1))
	echo $n >"$STEAD_ROOT/ticks"
	[ $n -ne $KILL_AT ] || kill -9 0
}
`

func newGuestBox(t *testing.T) *guestBox {
	t.Helper()
	for _, tool := range []string{"blkid", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	dir := t.TempDir()
	g := &guestBox{t: t, root: filepath.Join(dir, "root"), bin: filepath.Join(dir, "bin")}
	for _, d := range []string{"dev", "proc", "etc/udev/rules.d", "etc/mdadm", "etc/cloud/cloud.cfg.d", "sys/class/block", "sys/block", "run"} {
		g.must(os.MkdirAll(filepath.Join(g.root, d), 0o755))
	}
	g.must(os.MkdirAll(g.bin, 0o755))
	g.write("etc/fstab", "UUID=0-0 / ext4 defaults 0 1\n")
	g.write("proc/mounts", "/dev/vda1 / ext4 rw 0 0\n")
	for name, script := range map[string]string{
		"sync": "", "systemctl": "", "modprobe": "", "apt-get": "exit 1", "dnf": "exit 1", "yum": "exit 1", "zypper": "exit 1",
		"update-initramfs": `echo ran >"$STEAD_ROOT/initramfs"`,
		"sleep":            "",
		"mount":            `echo "$3 $4 $2 rw 0 0" >>"$STEAD_ROOT/proc/mounts"; die`,
		"mv":               `/bin/mv "$@"; die`,
		"mkfs.ext4":        `PATH=/usr/sbin:/sbin:/usr/bin:/bin mkfs.ext4 -O ^has_journal "$@" || exit 1; die`,
		"mdadm":            fakeMdadm,
	} {
		g.must(os.WriteFile(filepath.Join(g.bin, name), []byte(tick+script+"\n"), 0o755))
	}
	return g
}

// fakeMdadm joins files: their UUID is beside them, and the array is a file of
// its own.
const fakeMdadm = `
for a; do case $a in --uuid=*) uuid=${a#*=} ;; esac; done
array() { mkdir -p "$STEAD_ROOT/sys/block/md127" "$STEAD_ROOT/sys/class/block/md127"; echo 2097152 >"$STEAD_ROOT/sys/class/block/md127/size"; }
case $1 in
--detail) [ -e "$2.uuid" ] && echo "MD_UUID=$(cat "$2.uuid")" ;;
--examine) [ -e "$2.md" ] && echo "MD_UUID=$(cat "$2.md")" ;;
--assemble)
	shift 3
	for d; do [ "$(cat "$d.md" 2>/dev/null)" = "$uuid" ] || exit 1; done
	array; truncate -s 1G "$STEAD_ROOT/dev/md127"; echo "$uuid" >"$STEAD_ROOT/dev/md127.uuid" ;;
--create)
	echo "$@" >>"$STEAD_ROOT/created"
	for d; do case $d in */dev/vd*)
		echo "$uuid" >"$d.md"
		printf member | dd of="$d" bs=1 seek=4096 conv=notrunc 2>/dev/null
		die ;; esac
	done
	array; truncate -s 1G "$STEAD_ROOT/dev/md127"; echo "$uuid" >"$STEAD_ROOT/dev/md127.uuid"
	die ;;
esac
`

func (g *guestBox) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guestBox) write(path, text string) {
	g.t.Helper()
	path = filepath.Join(g.root, path)
	g.must(os.MkdirAll(filepath.Dir(path), 0o755))
	g.must(os.WriteFile(path, []byte(text), 0o644))
}

func (g *guestBox) read(path string) string {
	b, _ := os.ReadFile(filepath.Join(g.root, path))
	return string(b)
}

// disk plugs a blank disk in; link is the name that the system has for it.
func (g *guestBox) disk(name string, gib int64, link string) {
	g.t.Helper()
	path := filepath.Join(g.root, "dev", name)
	f, err := os.Create(path)
	g.must(err)
	g.must(f.Truncate(gib << 30))
	g.must(f.Close())
	g.write("sys/class/block/"+name+"/size", fmt.Sprintln(gib<<21))
	g.write("sys/class/block/"+name+"/serial", "vol-"+name+"\n")
	if link != "" {
		g.must(os.Symlink(name, filepath.Join(g.root, "dev", link)))
	}
}

// run runs the script as at the first boot.
func (g *guestBox) run(s diskSetup, env ...string) (string, error) {
	g.t.Helper()
	return g.runScript(s.script(), env...)
}

func (g *guestBox) runScript(script string, env ...string) (string, error) {
	cmd := exec.Command("/bin/sh", "-s")
	cmd.Stdin = strings.NewReader(script + "main\n")
	cmd.Env = append([]string{"PATH=" + g.bin + ":/usr/bin:/bin", "STEAD_ROOT=" + g.root, "STEAD_TRIES=2"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what kills it kills the group
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// whole checks that each disk is formatted, in fstab by its UUID, and mounted.
func (g *guestBox) whole(dirs map[string]string) {
	g.t.Helper()
	fstab := g.read("etc/fstab")
	for dev, dir := range dirs {
		uuid := g.uuid(dev)
		if uuid == "" || strings.Count(fstab, "UUID="+uuid+" "+dir+" ext4 defaults,nofail 0 2\n") != 1 {
			g.t.Errorf("%s has UUID %q; fstab is\n%s", dev, uuid, fstab)
		}
		if n := strings.Count(g.read("proc/mounts"), " "+dir+" ext4"); n != 1 {
			g.t.Errorf("%s is mounted %d times", dir, n)
		}
	}
	if n := strings.Count(fstab, "\n"); n != 1+len(dirs) {
		g.t.Errorf("fstab has %d lines:\n%s", n, fstab)
	}
}

func (g *guestBox) uuid(dev string) string {
	out, _ := exec.Command("blkid", "-p", "-s", "UUID", "-o", "value", filepath.Join(g.root, "dev", dev)).Output()
	return strings.TrimSpace(string(out))
}

func twoDisks() diskSetup {
	return diskSetup{FS: fsExt4, Mount: "/srv", Disks: []setupDisk{{"/dev/sdf", 1}, {"/dev/sdg", 2}}}
}

// Disks come in any order under any name: they are told apart by EC2's own
// device names or their size, noted by UUID and with nofail.
func TestTrap08DisksAreMountedByUUID(t *testing.T) {
	g := newGuestBox(t)
	g.disk("vdc", 1, "sdf")
	g.disk("vdb", 2, "xvdg")
	if out, err := g.run(twoDisks()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.whole(map[string]string{"vdc": "/srv", "vdb": "/srv2"})
	if cfg := g.read("etc/cloud/cloud.cfg.d/99-stead.cfg"); !strings.Contains(cfg, "ssh_deletekeys: false\n") || !strings.Contains(cfg, "preserve_hostname: true\n") {
		t.Errorf("cloud-init is told %q", cfg)
	}
	was := g.uuid("vdc") + g.uuid("vdb")
	if out, err := g.run(twoDisks()); err != nil {
		t.Fatalf("repeated: %v\n%s", err, out)
	}
	g.whole(map[string]string{"vdc": "/srv", "vdb": "/srv2"})
	if g.uuid("vdc")+g.uuid("vdb") != was {
		t.Error("formatted again")
	}
}

func TestDisksWithoutNamesAreToldBySize(t *testing.T) {
	g := newGuestBox(t)
	g.disk("vdb", 2, "")
	g.disk("vdc", 1, "")
	g.disk("vdd", 5, "") // somebody else's
	if out, err := g.run(twoDisks()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.whole(map[string]string{"vdc": "/srv", "vdb": "/srv2"})
	for _, name := range []string{"sdf", "sdf1"} {
		if to, _ := os.Readlink(filepath.Join(g.root, "dev", name)); to != "vdc" {
			t.Errorf("/dev/%s leads to %q", name, to)
		}
		if want := `ATTRS{serial}=="vol-vdc", SYMLINK+="` + name + `"`; !strings.Contains(g.read("etc/udev/rules.d/70-stead-disks.rules"), want) {
			t.Errorf("no rule %s in\n%s", want, g.read("etc/udev/rules.d/70-stead-disks.rules"))
		}
	}
}

// Whatever a disk holds, it is left as it is, and the script says so.
func TestDataIsNeverFormatted(t *testing.T) {
	for what, spoil := range map[string]func(path string) error{
		"a byte in its first MiBs": func(path string) error { return poke(path, 3<<20, "x") },
		"a byte at its end":        func(path string) error { return poke(path, 1<<30-1, "x") },
		"a file system":            func(path string) error { return exec.Command("mkfs.ext4", "-q", "-F", path).Run() },
		"a partition table":        func(path string) error { return poke(path, 510, "\x55\xaa") },
	} {
		t.Run(what, func(t *testing.T) {
			g := newGuestBox(t)
			g.disk("vdb", 1, "sdf")
			g.disk("vdc", 2, "sdg")
			path := filepath.Join(g.root, "dev/vdb")
			g.must(spoil(path))
			before, err := os.Stat(path)
			g.must(err)
			out, err := g.run(twoDisks())
			if err == nil || !strings.Contains(out, "isn't blank") {
				t.Errorf("%v\n%s", err, out)
			}
			after, err := os.Stat(path)
			g.must(err)
			if !before.ModTime().Equal(after.ModTime()) || strings.Count(g.read("etc/fstab"), "\n") != 1 {
				t.Errorf("the disk or fstab was changed:\n%s", g.read("etc/fstab"))
			}
		})
	}
}

// An image that was made of another server brings along what its root noted of
// its own disks. Blank disks are formatted all the same, and what was noted of
// the others goes; a disk that came with the image is mounted as it is.
func TestDisksOfAnotherServersImage(t *testing.T) {
	for name, s := range map[string]diskSetup{
		"single": twoDisks(),
		"raid":   {Raid: "1", FS: fsExt4, Mount: "/srv", Disks: []setupDisk{{"/dev/sdf", 1}, {"/dev/sdg", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuestBox(t)
			plugIn := func() {
				for k, dev := range []string{"vdb", "vdc"} {
					link := []string{"sdf", "sdg"}[k]
					g.must(os.RemoveAll(filepath.Join(g.root, "dev", link)))
					_ = os.Remove(filepath.Join(g.root, "dev", dev+".md")) // the array's, where there is one
					g.disk(dev, int64(s.Disks[k].GiB), link)
				}
				for _, gone := range []string{"sys/block/md127", "sys/class/block/md127", "dev/md127", "dev/md127.uuid"} {
					g.must(os.RemoveAll(filepath.Join(g.root, gone)))
				}
				g.write("proc/mounts", "/dev/vda1 / ext4 rw 0 0\n")
			}
			want := map[string]string{"vdb": "/srv", "vdc": "/srv2"}
			if s.Raid != "" {
				want = map[string]string{"md127": "/srv"}
			}
			for range 2 { // the second is another server's first boot
				plugIn()
				if out, err := g.run(s); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				g.whole(want)
			}
			if s.Raid != "" {
				g.checkArray()
				return
			}
			first := g.uuid("vdb")
			disk, kept := filepath.Join(g.root, "dev/vdb"), filepath.Join(t.TempDir(), "vdb")
			g.must(os.Rename(disk, kept))
			plugIn()
			g.must(os.Rename(kept, disk))
			if out, err := g.run(s); err != nil {
				t.Fatalf("with one of the disks: %v\n%s", err, out)
			}
			g.whole(want)
			if g.uuid("vdb") != first {
				t.Error("a disk that came with the image was formatted")
			}
		})
	}
}

func poke(path string, at int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close())
}

// Cut off after any step and run again, the script ends with the same disks.
func TestDiskSetupKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]diskSetup{
		"single": twoDisks(),
		"raid":   {Raid: "1", FS: fsExt4, Mount: "/srv", Disks: []setupDisk{{"/dev/sdf", 1}, {"/dev/sdg", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				g := newGuestBox(t)
				g.disk("vdb", int64(s.Disks[0].GiB), "sdf")
				g.disk("vdc", int64(s.Disks[1].GiB), "sdg")
				out, err := g.run(s, fmt.Sprintf("KILL_AT=%d", at))
				killed := err != nil
				if killed {
					out, err = g.run(s)
				} else if at < 5 {
					t.Fatalf("only %d steps", at)
				}
				if err != nil {
					t.Fatalf("killed after step %d: %v\n%s", at, err, out)
				}
				if s.Raid != "" {
					g.whole(map[string]string{"md127": "/srv"})
					g.checkArray()
				} else {
					g.whole(map[string]string{"vdb": "/srv", "vdc": "/srv2"})
				}
				if t.Failed() {
					t.Fatalf("killed after step %d:\n%s", at, out)
				}
				if !killed {
					return
				}
			}
		})
	}
}

func (g *guestBox) checkArray() {
	g.t.Helper()
	made := strings.Split(strings.TrimSpace(g.read("created")), "\n")
	if !regexp.MustCompile(`--homehost=any --name=data --uuid=[0-9a-f]{32} --level=1 --bitmap=internal --raid-devices=2 --assume-clean \S+/vdb \S+/vdc$`).MatchString(made[len(made)-1]) {
		g.t.Errorf("mdadm was called with %q", made)
	}
	if conf := g.read("etc/mdadm/mdadm.conf"); !regexp.MustCompile(`^ARRAY /dev/md/data metadata=1.2 UUID=([0-9a-f]{8}:){3}[0-9a-f]{8}\n$`).MatchString(conf) {
		g.t.Errorf("mdadm.conf is %q", conf)
	}
}

// A tool that the image lacks and can't get is said, and nothing is touched.
func TestMissingToolIsSaid(t *testing.T) {
	g := newGuestBox(t)
	g.disk("vdb", 1, "sdf")
	g.disk("vdc", 2, "sdg")
	s := twoDisks()
	s.FS = fsXFS
	const sbin = ":/usr/local/sbin:/usr/sbin:/sbin" // where this machine may have it
	script := strings.ReplaceAll(s.script(), sbin, "")
	out, err := g.runScript(script)
	if script == s.script() {
		t.Errorf("the script looks for tools elsewhere than in %s", sbin)
	}
	if err == nil || !strings.Contains(out, "FAILED: this image has no mkfs.xfs") || g.uuid("vdb") != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// The user's own user data is kept, whatever kind it is.
func TestBootDataKeepsUserData(t *testing.T) {
	s := twoDisks()
	for _, own := range []string{"#cloud-config\npackages: [nginx]\n", "#include\nhttp://127.0.0.1/x\n", "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/cloud-config\n\n#cloud-config\n\n--b--\n"} {
		all, err := bootData(s, []byte(own), true)
		if err != nil {
			t.Fatal(err)
		}
		parts := mimeParts(t, string(all))
		if len(parts) != 2 || !strings.HasPrefix(parts[0], "#!/bin/sh\n# stead: disks\n") || !strings.HasSuffix(parts[0], "\nmain\n") {
			t.Errorf("%q became %q", own, parts)
		}
		body := own
		if strings.HasPrefix(own, "Content-Type") {
			_, body, _ = strings.Cut(own, "\n\n")
		}
		if strings.TrimSpace(parts[1]) != strings.TrimSpace(body) {
			t.Errorf("%q became %q", own, parts[1])
		}
	}
	if all, err := bootData(diskSetup{}, []byte(`{"ignition": {}}`), true); err != nil || string(all) != `{"ignition": {}}` {
		t.Errorf("what nobody knows became %q, %v", all, err)
	}
	if _, err := bootData(s, []byte(`{"ignition": {}}`), true); KindOf(err) != KindUsage {
		t.Errorf("data disks beside it: %v, want a usage error", err)
	}
}

func mimeParts(t *testing.T, text string) []string {
	t.Helper()
	msg, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	r := multipart.NewReader(msg.Body, params["boundary"])
	for {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, string(body))
	}
}

// A script of the user's runs after the disks are there, unchanged, and not
// without them.
func TestUserScriptRunsAfterTheDisks(t *testing.T) {
	for what, own := range map[string]string{
		"text":   "#!/bin/sh\necho \"$0 'ran'\"; ls /srv\\n",
		"binary": "#!/bin/sh\necho \"$0 'ran'\"; exit 7\n\x00\xff\n",
	} {
		t.Run(what, func(t *testing.T) {
			g := newGuestBox(t)
			all, err := bootData(diskSetup{FS: fsExt4, Mount: "/srv", Disks: []setupDisk{{"/dev/sdf", 1}}}, []byte(own), false)
			if err != nil {
				t.Fatal(err)
			}
			// It is kept at a fixed place, which here is the test's.
			text := strings.ReplaceAll(string(all), "own=/var/lib/stead/user-data", "own="+g.root+"/var/lib/stead/user-data")
			run := func() (string, error) {
				cmd := exec.Command("/bin/sh", "-s")
				cmd.Stdin = strings.NewReader(text)
				cmd.Env = []string{"PATH=" + g.bin + ":/usr/bin:/bin", "STEAD_ROOT=" + g.root, "STEAD_TRIES=2"}
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if out, err := run(); err == nil || !strings.Contains(out, "the user data wasn't run") || strings.Contains(out, "'ran'") {
				t.Errorf("without its disk: %v\n%s", err, out)
			}
			g.disk("vdb", 1, "sdf")
			if out, _ := run(); !strings.Contains(out, "user-data 'ran'") {
				t.Errorf("it didn't run:\n%s", out)
			}
			if kept := g.read("var/lib/stead/user-data"); strings.TrimSuffix(kept, "\n") != strings.TrimSuffix(own, "\n") {
				t.Errorf("kept as %q", kept)
			}
			g.whole(map[string]string{"vdb": "/srv"})
		})
	}
}

// What is too long is compressed where that is understood, and else refused.
func TestBootDataFits(t *testing.T) {
	long := "#!/bin/sh\n" + strings.Repeat("echo the same again\n", 700)
	all, err := bootData(twoDisks(), []byte(long), true)
	if err != nil || len(all) > maxUserData {
		t.Fatalf("%d bytes, %v", len(all), err)
	}
	r, err := gzip.NewReader(bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || !strings.Contains(string(text), "echo the same again") {
		t.Errorf("it unpacks to %d bytes, %v", len(text), err)
	}
	if _, err := bootData(twoDisks(), []byte(long), false); KindOf(err) != KindUsage {
		t.Errorf("where nobody unpacks it: %v, want a usage error", err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	fmt.Fprint(w, "#!/bin/sh\necho hello\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := bootData(twoDisks(), packed.Bytes(), true); err != nil || !strings.Contains(string(all), "\necho hello\n") {
		t.Errorf("compressed user data became %q, %v", all, err)
	}
}
