package cloud

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// A machine whose disk failed is let go on again and again; that its volume isn't
// trusted any more is written down before, and holds until it was read anew.
func TestFailedDiskIsTriedAgainAndNotTrusted(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	id := doomed(t, c, client)
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	doubted := func() bool {
		t.Helper()
		v, err := load[state.Volume](c, job{"volume", testScope, root})
		if err != nil {
			t.Fatal(err)
		}
		return v.Doubted
	}
	why := func() string {
		t.Helper()
		out, err := client.DescribeVolumeStatus(t.Context(), &ec2.DescribeVolumeStatusInput{VolumeIds: []string{root}})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.VolumeStatuses[0].Events) == 0 {
			return ""
		}
		return *out.VolumeStatuses[0].Events[0].Description
	}
	fails := machine.IOError{VolumeID: root, Reason: "Input/output error"}
	m.set(func() { m.state, m.ioErr = machine.Paused, &fails })
	h := c.running.get(id)
	again := func() { // as soon as it was let go on
		h.stopped(fails)
		h.mu.Lock()
		h.still.next = time.Time{} // now
		h.mu.Unlock()
		c.work.kick(job{"instance", testScope, id})
	}
	again()
	eventually(t, "it is let go on", func() bool { _, tries, _ := h.due(); return tries > 0 })
	if !doubted() {
		t.Error("it was let go on before its volume was marked")
	}
	if got := why(); !strings.Contains(got, "tried again") {
		t.Errorf("at first it says %q", got)
	}
	for n := 2; n <= triesInVain; n++ {
		again()
		eventually(t, "it is let go on again", func() bool { _, tries, _ := h.due(); return tries >= n })
	}
	if got := why(); !strings.Contains(got, "stead stop --force") {
		t.Errorf("when that was in vain it says %q", got)
	}

	m.set(func() { m.state, m.ioErr = 0, nil })
	c.work.kick(job{"instance", testScope, id})
	eventually(t, "nothing is said any more", func() bool { return why() == "" })
	for _, end := range []func() error{
		func() error {
			_, err := client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}})
			return err
		},
		func() error {
			waitInstance(t, client, id, types.InstanceStateNameStopped)
			if !doubted() {
				t.Error("it is trusted again before it was read anew")
			}
			_, err := client.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}})
			return err
		},
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	waitInstance(t, client, id, types.InstanceStateNameRunning)
	if doubted() {
		t.Error("it was read anew, and isn't trusted")
	}
}
