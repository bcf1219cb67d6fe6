package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"
)

// world is all that the endpoint has under one server's name.
type world struct {
	name       string
	instance   *types.Instance  // the server's own, not terminated
	standIn    *types.Instance  // of an unfinished rescue, not terminated
	extra      []types.Instance // more live ones than there should be
	dead       []types.Instance // terminated, still listed
	volumes    []types.Volume   // the server's disks
	stubs      []types.Volume   // the stand-in's own disks
	coming     []types.Volume   // made of a set, and not the server's yet
	superseded []types.Volume
	addresses  []types.Address
	snapshots  []types.Snapshot // of its disks, where survey looked for them
	ailments   []string         // of the instance, as the endpoint's checks tell
}

func (w *world) empty() bool {
	return w.instance == nil && w.standIn == nil && len(w.volumes)+len(w.coming) == 0
}

// observe looks at everything under one name.
func (m *Manager) observe(ctx context.Context, name string) (*world, error) {
	worlds, err := m.observeAll(ctx, name)
	if err != nil {
		return nil, err
	}
	if w := worlds[name]; w != nil {
		return w, nil
	}
	return &world{name: name}, nil
}

// observeAll looks at one server, or at all with name "".
func (m *Manager) observeAll(ctx context.Context, name string) (map[string]*world, error) {
	var (
		instances []types.Instance
		volumes   []types.Volume
		addresses []types.Address
	)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return eachFilter(name, func(f types.Filter) error {
			found, err := m.findInstances(gctx, f)
			instances = append(instances, found...)
			return err
		})
	})
	g.Go(func() error {
		return eachFilter(name, func(f types.Filter) error {
			found, err := m.findVolumes(gctx, f)
			volumes = append(volumes, found...)
			return err
		})
	})
	g.Go(func() error {
		out, err := m.ec2.DescribeAddresses(gctx, &ec2.DescribeAddressesInput{Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagServer}}}})
		if unsupported(err) {
			return nil // an endpoint without addresses is no failure
		}
		if err != nil {
			return wrap("list", "addresses", err)
		}
		addresses = out.Addresses
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	more, err := m.untaggedDisks(ctx, instances, volumes)
	if err != nil {
		return nil, err
	}
	return sortWorlds(instances, append(volumes, more...), addresses), nil
}

// eachFilter calls find with the filters that together match a server's
// resources: its own, and a stand-in's.
func eachFilter(name string, find func(types.Filter) error) error {
	if name == "" {
		return find(filter("tag-key", tagServer, tagStandIn))
	}
	if err := find(filter("tag:"+tagServer, name)); err != nil {
		return err
	}
	return find(filter("tag:"+tagStandIn, name))
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// untaggedDisks finds disks that are plugged into a server's instance and have
// no tags yet: attached by hand, or by a create that was cut short on an
// endpoint that doesn't tag at launch.
func (m *Manager) untaggedDisks(ctx context.Context, instances []types.Instance, known []types.Volume) ([]types.Volume, error) {
	have := map[string]bool{}
	for _, v := range known {
		have[aws.ToString(v.VolumeId)] = true
	}
	var missing []string
	for _, i := range instances {
		for _, bdm := range i.BlockDeviceMappings {
			if bdm.Ebs != nil && live(&i) && !have[aws.ToString(bdm.Ebs.VolumeId)] {
				missing = append(missing, aws.ToString(bdm.Ebs.VolumeId))
			}
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	var found []types.Volume
	for some := range slices.Chunk(missing, maxFilterValues) {
		volumes, err := m.findVolumes(ctx, filter("volume-id", some...))
		if err != nil {
			return nil, err
		}
		found = append(found, volumes...)
	}
	return found, nil
}

// What EC2 takes at most: values in a filter, and results in a page.
const (
	maxFilterValues = 200
	pageSize        = 1000
)

// sortWorlds deals resources out to the servers that they belong to.
func sortWorlds(instances []types.Instance, volumes []types.Volume, addresses []types.Address) map[string]*world {
	worlds := map[string]*world{}
	of := func(name string) *world {
		if worlds[name] == nil {
			worlds[name] = &world{name: name}
		}
		return worlds[name]
	}
	owner := map[string]string{} // instance ID → server
	seen := map[string]bool{}
	// Oldest first, so that the choice between two live instances is stable.
	slices.SortFunc(instances, func(a, b types.Instance) int {
		return cmp.Or(aws.ToTime(a.LaunchTime).Compare(aws.ToTime(b.LaunchTime)), cmp.Compare(aws.ToString(a.InstanceId), aws.ToString(b.InstanceId)))
	})
	for _, i := range instances {
		id := aws.ToString(i.InstanceId)
		if seen[id] {
			continue
		}
		seen[id] = true
		name := cmp.Or(tagOf(i.Tags, tagStandIn), tagOf(i.Tags, tagServer))
		if name == "" {
			continue
		}
		of(name).addInstance(i)
		if live(&i) {
			owner[id] = name
		}
	}
	for _, v := range volumes {
		id := aws.ToString(v.VolumeId)
		name := cmp.Or(tagOf(v.Tags, tagStandIn), tagOf(v.Tags, tagServer), owner[attachedTo(&v)])
		if name != "" && !seen[id] {
			seen[id] = true
			of(name).addVolume(v)
		}
	}
	for _, a := range addresses {
		if w := worlds[tagOf(a.Tags, tagServer)]; w != nil {
			w.addresses = append(w.addresses, a)
		}
	}
	return worlds
}

func (w *world) addInstance(i types.Instance) {
	switch {
	case !live(&i):
		w.dead = append(w.dead, i)
	case hasTag(i.Tags, tagStandIn) && w.standIn == nil:
		w.standIn = &i
	case !hasTag(i.Tags, tagStandIn) && w.instance == nil:
		w.instance = &i
	default:
		w.extra = append(w.extra, i)
	}
}

func (w *world) addVolume(v types.Volume) {
	switch {
	case v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted:
	case hasTag(v.Tags, tagStandIn):
		w.stubs = append(w.stubs, v)
	case hasTag(v.Tags, tagSupersededBy):
		w.superseded = append(w.superseded, v)
	case isComing(&v):
		w.coming = append(w.coming, v)
	case hasTag(v.Tags, tagServer):
		w.volumes = append(w.volumes, v)
	case w.standIn != nil && attachedTo(&v) == aws.ToString(w.standIn.InstanceId):
		w.stubs = append(w.stubs, v) // the endpoint didn't tag it
	default:
		w.volumes = append(w.volumes, v)
	}
}

// live tells an instance that isn't terminated. One that is shutting down
// still holds its disks and counts.
func live(i *types.Instance) bool { return stateOf(i) != types.InstanceStateNameTerminated }

func stateOf(i *types.Instance) types.InstanceStateName {
	if i == nil || i.State == nil {
		return ""
	}
	return i.State.Name
}

// attachedTo returns the instance that a volume is plugged into, or "".
func attachedTo(v *types.Volume) string {
	for _, a := range v.Attachments {
		if a.State != types.VolumeAttachmentStateDetached {
			return aws.ToString(a.InstanceId)
		}
	}
	return ""
}

func attachedAs(v *types.Volume) string {
	for _, a := range v.Attachments {
		if a.State != types.VolumeAttachmentStateDetached {
			return aws.ToString(a.Device)
		}
	}
	return ""
}

// root finds the root volume: the one plugged in as such, else the one whose
// tags say so, else the only one, else the only one made from a snapshot.
func (w *world) root() *types.Volume {
	if i := w.instance; i != nil {
		for k := range w.volumes {
			v := &w.volumes[k]
			if attachedTo(v) == aws.ToString(i.InstanceId) && attachedAs(v) == aws.ToString(i.RootDeviceName) {
				return v
			}
		}
	}
	tagged := func(v *types.Volume) bool { return tagOf(v.Tags, tagRole) == RoleRoot }
	if v := only(w.volumes, tagged); v != nil {
		return v
	}
	if v := only(w.volumes, func(v *types.Volume) bool { return !hasTag(v.Tags, tagRole) }); v != nil {
		return v
	}
	return only(w.volumes, func(v *types.Volume) bool {
		return !hasTag(v.Tags, tagRole) && aws.ToString(v.SnapshotId) != ""
	})
}

// only returns the one volume that matches, nil when none or several do.
func only(volumes []types.Volume, match func(*types.Volume) bool) *types.Volume {
	var found *types.Volume
	for k := range volumes {
		if match(&volumes[k]) {
			if found != nil {
				return nil
			}
			found = &volumes[k]
		}
	}
	return found
}

// data returns the disks other than the root, by device.
func (w *world) data() []*types.Volume {
	root := w.root()
	var data []*types.Volume
	for k := range w.volumes {
		if v := &w.volumes[k]; v != root && tagOf(v.Tags, tagRole) != RoleRoot {
			data = append(data, v)
		}
	}
	slices.SortFunc(data, func(a, b *types.Volume) int {
		return cmp.Or(cmp.Compare(deviceOf(a), deviceOf(b)), cmp.Compare(aws.ToString(a.VolumeId), aws.ToString(b.VolumeId)))
	})
	return data
}

// deviceOf is where a disk is plugged in, or belongs.
func deviceOf(v *types.Volume) string {
	return cmp.Or(attachedAs(v), tagOf(v.Tags, tagDevice))
}

// facts reads what the root, or else the instance's disks, say; overlaid with
// what the instance says.
func (w *world) facts() facts {
	var f facts
	if root := w.root(); root != nil {
		f = factsOf(root.Tags)
		f.Zone = cmp.Or(aws.ToString(root.AvailabilityZone), f.Zone)
	} else if s := w.newestRoot(); s != nil && w.empty() {
		f = factsOf(s.Tags)
	}
	if w.instance != nil {
		f = f.observed(w.instance)
	}
	return f
}

// ids lists what the server has, for a ClientToken: it changes with each life.
func (w *world) ids() []string {
	ids := []string{w.facts().Instance}
	for _, v := range w.volumes {
		ids = append(ids, aws.ToString(v.VolumeId))
	}
	for _, i := range w.dead {
		ids = append(ids, aws.ToString(i.InstanceId))
	}
	slices.Sort(ids)
	return ids
}

// findInstances lists the instances that match, over all pages.
func (m *Manager) findInstances(ctx context.Context, filters ...types.Filter) ([]types.Instance, error) {
	var all []types.Instance
	pages := ec2.NewDescribeInstancesPaginator(m.ec2, &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(pageSize)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", "instances", err)
		}
		for _, r := range page.Reservations {
			all = append(all, r.Instances...)
		}
	}
	return all, nil
}

// findVolumes lists the volumes that match, over all pages.
func (m *Manager) findVolumes(ctx context.Context, filters ...types.Filter) ([]types.Volume, error) {
	var all []types.Volume
	pages := ec2.NewDescribeVolumesPaginator(m.ec2, &ec2.DescribeVolumesInput{Filters: filters, MaxResults: aws.Int32(pageSize)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", "volumes", err)
		}
		all = append(all, page.Volumes...)
	}
	// By device, as no endpoint promises an order: then each run takes the
	// same steps in the same order.
	slices.SortStableFunc(all, func(a, b types.Volume) int {
		return cmp.Or(cmp.Compare(deviceOf(&a), deviceOf(&b)), cmp.Compare(aws.ToString(a.VolumeId), aws.ToString(b.VolumeId)))
	})
	return all, nil
}

// findSnapshots lists the caller's snapshots that match, over all pages.
func (m *Manager) findSnapshots(ctx context.Context, filters ...types.Filter) ([]types.Snapshot, error) {
	var all []types.Snapshot
	pages := ec2.NewDescribeSnapshotsPaginator(m.ec2, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filters, MaxResults: aws.Int32(pageSize)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", "snapshots", err)
		}
		all = append(all, page.Snapshots...)
	}
	slices.SortStableFunc(all, func(a, b types.Snapshot) int {
		return cmp.Or(cmp.Compare(tagOf(a.Tags, tagDevice), tagOf(b.Tags, tagDevice)), cmp.Compare(aws.ToString(a.SnapshotId), aws.ToString(b.SnapshotId)))
	})
	return all, nil
}

// instanceByID returns nil when the endpoint doesn't know it (yet, or any
// more).
func (m *Manager) instanceByID(ctx context.Context, id string) (*types.Instance, error) {
	out, err := m.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if KindOf(err) == KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("describe", "instance "+id, err)
	}
	for _, r := range out.Reservations {
		for k := range r.Instances {
			return &r.Instances[k], nil
		}
	}
	return nil, nil
}

// volumeByID returns nil when the endpoint doesn't know it.
func (m *Manager) volumeByID(ctx context.Context, id string) (*types.Volume, error) {
	out, err := m.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
	if KindOf(err) == KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("describe", "volume "+id, err)
	}
	if len(out.Volumes) == 0 {
		return nil, nil
	}
	return &out.Volumes[0], nil
}
