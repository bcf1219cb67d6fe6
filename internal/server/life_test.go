package server_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPtu6W0cYVUG6B2lBF3Xb4Qq4XuXfBdBNqUaXKBVCyX me@here"

func (b *bench) webOptions() server.CreateOptions {
	ports, err := server.ParsePorts("22,80")
	b.check(err)
	return server.CreateOptions{Name: "web", Image: b.imageID, Type: "t3.small", DiskGiB: 20, Data: []server.DataSpec{{SizeGiB: 10}, {SizeGiB: 5}}, Key: []byte(publicKey), Open: ports, User: "me"}
}

// disks lists a server's volume IDs, the root's first.
func disks(s *server.Server) []string {
	ids := []string{s.Root.VolumeID}
	for _, d := range s.Data {
		ids = append(ids, d.VolumeID)
	}
	return ids
}

func TestLife(t *testing.T) {
	t.Parallel()
	onBoth(t, testLife)
}

func testLife(t *testing.T, b *bench, _ *killer) {
	m := b.manager(b.client)
	ctx := t.Context()

	web, err := m.Create(ctx, b.webOptions())
	if err != nil {
		t.Fatal(err)
	}
	if web.State != server.StateRunning || !web.Protected || web.Type != "t3.small" || web.SSH.User != "me" || len(web.Warnings) != 0 {
		t.Errorf("created %+v", web)
	}
	if web.Root.SizeGiB != 20 || len(web.Data) != 2 || web.Data[0].SizeGiB != 10 || web.Data[0].Device != "/dev/sdf" || web.Data[1].Device != "/dev/sdg" {
		t.Errorf("disks are %+v and %+v", web.Root, web.Data)
	}
	if web.ElasticIP == "" || web.PublicIP == "" {
		t.Errorf("no fixed address: %+v", web)
	}
	b.checkAttributes(web.InstanceID)
	if _, err := m.Create(ctx, b.webOptions()); !errors.Is(err, server.ErrExists) {
		t.Errorf("creating it twice: %v, want ErrExists", err)
	}
	if _, err := m.Rescue(ctx, "web", server.RescueOptions{}); !errors.Is(err, server.ErrExists) {
		t.Errorf("rescuing a running server: %v, want ErrExists", err)
	}

	if s, err := m.Stop(ctx, "web", false); err != nil || s.State != server.StateStopped {
		t.Errorf("stop: %v, %v", s, err)
	}
	if s, err := m.Start(ctx, "web", server.WaitSSH); err != nil || s.State != server.StateRunning {
		t.Errorf("start: %v, %v", s, err)
	}

	gone, err := m.Terminate(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	kept := []string{}
	for _, d := range gone.Kept {
		kept = append(kept, d.VolumeID)
		if d.State != "available" {
			t.Errorf("disk %s is %s", d.VolumeID, d.State)
		}
	}
	if !slices.Equal(kept, disks(web)) {
		t.Errorf("kept %v of %v", kept, disks(web))
	}
	if s, err := m.Get(ctx, "web"); err != nil || s.State != server.StateDetached || s.Type != "t3.small" || !slices.Equal(s.Open, []string{"22", "80"}) {
		t.Errorf("detached it is %+v, %v", s, err)
	}
	if again, err := m.Terminate(ctx, "web"); err != nil || len(again.Kept) != 3 {
		t.Errorf("terminating twice: %+v, %v", again, err)
	}
	if _, err := m.Create(ctx, b.webOptions()); !errors.Is(err, server.ErrExists) {
		t.Errorf("creating over kept disks: %v, want ErrExists", err)
	}

	swapped := b.rescueSwap(m, web)
	b.rescueSnapshot(m, swapped)
}

// checkAttributes looks at the instance itself, by other means than the code.
func (b *bench) checkAttributes(id string) {
	b.t.Helper()
	out, err := b.client.DescribeInstanceAttribute(b.t.Context(), &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: types.InstanceAttributeNameDisableApiTermination})
	b.check(err)
	if !aws.ToBool(out.DisableApiTermination.Value) {
		b.t.Error("instance may be terminated by anyone")
	}
	inst, err := b.client.DescribeInstances(b.t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	b.check(err)
	for _, bdm := range inst.Reservations[0].Instances[0].BlockDeviceMappings {
		if aws.ToBool(bdm.Ebs.DeleteOnTermination) {
			b.t.Errorf("%s goes with the instance", *bdm.DeviceName)
		}
	}
	if step := tag(inst.Reservations[0].Instances[0].Tags, "stead:step"); step != "" {
		b.t.Errorf("step %q is left", step)
	}
}

func (b *bench) rescueSwap(m *server.Manager, old *server.Server) *server.Server {
	b.t.Helper()
	r, err := m.Rescue(b.t.Context(), "web", server.RescueOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	s := r.Server
	if r.By != server.RescueSwap || s.State != server.StateRunning || s.InstanceID == old.InstanceID {
		b.t.Errorf("rescued %+v", r)
	}
	if !slices.Equal(disks(s), disks(old)) || s.Data[0].Device != "/dev/sdf" {
		b.t.Errorf("disks are %v, were %v", disks(s), disks(old))
	}
	if s.ElasticIP != old.ElasticIP || s.PublicIP != old.PublicIP {
		b.t.Errorf("address was %s %s, is %s %s", old.ElasticIP, old.PublicIP, s.ElasticIP, s.PublicIP)
	}
	b.checkAttributes(s.InstanceID)
	inv := b.inventory()
	if len(inv.live) != 1 || len(inv.volumes) != 3 || len(inv.addresses) != 1 || inv.groups != 1 {
		b.t.Errorf("left over: %d instances, volumes %v, %d addresses", len(inv.live), slices.Collect(maps.Keys(inv.volumes)), len(inv.addresses))
	}
	return s
}

func (b *bench) rescueSnapshot(m *server.Manager, old *server.Server) {
	b.t.Helper()
	_, err := m.Terminate(b.t.Context(), "web")
	b.check(err)
	r, err := m.Rescue(b.t.Context(), "web", server.RescueOptions{By: server.RescueSnapshot})
	if err != nil {
		b.t.Fatal(err)
	}
	s := r.Server
	if r.By != server.RescueSnapshot || s.State != server.StateRunning || len(s.Warnings) != 0 || len(s.Data) != 2 {
		b.t.Errorf("rescued %+v", s)
	}
	for _, id := range disks(s) {
		if slices.Contains(disks(old), id) {
			b.t.Errorf("disk %s is an old one", id)
		}
	}
	if len(r.Superseded) != 3 || s.Type != "t3.small" || s.SSH.User != "me" || s.PublicIP != old.PublicIP {
		b.t.Errorf("rescued %+v with %v superseded", s, r.Superseded)
	}
	b.checkAttributes(s.InstanceID)
	list, err := m.List(b.t.Context())
	b.check(err)
	if len(list) != 1 {
		b.t.Errorf("ls shows %d servers", len(list))
	}
	if inv := b.inventory(); len(inv.live) != 1 || len(inv.volumes) != 6 || inv.snapshots != 3 || len(inv.images) != 1 {
		b.t.Errorf("left over: %d instances, %d volumes, %d snapshots, images %v", len(inv.live), len(inv.volumes), inv.snapshots, inv.images)
	}
	// Terminated again, the server is its new disks.
	gone, err := m.Terminate(b.t.Context(), "web")
	b.check(err)
	if len(gone.Kept) != 3 || gone.Kept[0].VolumeID != s.Root.VolumeID {
		b.t.Errorf("kept %+v", gone.Kept)
	}
}

func TestSnapshotsAndLostDisks(t *testing.T) {
	t.Parallel()
	onBoth(t, testSnapshotsAndLostDisks)
}

func testSnapshotsAndLostDisks(t *testing.T, b *bench, _ *killer) {
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.webOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true) // a cloud without machines snapshots no running one
	b.check(err)
	set, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Note: "before the upgrade", Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	if !set.Complete || set.State != "completed" || len(set.Snapshots) != 3 || set.Snapshots[0].Role != server.RoleRoot || set.Note != "before the upgrade" {
		t.Errorf("took %+v", set)
	}
	if _, err := m.Snapshot(ctx, "web", server.SnapshotOptions{Note: "50% <b>"}); !errors.Is(err, server.ErrUsage) {
		t.Errorf("a note that no tag takes: %v, want ErrUsage", err)
	}
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	for _, id := range disks(web) {
		_, err := b.client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		b.check(err)
	}
	if _, err := m.Get(ctx, "web"); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("without disks: %v, want ErrNotFound", err)
	}
	if _, err := m.Rescue(ctx, "web", server.RescueOptions{}); !errors.Is(err, server.ErrProtected) || !strings.Contains(server.Remedy(err), "--set "+set.ID) {
		t.Errorf("a rescue whose disks are gone: %v (%s), want an offer of set %s", err, server.Remedy(err), set.ID)
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{Set: set.ID})
	if err != nil {
		t.Fatal(err)
	}
	if r.Set != set.ID || len(r.Server.Data) != 2 || r.Server.Type != "t3.small" {
		t.Errorf("came back as %+v from %s, want set %s", r.Server, r.Set, set.ID)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	o := b.webOptions()
	o.Data = nil
	web, err := m.Create(ctx, o)
	b.check(err)
	d, err := m.VolumeCreate(ctx, server.VolumeOptions{Server: "web", SizeGiB: 7})
	if err != nil {
		t.Fatal(err)
	}
	if d.InstanceID != web.InstanceID || d.Device != "/dev/sdf" || !d.KeptOnTermination || d.Role != server.RoleData {
		t.Errorf("made %+v", d)
	}
	if _, err := m.VolumeCreate(ctx, server.VolumeOptions{Server: "web", SizeGiB: 7, Device: "/dev/sdf"}); !errors.Is(err, server.ErrExists) {
		t.Errorf("a device twice: %v, want ErrExists", err)
	}
	if _, err := m.VolumeDetach(ctx, web.Root.VolumeID, false); !errors.Is(err, server.ErrProtected) {
		t.Errorf("detaching the root: %v, want ErrProtected", err)
	}
	out, err := m.VolumeDetach(ctx, d.VolumeID, false)
	if err != nil || out.InstanceID != "" || out.Server != "" {
		t.Errorf("detached %+v, %v", out, err)
	}
	if s, err := m.Get(ctx, "web"); err != nil || len(s.Data) != 0 {
		t.Errorf("after detaching: %+v, %v", s, err)
	}
	in, err := m.VolumeAttach(ctx, d.VolumeID, "web", "/dev/sdh")
	if err != nil || in.InstanceID != web.InstanceID || in.Device != "/dev/sdh" {
		t.Errorf("attached %+v, %v", in, err)
	}
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	second, err := m.VolumeCreate(ctx, server.VolumeOptions{Server: "web", SizeGiB: 1})
	if err != nil || second.InstanceID != "" || second.Device != "/dev/sdf" {
		t.Errorf("made without an instance: %+v, %v", second, err)
	}
	r, err := m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueSwap})
	if err != nil || len(r.Server.Data) != 2 || r.Server.Data[1].Device != "/dev/sdh" {
		t.Errorf("rescued %+v, %v", r, err)
	}
}

func TestTerminateRepairsDisks(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.webOptions())
	b.check(err)
	// Somebody makes a disk go with the instance, and plugs in another.
	_, err = b.client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
		InstanceId: &web.InstanceID,
		BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: &web.Data[0].Device, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
		}},
	})
	b.check(err)
	s, err := m.Get(ctx, "web")
	b.check(err)
	if s.Protected || s.Data[0].KeptOnTermination || !strings.Contains(strings.Join(s.Warnings, " "), "would delete a disk") {
		t.Errorf("unprotected it shows %+v", s)
	}
	own, err := b.client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: &web.Zone, Size: aws.Int32(3)})
	b.check(err)
	b.available(*own.VolumeId)
	_, err = b.client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: own.VolumeId, InstanceId: &web.InstanceID, Device: aws.String("/dev/sdk")})
	b.check(err)
	gone, err := m.Terminate(ctx, "web")
	b.check(err)
	if len(gone.Kept) != 4 || gone.Kept[3].VolumeID != *own.VolumeId || gone.Kept[3].Device != "/dev/sdk" {
		t.Errorf("kept %+v", gone.Kept)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	b := newForeignBench(t, nil)
	m := b.manager(b.client)
	ctx := t.Context()
	al, err := m.ResolveImage(ctx, "al2023", "")
	if err != nil || al.ID != "ami-0a00000000000003" || al.Arch != "x86_64" || al.User != "ec2-user" {
		t.Errorf("al2023 is %+v, %v", al, err)
	}
	if _, err := m.ResolveImage(ctx, "nonesuch", ""); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("no image: %v, want ErrNotFound", err)
	}
	if _, err := m.ResolveImage(ctx, "ami-00000000000000000", ""); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("no such ID: %v, want ErrNotFound", err)
	}
	durable, err := m.ImageDurable(ctx, server.DurableOptions{Ref: b.imageID})
	if err != nil || !durable.Durable {
		t.Fatalf("durable image: %+v, %v", durable, err)
	}
	again, err := m.ImageDurable(ctx, server.DurableOptions{Ref: b.imageID})
	if err != nil || again.ID != durable.ID {
		t.Errorf("made twice: %+v, %v; want %s again", again, err, durable.ID)
	}
	if inv := b.inventory(); len(inv.images) != 1 || len(inv.live) != 0 {
		t.Errorf("left over: images %v, %d instances", inv.images, len(inv.live))
	}
	// moto drops the mappings of RegisterImage: that must be told, not hidden.
	if _, err := m.ImageDurable(ctx, server.DurableOptions{Ref: b.imageID, Data: []server.DataSpec{{SizeGiB: 10}}}); server.KindOf(err) != server.KindPartial {
		t.Errorf("an image without its data disk: %v, want a partial one", err)
	}
}
