package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMachineMoveToAnotherCloud moves a server that writes all the time from
// one local cloud to another. The command is killed on the way, and repeated.
func TestMachineMoveToAnotherCloud(t *testing.T) {
	t.Parallel()
	near, far := newRig(t), newRig(t)
	lab := far.access()
	near.tiny()
	near.stead("context", "create", "lab", "--endpoint-url", lab.URL, "--region", lab.Region)
	keys := []string{"AWS_ACCESS_KEY_ID=" + lab.ID, "AWS_SECRET_ACCESS_KEY=" + lab.Secret}
	there := func(onStart func(*os.Process), args ...string) result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		return near.finish(near.command(ctx, keys, "stead", args...), onStart)
	}
	near.stead("create", "web", "--data", "1")
	near.sh("web", "dd if=/dev/urandom of=/data/big bs=1M count=40 2>/dev/null; echo kept > /root/kept; sync")
	sum := near.sh("web", "sha256sum /data/big")
	near.sh("web", "(while :; do echo x >> /data/log; sync; done) >/dev/null 2>&1 &")
	near.waitUntil("the server writes", func() bool { return near.answers("web", "test -s /data/log") })

	// What can't be booted there is refused, and the server runs on.
	if res := there(nil, "move", "web", "--to", "lab", "--yes"); res.code != 9 || !strings.Contains(res.stderr, "image build tiny") {
		t.Fatalf("without its kernel there: %v", res)
	}
	far.tiny()
	for _, after := range []time.Duration{300 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second} {
		res := there(func(p *os.Process) { time.AfterFunc(after, func() { _ = p.Kill() }) }, "move", "web", "--to", "lab", "--yes")
		t.Logf("killed after %s: exit code %d", after, res.code)
	}
	lines := near.try("ssh", "web", "--", "wc -l < /data/log").stdout // "" if it is stopped by now
	res := there(nil, "move", "web", "--to", "lab", "--yes")
	if res.code != 0 {
		t.Fatalf("moved: %v", res)
	}
	t.Logf("%s", res.stdout)
	onLab := func(command string) string {
		t.Helper()
		res := there(nil, "--context", "lab", "ssh", "web", "--", command)
		if res.code != 0 {
			t.Fatalf("%s: %v", command, res)
		}
		return strings.TrimSpace(res.stdout)
	}
	if got := onLab("sha256sum /data/big; cat /root/kept"); got != sum+"\nkept" {
		t.Errorf("there it has %q, not %q", got, sum)
	}
	if was := strings.TrimSpace(lines); was != "" && onLab("test $(wc -l < /data/log) -ge "+was+" && echo whole") != "whole" {
		t.Errorf("fewer than %s lines came there", was)
	}
	if near.show("web").State != "stopped" {
		t.Errorf("here it is %s", near.show("web").State)
	}
	near.sameTapes(there)
	if res := there(nil, "move", "web", "--to", "lab", "--release", "--yes"); res.code != 0 {
		t.Fatalf("released: %v", res)
	}
	if got := onLab("sha256sum /data/big"); got != sum {
		t.Errorf("after the release it has %q, not %q", got, sum)
	}
}

// sameTapes compares the snapshots that a server left by with their copies,
// block by block.
func (r *rig) sameTapes(there func(func(*os.Process), ...string) result) {
	r.t.Helper()
	type tape struct {
		ID     string `json:"snapshot_id"`
		Device string `json:"device"`
	}
	type set struct {
		ID        string `json:"id"`
		Snapshots []tape `json:"snapshots"`
	}
	type exported struct {
		Checksum string `json:"checksum"`
		Blocks   int    `json:"blocks"`
	}
	of := func(run func(...string) string) map[string]exported {
		r.t.Helper()
		var sets []set
		r.decode(run("snapshots", "web", "-o", "json"), &sets)
		tapes := map[string]exported{}
		for _, s := range sets {
			if !strings.HasPrefix(s.ID, "move-") {
				continue
			}
			for _, one := range s.Snapshots {
				var e exported
				file := filepath.Join(r.root, one.ID+".raw")
				r.decode(run("blocks", "export", one.ID, file, "-o", "json"), &e)
				if err := os.Remove(file); err != nil {
					r.t.Fatal(err)
				}
				tapes[one.Device] = e
			}
		}
		return tapes
	}
	here := of(func(args ...string) string { return r.stead(args...) })
	copies := of(func(args ...string) string {
		res := there(nil, append([]string{"--context", "lab"}, args...)...)
		if res.code != 0 {
			r.t.Fatalf("%v: %v", args, res)
		}
		return res.stdout
	})
	if len(here) != 2 {
		r.t.Errorf("the server left by %v", here)
	}
	for device, e := range here {
		if copies[device] != e || e.Blocks == 0 {
			r.t.Errorf("%s is %v here and %v there", device, e, copies[device])
		}
	}
}
