package cloud

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

const maxUserData = 16 << 10

// RunInstances launches instances of an image: records and volumes are
// committed together; the workers fill the volumes and start the machines.
func (c *Cloud) RunInstances(ctx context.Context, in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
	s := from(ctx).Scope
	if err := checkRun(in); err != nil {
		return nil, err
	}
	if c.stopping.Load() {
		return nil, errStopping
	}
	params := *in
	params.ClientToken = nil
	var out *types.Reservation
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		ids, err := c.once(tx, s, "RunInstances", in.ClientToken, params, func() ([]string, error) {
			l, err := c.planLaunch(tx, s, in)
			if err != nil {
				return nil, err
			}
			return c.launch(tx, l)
		})
		if err != nil {
			return err
		}
		var insts []*state.Instance
		for _, id := range ids {
			inst, err := find[state.Instance](tx, s, instanceIDs, id)
			if err != nil {
				return err
			}
			insts = append(insts, inst)
			jobs = append(jobs, jobOf(inst))
			for _, v := range inst.Volumes {
				jobs = append(jobs, job{(*state.Volume)(nil).Kind(), s, v})
			}
		}
		list, err := c.reservations(tx, s, insts)
		if err == nil {
			out = &list[0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobs...)
	return &ec2.RunInstancesOutput{Groups: out.Groups, Instances: out.Instances, OwnerId: out.OwnerId, ReservationId: out.ReservationId}, nil
}

// checkRun refuses what needs no look at the state, and what cannot be had on
// one machine, rather than leave it out silently.
func checkRun(in *ec2.RunInstancesInput) error {
	switch {
	case in.MinCount == nil:
		return missing("MinCount")
	case in.MaxCount == nil:
		return missing("MaxCount")
	case *in.MinCount < 1 || *in.MaxCount < *in.MinCount:
		return invalid(*in.MinCount, "minCount", "It must be at least 1 and at most maxCount.")
	case *in.MaxCount > 100:
		return fail("InstanceLimitExceeded", "%d instances in one call are more than the 100 that are allowed.", *in.MaxCount)
	case in.LaunchTemplate != nil:
		return unsupported("A launch template", "Give its parameters in the call.")
	case in.IamInstanceProfile != nil:
		return unsupported("An instance profile", "This cloud has no IAM: leave IamInstanceProfile out, and give the server credentials of its own.")
	case in.PrivateIpAddress != nil && *in.MaxCount > 1:
		return fail("InvalidParameterCombination", "A private address can be given to one instance alone, not to %d.", *in.MaxCount)
	case in.Ipv6AddressCount != nil || len(in.Ipv6Addresses) > 0:
		return unsupported("IPv6", "Leave the IPv6 parameters out.")
	case len(in.NetworkInterfaces) > 1:
		return unsupported("More than one network interface", "Give one with DeviceIndex 0.")
	case in.Placement != nil && (in.Placement.Tenancy != "" && in.Placement.Tenancy != types.TenancyDefault || in.Placement.HostId != nil):
		return unsupported("Dedicated tenancy", "Leave Placement.Tenancy out.")
	}
	switch in.InstanceInitiatedShutdownBehavior {
	case "", types.ShutdownBehaviorStop, types.ShutdownBehaviorTerminate:
	default:
		return invalid(in.InstanceInitiatedShutdownBehavior, "instanceInitiatedShutdownBehavior", "Use stop or terminate.")
	}
	return checkMarket(in)
}

// launch describes the instances of one call.
type launch struct {
	count    int32
	proto    state.Instance // what they have in common
	devices  []state.BlockDevice
	subnet   *state.Subnet
	tags     map[string]string
	diskTags map[string]string
	wantIP   string
	spot     *state.SpotRequest // what their requests have in common; nil: on demand
}

func (c *Cloud) planLaunch(tx *state.Tx, s state.Scope, in *ec2.RunInstancesInput) (*launch, error) {
	l := &launch{count: *in.MaxCount}
	p := &l.proto
	p.Meta = state.Meta{Account: s.Account, Region: s.Region, Created: c.now().UTC()}
	steps := []func() error{
		func() error { return l.planTags(in) },
		func() error { return c.planImageBoot(tx, s, l, in) },
		func() error { return c.planType(l, in) },
		func() error { return c.planNetwork(tx, s, l, in) },
		func() error { return planAccess(tx, s, p, in) },
		func() error { return planOptions(p, in) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *launch) planTags(in *ec2.RunInstancesInput) (err error) {
	others := []types.ResourceType{
		types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface, types.ResourceTypeSpotInstancesRequest,
	}
	if l.tags, err = tagsFor(in.TagSpecifications, types.ResourceTypeInstance, others...); err != nil {
		return err
	}
	if l.diskTags, err = tagsFor(in.TagSpecifications, types.ResourceTypeVolume, others...); err != nil {
		return err
	}
	return l.planSpot(in, others)
}

func (c *Cloud) planImageBoot(tx *state.Tx, s state.Scope, l *launch, in *ec2.RunInstancesInput) error {
	if in.ImageId == nil {
		return missing("ImageId")
	}
	img, err := find[state.Image](tx, s, imageIDs, *in.ImageId)
	if err != nil {
		return err
	}
	switch {
	case img.State != state.ImageAvailable:
		return fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available: it is '%s'.", img.ID, img.State)
	case img.Architecture == "arm64":
		return fail("UnsupportedOperation", "The image '%s' is for %s; this machine runs x86_64.", img.ID, img.Architecture)
	}
	p := &l.proto
	p.ImageID, p.Architecture, p.BootMode, p.RootDevice, p.KernelID = img.ID, img.Architecture, img.BootMode, img.RootDevice, img.KernelID
	p.UEFIData = img.UEFIData
	if in.KernelId != nil {
		if _, err := findKernel(tx, s, *in.KernelId); err != nil {
			return err
		}
		p.KernelID = *in.KernelId
	}
	if l.devices, err = c.blockDevices(tx, s, img.BlockDevices, in.BlockDeviceMappings); err != nil {
		return err
	}
	l.devices = slices.DeleteFunc(l.devices, func(b state.BlockDevice) bool { return b.Virtual != "" }) // no instance stores here
	if !slices.ContainsFunc(l.devices, func(b state.BlockDevice) bool { return sameDevice(b.Device, p.RootDevice) }) {
		return fail("InvalidBlockDeviceMapping", "The mapping leaves the instance without its root device %s.", p.RootDevice)
	}
	slices.SortStableFunc(l.devices, func(a, b state.BlockDevice) int { return compareDevices(p.RootDevice, a.Device, b.Device) })
	return nil
}

// planType finds the type, and what it makes of the image's boot mode.
func (c *Cloud) planType(l *launch, in *ec2.RunInstancesInput) error {
	name := string(in.InstanceType)
	if name == "" {
		name = "t3.micro"
	}
	if _, ok := instanceType(name); !ok {
		return invalid(name, "instanceType", "No such type here; DescribeInstanceTypes lists them.")
	}
	l.proto.Type = name
	mode, err := c.bootMode(&l.proto)
	l.proto.CurrentBootMode = string(mode)
	return err
}

func (c *Cloud) planNetwork(tx *state.Tx, s state.Scope, l *launch, in *ec2.RunInstancesInput) error {
	subnetID, wantIP, groups := aws.ToString(in.SubnetId), aws.ToString(in.PrivateIpAddress), in.SecurityGroupIds
	if len(in.NetworkInterfaces) == 1 {
		ni := in.NetworkInterfaces[0]
		switch {
		case ni.NetworkInterfaceId != nil:
			return unsupported("An existing network interface", "Give SubnetId and PrivateIpAddress instead.")
		case len(ni.PrivateIpAddresses) > 1 || aws.ToInt32(ni.SecondaryPrivateIpAddressCount) > 0:
			return unsupported("A secondary private address", "Give one PrivateIpAddress.")
		case ni.DeleteOnTermination != nil && !*ni.DeleteOnTermination:
			return unsupported("A network interface that outlives its instance", "Leave DeleteOnTermination out; the private address can be asked for again with PrivateIpAddress.")
		case aws.ToInt32(ni.DeviceIndex) != 0:
			return invalid(*ni.DeviceIndex, "NetworkInterface.DeviceIndex", "The only interface has index 0.")
		case len(groups) > 0 || subnetID != "":
			return fail("InvalidParameterCombination", "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request")
		}
		l.proto.NoPublicIP = ni.AssociatePublicIpAddress != nil && !*ni.AssociatePublicIpAddress
		subnetID, wantIP, groups = aws.ToString(ni.SubnetId), aws.ToString(ni.PrivateIpAddress), ni.Groups
		if len(ni.PrivateIpAddresses) == 1 {
			wantIP = aws.ToString(ni.PrivateIpAddresses[0].PrivateIpAddress)
		}
	}
	zone := ""
	if in.Placement != nil {
		zone = aws.ToString(in.Placement.AvailabilityZone)
	}
	var err error
	if l.subnet, err = pickSubnet(tx, s, subnetID, zone); err != nil {
		return err
	}
	l.wantIP = wantIP
	p := &l.proto
	p.Zone, p.SubnetID, p.VPCID = l.subnet.Zone, l.subnet.ID, l.subnet.VPCID
	p.Groups, err = pickGroups(tx, s, groups, in.SecurityGroups)
	return err
}

// pickSubnet finds the subnet of a launch: the one named, else the zone's,
// else the first zone's.
func pickSubnet(tx *state.Tx, s state.Scope, id, zone string) (*state.Subnet, error) {
	if id != "" {
		sub, err := find[state.Subnet](tx, s, subnetIDs, id)
		if err == nil && zone != "" && sub.Zone != zone {
			return nil, fail("InvalidParameterValue", "The subnet %s is in zone %s, not %s.", id, sub.Zone, zone)
		}
		return sub, err
	}
	if zone == "" {
		zone = zonesOf(s.Region)[0]
	}
	if err := checkZone(s.Region, zone); err != nil {
		return nil, err
	}
	subs, err := state.List[state.Subnet](tx, s)
	if err != nil {
		return nil, err
	}
	for _, sub := range subs {
		if sub.Zone == zone {
			return sub, nil
		}
	}
	return nil, fail("MissingInput", "No subnet is in zone %s.", zone)
}

// pickGroups finds security groups by ID and by name; none is the default one.
func pickGroups(tx *state.Tx, s state.Scope, ids, names []string) ([]string, error) {
	if len(ids)+len(names) == 0 {
		names = []string{"default"}
	}
	all, err := state.List[state.SecurityGroup](tx, s)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, id := range ids {
		if _, err := find[state.SecurityGroup](tx, s, groupIDs, id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	for _, name := range names {
		at := slices.IndexFunc(all, func(g *state.SecurityGroup) bool { return g.Name == name })
		if at < 0 {
			return nil, fail("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
		}
		out = append(out, all[at].ID)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func planAccess(tx *state.Tx, s state.Scope, p *state.Instance, in *ec2.RunInstancesInput) error {
	if in.KeyName != nil {
		keys, err := state.List[state.KeyPair](tx, s)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(keys, func(k *state.KeyPair) bool { return k.Name == *in.KeyName }) {
			return fail("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", *in.KeyName)
		}
		p.KeyName = *in.KeyName
	}
	data, err := decodeUserData(aws.ToString(in.UserData))
	p.UserData = data
	return err
}

func decodeUserData(text string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fail("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data: %v", err)
	}
	if len(data) > maxUserData {
		return nil, fail("InvalidParameterValue", "User data is limited to %d bytes; this is %d.", maxUserData, len(data))
	}
	if len(data) == 0 {
		return nil, nil
	}
	return data, nil
}

func planOptions(p *state.Instance, in *ec2.RunInstancesInput) error {
	p.ProtectTermination, p.ProtectStop = aws.ToBool(in.DisableApiTermination), aws.ToBool(in.DisableApiStop)
	p.EBSOptimized = aws.ToBool(in.EbsOptimized)
	p.ShutdownBehavior = string(types.ShutdownBehaviorStop)
	if in.InstanceInitiatedShutdownBehavior != "" {
		p.ShutdownBehavior = string(in.InstanceInitiatedShutdownBehavior)
	}
	if in.Monitoring != nil {
		p.Monitoring = aws.ToBool(in.Monitoring.Enabled)
	}
	p.ClientToken = aws.ToString(in.ClientToken)
	p.MetadataTokens, p.MetadataHops = string(types.HttpTokensStateRequired), 2
	if m := in.MetadataOptions; m != nil {
		if m.HttpTokens != "" {
			p.MetadataTokens = string(m.HttpTokens)
		}
		if m.HttpPutResponseHopLimit != nil {
			p.MetadataHops = *m.HttpPutResponseHopLimit
		}
		p.MetadataDisabled = m.HttpEndpoint == types.InstanceMetadataEndpointStateDisabled
		p.MetadataTags = m.InstanceMetadataTags == types.InstanceMetadataTagsStateEnabled
	}
	return nil
}

// launch writes the instances and their volumes and gives the instances' IDs.
func (c *Cloud) launch(tx *state.Tx, l *launch) ([]string, error) {
	s := l.proto.Scope()
	reservation := newID("r")
	taken, err := state.AllInstanceAddresses(tx)
	if err != nil {
		return nil, err
	}
	used := usedAddresses(taken, s)
	newPublic, err := c.publicIPs(tx, taken)
	if err != nil {
		return nil, err
	}
	var ids []string
	for i := range l.count {
		inst := l.proto
		if err := c.requestSpot(tx, l, &inst); err != nil {
			return nil, err
		}
		inst.ID, inst.Tags = newID("i"), cloneTags(l.tags)
		inst.ReservationID, inst.LaunchIndex = reservation, int(i)
		inst.Want, inst.State = state.Running, state.Pending
		inst.Launched, inst.StateChanged = inst.Created, inst.Created
		inst.Interface, inst.Attachment = newID("eni"), newID("eni-attach")
		inst.MAC = macOf(inst.Interface)
		if inst.PrivateIP, err = pickAddress(l.subnet, l.wantIP, used); err != nil {
			return nil, err
		}
		if !inst.NoPublicIP {
			if inst.PublicIP, err = newPublic(); err != nil {
				return nil, err
			}
		}
		for _, dev := range l.devices {
			vol, err := c.newVolume(tx, s, inst.Zone, specOf(dev))
			if err != nil {
				return nil, err
			}
			vol.Tags = cloneTags(l.diskTags)
			if err := c.attach(tx, vol, &inst, dev.Device, dev.DeleteOnTermination); err != nil {
				return nil, err
			}
		}
		if err := state.Put(tx, &inst); err != nil {
			return nil, err
		}
		if err := c.fulfil(tx, &inst); err != nil {
			return nil, err
		}
		ids = append(ids, inst.ID)
	}
	return ids, nil
}

func cloneTags(tags map[string]string) map[string]string {
	m := make(map[string]string, len(tags))
	maps.Copy(m, tags)
	return m
}

// macOf makes a locally administered address of an interface's ID.
func macOf(eni string) string {
	b, _ := hex.DecodeString(eni[len("eni-"):][:10])
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4])
}

// usedAddresses are the private addresses of a region's instances.
func usedAddresses(taken []state.InstanceAddresses, s state.Scope) map[string]bool {
	used := map[string]bool{}
	for _, i := range taken {
		if i.Scope == s && i.State != state.Terminated {
			used[i.PrivateIP] = true
		}
	}
	return used
}

// pickAddress gives the wanted address, or the subnet's lowest free one. The
// first four and the last are reserved, as on AWS.
func pickAddress(sub *state.Subnet, want string, used map[string]bool) (string, error) {
	prefix, err := netip.ParsePrefix(sub.CIDR)
	if err != nil {
		return "", fmt.Errorf("subnet %s: %w", sub.ID, err)
	}
	first := prefix.Addr()
	for range 4 {
		first = first.Next()
	}
	if want != "" {
		a, err := netip.ParseAddr(want)
		switch {
		case err != nil || !prefix.Contains(a) || a.Less(first) || !prefix.Contains(a.Next()):
			return "", invalid(want, "privateIpAddress", "It is not a usable address of subnet "+sub.ID+" ("+sub.CIDR+").")
		case used[want]:
			return "", fail("InvalidIPAddress.InUse", "Address %s is in use.", want)
		}
		used[want] = true
		return want, nil
	}
	for a := first; prefix.Contains(a.Next()); a = a.Next() {
		if !used[a.String()] {
			used[a.String()] = true
			return a.String(), nil
		}
	}
	return "", fail("InsufficientFreeAddressesInSubnet", "Subnet %s has no free address.", sub.ID)
}
