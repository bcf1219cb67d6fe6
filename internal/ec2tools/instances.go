package ec2tools

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/spf13/pflag"
)

type runInstances struct {
	count                        string
	groups                       []string
	key, data, dataFile          string
	instanceType, zone           string
	kernel, ramdisk              string
	mappings                     []string
	subnet, address, profile     string
	token, shutdown              string
	monitor, protect, ebsOptimal bool
}

func (o *runInstances) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.count, "instance-count", "n", "1", "how many: `MIN[-MAX]`")
	fs.StringArrayVarP(&o.groups, "group", "g", nil, "a security `GROUP`, by name or ID; repeatable")
	fs.StringVarP(&o.key, "key", "k", "", "the `KEYPAIR` to log in with")
	fs.StringVarP(&o.data, "user-data", "d", "", "user data as `TEXT`")
	fs.StringVarP(&o.dataFile, "user-data-file", "f", "", "user data from `FILE`")
	fs.StringVarP(&o.instanceType, "instance-type", "t", "", "the instance `TYPE`; the endpoint's own default is m1.small")
	fs.StringVarP(&o.zone, "availability-zone", "z", "", "the `ZONE`")
	fs.StringVar(&o.kernel, "kernel", "", "boot the kernel `AKI`")
	fs.StringVar(&o.ramdisk, "ramdisk", "", "with the ramdisk `ARI`")
	fs.StringArrayVarP(&o.mappings, "block-device-mapping", "b", nil, mappingUsage)
	fs.StringVarP(&o.subnet, "subnet", "s", "", "the `SUBNET`")
	fs.StringVar(&o.address, "private-ip-address", "", "the private `ADDRESS`")
	fs.StringVarP(&o.profile, "iam-profile", "p", "", "the instance profile's `NAME` or ARN")
	fs.StringVar(&o.token, "client-token", "", "a `TOKEN`: the same one never launches twice")
	fs.StringVar(&o.shutdown, "instance-initiated-shutdown-behavior", "", "`stop` or terminate")
	fs.BoolVarP(&o.monitor, "monitor", "m", false, "with detailed monitoring")
	fs.BoolVar(&o.protect, "disable-api-termination", false, "refuse to terminate them")
	fs.BoolVar(&o.ebsOptimal, "ebs-optimized", false, "with bandwidth of their own for volumes")
}

func (o *runInstances) do(ctx context.Context, c *call) error {
	image, err := c.one("image")
	if err != nil {
		return err
	}
	in, err := o.input(image)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	out, err := client.RunInstances(ctx, in)
	if err != nil {
		if o.kernel != "" && aboutKernel(err, o.kernel) {
			fmt.Fprintf(c.notes, "This endpoint doesn't boot kernel %s. An image whose disk has a boot loader of its own runs so today:\n  %s\n", o.kernel, o.modernLine(image))
		}
		return fmt.Errorf("run image %s: %w", image, err)
	}
	c.out.reservation(types.Reservation{ReservationId: out.ReservationId, OwnerId: out.OwnerId, Groups: out.Groups, Instances: out.Instances}, true)
	return nil
}

// aboutKernel tells that a launch was refused for the kernel, as against for
// one of the many other things that it names.
func aboutKernel(err error, kernel string) bool {
	var ae smithy.APIError
	if !errors.As(err, &ae) || !refusesKernel(err) {
		return false
	}
	text := strings.ToLower(ae.ErrorMessage())
	return strings.HasPrefix(ae.ErrorCode(), "Unsupported") || strings.Contains(text, "kernel") || strings.Contains(text, strings.ToLower(kernel))
}

// modernLine is the same command for an endpoint that boots HVM alone.
func (o *runInstances) modernLine(image string) string {
	words := []string{"ec2run", image}
	option := func(name, value string) {
		if value != "" {
			words = append(words, name, value)
		}
	}
	if o.count != "1" {
		option("-n", o.count)
	}
	for _, g := range o.groups {
		option("-g", g)
	}
	option("-k", o.key)
	option("-d", o.data)
	option("-f", o.dataFile)
	option("-t", o.instanceType)
	option("-z", o.zone)
	for _, m := range o.mappings {
		option("-b", m)
	}
	option("-s", o.subnet)
	option("--private-ip-address", o.address)
	option("-p", o.profile)
	option("--client-token", o.token)
	option("--instance-initiated-shutdown-behavior", o.shutdown)
	for _, f := range []struct {
		name string
		set  bool
	}{{"-m", o.monitor}, {"--disable-api-termination", o.protect}, {"--ebs-optimized", o.ebsOptimal}} {
		if f.set {
			words = append(words, f.name)
		}
	}
	for k, w := range words {
		words[k] = quote(w)
	}
	return strings.Join(words, " ")
}

func (o *runInstances) input(image string) (*ec2.RunInstancesInput, error) {
	in := &ec2.RunInstancesInput{
		ImageId: &image, KeyName: optional(o.key), InstanceType: types.InstanceType(o.instanceType),
		KernelId: optional(o.kernel), RamdiskId: optional(o.ramdisk), SubnetId: optional(o.subnet), PrivateIpAddress: optional(o.address),
		ClientToken: optional(o.token), InstanceInitiatedShutdownBehavior: types.ShutdownBehavior(o.shutdown),
	}
	var err error
	if in.MinCount, in.MaxCount, err = count(o.count); err != nil {
		return nil, err
	}
	if in.BlockDeviceMappings, err = parseMappings(o.mappings); err != nil {
		return nil, err
	}
	if in.UserData, err = o.userData(); err != nil {
		return nil, err
	}
	for _, g := range o.groups {
		if strings.HasPrefix(g, "sg-") {
			in.SecurityGroupIds = append(in.SecurityGroupIds, g)
		} else {
			in.SecurityGroups = append(in.SecurityGroups, g)
		}
	}
	if o.zone != "" {
		in.Placement = &types.Placement{AvailabilityZone: &o.zone}
	}
	switch {
	case strings.HasPrefix(o.profile, "arn:"):
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: &o.profile}
	case o.profile != "":
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &o.profile}
	}
	if o.monitor {
		in.Monitoring = &types.RunInstancesMonitoringEnabled{Enabled: &o.monitor}
	}
	if o.protect {
		in.DisableApiTermination = &o.protect
	}
	if o.ebsOptimal {
		in.EbsOptimized = &o.ebsOptimal
	}
	return in, nil
}

func (o *runInstances) userData() (*string, error) {
	data := []byte(o.data)
	switch {
	case o.data != "" && o.dataFile != "":
		return nil, usageError("user data comes from -d or from -f, not both")
	case o.dataFile != "":
		var err error
		if data, err = os.ReadFile(o.dataFile); err != nil {
			return nil, usageError("user data: %v", err)
		}
	case o.data == "":
		return nil, nil
	}
	return aws.String(base64.StdEncoding.EncodeToString(data)), nil
}

// count reads MIN[-MAX].
func count(s string) (least, most *int32, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if least, err = positive("count", a); err != nil {
		return nil, nil, err
	}
	if !ranged {
		return least, least, nil
	}
	if most, err = positive("count", b); err != nil {
		return nil, nil, err
	}
	if *most < *least {
		return nil, nil, usageError("count %q: the most is less than the least", s)
	}
	return least, most, nil
}

type describeInstances struct{}

func (*describeInstances) flags(*pflag.FlagSet) {}

func (*describeInstances) do(ctx context.Context, c *call) error {
	client, filters, err := c.listing(ctx)
	if err != nil {
		return err
	}
	pages := ec2.NewDescribeInstancesPaginator(client, &ec2.DescribeInstancesInput{InstanceIds: c.args, Filters: filters})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("describe instances: %w", err)
		}
		for _, r := range page.Reservations {
			c.out.reservation(r, !c.common.hideTags)
		}
	}
	return nil
}

func (r *rows) reservation(v types.Reservation, tags bool) {
	groups := v.Groups
	if len(groups) == 0 && len(v.Instances) > 0 {
		groups = v.Instances[0].SecurityGroups // the VPC's, which the reservation doesn't list
	}
	r.row("RESERVATION", "ReservationID Owner Groups", v.ReservationId, v.OwnerId, names(groups))
	slices.SortStableFunc(v.Instances, func(a, b types.Instance) int {
		return cmp.Compare(aws.ToInt32(a.AmiLaunchIndex), aws.ToInt32(b.AmiLaunchIndex))
	})
	for k := range v.Instances {
		r.instance(&v.Instances[k], tags)
	}
}

func names(groups []types.GroupIdentifier) string {
	list := make([]string, len(groups))
	for k, g := range groups {
		list[k] = cmp.Or(aws.ToString(g.GroupName), aws.ToString(g.GroupId))
	}
	return strings.Join(list, ",")
}

const instanceColumns = "InstanceID ImageID PublicDNS PrivateDNS State KeyName LaunchIndex ProductCodes Type LaunchTime Zone KernelID RamdiskID " +
	"Platform Monitoring PublicIP PrivateIP VpcID SubnetID RootDeviceType Lifecycle SpotRequestID License PlacementGroup Virtualization Hypervisor " +
	"ClientToken Groups Tenancy EbsOptimized IamProfile Architecture"

func (r *rows) instance(i *types.Instance, tags bool) {
	var state types.InstanceStateName
	if i.State != nil {
		state = i.State.Name
	}
	placement := i.Placement
	if placement == nil {
		placement = &types.Placement{}
	}
	monitoring, profile := "", ""
	if i.Monitoring != nil {
		monitoring = "monitoring-" + string(i.Monitoring.State)
	}
	if i.IamInstanceProfile != nil {
		profile = aws.ToString(i.IamInstanceProfile.Arn)
	}
	groups := make([]string, len(i.SecurityGroups))
	for k, g := range i.SecurityGroups {
		groups[k] = aws.ToString(g.GroupId)
	}
	codes := make([]string, len(i.ProductCodes))
	for k, p := range i.ProductCodes {
		codes[k] = aws.ToString(p.ProductCodeId)
	}
	r.row("INSTANCE", instanceColumns,
		i.InstanceId, i.ImageId, i.PublicDnsName, i.PrivateDnsName, state, i.KeyName, i.AmiLaunchIndex, strings.Join(codes, ","), i.InstanceType,
		i.LaunchTime, placement.AvailabilityZone, i.KernelId, i.RamdiskId, i.Platform, monitoring, i.PublicIpAddress, i.PrivateIpAddress,
		i.VpcId, i.SubnetId, i.RootDeviceType, i.InstanceLifecycle, i.SpotInstanceRequestId, "", placement.GroupName, i.VirtualizationType,
		i.Hypervisor, i.ClientToken, strings.Join(groups, ","), placement.Tenancy, i.EbsOptimized, profile, i.Architecture)
	for _, b := range i.BlockDeviceMappings {
		if b.Ebs != nil {
			r.row("BLOCKDEVICE", "DeviceName VolumeID AttachTime DeleteOnTermination", b.DeviceName, b.Ebs.VolumeId, b.Ebs.AttachTime, b.Ebs.DeleteOnTermination)
		}
	}
	if tags {
		r.tags("instance", i.InstanceId, i.Tags)
	}
}

// changes prints what state instances were in and are going to.
func (r *rows) changes(list []types.InstanceStateChange) {
	for _, s := range list {
		var from, to types.InstanceStateName
		if s.PreviousState != nil {
			from = s.PreviousState.Name
		}
		if s.CurrentState != nil {
			to = s.CurrentState.Name
		}
		r.row("INSTANCE", "InstanceID PreviousState CurrentState", s.InstanceId, from, to)
	}
}

// onInstances is what the commands on the power of instances have in common.
func (c *call) onInstances(ctx context.Context, verb string, do func(EC2, []string) ([]types.InstanceStateChange, error)) error {
	ids, err := c.some("instance")
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	changes, err := do(client, ids)
	if err != nil {
		return fmt.Errorf("%s instance %s: %w", verb, strings.Join(ids, ", "), err)
	}
	c.out.changes(changes)
	return nil
}

type start struct{}

func (*start) flags(*pflag.FlagSet) {}

func (*start) do(ctx context.Context, c *call) error {
	return c.onInstances(ctx, "start", func(client EC2, ids []string) ([]types.InstanceStateChange, error) {
		out, err := client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: ids})
		if err != nil {
			return nil, err
		}
		return out.StartingInstances, nil
	})
}

type stop struct{ force bool }

func (o *stop) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.force, "force", "f", false, "pull the plug: the guest can't write its caches")
}

func (o *stop) do(ctx context.Context, c *call) error {
	return c.onInstances(ctx, "stop", func(client EC2, ids []string) ([]types.InstanceStateChange, error) {
		out, err := client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: ids, Force: &o.force})
		if err != nil {
			return nil, err
		}
		return out.StoppingInstances, nil
	})
}

type reboot struct{}

func (*reboot) flags(*pflag.FlagSet) {}

func (*reboot) do(ctx context.Context, c *call) error {
	return c.onInstances(ctx, "reboot", func(client EC2, ids []string) ([]types.InstanceStateChange, error) {
		_, err := client.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: ids})
		return nil, err
	})
}

type terminate struct{}

func (*terminate) flags(*pflag.FlagSet) {}

func (*terminate) do(ctx context.Context, c *call) error {
	return c.onInstances(ctx, "terminate", func(client EC2, ids []string) ([]types.InstanceStateChange, error) {
		out, err := client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
		if err != nil {
			return nil, err
		}
		return out.TerminatingInstances, nil
	})
}

// modifyInstance is ec2minatt: one attribute a call, as the API wants it.
type modifyInstance struct {
	mappings                         []string
	protect, ebsOptimized, checkSrc  string
	shutdown, instanceType           string
	kernel, ramdisk, userData, sriov string
	groups                           []string
	userDataFile                     string
}

func (o *modifyInstance) flags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.mappings, "block-device-mapping", "b", nil, "`DEVICE`=[VOLUME]:DELETE; DELETE=false keeps the volume when the instance is terminated")
	fs.StringVar(&o.protect, "disable-api-termination", "", "refuse to terminate it: `BOOL`")
	fs.StringVar(&o.shutdown, "instance-initiated-shutdown-behavior", "", "`stop` or terminate")
	fs.StringVarP(&o.instanceType, "instance-type", "t", "", "the instance `TYPE`")
	fs.StringVar(&o.kernel, "kernel", "", "the kernel `AKI`")
	fs.StringVar(&o.ramdisk, "ramdisk", "", "the ramdisk `ARI`")
	fs.StringVar(&o.userData, "user-data", "", "user data as `TEXT`")
	fs.StringVar(&o.userDataFile, "user-data-file", "", "user data from `FILE`")
	fs.StringVar(&o.ebsOptimized, "ebs-optimized", "", "bandwidth of its own for volumes: `BOOL`")
	fs.StringVar(&o.checkSrc, "source-dest-check", "", "drop packets that aren't for it: `BOOL`")
	fs.StringVar(&o.sriov, "sriov", "", "enhanced networking: simple")
	fs.StringArrayVarP(&o.groups, "group-id", "g", nil, "a security group's `ID`; repeatable")
}

func (o *modifyInstance) do(ctx context.Context, c *call) error {
	id, err := c.one("instance")
	if err != nil {
		return err
	}
	in := &ec2.ModifyInstanceAttributeInput{InstanceId: &id}
	attribute, value, err := o.input(in)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if _, err := client.ModifyInstanceAttribute(ctx, in); err != nil {
		return fmt.Errorf("modify %s of instance %s: %w", attribute, id, err)
	}
	c.out.row(attribute, "InstanceID Value", id, value)
	return nil
}

// input fills in the one attribute that was given.
func (o *modifyInstance) input(in *ec2.ModifyInstanceAttributeInput) (attribute, value string, err error) {
	given := 0
	set := func(name, v string, apply func() error) {
		if v == "" || err != nil {
			return
		}
		given++
		attribute, value, err = name, v, apply()
	}
	flag := func(name, v string, to **types.AttributeBooleanValue) {
		set(name, v, func() error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return usageError("%s is true or false, not %q", name, v)
			}
			*to = &types.AttributeBooleanValue{Value: &b}
			return nil
		})
	}
	text := func(name, v string, to **types.AttributeValue) {
		set(name, v, func() error {
			*to = &types.AttributeValue{Value: &v}
			return nil
		})
	}
	flag("disableApiTermination", o.protect, &in.DisableApiTermination)
	flag("ebsOptimized", o.ebsOptimized, &in.EbsOptimized)
	flag("sourceDestCheck", o.checkSrc, &in.SourceDestCheck)
	text("instanceInitiatedShutdownBehavior", o.shutdown, &in.InstanceInitiatedShutdownBehavior)
	text("instanceType", o.instanceType, &in.InstanceType)
	text("kernel", o.kernel, &in.Kernel)
	text("ramdisk", o.ramdisk, &in.Ramdisk)
	text("sriovNetSupport", o.sriov, &in.SriovNetSupport)
	set("groupSet", strings.Join(o.groups, ","), func() error {
		in.Groups = o.groups
		return nil
	})
	set("userData", o.userData+o.userDataFile, func() error {
		data, err := (&runInstances{data: o.userData, dataFile: o.userDataFile}).userData()
		if err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(*data)
		in.UserData = &types.SecureBlobAttributeValue{Value: raw}
		return err
	})
	set("blockDeviceMapping", strings.Join(o.mappings, ","), func() (err error) {
		in.BlockDeviceMappings, err = deleteFlags(o.mappings)
		return err
	})
	if err == nil && given != 1 {
		err = usageError("give one attribute, not %d", given)
	}
	return attribute, value, err
}

// deleteFlags reads DEVICE=[VOLUME]:DELETE.
func deleteFlags(specs []string) ([]types.InstanceBlockDeviceMappingSpecification, error) {
	var list []types.InstanceBlockDeviceMappingSpecification
	for _, s := range specs {
		device, spec, ok := strings.Cut(s, "=")
		parts := strings.Split(spec, ":")
		del, err := strconv.ParseBool(parts[len(parts)-1])
		if !ok || device == "" || err != nil || len(parts) > 3 {
			return nil, usageError("block device mapping %q is not DEVICE=[VOLUME]:DELETE", s)
		}
		ebs := &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: &del}
		if len(parts) > 1 {
			ebs.VolumeId = optional(parts[0])
		}
		list = append(list, types.InstanceBlockDeviceMappingSpecification{DeviceName: &device, Ebs: ebs})
	}
	return list, nil
}
