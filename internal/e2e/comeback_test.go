package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// self is what a server knows itself by.
type self struct{ hostname, keys, machineID, note string }

func (r *rig) self(server string) self {
	r.t.Helper()
	const ask = "hostname; cat /etc/dropbear/*.pub | cut -d' ' -f2 | tr '\\n' ' '; echo; cat /etc/machine-id; cat /root/note"
	lines := strings.Split(r.sh(server, ask), "\n")
	if len(lines) != 4 {
		r.t.Fatalf("%s says %q of itself", server, lines)
	}
	return self{lines[0], lines[1], lines[2], lines[3]}
}

func (r *rig) note(server, text string) {
	r.t.Helper()
	r.sh(server, "echo "+text+" > /root/note && sync")
}

// TestMachineComesBack is one root disk that goes on in other machines and in
// other disks: the same server after a rescue and a restore, another one after
// a clone.
func TestMachineComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "web", "--type", "t3.nano", "--wait", "ssh")
	r.note("web", "old")
	first, was := r.show("web"), r.self("web")
	set := r.scheduledSet("web")

	r.stead("terminate", "web", "--yes")
	if res := r.try("rescue", "web", "--by", "replace-root"); res.code != 0 || strings.Contains(res.stderr, "instead") {
		t.Fatalf("rescue: %v", res)
	}
	now := r.show("web")
	if got := r.self("web"); got != was {
		t.Errorf("after the rescue it is %+v, want %+v", got, was)
	}
	if now.InstanceID == first.InstanceID || now.Root != first.Root || now.PrivateIP != first.PrivateIP || now.PublicIP != first.PublicIP || len(now.Warnings) != 0 {
		t.Errorf("before %+v, after the rescue %+v", first, now)
	}
	r.rootStays(now)
	if n := strings.Count(r.stead("volume", "ls"), "vol-"); n != 1 {
		t.Errorf("there are %d volumes: the stub is left", n)
	}

	r.note("web", "new")
	var restored struct {
		Superseded []disk `json:"superseded"`
	}
	r.decode(r.stead("restore", "web", "--set", set, "--yes", "-o", "json"), &restored)
	if got := r.self("web"); got != was {
		t.Errorf("after the restore it is %+v, want %+v", got, was)
	}
	back := r.show("web")
	if len(restored.Superseded) != 1 || restored.Superseded[0] != first.Root || back.Root == first.Root || back.InstanceID != now.InstanceID || back.PrivateIP != now.PrivateIP {
		t.Errorf("the restore left %+v and %+v", restored, back)
	}
	r.rootStays(back)

	r.stead("clone", "web", "twin", "--set", set)
	twin := r.self("twin")
	if twin.hostname != "twin" || twin.note != "old" || twin.machineID == was.machineID || sharesWord(twin.keys, was.keys) {
		t.Errorf("web is %+v, its clone %+v", was, twin)
	}
	if again := r.self("web"); again != was {
		t.Errorf("beside its clone it is %+v, want %+v", again, was)
	}
}

// scheduledSet has the local cloud take a server's snapshots by a schedule, as
// it does when a day has passed in which it was off, and gives the set.
func (r *rig) scheduledSet(server string) string {
	r.t.Helper()
	r.sh(server, "sync")
	r.stead("schedule", server, "--every", "24h", "--keep", "7")
	r.killDaemon()
	db, err := state.Open(filepath.Join(r.data, "state.db"))
	if err != nil {
		r.t.Fatal(err)
	}
	err = db.Update(func(tx *state.Tx) error {
		all, err := state.All[state.LifecyclePolicy](tx)
		if err != nil || len(all) != 1 {
			return fmt.Errorf("there are %d policies: %w", len(all), err)
		}
		at := &all[0].Schedules[0].Handled
		*at = at.Add(-48 * time.Hour)
		return state.Put(tx, all[0])
	})
	if err := errors.Join(err, db.Close()); err != nil {
		r.t.Fatal(err)
	}
	var sets []struct {
		ID, By, State string
		Complete      bool
	}
	r.waitUntil("the schedule's snapshots are complete", func() bool {
		r.decode(r.stead("snapshots", server, "-o", "json"), &sets)
		return len(sets) > 0 && sets[0].State == "completed"
	})
	if len(sets) != 1 || sets[0].By != "schedule" || !sets[0].Complete {
		r.t.Fatalf("the schedule took %+v", sets)
	}
	return sets[0].ID
}

// rootStays checks a root that outlives its instance, and is tagged as what
// it is.
func (r *rig) rootStays(s status) {
	r.t.Helper()
	i := r.instance(s.InstanceID)
	if len(i.BlockDeviceMappings) != 1 || *i.BlockDeviceMappings[0].Ebs.VolumeId != s.Root.VolumeID || *i.BlockDeviceMappings[0].Ebs.DeleteOnTermination {
		r.t.Errorf("instance %s has the disks %+v, want %s alone, kept", s.InstanceID, i.BlockDeviceMappings, s.Root.VolumeID)
	}
	out, err := r.client().DescribeVolumes(r.t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{s.Root.VolumeID}})
	if err != nil {
		r.t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range out.Volumes[0].Tags {
		tags[*tag.Key] = *tag.Value
	}
	for key, want := range map[string]string{"stead:server": "web", "stead:role": "root", "stead:device": *i.RootDeviceName, "stead:private-ip": s.PrivateIP} {
		if tags[key] != want {
			r.t.Errorf("the root's tag %s is %q, want %q", key, tags[key], want)
		}
	}
	if i.State.Name != types.InstanceStateNameRunning {
		r.t.Errorf("instance %s is %s", s.InstanceID, i.State.Name)
	}
}

// sharesWord tells whether two lists have a word in common.
func sharesWord(a, b string) bool {
	for _, word := range strings.Fields(a) {
		if strings.Contains(b, word) {
			return true
		}
	}
	return false
}
