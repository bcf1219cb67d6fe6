package server_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/server"
)

// pathTo is the kinds and IDs from a root of the forest down to a node.
func pathTo(nodes []server.Node, id string) []server.Node {
	for _, n := range nodes {
		if n.ID == id {
			return []server.Node{n}
		}
		if below := pathTo(n.Children, id); below != nil {
			return append([]server.Node{n}, below...)
		}
	}
	return nil
}

func kindsOf(path []server.Node) string {
	var kinds []string
	for _, n := range path {
		kinds = append(kinds, n.Kind)
	}
	return strings.Join(kinds, " ")
}

// After a rescue by snapshot the new root hangs under the snapshot, that under
// the old root, and that under the image; also once the old disk is deleted.
func TestShowLineage(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	first, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Note: "before", Wait: true})
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	rescued, err := m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueSnapshot})
	b.check(err)

	d, err := m.Show(t.Context(), "web")
	b.check(err)
	path := pathTo(d.Lineage, rescued.Server.Root.VolumeID)
	if kinds := kindsOf(path); kinds != "image snapshot volume snapshot volume" {
		t.Fatalf("the root comes by %s", kinds)
	}
	if path[0].ID != b.imageID || path[2].ID != first.Root.VolumeID || path[2].SupersededBy != path[4].ID || path[2].Current || !path[4].Current {
		t.Errorf("the path is %+v", path)
	}
	// moto's images don't tell of which snapshots they are.
	if rescue := path[3]; !b.isMoto() && (len(rescue.Images) != 1 || rescue.Images[0] != rescued.Image) || rescue.Set != rescued.Set {
		t.Errorf("the rescue's snapshot is %+v", rescue)
	}
	note := pathTo(d.Lineage, set.Snapshots[0].SnapshotID)
	if len(note) != 4 || note[3].Note != "before" || note[3].Set != set.ID || len(note[3].Children) > 0 {
		t.Errorf("the snapshot with a note is at %+v", note)
	}
	if kinds := kindsOf(pathTo(d.Lineage, rescued.Server.Data[0].VolumeID)); kinds != "volume snapshot volume" {
		t.Errorf("the data disk comes by %s", kinds)
	}

	b.deleteVolume(first.Root.VolumeID)
	d, err = m.Show(t.Context(), "web")
	b.check(err)
	path = pathTo(d.Lineage, rescued.Server.Root.VolumeID)
	if kindsOf(path) != "volume snapshot volume" || path[0].State != server.StateGone {
		t.Errorf("without the old disk the path is %+v", path)
	}

	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	for id := range b.inventory().volumes {
		_, _ = b.client.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &id})
	}
	d, err = m.Show(t.Context(), "web")
	if err != nil || d.State != server.StateSnapshots || len(d.Lineage) == 0 {
		t.Errorf("with snapshots alone it is %+v, %v", d, err)
	}
	if _, err := m.Show(t.Context(), "nobody"); server.KindOf(err) != server.KindNotFound {
		t.Errorf("nobody is shown: %v", err)
	}
}
