package server

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/steadcloud/stead/internal/price"
)

// Kinds of orphans.
const (
	OrphanInstance = "instance"
	OrphanVolume   = "volume"
	OrphanSnapshot = "snapshot"
	OrphanImage    = "image" // with its snapshots
	OrphanAddress  = "address"
)

// Orphan is something that costs money and belongs to no server.
type Orphan struct {
	Kind    string     `json:"kind"`
	ID      string     `json:"id"`
	Name    string     `json:"name,omitempty"` // its Name tag, or an image's name
	Reason  string     `json:"reason"`
	State   string     `json:"state,omitempty"`
	Created *time.Time `json:"created,omitempty"` // addresses have no age
	SizeGiB int        `json:"size_gib,omitempty"`
	// Month is what it costs a month; nil: no figure, or the cloud charges
	// nothing. A snapshot's is a range: what others share with it stays.
	Month *price.Range `json:"month,omitempty"`
	// Finish goes on with what left it behind, or takes it into use.
	Finish string `json:"finish,omitempty"`
	// Remove is the command that removes it for good.
	Remove string `json:"remove"`
}

// estate is everything in the region that can cost money.
type estate struct {
	instances []types.Instance
	volumes   []types.Volume
	snapshots []types.Snapshot
	images    []types.Image
	addresses []types.Address
	worlds    map[string]*world
	users     map[string]bool // instances that are servers' own
	inImage   map[string]bool // snapshots that an own image is of
	sources   map[string]bool // images that servers were made from
}

// Orphans lists what costs money in the region and belongs to no server. It
// changes nothing.
func (m *Manager) Orphans(ctx context.Context) ([]Orphan, error) {
	e, err := m.estate(ctx)
	if err != nil {
		return nil, wrap("list", "orphans", err)
	}
	list := slices.Concat([]Orphan{}, m.orphanInstances(e), m.orphanVolumes(e), m.orphanSnapshots(e), m.orphanImages(e), m.orphanAddresses(e))
	return list, nil
}

func (m *Manager) estate(ctx context.Context) (*estate, error) {
	e := &estate{users: map[string]bool{}, inImage: map[string]bool{}, sources: map[string]bool{}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { e.instances, err = m.findInstances(ctx); return err })
	g.Go(func() (err error) { e.volumes, err = m.findVolumes(ctx); return err })
	g.Go(func() (err error) { e.snapshots, err = m.findSnapshots(ctx); return err })
	g.Go(func() (err error) { e.images, err = m.findImages(ctx, []string{"self"}); return err })
	g.Go(func() error {
		out, err := m.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
		if err == nil {
			e.addresses = out.Addresses
		}
		if unsupported(err) {
			return nil
		}
		return wrap("list", "addresses", err)
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	e.worlds = sortWorlds(slices.Clone(e.instances), e.volumes, e.addresses)
	for _, s := range e.snapshots {
		if name := tagOf(s.Tags, tagServer); name != "" {
			if e.worlds[name] == nil {
				e.worlds[name] = &world{name: name}
			}
			e.worlds[name].snapshots = append(e.worlds[name].snapshots, s)
		}
	}
	for _, w := range e.worlds {
		if w.instance != nil {
			e.users[aws.ToString(w.instance.InstanceId)] = true
			e.sources[aws.ToString(w.instance.ImageId)] = true
		}
		if e.isServer(w.name) {
			e.sources[w.facts().Image] = true
		}
	}
	for _, i := range e.images {
		for _, id := range imageSnapshots(&i) {
			e.inImage[id] = true
		}
	}
	return e, nil
}

// isServer tells a name under which there is something to keep: disks, an
// instance, or a set to come back from.
func (e *estate) isServer(name string) bool {
	w := e.worlds[name]
	return w != nil && (!w.empty() || w.newestSet() != nil)
}

func imageSnapshots(i *types.Image) []string {
	var ids []string
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && aws.ToString(bdm.Ebs.SnapshotId) != "" {
			ids = append(ids, *bdm.Ebs.SnapshotId)
		}
	}
	return ids
}

// unfinished says of what carries a mark of work under way what that is, and
// what goes on with it.
func (e *estate) unfinished(tags []types.Tag) (reason, finish string) {
	t := tagsOf(tags)
	switch {
	case t[tagStandIn] != "" && e.isServer(t[tagStandIn]):
		return "a rescue of " + t[tagStandIn] + " isn't finished", "stead rescue " + t[tagStandIn]
	case t[tagStandIn] != "":
		return "left of a rescue of " + t[tagStandIn] + ", which is gone", ""
	case t[tagHelper] != "" && t[tagStep] == stepRepair && e.isServer(t[tagHelper]):
		return "helper of a repair of " + t[tagHelper] + " that isn't finished", "stead repair " + t[tagHelper] + " --finish"
	case strings.HasPrefix(t[tagStep], movingStep("")):
		return "copied ahead for a move of " + strings.TrimPrefix(t[tagStep], movingStep("")) + " to here that isn't finished", ""
	case t[tagHelper] != "":
		return "left of a helper of " + t[tagHelper], ""
	case t[tagBuilder] != "":
		return "left of an image that was never finished", ""
	case t[tagStep] != "":
		return t[tagStep] + " isn't finished", ""
	}
	return "", ""
}

func (m *Manager) orphanInstances(e *estate) []Orphan {
	var list []Orphan
	for k := range e.instances {
		i := &e.instances[k]
		id := aws.ToString(i.InstanceId)
		if !live(i) || stateOf(i) == types.InstanceStateNameShuttingDown || e.users[id] {
			continue
		}
		o := Orphan{
			Kind: OrphanInstance, ID: id, Name: tagOf(i.Tags, tagName), State: string(stateOf(i)), Created: utc(i.LaunchTime),
			Remove: "stead ec2 kill " + id,
		}
		o.Reason, o.Finish = e.unfinished(i.Tags)
		switch {
		case o.Reason != "":
		case hasTag(i.Tags, tagServer):
			o.Reason = "claims to be server " + tagOf(i.Tags, tagServer) + ", which another instance is"
		default:
			o.Reason, o.Finish = "no server", "stead adopt NAME "+id
		}
		if m.prices != nil && o.State != string(types.InstanceStateNameStopped) {
			o.Month = m.firstTotal(price.Spec{Region: m.region, Type: string(i.InstanceType)}, price.OnDemand)
		}
		list = append(list, o)
	}
	return list
}

// firstTotal is what a spec costs in a way, nil without a figure of all.
func (m *Manager) firstTotal(s price.Spec, w price.Way) *price.Range {
	if m.prices == nil {
		return nil
	}
	bill := m.prices.Month(s)
	if r, ok := bill.Total(w); ok && len(bill.Missing) == 0 {
		return &r
	}
	return nil
}

func (m *Manager) orphanVolumes(e *estate) []Orphan {
	used := map[string]bool{}
	for _, w := range e.worlds {
		for k := range w.volumes {
			used[aws.ToString(w.volumes[k].VolumeId)] = true
		}
	}
	var list []Orphan
	for k := range e.volumes {
		v := &e.volumes[k]
		id := aws.ToString(v.VolumeId)
		if used[id] || v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted {
			continue
		}
		d := diskOf(v, nil)
		o := Orphan{
			Kind: OrphanVolume, ID: id, Name: tagOf(v.Tags, tagName), State: d.State, Created: d.Created, SizeGiB: d.SizeGiB,
			Remove: "stead volume rm " + id,
		}
		o.Reason, o.Finish = e.unfinished(v.Tags)
		switch {
		case o.Reason != "":
		case d.SupersededBy != "":
			o.Reason = "replaced by " + d.SupersededBy + " in a rescue or restore of " + d.Server
		case d.InstanceID != "":
			o.Reason = "a disk of " + d.InstanceID + ", which is no server"
		default:
			o.Reason, o.Finish = "plugged in nowhere, and no server's", "stead volume attach "+id+" NAME"
		}
		o.Month = m.firstTotal(price.Spec{Region: m.region, Volumes: []price.Volume{{
			ID: id, Type: d.Type, GiB: int64(d.SizeGiB), IOPS: int64(d.IOPS), Throughput: int64(d.ThroughputMiBs),
		}}}, price.Stopped)
		list = append(list, o)
	}
	return list
}

func (m *Manager) orphanSnapshots(e *estate) []Orphan {
	var list []Orphan
	for k := range e.snapshots {
		s := &e.snapshots[k]
		id, name := aws.ToString(s.SnapshotId), tagOf(s.Tags, tagServer)
		if e.inImage[id] || name != "" && e.isServer(name) {
			continue
		}
		o := Orphan{
			Kind: OrphanSnapshot, ID: id, Name: tagOf(s.Tags, tagName), State: string(s.State), Created: utc(s.StartTime),
			SizeGiB: int(aws.ToInt32(s.VolumeSize)), Month: m.snapshotMonth([]*types.Snapshot{s}), Remove: "stead ec2 delsnap " + id,
		}
		o.Reason, o.Finish = e.unfinished(s.Tags)
		switch {
		case o.Reason != "":
		case name != "":
			o.Reason = "of server " + name + ", which has neither disks nor a complete set"
		default:
			o.Reason = "of " + cmp.Or(aws.ToString(s.VolumeId), "an unknown volume") + ", in no server's set and no image"
		}
		list = append(list, o)
	}
	return list
}

// snapshotMonth is what deleting snapshots would save: anything from nothing,
// when others share it all, to all that they refer to.
func (m *Manager) snapshotMonth(list []*types.Snapshot) *price.Range {
	if m.prices == nil {
		return nil
	}
	f, ok := m.prices.Snapshot(m.region)
	if !ok {
		return nil
	}
	sum := int64(0)
	for _, s := range list {
		_, high := snapshotBytes(s)
		sum += high
	}
	r := price.SnapshotMonth(f, 0, sum)
	return &r
}

func (m *Manager) orphanImages(e *estate) []Orphan {
	byID := map[string]*types.Snapshot{}
	for k := range e.snapshots {
		byID[aws.ToString(e.snapshots[k].SnapshotId)] = &e.snapshots[k]
	}
	var list []Orphan
	for k := range e.images {
		i := &e.images[k]
		view := imageView(i, nil)
		var own []*types.Snapshot
		for _, id := range imageSnapshots(i) {
			if byID[id] != nil {
				own = append(own, byID[id])
			}
		}
		if name := tagOf(i.Tags, tagServer); len(own) == 0 || name != "" && e.isServer(name) || e.sources[view.ID] {
			continue
		}
		o := Orphan{
			Kind: OrphanImage, ID: view.ID, Name: view.Name, State: view.State, Created: view.Created,
			Month: m.snapshotMonth(own), Remove: "stead image rm " + view.ID,
		}
		for _, s := range own {
			o.SizeGiB += int(aws.ToInt32(s.VolumeSize))
		}
		if o.Reason, o.Finish = e.unfinished(i.Tags); o.Reason == "" {
			o.Reason, o.Finish = "no server was made from it", "stead create NAME --image "+view.ID
		}
		list = append(list, o)
	}
	return list
}

func (m *Manager) orphanAddresses(e *estate) []Orphan {
	var list []Orphan
	for _, a := range e.addresses {
		id, holder, name := aws.ToString(a.AllocationId), aws.ToString(a.InstanceId), tagOf(a.Tags, tagServer)
		if name != "" && e.isServer(name) || e.users[holder] {
			continue
		}
		o := Orphan{Kind: OrphanAddress, ID: id, Name: aws.ToString(a.PublicIp), Remove: "aws ec2 release-address --allocation-id " + id}
		spec, way := price.Spec{Region: m.region, Addresses: 1}, price.Stopped
		switch {
		case name != "":
			o.Reason = "of server " + name + ", which is gone"
		case holder != "":
			o.Reason = "assigned to " + holder + ", which is no server"
		case aws.ToString(a.AssociationId) != "":
			o.Reason = "assigned to " + cmp.Or(aws.ToString(a.NetworkInterfaceId), "something") + ", which is no server"
		default:
			o.Reason = "assigned to nothing"
		}
		o.Month = m.firstTotal(spec, way)
		list = append(list, o)
	}
	return list
}
