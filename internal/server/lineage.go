package server

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Detail is a server and where its disks come from.
type Detail struct {
	*Server
	// Lineage is a forest: an image, its snapshot, the volume that was made of
	// it, the snapshots that were taken of that, and so on to the disks that the
	// server has now.
	Lineage []Node `json:"lineage"`
	// Schedules are when the cloud takes snapshots of it, where it can.
	Schedules []Schedule `json:"schedules,omitempty"`
}

// Kinds of nodes.
const (
	NodeImage    = "image"
	NodeSnapshot = "snapshot"
	NodeVolume   = "volume"
)

// StateGone is the state of a volume that others came of and that is deleted.
const StateGone = "gone"

// Node is something that disks come from, or come of.
type Node struct {
	Kind    string     `json:"kind"`
	ID      string     `json:"id"`
	Name    string     `json:"name,omitempty"` // an image's
	Role    string     `json:"role,omitempty"`
	Device  string     `json:"device,omitempty"`
	SizeGiB int        `json:"size_gib,omitempty"`
	State   string     `json:"state,omitempty"`
	Created *time.Time `json:"created,omitempty"`
	Set     string     `json:"set,omitempty"` // the snapshot's set
	Note    string     `json:"note,omitempty"`
	// Images were registered of this snapshot.
	Images       []string `json:"images,omitempty"`
	SupersededBy string   `json:"superseded_by,omitempty"`
	// Current tells a disk that the server has now.
	Current  bool   `json:"current,omitempty"`
	Children []Node `json:"children,omitempty"` // the older first
}

// Show returns the server called name with its lineage, also when only its
// snapshots are left; or ErrNotFound.
func (m *Manager) Show(ctx context.Context, name string) (*Detail, error) {
	d, err := m.show(ctx, name)
	return d, wrap("find", "server "+name, err)
}

func (m *Manager) show(ctx context.Context, name string) (*Detail, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	worlds, err := m.survey(ctx, name)
	if err != nil {
		return nil, err
	}
	w := worlds[name]
	if w == nil || w.empty() && len(w.snapshots) == 0 {
		return nil, &Error{Reason: "there is no such server", Remedy: "stead ls", Code: KindNotFound}
	}
	d := &Detail{Server: m.view(w)}
	d.Schedules, _ = m.knownSchedules(ctx, name)
	d.Lineage, err = m.lineage(ctx, w)
	return d, err
}

// family is nodes and which of them each comes from.
type family struct {
	nodes  map[string]*Node
	parent map[string]string
}

// lineage puts together what the server's volumes and snapshots say of where
// they come from.
func (m *Manager) lineage(ctx context.Context, w *world) ([]Node, error) {
	f := &family{nodes: map[string]*Node{}, parent: map[string]string{}}
	for k := range w.volumes {
		f.addVolume(&w.volumes[k], true)
	}
	for k := range w.superseded {
		f.addVolume(&w.superseded[k], false)
	}
	own := map[string]bool{}
	for _, set := range setsOf(w.snapshots) {
		for _, s := range set.Snapshots {
			own[s.SnapshotID] = true
			f.addSnapshot(s, &set)
		}
	}
	for k := range w.snapshots { // those that are in no set
		if s := &w.snapshots[k]; f.nodes[aws.ToString(s.SnapshotId)] == nil {
			f.addSnapshot(Snapshot{SnapshotID: aws.ToString(s.SnapshotId), VolumeID: aws.ToString(s.VolumeId), SizeGiB: int(aws.ToInt32(s.VolumeSize)), State: string(s.State)}, &SnapshotSet{Started: aws.ToTime(s.StartTime).UTC()})
		}
	}
	if err := m.addOrigins(ctx, f, own, w.facts().Image); err != nil {
		return nil, err
	}
	return f.forest(), nil
}

func (f *family) addVolume(v *types.Volume, current bool) {
	d := diskOf(v, nil)
	f.nodes[d.VolumeID] = &Node{
		Kind: NodeVolume, ID: d.VolumeID, Role: d.Role, Device: d.Device, SizeGiB: d.SizeGiB, State: d.State, Created: d.Created,
		SupersededBy: d.SupersededBy, Current: current,
	}
	f.parent[d.VolumeID] = aws.ToString(v.SnapshotId)
}

func (f *family) addSnapshot(s Snapshot, set *SnapshotSet) {
	f.nodes[s.SnapshotID] = &Node{
		Kind: NodeSnapshot, ID: s.SnapshotID, Role: s.Role, Device: s.Device, SizeGiB: s.SizeGiB, State: s.State, Created: &set.Started,
		Set: set.ID, Note: set.Note,
	}
	if s.VolumeID != noVolume {
		f.parent[s.SnapshotID] = s.VolumeID
	}
}

// noVolume is what EC2 says of a snapshot that was copied or imported.
const noVolume = "vol-ffffffff"

// addOrigins adds what the family came from and isn't the server's: disks that
// are deleted, images and their snapshots. The images that were registered of
// the server's own snapshots are noted there.
func (m *Manager) addOrigins(ctx context.Context, f *family, own map[string]bool, image string) error {
	for _, id := range slices.Collect(maps.Values(f.parent)) {
		if id != "" && f.nodes[id] == nil {
			kind, state := NodeSnapshot, ""
			if volumeGrammar.MatchString(id) {
				kind, state = NodeVolume, StateGone
			}
			f.nodes[id] = &Node{Kind: kind, ID: id, State: state}
		}
	}
	images, err := m.relatedImages(ctx, image)
	if err != nil {
		return err
	}
	for k := range images {
		i := &images[k]
		for _, snapshot := range imageSnapshots(i) {
			n := f.nodes[snapshot]
			switch id := aws.ToString(i.ImageId); {
			case n == nil:
			case own[snapshot]:
				if !slices.Contains(n.Images, id) {
					n.Images = append(n.Images, id)
				}
			case f.parent[snapshot] == "":
				view := imageView(i, nil)
				f.nodes[id] = &Node{Kind: NodeImage, ID: id, Name: view.Name, State: view.State, Created: view.Created}
				f.parent[snapshot] = id
			}
		}
	}
	return nil
}

// relatedImages are the caller's own images and the one of an ID, the oldest
// first. Not every endpoint lists images by their snapshots.
func (m *Manager) relatedImages(ctx context.Context, id string) ([]types.Image, error) {
	images, err := m.findImages(ctx, []string{"self"})
	if err != nil {
		return nil, err
	}
	if id != "" && !slices.ContainsFunc(images, func(i types.Image) bool { return aws.ToString(i.ImageId) == id }) {
		source, err := m.imageByID(ctx, id)
		switch {
		case err == nil:
			images = append(images, *source)
		case KindOf(err) != KindNotFound && KindOf(err) != KindUsage:
			return nil, err
		}
	}
	slices.SortStableFunc(images, func(a, b types.Image) int {
		return cmp.Or(cmp.Compare(aws.ToString(a.CreationDate), aws.ToString(b.CreationDate)), cmp.Compare(aws.ToString(a.ImageId), aws.ToString(b.ImageId)))
	})
	return images, nil
}

// forest hangs each node under its parent. What would be in a circle, which no
// cloud should tell of, hangs nowhere.
func (f *family) forest() []Node {
	children := map[string][]string{}
	for id := range f.nodes {
		parent := f.parent[id]
		if f.nodes[parent] == nil {
			parent = ""
		}
		children[parent] = append(children[parent], id)
	}
	for _, ids := range children {
		slices.SortFunc(ids, func(a, b string) int {
			x, y := f.nodes[a], f.nodes[b]
			return cmp.Or(timeOf(x.Created).Compare(timeOf(y.Created)), cmp.Compare(slot(x.Device), slot(y.Device)), cmp.Compare(a, b))
		})
	}
	var grow func(ids []string) []Node
	grow = func(ids []string) []Node {
		list := make([]Node, 0, len(ids))
		for _, id := range ids {
			n := *f.nodes[id]
			n.Children = grow(children[id])
			list = append(list, n)
		}
		return list
	}
	return grow(children[""])
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
