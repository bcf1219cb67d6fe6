package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestMachineKillDaemon kills the daemon of real machines at the calls that
// start, end, empty and fill them. The same command again completes each, the
// data is there, and no process, socket or file too many.
func TestMachineKillDaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	image := r.tiny()
	g := newGate(r)
	strike := func(action string, when moment, args ...string) {
		t.Helper()
		kill := trial{gate: g, action: action, when: when, delay: 2 * time.Millisecond, args: args}
		if !kill.run() {
			t.Fatalf("stead %s never called %s", strings.Join(args, " "), action)
		}
	}
	want := counts{instances: 1, volumes: 2, snapshots: 1, images: 1, addresses: 1, groups: 1}
	intact := func() {
		t.Helper()
		r.check(want)
		r.whole("web")
		if got := r.sh("web", "cat /root/kept /data/kept"); got != "root\ndata" {
			t.Fatalf("the server has %q", got)
		}
	}
	strike("RunInstances", afterCall, "create", "web", "--image", image, "--data", "1", "--type", "t3.nano", "--wait", "running")
	r.waitUntil("the disks are in use", func() bool { return r.answers("web", "grep -q /data /proc/mounts") })
	r.sh("web", "echo root > /root/kept && echo data > /data/kept && sync")
	intact()

	rescues := []struct{ terminate, rescue, by string }{
		{"TerminateInstances", "StopInstances", "swap"},
		{"ModifyInstanceAttribute", "AttachVolume", "swap"},
		{"TerminateInstances", "CreateSnapshot", "snapshot"},
	}
	for k, s := range rescues {
		strike(s.terminate, moment(k%2), "terminate", "web", "--yes")
		strike(s.rescue, afterCall, "rescue", "web", "--by", s.by, "--wait", "running")
		if s.by == "snapshot" {
			want.volumes, want.snapshots, want.images = want.volumes+2, want.snapshots+2, want.images+1
		}
		r.waitUntil("the server answers", func() bool { return r.answers("web", "grep -q /data /proc/mounts") })
		intact()
	}
}
