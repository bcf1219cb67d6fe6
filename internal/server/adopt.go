package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepAdopt is the verb of stead:step on an instance that is being adopted.
const stepAdopt = "adopt"

// AdoptOptions says what becomes a server.
type AdoptOptions struct {
	Name string
	// InstanceID is an instance that runs or is stopped, ...
	InstanceID string
	// Address gives it a fixed address; its present one changes by that.
	Address bool
	// ... or Root and Data are disks that are plugged in nowhere.
	Root string
	Data []AdoptDisk
	// What a loose disk can't say itself. "": as its tags or the image of its
	// snapshot say, else x86_64 and DefaultType.
	Arch, BootMode, Type, Image string
	User                        string // login user; "" lets the image decide
}

// AdoptDisk is a loose data disk.
type AdoptDisk struct {
	VolumeID string
	Device   string // "" means the recorded one, else the next free one
}

// Adopt makes a durable server of what exists: of an instance in place, without
// a reboot, or of loose disks, which a rescue then brings to life. It changes
// nothing but tags, the flags that would delete disks, and the protection; so
// it can be repeated, and cut off anywhere.
func (m *Manager) Adopt(ctx context.Context, o AdoptOptions) (*Server, error) {
	s, err := m.adoptAny(ctx, o)
	return s, wrap("adopt", "server "+o.Name, err)
}

func (m *Manager) adoptAny(ctx context.Context, o AdoptOptions) (*Server, error) {
	if err := CheckName(o.Name); err != nil {
		return nil, err
	}
	if (o.InstanceID == "") == (o.Root == "") || o.InstanceID != "" && len(o.Data) > 0 {
		return nil, &Error{Code: KindUsage, Reason: "want an instance, or disks", Remedy: "stead adopt NAME INSTANCE, or stead adopt NAME --root VOLUME"}
	}
	for what, v := range map[string]string{"the login user": o.User, "the image": o.Image, "the type": o.Type} {
		if err := checkTagValue(what, v); err != nil {
			return nil, err
		}
	}
	w, err := m.observe(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	if o.Root != "" {
		return m.adoptDisks(ctx, w, o)
	}
	return m.adoptInstance(ctx, w, o)
}

// adoptInstance makes an instance a server. Its tag comes first: from then on
// it is the server's, and what is left to do can be seen.
func (m *Manager) adoptInstance(ctx context.Context, w *world, o AdoptOptions) (*Server, error) {
	i, volumes, err := m.adoptable(ctx, w, o)
	if err != nil {
		return nil, err
	}
	f, err := m.adoptedFacts(ctx, w, i, o)
	if err != nil {
		return nil, err
	}
	id := aws.ToString(i.InstanceId)
	mark := tagMap{tagSchema: schemaVersion, tagServer: o.Name, tagStep: stepAdopt}
	if !hasTag(i.Tags, tagName) {
		mark[tagName] = o.Name
	}
	if tagOf(i.Tags, tagServer) == o.Name && !hasTag(i.Tags, tagStep) {
		delete(mark, tagStep) // it is one already, and is only looked over
	}
	if err := m.tag(ctx, id, tagsOf(i.Tags).missing(mark)); err != nil {
		return nil, err
	}
	for _, v := range volumes {
		// A snapshot that is made of it later must not claim to replace it.
		if hasTag(v.Tags, tagSupersededBy) {
			if err := m.untag(ctx, aws.ToString(v.VolumeId), tagSupersededBy); err != nil {
				return nil, err
			}
		}
	}
	if err := m.step("check that every disk stays", id, func() error { return m.settle(ctx, o.Name, id, f) }); err != nil {
		return nil, err
	}
	if err := m.step("protect", id, func() error { return m.guard(ctx, id) }); err != nil {
		return nil, err
	}
	if err := m.adoptAddress(ctx, i, o); err != nil {
		return nil, err
	}
	return m.ready(ctx, stepAdopt, o.Name, id, WaitNone)
}

// adoptable finds the instance and its disks, and tells what forbids to make
// them this server.
func (m *Manager) adoptable(ctx context.Context, w *world, o AdoptOptions) (*types.Instance, []types.Volume, error) {
	i, err := m.instanceByID(ctx, o.InstanceID)
	if err != nil {
		return nil, nil, err
	}
	if i == nil || !live(i) || stateOf(i) == types.InstanceStateNameShuttingDown {
		return nil, nil, &Error{Code: KindNotFound, Reason: "there is no live instance " + o.InstanceID, Remedy: "aws ec2 describe-instances shows which there are"}
	}
	if err := w.mayBecome(i); err != nil {
		return nil, nil, err
	}
	if i.RootDeviceType == types.DeviceTypeInstanceStore {
		return nil, nil, &Error{
			Code: KindUnsupported, Reason: "the root of instance " + o.InstanceID + " is instance store, which ends with it",
			Remedy: "copy what it holds to a server that stead create makes",
		}
	}
	_, volumes, err := m.disksOf(ctx, o.InstanceID)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range volumes {
		if other := tagOf(v.Tags, tagServer); other != "" && other != o.Name && !hasTag(v.Tags, tagSupersededBy) {
			return nil, nil, &Error{Code: KindExists, Reason: "disk " + aws.ToString(v.VolumeId) + " belongs to server " + other, Remedy: "stead volume detach " + aws.ToString(v.VolumeId)}
		}
	}
	return i, volumes, nil
}

// mayBecome tells whether the name is free for an instance, and the instance
// for the name.
func (w *world) mayBecome(i *types.Instance) error {
	id := aws.ToString(i.InstanceId)
	t := tagsOf(i.Tags)
	taken := &Error{Code: KindExists, Reason: "the name is taken", Remedy: "stead show " + w.name + ", or choose another name"}
	switch {
	case t[tagStandIn] != "" || t[tagBuilder] != "" || t[tagHelper] != "":
		return &Error{Code: KindExists, Reason: "instance " + id + " is on the way to something of stead's own", Remedy: "stead orphans"}
	case t[tagServer] != "" && t[tagServer] != w.name:
		return &Error{Code: KindExists, Reason: "instance " + id + " is server " + t[tagServer], Remedy: "stead rename " + t[tagServer] + " " + w.name}
	case t["aws:autoscaling:groupName"] != "":
		return &Error{
			Code: KindExists, Reason: "auto scaling group " + t["aws:autoscaling:groupName"] + " owns instance " + id + ", and may replace it",
			Remedy: "aws autoscaling detach-instances --instance-ids " + id + " --should-decrement-desired-capacity --auto-scaling-group-name " + t["aws:autoscaling:groupName"],
		}
	case w.standIn != nil || w.instance != nil && !isInstance(w.instance, id):
		return taken
	}
	for k := range w.volumes {
		if attachedTo(&w.volumes[k]) != id {
			return taken
		}
	}
	return nil
}

// adoptedFacts are what the instance doesn't say itself: who may log in, and
// which ports are open.
func (m *Manager) adoptedFacts(ctx context.Context, w *world, i *types.Instance, o AdoptOptions) (facts, error) {
	f := w.facts()
	f.User = cmp.Or(o.User, f.User)
	f.Image = cmp.Or(f.Image, aws.ToString(i.ImageId))
	if f.Image != "" && (f.User == "" || f.IMDS == "") {
		image, err := m.imageByID(ctx, f.Image)
		if err != nil && KindOf(err) != KindNotFound {
			return f, err
		}
		if image != nil {
			f.IMDS = cmp.Or(f.IMDS, string(image.ImdsSupport))
		}
		if a := m.aliasByName(image); a != nil {
			f.User = cmp.Or(f.User, a.user)
		}
	}
	if f.Open != "" || len(groupIDs(i)) == 0 {
		return f, nil
	}
	out, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: groupIDs(i)})
	if err != nil {
		return f, wrap("describe", "security groups of "+aws.ToString(i.InstanceId), err)
	}
	var rules []rule
	for k := range out.SecurityGroups {
		rules = append(rules, rulesIn(&out.SecurityGroups[k])...)
	}
	f.From = usualNetworks(rules)
	if with, err := withRules(f, rules); err == nil {
		return with, nil
	}
	m.warn("adopt", w.name, "its firewall has too many rules for its tags: a rescue will open none of them")
	f.Open, f.From = "", ""
	return f, nil
}

// usualNetworks are those that ssh is open to, else the first port.
func usualNetworks(rules []rule) string {
	of := func(match func(rule) bool) []string {
		var nets []string
		for _, r := range rules {
			if match(r) {
				nets = append(nets, r.CIDR)
			}
		}
		slices.Sort(nets)
		return slices.Compact(nets)
	}
	nets := of(func(r rule) bool { return r.Proto == "tcp" && r.From <= sshPort && sshPort <= r.To })
	if len(nets) == 0 && len(rules) > 0 {
		nets = of(func(r rule) bool { return r.Port == rules[0].Port })
	}
	return strings.Join(nets, " ")
}

// adoptAddress makes the instance's elastic IP the server's, or gets it one.
func (m *Manager) adoptAddress(ctx context.Context, i *types.Instance, o AdoptOptions) error {
	id := aws.ToString(i.InstanceId)
	out, err := m.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: []types.Filter{filter("instance-id", id)}})
	if err != nil && !unsupported(err) {
		return wrap("describe", "addresses", err)
	}
	has := false
	if unsupported(err) {
		out = &ec2.DescribeAddressesOutput{}
	}
	for k := range out.Addresses {
		a := &out.Addresses[k]
		if other := tagOf(a.Tags, tagServer); aws.ToString(a.InstanceId) != id || a.AllocationId == nil || other != "" && other != o.Name {
			continue
		}
		want := serverTags(o.Name)
		if hasTag(a.Tags, tagName) {
			delete(want, tagName)
		}
		if err := m.tag(ctx, *a.AllocationId, tagsOf(a.Tags).missing(want)); err != nil {
			return err
		}
		has = true
	}
	switch {
	case !has && !o.Address:
		if stateOf(i) == types.InstanceStateNameRunning && aws.ToString(i.PublicIpAddress) != "" {
			m.warn("adopt", o.Name, "its address "+*i.PublicIpAddress+" changes at each start: --address gets it a fixed one")
		}
		return nil
	case stateOf(i) != types.InstanceStateNameRunning && stateOf(i) != types.InstanceStateNamePending:
		return nil // the next start assigns it
	}
	return m.address(ctx, o.Name, id, o.Address)
}

// adoptDisks makes loose disks a server without an instance. The root comes
// last: without it, nothing can be rescued, and nothing half.
func (m *Manager) adoptDisks(ctx context.Context, w *world, o AdoptOptions) (*Server, error) {
	root, data, err := m.looseDisks(ctx, w, o)
	if err != nil {
		return nil, err
	}
	f, device, err := m.looseFacts(ctx, root, o)
	if err != nil {
		return nil, err
	}
	used := []string{cmp.Or(device, "/dev/sda1")}
	devices := used
	for _, v := range data {
		at := cmp.Or(tagOf(v.Tags, tagDevice))
		if k := slices.IndexFunc(o.Data, func(d AdoptDisk) bool { return d.VolumeID == aws.ToString(v.VolumeId) }); o.Data[k].Device != "" {
			at = o.Data[k].Device
		}
		if at == "" || slices.ContainsFunc(used, func(u string) bool { return slot(u) == slot(at) }) {
			if at, err = nextDevice(used); err != nil {
				return nil, err
			}
		}
		used, devices = append(used, at), append(devices, at)
		tags := serverTags(o.Name).with(tagMap{tagName: o.Name + " data " + at, tagRole: RoleData, tagDevice: at})
		if err := m.takeDisk(ctx, v, tags); err != nil {
			return nil, err
		}
	}
	f.Disks = strings.Join(devices, " ")
	tags := serverTags(o.Name).with(f.tags()).with(tagMap{tagRole: RoleRoot, tagDevice: used[0]})
	if err := m.takeDisk(ctx, root, tags); err != nil {
		return nil, err
	}
	return m.Get(ctx, o.Name)
}

// takeDisk tags a disk, and takes off what it was before.
func (m *Manager) takeDisk(ctx context.Context, v *types.Volume, tags tagMap) error {
	id := aws.ToString(v.VolumeId)
	return m.step("take disk", id, func() error {
		if err := m.tag(ctx, id, tagsOf(v.Tags).missing(tags)); err != nil {
			return err
		}
		var old []string
		for _, key := range []string{tagSupersededBy, tagStep, tagElasticIP, tagProtected} {
			if hasTag(v.Tags, key) {
				old = append(old, key)
			}
		}
		if len(old) == 0 {
			return nil
		}
		return m.untag(ctx, id, old...)
	})
}

// looseDisks finds the disks, and tells what forbids to take them.
func (m *Manager) looseDisks(ctx context.Context, w *world, o AdoptOptions) (root *types.Volume, data []*types.Volume, err error) {
	ids := []string{o.Root}
	for _, d := range o.Data {
		if d.Device != "" {
			if err := checkDevice(d.Device); err != nil {
				return nil, nil, err
			}
		}
		ids = append(ids, d.VolumeID)
	}
	for k, id := range ids {
		if err := checkVolumeID(id); err != nil {
			return nil, nil, err
		}
		if slices.Contains(ids[:k], id) {
			return nil, nil, &Error{Code: KindUsage, Reason: "disk " + id + " is named twice"}
		}
		v, err := m.volumeByID(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		if err := w.mayTakeLoose(v, id); err != nil {
			return nil, nil, err
		}
		if k == 0 {
			root = v
			continue
		}
		if a, b := aws.ToString(v.AvailabilityZone), aws.ToString(root.AvailabilityZone); a != b {
			return nil, nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("disk %s is in zone %s, the root in %s", id, a, b), Remedy: "a snapshot of it can become a volume there"}
		}
		data = append(data, v)
	}
	for k := range w.volumes {
		if id := aws.ToString(w.volumes[k].VolumeId); !slices.Contains(ids, id) {
			return nil, nil, &Error{Code: KindExists, Reason: "the name is taken: it has disk " + id, Remedy: "choose another name, or name this disk too"}
		}
	}
	if w.instance != nil || w.standIn != nil {
		return nil, nil, &Error{Code: KindExists, Reason: "the name is taken", Remedy: "stead show " + w.name + ", or choose another name"}
	}
	return root, data, nil
}

func (w *world) mayTakeLoose(v *types.Volume, id string) error {
	if v == nil {
		return &Error{Code: KindNotFound, Reason: "there is no volume " + id, Remedy: "stead volume ls"}
	}
	t := tagsOf(v.Tags)
	switch {
	case attachedTo(v) != "":
		return &Error{Code: KindExists, Reason: "disk " + id + " is plugged into instance " + attachedTo(v), Remedy: "stead adopt " + w.name + " " + attachedTo(v) + ", or detach it there first"}
	case t[tagServer] != "" && t[tagServer] != w.name && t[tagSupersededBy] == "":
		return &Error{Code: KindExists, Reason: "disk " + id + " belongs to server " + t[tagServer], Remedy: "stead rescue " + t[tagServer]}
	case t[tagStandIn] != "" || t[tagHelper] != "":
		return &Error{Code: KindExists, Reason: "disk " + id + " is on the way to something of stead's own", Remedy: "stead orphans"}
	}
	return nil
}

// looseFacts are what a root disk can't say itself: what the options, its
// tags and the image of the snapshot that it was made from say, in this order;
// and the device that the image has for its root.
func (m *Manager) looseFacts(ctx context.Context, root *types.Volume, o AdoptOptions) (facts, string, error) {
	f := factsOf(root.Tags)
	f.ElasticIP, f.Protected, f.PrivateIP = "", "", ""
	device := tagOf(root.Tags, tagDevice)
	image, err := m.imageOf(ctx, root, cmp.Or(o.Image, f.Image))
	if err != nil {
		return f, "", err
	}
	if image != nil {
		f.Image = cmp.Or(aws.ToString(image.ImageId), f.Image)
		f.Arch, f.BootMode = cmp.Or(f.Arch, string(image.Architecture)), cmp.Or(f.BootMode, string(image.BootMode))
		f.Virt, f.IMDS = cmp.Or(f.Virt, string(image.VirtualizationType)), cmp.Or(f.IMDS, string(image.ImdsSupport))
		f.Kernel, f.Ramdisk = cmp.Or(f.Kernel, aws.ToString(image.KernelId)), cmp.Or(f.Ramdisk, aws.ToString(image.RamdiskId))
		if f.Ena == "" && image.EnaSupport != nil {
			f.Ena = yesNo(*image.EnaSupport)
		}
		device = cmp.Or(device, aws.ToString(image.RootDeviceName))
		if a := m.aliasByName(image); a != nil {
			f.User = cmp.Or(f.User, a.user)
		}
	}
	f.Arch, f.BootMode = cmp.Or(o.Arch, f.Arch, archX86), cmp.Or(o.BootMode, f.BootMode)
	f.Type, f.User = cmp.Or(o.Type, f.Type, DefaultType), cmp.Or(o.User, f.User)
	f.Virt = cmp.Or(f.Virt, string(types.VirtualizationTypeHvm))
	f.Open, f.From = cmp.Or(f.Open, fmt.Sprint(sshPort)), cmp.Or(f.From, anywhere)
	f.Zone = aws.ToString(root.AvailabilityZone)
	return f, device, nil
}

// imageOf is the image that a root disk was made of, as named or as its
// snapshot tells; nil where nobody knows.
func (m *Manager) imageOf(ctx context.Context, root *types.Volume, ref string) (*types.Image, error) {
	if ref != "" {
		i, _, err := m.resolveImage(ctx, ref, archX86)
		if KindOf(err) == KindNotFound {
			return nil, nil
		}
		return i, err
	}
	snapshot := aws.ToString(root.SnapshotId)
	if snapshot == "" {
		return nil, nil
	}
	out, err := m.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{filter("block-device-mapping.snapshot-id", snapshot)}})
	if err != nil || len(out.Images) == 0 {
		m.log.DebugContext(ctx, "no image of snapshot", "snapshot", snapshot, "err", err)
		return nil, nil // not every endpoint can search so, and it is only a help
	}
	return &out.Images[0], nil
}
