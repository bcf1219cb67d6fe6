package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const bootTime = 2 * time.Minute // without KVM, on a machine that does other things as well

// skip says why a test can't run here; with STEAD_STRICT=1 that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatalf("STEAD_STRICT=1 and would skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// TestMachineNetwork boots Linux in QEMU: its DHCP client, its driver and
// QEMU's framing are what the fake machines of the other tests stand for.
func TestMachineNetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine; not with -short")
	}
	n := newNetwork(t, testConfig())
	go func() {
		_ = http.Serve(n.MetadataListener(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.RemoteAddr[:strings.LastIndex(r.RemoteAddr, ":")])
		}))
	}()
	neighbour := newMachine(t, n, "172.31.16.20", Rule{Protocol: "icmp", FromPort: -1, ToPort: -1, Sources: prefixes("0.0.0.0/0")})
	said, port := bootGuest(t, neighbour.Port)
	if err := n.Attach(port); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"lease 172.31.0.10/20 172.31.0.1 172.31.0.2 ec2.internal ip-172-31-0-10 9001",
		"ok ping -c 1 -W 5 172.31.0.1",
		"ok ping -c 1 -W 5 -s 8900 172.31.16.20",
		"ok nslookup ip-172-31-16-20.ec2.internal",
		"metadata 172.31.0.10",
		"failed nc -w 20 192.0.2.1 80: nc: can't connect to remote host (192.0.2.1): Network is unreachable",
		"ready",
	} {
		if got := heard(t, said); got != want {
			t.Errorf("the guest says %q, want %q", got, want)
		}
	}
	guestEcho(t, n)
	// The daemon dies and a new one attaches the machine that runs on.
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	second := newNetwork(t, testConfig())
	start := time.Now()
	if err := second.Attach(port); err != nil {
		t.Fatal(err)
	}
	p, _ := second.port(port.ID)
	eventually(t, "QEMU's socket to be redialed", p.connected.Load)
	guestEcho(t, second)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the running machine's network is back after %v", took)
	}
}

func guestEcho(t *testing.T, n *Network) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := n.Dial(ctx, netip.MustParseAddrPort("172.31.0.10:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if !answers(c, patience) {
		t.Error("the guest doesn't echo")
	}
}

func heard(t *testing.T, said <-chan string) string {
	t.Helper()
	select {
	case s, ok := <-said:
		if !ok {
			t.Fatal("QEMU ended")
		}
		return s
	case <-time.After(bootTime):
		t.Fatal("timed out waiting for the guest")
	}
	return ""
}

// bootGuest starts QEMU beside another machine's socket. What the guest says
// comes line by line.
func bootGuest(t *testing.T, beside Port) (<-chan string, Port) {
	t.Helper()
	kernel, modules := findKernel(t)
	for _, tool := range []string{"qemu-system-x86_64", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, "%s is not installed", tool)
		}
	}
	dir := filepath.Dir(beside.Socket)
	port := Port{ID: "i-qemu", MAC: "06:00:ac:1f:00:0a", IP: netip.MustParseAddr("172.31.0.10"), Socket: filepath.Join(dir, "q")}
	initrd := filepath.Join(dir, "initrd")
	if out, err := exec.Command("testdata/guest.sh", modules, initrd).CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v: %s", err, out)
	}
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,tb-size=64", "-cpu", "max,la57=off,svm=off", "-m", "128",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1", "-serial", "stdio",
		"-netdev", "stream,id=n0,server=on,addr.type=unix,addr.path="+port.Socket,
		"-device", fmt.Sprintf("virtio-net-pci,netdev=n0,mac=%s,host_mtu=%d,romfile=", port.MAC, defaultMTU))
	cmd.Stderr = t.Output()
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(said)
		for s := bufio.NewScanner(console); s.Scan(); {
			if line, ok := strings.CutPrefix(s.Text(), "GUEST "); ok {
				said <- line
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	return said, port
}

// findKernel takes the Debian cloud kernel that STEAD_TEST_KERNEL names
// (…/boot/vmlinuz-VERSION), or one that a machine test has fetched.
func findKernel(t *testing.T) (kernel, modules string) {
	t.Helper()
	patterns := []string{os.Getenv("STEAD_TEST_KERNEL")}
	if cache, err := os.UserCacheDir(); err == nil {
		for _, dir := range []string{"test-kernel", "test/kernel"} {
			patterns = append(patterns, filepath.Join(cache, "stead", dir, "boot", "vmlinuz-*"))
		}
	}
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			kernel = found[len(found)-1]
			version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
			return kernel, filepath.Join(filepath.Dir(kernel), "..", "lib", "modules", version, "kernel")
		}
	}
	skip(t, "no kernel to boot: run the tests of internal/machine first, or set STEAD_TEST_KERNEL")
	return "", ""
}
