package e2e

import (
	"encoding/json"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// TestMachineSnapshotFrozen has a real guest's file system stand still for a
// snapshot, and go on after it.
func TestMachineSnapshotFrozen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--data", "1", "--type", "t3.nano")
	r.sh("web", "echo kept > /data/file")
	var set server.SnapshotSet
	if err := json.Unmarshal([]byte(r.stead("snapshot", "web", "--data", "--freeze", "--note", "at rest", "-o", "json")), &set); err != nil {
		t.Fatal(err)
	}
	if !set.Complete || !set.Frozen || set.Part != server.RoleData || len(set.Snapshots) != 1 {
		t.Errorf("took %+v", set)
	}
	// Nothing is left of it: the disk takes writes, and no watchdog waits.
	r.sh("web", "echo more >> /data/file && sync && [ ! -e /run/stead-thaw.pid ] && ! ps | grep -q '[f]sfreeze'")
	// What was written before the instant is there, in a file system that needs
	// no repair of its journal.
	v := r.restore(r.client(), set.Snapshots[0].SnapshotID, r.show("web").InstanceID, "/dev/sdp")
	if got := r.sh("web", "cat "+r.mount("web", v)+"/file"); got != "kept" {
		t.Errorf("the snapshot's file says %q", got)
	}
}
