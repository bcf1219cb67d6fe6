package image

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// guest is a machine under test, with a QEMU of the test's own: user-mode
// network, metadata by a forwarded port.
type guest struct {
	t       *testing.T
	cmd     *exec.Cmd
	exited  chan struct{}
	console string
	qmp     *bufio.ReadWriter
	address string
	signer  ssh.Signer
}

// disk is a disk of a machine under test. The first is plugged in as sda, the
// next as sdf, sdg and so on.
type disk struct{ path, serial string }

// hotPort is the root port of sdp, which disks that come later are plugged
// into: the last of those with a name.
const hotPort = 15

// metadataServer is instance metadata as the guest asks for it.
type metadataServer struct {
	mu     sync.Mutex
	values map[string]string
	port   string
}

func newMetadata(t *testing.T) *metadataServer {
	t.Helper()
	m := &metadataServer{}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.port = server.URL[strings.LastIndex(server.URL, ":")+1:]
	return m
}

func (m *metadataServer) set(values map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values = values
}

func (m *metadataServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/latest/")
	value, ok := m.values[path]
	switch {
	case r.Method == http.MethodPut && path == "api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
		value = "some-token"
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "some-token":
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	case !ok:
		http.NotFound(w, r)
		return
	case r.Context().Err() != nil: // a guest that hangs up while it waits
		return
	}
	_, _ = w.Write([]byte(value))
}

// boot starts a machine. Without metadata it gets no answer there at all.
func boot(t *testing.T, tiny *Tiny, signer ssh.Signer, metadata *metadataServer, disks ...disk) *guest {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		lacking(t, "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86")
	}
	dir, err := os.MkdirTemp("", "tiny") // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &guest{t: t, console: filepath.Join(dir, "console"), signer: signer, exited: make(chan struct{})}
	g.address = freeAddress(t)
	netdev := "user,id=n,restrict=on,net=169.254.0.0/16,dhcpstart=169.254.0.15,hostfwd=tcp:" + g.address + "-169.254.0.15:22"
	if metadata != nil {
		busybox, err := tool{name: "busybox"}.find()
		if err != nil {
			t.Fatal(err)
		}
		netdev += ",guestfwd=tcp:169.254.169.254:80-cmd:" + busybox + " nc 127.0.0.1 " + metadata.port
	}
	args := []string{
		"-accel", "tcg,tb-size=64", "-cpu", "max,la57=off,svm=off", "-M", "q35", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:" + g.console,
		"-kernel", tiny.Kernel, "-initrd", tiny.Initrd, "-append", tiny.Cmdline,
		"-netdev", netdev, "-device", "virtio-net-pci,netdev=n,romfile=",
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
	}
	for i := range hotPort + 1 {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=port%d,chassis=%d,addr=%#x.%d,multifunction=on", i, i+1, 0x10+i/8, i%8))
	}
	for i, d := range disks {
		port := 0
		if i > 0 {
			port = 4 + i
		}
		id := fmt.Sprintf("d%d", i)
		args = append(args, "-blockdev", "driver=file,discard=unmap,node-name="+id+",filename="+d.path,
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,bus=port%d", id, d.serial, port))
	}
	g.cmd = exec.CommandContext(t.Context(), qemu, args...)
	var output bytes.Buffer
	g.cmd.Stdout, g.cmd.Stderr = &output, &output
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.cmd.Wait(); close(g.exited) }()
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("QEMU: %s\nconsole:\n%s", output.String(), g.log())
		}
	})
	g.connectQMP(filepath.Join(dir, "qmp"))
	return g
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until a condition holds.
func (g *guest) eventually(what string, condition func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			g.t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (g *guest) connectQMP(path string) {
	g.t.Helper()
	var conn net.Conn
	g.eventually("QMP", func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", path)
		return err == nil
	})
	g.t.Cleanup(func() { _ = conn.Close() })
	g.qmp = bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	g.tell("qmp_capabilities", nil)
}

// tell sends a QMP command and fails the test if QEMU refuses it.
func (g *guest) tell(command string, arguments map[string]any) {
	g.t.Helper()
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	if err := json.NewEncoder(g.qmp).Encode(message); err != nil {
		g.t.Fatal(err)
	}
	if err := g.qmp.Flush(); err != nil {
		g.t.Fatal(err)
	}
	for {
		line, err := g.qmp.ReadBytes('\n')
		if err != nil {
			g.t.Fatalf("QMP %s: %v", command, err)
		}
		var answer struct{ Return, Error json.RawMessage }
		if err := json.Unmarshal(line, &answer); err != nil {
			g.t.Fatal(err)
		}
		if answer.Error != nil {
			g.t.Fatalf("QMP %s: %s", command, answer.Error)
		}
		if answer.Return != nil {
			return
		}
	}
}

func (g *guest) log() string {
	data, _ := os.ReadFile(g.console)
	return strings.ReplaceAll(string(data), "\r", "")
}

// logged waits for a line on the console, after it was there count times.
func (g *guest) logged(text string, count int) {
	g.t.Helper()
	g.eventually("console says "+text, func() bool { return strings.Count(g.log(), text) >= count })
}

// kill pulls the plug.
func (g *guest) kill() {
	_ = g.cmd.Process.Kill()
	<-g.exited
}

// gone waits until the machine has gone by itself.
func (g *guest) gone() {
	g.t.Helper()
	start := time.Now()
	select {
	case <-g.exited:
		g.t.Logf("powered off after %.1f s", time.Since(start).Seconds())
	case <-time.After(time.Minute):
		g.t.Fatal("the machine doesn't power off")
	}
}

// hostKeyPattern is the block on the console that tells the host keys.
var hostKeyPattern = regexp.MustCompile(`(?s)-----BEGIN SSH HOST KEY KEYS-----\n(.*?)-----END SSH HOST KEY KEYS-----`)

// hostKeys waits for the boot to get as far as ssh, and returns the host keys
// that the console tells, a line each.
func (g *guest) hostKeys() string {
	g.t.Helper()
	g.logged("STEAD ready", 1)
	blocks := hostKeyPattern.FindStringSubmatch(g.log())
	if blocks == nil {
		g.t.Fatal("the console tells no host keys")
	}
	return blocks[1]
}

// dial logs in, once ssh answers, and trusts only the keys on the console.
func (g *guest) dial(user string) *ssh.Client {
	g.t.Helper()
	keys := g.hostKeys()
	config := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(g.signer)}, Timeout: 10 * time.Second,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))); !strings.Contains(keys, line+" ") {
				return fmt.Errorf("host key %s is not on the console", line)
			}
			return nil
		},
	}
	var client *ssh.Client
	deadline := time.Now().Add(30 * time.Second)
	for {
		var err error
		if client, err = ssh.Dial("tcp", g.address, config); err == nil {
			break
		}
		// Until dropbear listens, the forwarder hangs up.
		if time.Now().After(deadline) || strings.Contains(err.Error(), "authenticate") || strings.Contains(err.Error(), "console") {
			g.t.Fatalf("ssh as %s: %v", user, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	g.t.Cleanup(func() { _ = client.Close() })
	return client
}

// sh runs a command as root and returns what it prints.
func (g *guest) sh(command string) string {
	g.t.Helper()
	out, err := runOver(g.dial("root"), command)
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func runOver(client *ssh.Client, command string) (string, error) {
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

// want fails the test unless a command prints just this.
func (g *guest) want(command, text string) {
	g.t.Helper()
	if got := g.sh(command); got != text {
		g.t.Errorf("%s: got %q, want %q", command, got, text)
	}
}

func newSigner(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

// sparse makes a file of zeros that begins with content.
func sparse(t *testing.T, path string, size int64, content []byte) disk {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return disk{path: path}
}

// TestMachineTiny takes one root disk through the life of a server: a first
// boot that is cut off, a rescue into another instance with a larger disk,
// and a boot without metadata.
func TestMachineTiny(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines")
	}
	dir := t.TempDir()
	tiny := buildTiny(t, TinyOptions{Dir: dir, SizeBytes: 64 << 20})
	signer, authorized := newSigner(t)
	metadata := newMetadata(t)
	root := disk{tiny.Root, "vol00000000000000001"}
	data := sparse(t, filepath.Join(dir, "data"), 128<<20, nil)
	data.serial = "vol00000000000000002"
	// Somebody's disk, without a signature that any tool would know.
	foreign := sparse(t, filepath.Join(dir, "foreign"), 64<<20, bytes.Repeat([]byte("mine "), 100))
	foreign.serial = "vol00000000000000003"
	foreignBefore, err := os.ReadFile(foreign.path)
	if err != nil {
		t.Fatal(err)
	}
	life := &serverLife{tiny: tiny, signer: signer, metadata: metadata, root: root, data: data, foreign: foreign, authorized: authorized}

	t.Run("first boot, cut off", life.firstBoot)
	t.Run("rescue with a larger disk", life.rescue)
	t.Run("clone", life.clone)
	t.Run("no metadata", life.withoutMetadata)

	foreignAfter, err := os.ReadFile(foreign.path)
	if err != nil || !bytes.Equal(foreignBefore, foreignAfter) {
		t.Errorf("a disk that held data was written to (%v)", err)
	}
	command(t, "e2fsck", "-fn", tiny.Root)
	command(t, "e2fsck", "-fn", data.path)
}

// serverLife is what TestMachineTiny's boots have in common.
type serverLife struct {
	tiny                *Tiny
	signer              ssh.Signer
	authorized          string
	metadata            *metadataServer
	root, data, foreign disk
	hostKeys            string
}

func (l *serverLife) firstBoot(t *testing.T) {
	l.metadata.set(map[string]string{
		"meta-data/public-keys/0/openssh-key": l.authorized,
		"meta-data/instance-id":               "i-00000000000000001",
		"meta-data/local-hostname":            "ip-10-0-0-1.ec2.internal",
		"meta-data/block-device-mapping/":     "ami\nebs1\nebs2\nroot",
		"user-data":                           "#!/bin/sh\necho run >>/root/user-data-runs\n",
	})
	g := boot(t, l.tiny, l.signer, l.metadata, l.root, l.data, l.foreign)
	l.hostKeys = g.hostKeys()
	g.logged("STEAD late", 1)
	g.want("hostname", "ip-10-0-0-1")
	g.want("cat /root/user-data-runs", "run")
	g.want("cd /dev; for l in sda xvda1 sdf sdf1 xvdf xvdf1 sdg1; do readlink $l; done", "vda\nvda\nvdb\nvdb\nvdb\nvdb\nvdc")
	g.want("cd /dev/disk/by-id; for l in virtio- nvme-Amazon_Elastic_Block_Store_; do readlink ${l}"+l.data.serial+"; done", "../../vdb\n../../vdb")
	g.want("grep -c '^UUID=.* /data ext4 defaults,nofail ' /etc/fstab", "1")
	g.want("grep -c '^UUID=' /etc/fstab", "1")
	if _, err := runOver(g.dial("ec2-user"), "sudo -n touch /root/by-ec2-user"); err != nil {
		t.Errorf("ec2-user can't become root: %v", err)
	}
	_, err := runOver(g.dial("root"), "exit 42")
	var status *ssh.ExitError
	if !errors.As(err, &status) || status.ExitStatus() != 42 {
		t.Errorf("a command's exit status of 42 came as %v", err)
	}
	g.sh("echo root >/root/file; echo data >/data/file; sync")
	g.kill()
}

func (l *serverLife) rescue(t *testing.T) {
	if err := os.Truncate(l.root.path, 512<<20); err != nil {
		t.Fatal(err)
	}
	l.metadata.set(map[string]string{
		"meta-data/public-keys/0/openssh-key": l.authorized,
		"meta-data/instance-id":               "i-00000000000000002",
		"meta-data/local-hostname":            "ip-10-0-0-2.ec2.internal",
		"meta-data/block-device-mapping/":     "ami\nroot",
	})
	g := boot(t, l.tiny, l.signer, l.metadata, l.root)
	if keys := g.hostKeys(); keys != l.hostKeys || strings.Count(keys, "\n") != 2 {
		t.Errorf("the host keys changed with the instance:\n%s%s", l.hostKeys, keys)
	}
	g.want("cat /root/file /root/user-data-runs; hostname", "root\nrun\nip-10-0-0-1")
	g.want("test $(df -m / | awk 'END{print $2}') -gt 450 && echo grown", "grown")
	g.want("grep -cxF '"+strings.TrimSpace(l.authorized)+"' /root/.ssh/authorized_keys", "1")

	g.plug(l.data)
	g.logged("on /data", 1)
	g.want("cat /data/file; readlink /dev/sdp; readlink /dev/xvdp1", "data\nvdb\nvdb")
	g.want("umount /data && echo free", "free")
	g.unplug()
	g.eventually("the links go", func() bool {
		return g.sh("ls /dev/disk/by-id | grep -c "+l.data.serial+"; ls /dev/sd?") == "0\n/dev/sda"
	})
	g.plug(l.data)
	g.logged("on /data", 2)
	g.want("cat /data/file", "data")
	g.want("grep -c '^UUID=' /etc/fstab", "1")

	g.logged("STEAD late", 1)
	g.tell("system_powerdown", nil)
	g.gone()
}

// cloneUserData makes a mirror of the disks by the names that EC2 knows them by.
const cloneUserData = `#!/bin/sh
# stead: new-identity
# stead: hostname copy
# stead: disks
echo run >>/root/user-data-runs
set -e
blkid /dev/sdf1 /dev/sdg && exit 1
mdadm --create /dev/md/data --run --level=1 --raid-devices=2 --homehost=any --metadata=1.2 /dev/sdf1 /dev/xvdg
mkfs.ext4 -q /dev/md/data 2>/dev/null
mkdir -p /srv /etc/mdadm
mdadm --detail --scan >/etc/mdadm/mdadm.conf
echo "UUID=$(blkid -s UUID -o value /dev/md/data) /srv ext4 defaults,nofail 0 2" >>/etc/fstab
mount /srv
echo mirrored >/srv/file
`

// clone boots a copy of the disk as another server, with disks that its user
// data prepares.
func (l *serverLife) clone(t *testing.T) {
	dir := t.TempDir()
	copied := sparse(t, filepath.Join(dir, "root"), 0, nil)
	command(t, "cp", "--sparse=always", l.root.path, copied.path)
	copied.serial = "vol00000000000000004"
	var blank [2]disk
	for i := range blank {
		blank[i] = sparse(t, filepath.Join(dir, fmt.Sprint("blank", i)), 64<<20, nil)
		blank[i].serial = fmt.Sprint("vol0000000000000000", 5+i)
	}
	l.metadata.set(map[string]string{
		"meta-data/public-keys/0/openssh-key": l.authorized,
		"meta-data/instance-id":               "i-00000000000000003",
		"meta-data/local-hostname":            "ip-10-0-0-3.ec2.internal",
		"meta-data/block-device-mapping/":     "ami\nebs1\nebs2",
		"user-data":                           cloneUserData,
	})
	g := boot(t, l.tiny, l.signer, l.metadata, copied, blank[0], blank[1])
	keys := g.hostKeys()
	for key := range strings.Lines(l.hostKeys) {
		if strings.Contains(keys, strings.Fields(key)[1]) {
			t.Errorf("the clone has its model's host key %s", key)
		}
	}
	g.logged("STEAD late", 1)
	g.want("cat /var/log/user-data.log", "mdadm: array /dev/md/data started.")
	g.want("cat /root/file /root/user-data-runs /srv/file; hostname; umask", "root\nrun\nrun\nmirrored\ncopy\n0022")
	id := g.sh("cat /etc/machine-id")
	_, _ = runOver(g.dial("root"), "reboot") // ends the connection, too
	g.logged("STEAD late", 2)
	if again := g.hostKeys(); again != keys {
		t.Errorf("the clone's host keys changed with a reboot:\n%s%s", keys, again)
	}
	g.want("cat /etc/machine-id /root/user-data-runs /srv/file; hostname; grep -c '^UUID=.* /data' /etc/fstab", id+"\nrun\nrun\nmirrored\ncopy\n1")
}

// plug attaches a disk to the running machine; unplug takes it away again.
func (g *guest) plug(d disk) {
	g.t.Helper()
	g.tell("blockdev-add", map[string]any{"driver": "file", "node-name": "hot", "filename": d.path})
	g.tell("device_add", map[string]any{"driver": "virtio-blk-pci", "id": "hot-disk", "drive": "hot", "serial": d.serial, "bus": fmt.Sprintf("port%d", hotPort)})
}

func (g *guest) unplug() {
	g.t.Helper()
	g.tell("device_del", map[string]any{"id": "hot-disk"})
	for {
		line, err := g.qmp.ReadString('\n')
		if err != nil {
			g.t.Fatal(err)
		}
		if strings.Contains(line, "DEVICE_DELETED") && strings.Contains(line, `"hot-disk"`) {
			break
		}
	}
	g.tell("blockdev-del", map[string]any{"node-name": "hot"})
}

func (l *serverLife) withoutMetadata(t *testing.T) {
	g := boot(t, l.tiny, l.signer, nil, l.root, l.data, l.foreign)
	g.want("cat /root/file /data/file /root/user-data-runs; hostname", "root\ndata\nrun\nip-10-0-0-1")
	_, _ = runOver(g.dial("root"), "reboot") // ends the connection, too
	g.logged("STEAD ready", 2)
	g.want("cat /data/file", "data")
	_, _ = runOver(g.dial("root"), "poweroff")
	g.gone()
}

// TestMachineTinyCutOffAnywhere pulls the plug at moments of the first boot:
// the next boot must always come as far as ssh, with one host key.
func TestMachineTinyCutOffAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines")
	}
	dir := t.TempDir()
	tiny := buildTiny(t, TinyOptions{Dir: dir, SizeBytes: 64 << 20})
	signer, authorized := newSigner(t)
	metadata := newMetadata(t)
	metadata.set(map[string]string{
		"meta-data/public-keys/0/openssh-key": authorized,
		"meta-data/instance-id":               "i-00000000000000001",
		"meta-data/block-device-mapping/":     "ami\nebs1",
	})
	data := sparse(t, filepath.Join(dir, "data"), 128<<20, nil)
	for _, moment := range []string{"STEAD init", "STEAD net", "STEAD formatted", "STEAD mounted", "STEAD ready"} {
		g := boot(t, tiny, signer, metadata, disk{tiny.Root, "vol00000000000000001"}, disk{data.path, "vol00000000000000002"})
		g.logged(moment, 1)
		g.kill()
	}
	g := boot(t, tiny, signer, metadata, disk{tiny.Root, "vol00000000000000001"}, disk{data.path, "vol00000000000000002"})
	g.want("grep -c '^UUID=' /etc/fstab; ls /var/lib/stead/format; grep -c ' /data ' /proc/mounts", "1\n1")
}
