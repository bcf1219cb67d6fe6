package cloud

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (c *Cloud) registerInstances() {
	c.ec2Actions["RunInstances"] = handle(c.RunInstances)
	c.ec2Actions["DescribeInstances"] = handle(c.DescribeInstances)
	c.ec2Actions["DescribeInstanceStatus"] = handle(c.DescribeInstanceStatus)
	c.ec2Actions["StartInstances"] = handle(c.StartInstances)
	c.ec2Actions["StopInstances"] = handle(c.StopInstances)
	c.ec2Actions["RebootInstances"] = handle(c.RebootInstances)
	c.ec2Actions["TerminateInstances"] = handle(c.TerminateInstances)
	c.ec2Actions["GetConsoleOutput"] = handle(c.GetConsoleOutput)
	c.ec2Actions["GetInstanceUefiData"] = handle(c.GetInstanceUefiData)
	c.ec2Actions["DescribeInstanceAttribute"] = handle(c.DescribeInstanceAttribute)
	c.ec2Actions["ModifyInstanceAttribute"] = handle(c.ModifyInstanceAttribute)
	c.ec2Actions["ModifyInstanceMetadataOptions"] = handle(c.ModifyInstanceMetadataOptions)
}

var stateCodes = map[string]int32{
	state.Pending: 0, state.Running: 16, state.ShuttingDown: 32, state.Terminated: 48, state.Stopping: 64, state.Stopped: 80,
}

func apiState(name string) *types.InstanceState {
	return &types.InstanceState{Code: aws.Int32(stateCodes[name]), Name: types.InstanceStateName(name)}
}

// view is an instance with what else the API shows of it.
type view struct {
	*state.Instance
	disks  []*state.Volume
	groups []types.GroupIdentifier
	public string
	eip    *state.Address
	fault  *fault            // why its machine stands still
	moved  map[string]string // tags that tell of ports moved on the host
}

var instanceFilters = fields[view]{
	"instance-id":                            func(v view) []string { return []string{v.ID} },
	"instance-state-name":                    func(v view) []string { return []string{v.State} },
	"instance-state-code":                    func(v view) []string { return []string{strconv.Itoa(int(stateCodes[v.State]))} },
	"instance-type":                          func(v view) []string { return []string{v.Type} },
	"image-id":                               func(v view) []string { return []string{v.ImageID} },
	"kernel-id":                              func(v view) []string { return []string{v.KernelID} },
	"key-name":                               func(v view) []string { return []string{v.KeyName} },
	"availability-zone":                      func(v view) []string { return []string{v.Zone} },
	"placement.availability-zone":            func(v view) []string { return []string{v.Zone} },
	"subnet-id":                              func(v view) []string { return []string{v.SubnetID} },
	"vpc-id":                                 func(v view) []string { return []string{v.VPCID} },
	"private-ip-address":                     func(v view) []string { return []string{v.PrivateIP} },
	"private-dns-name":                       func(v view) []string { return []string{privateName(v.PrivateIP)} },
	"ip-address":                             func(v view) []string { return []string{v.public} },
	"architecture":                           func(v view) []string { return []string{v.Architecture} },
	"client-token":                           func(v view) []string { return []string{v.ClientToken} },
	"reservation-id":                         func(v view) []string { return []string{v.ReservationID} },
	"owner-id":                               func(v view) []string { return []string{v.Account} },
	"root-device-name":                       func(v view) []string { return []string{v.RootDevice} },
	"root-device-type":                       func(view) []string { return []string{"ebs"} },
	"launch-time":                            func(v view) []string { return []string{timestamp(v.Launched)} },
	"instance-lifecycle":                     func(v view) []string { return optionalValue(string(lifecycle(v.Instance))) },
	"spot-instance-request-id":               func(v view) []string { return optionalValue(v.SpotRequest) },
	"launch-index":                           func(v view) []string { return []string{strconv.Itoa(v.LaunchIndex)} },
	"tenancy":                                func(view) []string { return []string{"default"} },
	"hypervisor":                             func(view) []string { return []string{"xen"} },
	"virtualization-type":                    func(view) []string { return []string{"hvm"} },
	"monitoring-state":                       func(v view) []string { return []string{monitoring(v.Monitoring)} },
	"state-reason-code":                      func(v view) []string { return []string{v.ReasonCode} },
	"metadata-options.http-tokens":           func(v view) []string { return []string{v.MetadataTokens} },
	"network-interface.network-interface-id": func(v view) []string { return []string{v.Interface} },
	"network-interface.addresses.private-ip-address": func(v view) []string { return []string{v.PrivateIP} },
	"network-interface.subnet-id":                    func(v view) []string { return []string{v.SubnetID} },
	"network-interface.vpc-id":                       func(v view) []string { return []string{v.VPCID} },
	"instance.group-id":                              func(v view) []string { return v.Groups },
	"group-id":                                       func(v view) []string { return v.Groups },
	"instance.group-name":                            groupNames,
	"group-name":                                     groupNames,
	"block-device-mapping.volume-id":                 func(v view) []string { return v.Volumes },
	"block-device-mapping.device-name": ofDisks(func(d *state.Volume) string {
		return d.Attachment.Device
	}),
	"block-device-mapping.status": ofDisks(func(d *state.Volume) string { return d.Attachment.State }),
	"block-device-mapping.delete-on-termination": ofDisks(func(d *state.Volume) string {
		return strconv.FormatBool(d.Attachment.DeleteOnTermination)
	}),
}

func groupNames(v view) []string {
	var names []string
	for _, g := range v.groups {
		names = append(names, aws.ToString(g.GroupName))
	}
	return names
}

func ofDisks(f func(*state.Volume) string) func(view) []string {
	return func(v view) []string {
		var out []string
		for _, d := range v.disks {
			out = append(out, f(d))
		}
		return out
	}
}

func monitoring(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

func privateName(ip string) string {
	return "ip-" + strings.ReplaceAll(ip, ".", "-") + ".ec2.internal"
}

// views gathers what the API shows of instances, reading each kind of record
// once however many instances there are.
func (c *Cloud) views(tx *state.Tx, s state.Scope, insts []*state.Instance) ([]view, error) {
	groups, err := state.List[state.SecurityGroup](tx, s)
	if err != nil {
		return nil, err
	}
	addresses, err := state.List[state.Address](tx, s)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, g := range groups {
		names[g.ID] = g.Name
	}
	elastic := map[string]*state.Address{}
	for _, a := range addresses {
		if a.InstanceID != "" {
			elastic[a.InstanceID] = a
		}
	}
	out := make([]view, 0, len(insts))
	for _, i := range insts {
		v := view{Instance: i, eip: elastic[i.ID]}
		if v.disks, err = disksOf(tx, i); err != nil {
			return nil, err
		}
		for _, g := range i.Groups {
			v.groups = append(v.groups, types.GroupIdentifier{GroupId: aws.String(g), GroupName: aws.String(names[g])})
		}
		v.public = publicOf(i, v.eip)
		v.moved, v.fault = c.movedPorts(i), c.running.fault(i.ID)
		out = append(out, v)
	}
	return out, nil
}

// publicOf is the address under which the host leads to an instance: its
// elastic IP for as long as it has one, else the automatic one while it runs.
func publicOf(i *state.Instance, eip *state.Address) string {
	switch {
	case eip != nil:
		return eip.IP
	case i.State == state.Running || i.State == state.Pending:
		return i.PublicIP
	}
	return ""
}

// reservations groups instances as RunInstances launched them.
func (c *Cloud) reservations(tx *state.Tx, s state.Scope, insts []*state.Instance) ([]types.Reservation, error) {
	views, err := c.views(tx, s, insts)
	if err != nil {
		return nil, err
	}
	return byReservation(views), nil
}

func byReservation(views []view) []types.Reservation {
	var out []types.Reservation
	at := map[string]int{}
	for _, v := range views {
		n, ok := at[v.ReservationID]
		if !ok {
			n = len(out)
			at[v.ReservationID] = n
			out = append(out, types.Reservation{
				ReservationId: aws.String(v.ReservationID), OwnerId: aws.String(v.Account), Groups: []types.GroupIdentifier{}, Instances: []types.Instance{},
			})
		}
		out[n].Instances = append(out[n].Instances, apiInstance(v))
	}
	return out
}

// DescribeInstances lists instances by reservation; terminated ones for an hour.
func (c *Cloud) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
	page, next, err := c.listInstances(ctx, in.InstanceIds, in.Filters, in.MaxResults, in.NextToken, instanceFilters)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeInstancesOutput{NextToken: next, Reservations: byReservation(page)}, nil
}

func (c *Cloud) listInstances(ctx context.Context, ids []string, filters []types.Filter, limit *int32, token *string, known fields[view]) ([]view, *string, error) {
	if err := notPaged(ids, limit, "instancesSet"); err != nil {
		return nil, nil, err
	}
	s := from(ctx).Scope
	var views []view
	var next *string
	err := c.db.View(func(tx *state.Tx) error {
		see := func(insts []*state.Instance) ([]view, error) {
			all, err := c.views(tx, s, insts)
			if err != nil {
				return nil, err
			}
			return filter(all, filters, known)
		}
		if len(ids) == 0 {
			var err error
			views, next, err = readPage(tx, s, limit, token, filters, see)
			return err
		}
		insts, err := listNamed[state.Instance](tx, s, instanceIDs, ids)
		if err != nil {
			return err
		}
		views, err = see(insts)
		return err
	})
	return views, next, err
}

var statusFilters = fields[view]{
	"instance-state-name":          instanceFilters["instance-state-name"],
	"instance-state-code":          instanceFilters["instance-state-code"],
	"availability-zone":            instanceFilters["availability-zone"],
	"instance-status.status":       func(v view) []string { return []string{string(statusOf(v))} },
	"system-status.status":         func(v view) []string { return []string{string(statusOf(v))} },
	"instance-status.reachability": func(v view) []string { return []string{reachability(v)} },
	"system-status.reachability":   func(v view) []string { return []string{reachability(v)} },
}

func statusOf(v view) types.SummaryStatus {
	if v.fault != nil {
		return types.SummaryStatusImpaired
	}
	if v.State == state.Running {
		return types.SummaryStatusOk
	}
	return types.SummaryStatusNotApplicable
}

func reachability(v view) string {
	if v.fault != nil {
		return "failed"
	}
	if v.State == state.Running {
		return "passed"
	}
	return "insufficient-data"
}

// DescribeInstanceStatus tells whether machines run; others only when all are
// asked for.
func (c *Cloud) DescribeInstanceStatus(ctx context.Context, in *ec2.DescribeInstanceStatusInput) (*ec2.DescribeInstanceStatusOutput, error) {
	filters := in.Filters
	if !aws.ToBool(in.IncludeAllInstances) {
		filters = append(slices.Clone(filters), types.Filter{Name: aws.String("instance-state-name"), Values: []string{state.Running}})
	}
	page, next, err := c.listInstances(ctx, in.InstanceIds, filters, in.MaxResults, in.NextToken, statusFilters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceStatusOutput{NextToken: next}
	for _, v := range page {
		summary := func() *types.InstanceStatusSummary {
			sum := &types.InstanceStatusSummary{Status: statusOf(v)}
			if v.State == state.Running {
				sum.Details = []types.InstanceStatusDetails{{Name: types.StatusNameReachability, Status: types.StatusType(reachability(v))}}
			}
			return sum
		}
		out.InstanceStatuses = append(out.InstanceStatuses, types.InstanceStatus{
			InstanceId: aws.String(v.ID), AvailabilityZone: aws.String(v.Zone), InstanceState: apiState(v.State),
			InstanceStatus: summary(), SystemStatus: summary(),
		})
	}
	return out, nil
}

func apiInstance(v view) types.Instance {
	i := v.Instance
	out := types.Instance{
		InstanceId: aws.String(i.ID), ImageId: aws.String(i.ImageID), InstanceType: types.InstanceType(i.Type), State: apiState(i.State),
		LaunchTime: aws.Time(i.Launched), AmiLaunchIndex: aws.Int32(int32(i.LaunchIndex)), Architecture: types.ArchitectureValues(i.Architecture),
		RootDeviceName: aws.String(i.RootDevice), RootDeviceType: types.DeviceTypeEbs, VirtualizationType: types.VirtualizationTypeHvm,
		Hypervisor: types.HypervisorTypeXen, EbsOptimized: aws.Bool(i.EBSOptimized), EnaSupport: aws.Bool(true), ClientToken: aws.String(i.ClientToken),
		Monitoring: &types.Monitoring{State: types.MonitoringState(monitoring(i.Monitoring))}, ProductCodes: []types.ProductCode{},
		Placement:      &types.Placement{AvailabilityZone: aws.String(i.Zone), AvailabilityZoneId: aws.String(zoneID(i.Zone)), GroupName: aws.String(""), Tenancy: types.TenancyDefault},
		SecurityGroups: []types.GroupIdentifier{}, NetworkInterfaces: []types.InstanceNetworkInterface{}, BlockDeviceMappings: []types.InstanceBlockDeviceMapping{},
		PrivateDnsName: aws.String(""), PublicDnsName: aws.String(""), PlatformDetails: aws.String("Linux/UNIX"), UsageOperation: aws.String("RunInstances"),
		CpuOptions: cpuOptions(i.Type), BootMode: types.BootModeValues(i.BootMode), CurrentInstanceBootMode: currentBootMode(i),
		EnclaveOptions: &types.EnclaveOptions{Enabled: aws.Bool(false)}, HibernationOptions: &types.HibernationOptions{Configured: aws.Bool(false)},
		CapacityReservationSpecification: &types.CapacityReservationSpecificationResponse{CapacityReservationPreference: types.CapacityReservationPreferenceOpen},
		MaintenanceOptions:               &types.InstanceMaintenanceOptions{AutoRecovery: types.InstanceAutoRecoveryStateDefault},
		StateTransitionReason:            aws.String(""),
	}
	out.InstanceLifecycle, out.SpotInstanceRequestId = lifecycle(i), optional(i.SpotRequest)
	if i.KernelID != "" {
		out.KernelId = aws.String(i.KernelID)
	}
	if i.KeyName != "" {
		out.KeyName = aws.String(i.KeyName)
	}
	if len(i.Tags)+len(v.moved) > 0 {
		tags := cloneTags(i.Tags)
		maps.Copy(tags, v.moved)
		out.Tags = tagList(tags)
	}
	if i.ReasonCode != "" {
		out.StateReason = &types.StateReason{Code: aws.String(i.ReasonCode), Message: aws.String(i.ReasonMessage)}
		out.StateTransitionReason = aws.String(fmt.Sprintf("%s (%s)", i.ReasonMessage, i.StateChanged.UTC().Format("2006-01-02 15:04:05 MST")))
	}
	for _, d := range v.disks {
		a := d.Attachment
		out.BlockDeviceMappings = append(out.BlockDeviceMappings, types.InstanceBlockDeviceMapping{
			DeviceName: aws.String(a.Device), Ebs: &types.EbsInstanceBlockDevice{
				VolumeId: aws.String(d.ID), AttachTime: aws.Time(a.Time), DeleteOnTermination: aws.Bool(a.DeleteOnTermination), Status: types.AttachmentStatus(a.State),
			},
		})
	}
	if i.State != state.Terminated {
		addNetwork(&out, v)
	}
	return out
}

func addNetwork(out *types.Instance, v view) {
	i := v.Instance
	out.SecurityGroups = append(out.SecurityGroups, v.groups...)
	out.PrivateIpAddress, out.PrivateDnsName = aws.String(i.PrivateIP), aws.String(privateName(i.PrivateIP))
	out.SubnetId, out.VpcId, out.SourceDestCheck = aws.String(i.SubnetID), aws.String(i.VPCID), aws.Bool(!i.NoSourceDestCheck)
	out.MetadataOptions = metadataOptions(i)
	nic := apiInterface(v)
	if v.public != "" {
		out.PublicIpAddress, out.PublicDnsName = aws.String(v.public), aws.String(v.public)
	}
	out.NetworkInterfaces = append(out.NetworkInterfaces, nic)
}

func apiInterface(v view) types.InstanceNetworkInterface {
	i := v.Instance
	var assoc *types.InstanceNetworkInterfaceAssociation
	if v.public != "" {
		owner := "amazon"
		if v.eip != nil {
			owner = i.Account
		}
		assoc = &types.InstanceNetworkInterfaceAssociation{IpOwnerId: aws.String(owner), PublicIp: aws.String(v.public), PublicDnsName: aws.String(v.public)}
	}
	return types.InstanceNetworkInterface{
		NetworkInterfaceId: aws.String(i.Interface), MacAddress: aws.String(i.MAC), SubnetId: aws.String(i.SubnetID), VpcId: aws.String(i.VPCID),
		PrivateIpAddress: aws.String(i.PrivateIP), PrivateDnsName: aws.String(privateName(i.PrivateIP)), OwnerId: aws.String(i.Account),
		Status: types.NetworkInterfaceStatusInUse, SourceDestCheck: aws.Bool(!i.NoSourceDestCheck), InterfaceType: aws.String("interface"),
		Description: aws.String(""), Groups: v.groups, Ipv6Addresses: []types.InstanceIpv6Address{}, Association: assoc,
		Attachment: &types.InstanceNetworkInterfaceAttachment{
			AttachmentId: aws.String(i.Attachment), AttachTime: aws.Time(i.Created), DeleteOnTermination: aws.Bool(true), DeviceIndex: aws.Int32(0),
			NetworkCardIndex: aws.Int32(0), Status: types.AttachmentStatusAttached,
		},
		PrivateIpAddresses: []types.InstancePrivateIpAddress{{
			Primary: aws.Bool(true), PrivateIpAddress: aws.String(i.PrivateIP), PrivateDnsName: aws.String(privateName(i.PrivateIP)), Association: assoc,
		}},
	}
}

func metadataOptions(i *state.Instance) *types.InstanceMetadataOptionsResponse {
	endpoint, tags := types.InstanceMetadataEndpointStateEnabled, types.InstanceMetadataTagsStateDisabled
	if i.MetadataDisabled {
		endpoint = types.InstanceMetadataEndpointStateDisabled
	}
	if i.MetadataTags {
		tags = types.InstanceMetadataTagsStateEnabled
	}
	return &types.InstanceMetadataOptionsResponse{
		State: types.InstanceMetadataOptionsStateApplied, HttpEndpoint: endpoint, HttpTokens: types.HttpTokensState(i.MetadataTokens),
		HttpPutResponseHopLimit: aws.Int32(i.MetadataHops), HttpProtocolIpv6: types.InstanceMetadataProtocolStateDisabled, InstanceMetadataTags: tags,
	}
}

func cpuOptions(name string) *types.CpuOptions {
	t, _ := instanceType(name)
	threads := int32(1)
	if t.VCPUs > 1 {
		threads = 2
	}
	return &types.CpuOptions{CoreCount: aws.Int32(max(1, t.VCPUs/threads)), ThreadsPerCore: aws.Int32(threads)}
}

// GetConsoleOutput gives the last 64 KiB that the guest wrote to its serial
// port.
func (c *Cloud) GetConsoleOutput(ctx context.Context, in *ec2.GetConsoleOutputInput) (*ec2.GetConsoleOutputOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	err := c.db.View(func(tx *state.Tx) error {
		_, err := find[state.Instance](tx, from(ctx).Scope, instanceIDs, *in.InstanceId)
		return err
	})
	if err != nil {
		return nil, err
	}
	text, at, err := tail(c.consoleLog(*in.InstanceId), 64<<10)
	if err != nil {
		return nil, fmt.Errorf("console of %s: %w", *in.InstanceId, err)
	}
	out := &ec2.GetConsoleOutputOutput{InstanceId: in.InstanceId, Timestamp: aws.Time(at)}
	if len(text) > 0 {
		out.Output = aws.String(base64.StdEncoding.EncodeToString(text))
	}
	return out, nil
}
