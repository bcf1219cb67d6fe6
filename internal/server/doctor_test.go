package server_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// examined are a server's findings by check, the worst of each.
func (b *bench) examined(m *server.Manager, fix bool) map[string]server.Finding {
	b.t.Helper()
	list, err := m.Doctor(context.Background(), server.DoctorOptions{Name: "web", Fix: fix})
	b.check(err)
	byCheck := map[string]server.Finding{}
	for _, f := range list {
		if f.Server != "web" || f.Resource == "" || f.Reason == "" || f.Fixable && !strings.Contains(f.Remedy, "--fix") {
			b.t.Errorf("finding %+v", f)
		}
		if _, seen := byCheck[f.Check]; !seen {
			byCheck[f.Check] = f
		}
	}
	return byCheck
}

// failures are the checks that fail and that nothing has mended.
func failures(list map[string]server.Finding) []string {
	failed := []string{}
	for check, f := range list {
		if f.Severity == server.SeverityFail && !f.Fixed {
			failed = append(failed, check)
		}
	}
	return failed
}

// Trap 1, the doctor's side: a disk that would go with the instance is found,
// with whatever else guards it, and mended without touching what is right.
func TestTrap01DoctorKeepsDisks(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	s, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	if failed := failures(b.examined(m, false)); len(failed) > 0 {
		t.Fatalf("a new server fails %v", failed)
	}
	healthy := b.examined(m, false)
	for check, want := range map[string]server.Severity{"snapshots": server.SeverityWarn, "schedule": server.SeverityWarn, "public-ssh": server.SeverityHint} {
		if healthy[check].Severity != want {
			t.Errorf("%s is %+v", check, healthy[check])
		}
	}

	spoil := func(in *ec2.ModifyInstanceAttributeInput) {
		in.InstanceId = &s.InstanceID
		_, err := b.client.ModifyInstanceAttribute(t.Context(), in)
		b.check(err)
	}
	b.doom("web")
	spoil(&ec2.ModifyInstanceAttributeInput{DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	spoil(&ec2.ModifyInstanceAttributeInput{InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String("terminate")}})
	_, err = b.client.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{s.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:arch")}, {Key: aws.String("stead:role")}}})
	b.check(err)
	list := b.examined(m, false)
	checks := []string{"kept-on-termination", "termination-protection", "tags"}
	if !b.isMoto() { // which takes the attribute, and doesn't tell it
		checks = append(checks, "shutdown-behavior")
	}
	for _, check := range checks {
		if f := list[check]; f.Severity != server.SeverityFail || !f.Fixable || f.Fixed {
			t.Errorf("%s is %+v", check, f)
		}
	}
	if !strings.Contains(list["tags"].Reason, "stead:arch, stead:role") {
		t.Errorf("the tags are %q", list["tags"].Reason)
	}

	k.actions = nil
	list = b.examined(m, true)
	if failed := failures(list); len(failed) > 0 || !list["kept-on-termination"].Fixed {
		t.Errorf("after the repair it fails %v: %+v", failed, list)
	}
	if again := b.examined(m, true); len(failures(again)) > 0 || len(again) != len(healthy) {
		t.Errorf("and then %+v", again)
	}
	b.whole(m, 2)
}

// A disk that is left out is plugged in again, killed at every call.
func TestDoctorPlugsDiskIn(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	s, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	data := s.Data[0].VolumeID
	everyStep(t, k,
		func(int) {
			_, err := b.client.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &data, InstanceId: &s.InstanceID, Device: aws.String("/dev/sdf")})
			b.check(err)
			b.available(data)
			b.doomRoot(s.InstanceID)
			if f := b.examined(m, false)["plugged-in"]; f.Resource != data || !f.Fixable {
				t.Errorf("the disk that is out is %+v", f)
			}
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Doctor(ctx, server.DoctorOptions{Name: "web", Fix: true})
			return err
		},
		func(int) { b.whole(m, 2) })
}

// doomRoot makes the root disk go with its instance.
func (b *bench) doomRoot(instanceID string) {
	b.t.Helper()
	out, err := b.client.DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{InstanceIds: []string{instanceID}})
	b.check(err)
	_, err = b.client.ModifyInstanceAttribute(context.Background(), &ec2.ModifyInstanceAttributeInput{
		InstanceId: &instanceID,
		BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: out.Reservations[0].Instances[0].RootDeviceName, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
		}},
	})
	b.check(err)
}

// Trap 13, without its prices: a disk that a tool made as gp2 is pointed out.
// What is old, incomplete or unfinished is found too, on a server that has no
// instance as well.
func TestTrap13DoctorPointsOutGp2(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	o := b.faultOptions()
	o.Data, o.Raid = []server.DataSpec{{SizeGiB: 1}, {SizeGiB: 1}}, "1"
	s, err := m.Create(t.Context(), o)
	b.check(err)
	old, err := b.client.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: &s.Zone, Size: aws.Int32(1), VolumeType: types.VolumeTypeGp2})
	b.check(err)
	b.available(*old.VolumeId)
	_, err = m.VolumeAttach(t.Context(), *old.VolumeId, "web", "")
	b.check(err)
	_, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	list := b.examined(m, false)
	if f := list["volume-type"]; f.Resource != *old.VolumeId || f.Severity != server.SeverityHint {
		t.Errorf("the gp2 disk is %+v", f)
	}
	if _, found := list["snapshots"]; found {
		t.Error("a new snapshot is none")
	}
	later := server.New(server.Config{EC2: b.client, Region: b.region, Now: func() time.Time { return time.Now().Add(9 * 24 * time.Hour) }})
	if f := b.examined(later, false)["snapshots"]; !strings.Contains(f.Reason, "9 days old") && !strings.Contains(f.Reason, "8 days old") {
		t.Errorf("an old snapshot is %+v", f)
	}

	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	if fired, err := k.killed(2, func(ctx context.Context) error {
		_, err := m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueSwap})
		return err
	}); !fired || err == nil {
		t.Fatal("the rescue wasn't interrupted")
	}
	if f := b.examined(m, false)["unfinished"]; f.Remedy != "stead rescue web" {
		t.Errorf("an interrupted rescue is %+v", f)
	}
	_, err = b.client.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{s.Data[1].VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:server")}}})
	b.check(err)
	if f := b.examined(m, false)["raid"]; f.Severity != server.SeverityFail || !strings.Contains(f.Reason, "lacks disk 2") {
		t.Errorf("an incomplete RAID is %+v", f)
	}
}

// localGuest runs scripts here, with another file for fstab.
type localGuest struct{ fstab string }

func (g localGuest) Run(ctx context.Context, _ *server.Server, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(script, "/etc/fstab", g.fstab))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return string(out), err
}

func TestDoctorMendsFstab(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	_, err := b.manager(b.client).Create(t.Context(), b.faultOptions())
	b.check(err)
	fstab := filepath.Join(t.TempDir(), "fstab")
	const before = `# what is mounted
UUID=1-2 / ext4 defaults 0 1
UUID=1-3	/boot/efi	vfat	defaults	0	2
/dev/nonesuch1 none swap sw 0 0
tmpfs /tmp tmpfs size=1g 0 0
LABEL=data   /data  ext4 defaults,noatime 0 2
UUID=1-4 /srv xfs defaults,nofail 0 2
/dev/xvdz /mnt ext4 noauto
`
	b.check(os.WriteFile(fstab, []byte(before), 0o640))
	m := server.New(server.Config{EC2: b.client, Region: b.region, Guest: localGuest{fstab}})
	list := b.examined(m, false)
	if f := list["fstab-nofail"]; f.Resource != "/etc/fstab: LABEL=data /data" || !f.Fixable {
		t.Errorf("a mount without nofail is %+v", f)
	}
	if f := list["fstab-gone"]; f.Resource != "/etc/fstab: UUID=1-4 /srv" || f.Severity != server.SeverityWarn || !f.Fixable {
		t.Errorf("a mount of a disk that isn't there is %+v", f)
	}
	if f := list["fstab-by-name"]; f.Resource != "/etc/fstab: /dev/xvdz /mnt" || f.Severity != server.SeverityWarn {
		t.Errorf("a mount by name is %+v", f)
	}
	if data, _ := os.ReadFile(fstab); string(data) != before {
		t.Errorf("looking changed it to\n%s", data)
	}
	for range 2 {
		list = b.examined(m, true)
		data, err := os.ReadFile(fstab)
		b.check(err)
		want := strings.Replace(before, "LABEL=data   /data  ext4 defaults,noatime 0 2", "LABEL=data /data ext4 defaults,noatime,nofail 0 2", 1)
		// Nobody knows where LABEL=data is; a UUID that no disk has is gone.
		want = strings.Replace(want, "UUID=1-4 /srv", "# stead: no disk has it: UUID=1-4 /srv", 1)
		if string(data) != want {
			t.Errorf("fstab is\n%s\nwant\n%s", data, want)
		}
	}
	// No disk is at that name, so it has no UUID to take its place.
	if f := list["fstab-by-name"]; f.Fixed || f.Resource == "" {
		t.Errorf("a mount by name is %+v", f)
	}
	if kept, _ := os.ReadFile(fstab + ".before-stead"); string(kept) != before {
		t.Errorf("what was there before is kept as\n%s", kept)
	}
	if info, err := os.Stat(fstab); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	m = server.New(server.Config{EC2: b.client, Region: b.region, Guest: closedGuest{}})
	if f := b.examined(m, true)["inside"]; f.Severity != server.SeverityHint {
		t.Errorf("a server that lets nobody in is %+v", f)
	}
}

// A line whose disk isn't there is none of doctor's business while the server
// lacks a disk of its own: that may be the one.
func TestDoctorKeepsLinesOfUnpluggedDisks(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	o := b.faultOptions()
	s, err := b.manager(b.client).Create(t.Context(), o)
	b.check(err)
	if len(s.Data) == 0 {
		t.Fatal("the server has no data disk")
	}
	fstab := filepath.Join(t.TempDir(), "fstab")
	const before = "UUID=1-4 /srv xfs defaults,nofail 0 2\n"
	b.check(os.WriteFile(fstab, []byte(before), 0o640))
	_, err = b.client.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &s.Data[0].VolumeID, InstanceId: &s.InstanceID, Device: &s.Data[0].Device})
	b.check(err)
	b.available(s.Data[0].VolumeID)
	m := server.New(server.Config{EC2: b.client, Region: b.region, Guest: localGuest{fstab}})
	for range 2 { // the first plugs it in
		list := b.examined(m, true)
		if data, _ := os.ReadFile(fstab); list["plugged-in"].Resource != "" && string(data) != before {
			t.Errorf("fstab is now\n%s", data)
		}
	}
	if data, _ := os.ReadFile(fstab); !strings.HasPrefix(string(data), "# stead: no disk has it: ") {
		t.Errorf("with all disks there it is\n%s", data)
	}
}

// closedGuest lets nobody in.
type closedGuest struct{}

func (closedGuest) Run(context.Context, *server.Server, string) (string, error) {
	return "", fmt.Errorf("connection refused")
}
