package cloud

import (
	"context"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// typeSpec is an instance type: what a machine of it gets, and what its
// family is on AWS where a client may look at that.
type typeSpec struct {
	Name      string
	VCPUs     int32
	MemoryMiB int64
	Burstable bool // earns and spends CPU credits on AWS; never throttled here
	Xen       bool // of the generation before Nitro: no ENA, no NVMe, no UEFI
	FreeTier  bool
	Network   string // network performance, in AWS's words
}

const (
	upTo5    = "Up to 5 Gigabit"
	upTo10   = "Up to 10 Gigabit"
	upTo12   = "Up to 12.5 Gigabit"
	lowMod   = "Low to Moderate"
	moderate = "Moderate"
)

// instanceTypes are the x86_64 types that are offered, ordered by name.
// Processors and memory are AWS's own:
// https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-types.html
var instanceTypes = []typeSpec{
	{Name: "c5.2xlarge", VCPUs: 8, MemoryMiB: 16 << 10, Network: upTo10},
	{Name: "c5.4xlarge", VCPUs: 16, MemoryMiB: 32 << 10, Network: upTo10},
	{Name: "c5.large", VCPUs: 2, MemoryMiB: 4 << 10, Network: upTo10},
	{Name: "c5.xlarge", VCPUs: 4, MemoryMiB: 8 << 10, Network: upTo10},
	{Name: "m5.2xlarge", VCPUs: 8, MemoryMiB: 32 << 10, Network: upTo10},
	{Name: "m5.4xlarge", VCPUs: 16, MemoryMiB: 64 << 10, Network: upTo10},
	{Name: "m5.large", VCPUs: 2, MemoryMiB: 8 << 10, Network: upTo10},
	{Name: "m5.xlarge", VCPUs: 4, MemoryMiB: 16 << 10, Network: upTo10},
	{Name: "m6i.2xlarge", VCPUs: 8, MemoryMiB: 32 << 10, Network: upTo12},
	{Name: "m6i.4xlarge", VCPUs: 16, MemoryMiB: 64 << 10, Network: upTo12},
	{Name: "m6i.large", VCPUs: 2, MemoryMiB: 8 << 10, Network: upTo12},
	{Name: "m6i.xlarge", VCPUs: 4, MemoryMiB: 16 << 10, Network: upTo12},
	{Name: "r5.2xlarge", VCPUs: 8, MemoryMiB: 64 << 10, Network: upTo10},
	{Name: "r5.4xlarge", VCPUs: 16, MemoryMiB: 128 << 10, Network: upTo10},
	{Name: "r5.large", VCPUs: 2, MemoryMiB: 16 << 10, Network: upTo10},
	{Name: "r5.xlarge", VCPUs: 4, MemoryMiB: 32 << 10, Network: upTo10},
	{Name: "t2.2xlarge", VCPUs: 8, MemoryMiB: 32 << 10, Burstable: true, Xen: true, Network: moderate},
	{Name: "t2.large", VCPUs: 2, MemoryMiB: 8 << 10, Burstable: true, Xen: true, Network: lowMod},
	{Name: "t2.medium", VCPUs: 2, MemoryMiB: 4 << 10, Burstable: true, Xen: true, Network: lowMod},
	{Name: "t2.micro", VCPUs: 1, MemoryMiB: 1 << 10, Burstable: true, Xen: true, FreeTier: true, Network: lowMod},
	{Name: "t2.nano", VCPUs: 1, MemoryMiB: 512, Burstable: true, Xen: true, Network: lowMod},
	{Name: "t2.small", VCPUs: 1, MemoryMiB: 2 << 10, Burstable: true, Xen: true, Network: lowMod},
	{Name: "t2.xlarge", VCPUs: 4, MemoryMiB: 16 << 10, Burstable: true, Xen: true, Network: moderate},
	{Name: "t3.2xlarge", VCPUs: 8, MemoryMiB: 32 << 10, Burstable: true, Network: upTo5},
	{Name: "t3.large", VCPUs: 2, MemoryMiB: 8 << 10, Burstable: true, Network: upTo5},
	{Name: "t3.medium", VCPUs: 2, MemoryMiB: 4 << 10, Burstable: true, Network: upTo5},
	{Name: "t3.micro", VCPUs: 2, MemoryMiB: 1 << 10, Burstable: true, FreeTier: true, Network: upTo5},
	{Name: "t3.nano", VCPUs: 2, MemoryMiB: 512, Burstable: true, Network: upTo5},
	{Name: "t3.small", VCPUs: 2, MemoryMiB: 2 << 10, Burstable: true, Network: upTo5},
	{Name: "t3.xlarge", VCPUs: 4, MemoryMiB: 16 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.2xlarge", VCPUs: 8, MemoryMiB: 32 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.large", VCPUs: 2, MemoryMiB: 8 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.medium", VCPUs: 2, MemoryMiB: 4 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.micro", VCPUs: 2, MemoryMiB: 1 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.nano", VCPUs: 2, MemoryMiB: 512, Burstable: true, Network: upTo5},
	{Name: "t3a.small", VCPUs: 2, MemoryMiB: 2 << 10, Burstable: true, Network: upTo5},
	{Name: "t3a.xlarge", VCPUs: 4, MemoryMiB: 16 << 10, Burstable: true, Network: upTo5},
}

// instanceType finds an instance type; false if it is not offered.
func instanceType(name string) (typeSpec, bool) {
	for _, t := range instanceTypes {
		if t.Name == name {
			return t, true
		}
	}
	return typeSpec{}, false
}

// threads is how many of a type's vCPUs share one core.
func (t typeSpec) threads() int32 {
	if t.Xen {
		return 1
	}
	return 2
}

func (t typeSpec) hypervisor() types.InstanceTypeHypervisor {
	if t.Xen {
		return types.InstanceTypeHypervisorXen
	}
	return types.InstanceTypeHypervisorNitro
}

func (t typeSpec) enaSupport() types.EnaSupport {
	if t.Xen {
		return types.EnaSupportUnsupported
	}
	return types.EnaSupportRequired
}

func (t typeSpec) nvmeSupport() types.EbsNvmeSupport {
	if t.Xen {
		return types.EbsNvmeSupportUnsupported
	}
	return types.EbsNvmeSupportRequired
}

func (t typeSpec) ebsOptimized() types.EbsOptimizedSupport {
	if t.Xen {
		return types.EbsOptimizedSupportUnsupported
	}
	return types.EbsOptimizedSupportDefault
}

func (t typeSpec) bootModes() []types.BootModeType {
	if t.Xen {
		return []types.BootModeType{types.BootModeTypeLegacyBios}
	}
	return []types.BootModeType{types.BootModeTypeLegacyBios, types.BootModeTypeUefi}
}

// typeView makes a type something that the filters and pages take.
type typeView struct {
	listed
	typeSpec
}

func typeViews() []*typeView {
	views := make([]*typeView, len(instanceTypes))
	for i, t := range instanceTypes {
		views[i] = &typeView{listedAs(t.Name), t}
	}
	return views
}

var typeFilters = fields[*typeView]{
	"auto-recovery-supported":          always[*typeView]("false"),
	"bare-metal":                       always[*typeView]("false"),
	"burstable-performance-supported":  one(func(t *typeView) string { return strconv.FormatBool(t.Burstable) }),
	"current-generation":               always[*typeView]("true"),
	"dedicated-hosts-supported":        always[*typeView]("false"),
	"ebs-info.ebs-optimized-support":   one(func(t *typeView) string { return string(t.ebsOptimized()) }),
	"ebs-info.encryption-support":      always[*typeView]("supported"),
	"ebs-info.nvme-support":            one(func(t *typeView) string { return string(t.nvmeSupport()) }),
	"free-tier-eligible":               one(func(t *typeView) string { return strconv.FormatBool(t.FreeTier) }),
	"hibernation-supported":            always[*typeView]("false"),
	"hypervisor":                       one(func(t *typeView) string { return string(t.hypervisor()) }),
	"instance-storage-supported":       always[*typeView]("false"),
	"instance-type":                    one(func(t *typeView) string { return t.Name }),
	"memory-info.size-in-mib":          one(func(t *typeView) string { return strconv.FormatInt(t.MemoryMiB, 10) }),
	"network-info.efa-supported":       always[*typeView]("false"),
	"network-info.ena-support":         one(func(t *typeView) string { return string(t.enaSupport()) }),
	"network-info.ipv6-supported":      always[*typeView]("false"),
	"network-info.network-performance": one(func(t *typeView) string { return t.Network }),
	"nitro-enclaves-support":           always[*typeView]("unsupported"),
	"nitro-tpm-support":                always[*typeView]("unsupported"),
	"processor-info.supported-architecture": always[*typeView](
		string(types.ArchitectureTypeX8664)),
	"supported-boot-mode": func(t *typeView) []string {
		var modes []string
		for _, m := range t.bootModes() {
			modes = append(modes, string(m))
		}
		return modes
	},
	"supported-root-device-type":         always[*typeView]("ebs"),
	"supported-usage-class":              always[*typeView]("on-demand"),
	"supported-virtualization-type":      always[*typeView]("hvm"),
	"vcpu-info.default-cores":            one(func(t *typeView) string { return strconv.Itoa(int(t.VCPUs / t.threads())) }),
	"vcpu-info.default-threads-per-core": one(func(t *typeView) string { return strconv.Itoa(int(t.threads())) }),
	"vcpu-info.default-vcpus":            one(func(t *typeView) string { return strconv.Itoa(int(t.VCPUs)) }),
}

// DescribeInstanceTypes lists what each type is.
func (c *Cloud) DescribeInstanceTypes(_ context.Context, in *ec2.DescribeInstanceTypesInput) (*ec2.DescribeInstanceTypesOutput, error) {
	views, err := typesNamed(in.InstanceTypes)
	if err != nil {
		return nil, err
	}
	if views, err = filter(views, in.Filters, typeFilters); err != nil {
		return nil, err
	}
	page, next, err := paginate(views, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceTypesOutput{NextToken: next}
	for _, v := range page {
		out.InstanceTypes = append(out.InstanceTypes, apiInstanceType(v.typeSpec))
	}
	return out, nil
}

func typesNamed(names []types.InstanceType) ([]*typeView, error) {
	if len(names) == 0 {
		return typeViews(), nil
	}
	want := map[string]bool{}
	for _, n := range names {
		if _, ok := instanceType(string(n)); !ok {
			return nil, fail("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", n)
		}
		want[string(n)] = true
	}
	var views []*typeView
	for _, v := range typeViews() {
		if want[v.Name] {
			views = append(views, v)
		}
	}
	return views, nil
}

func apiInstanceType(t typeSpec) types.InstanceTypeInfo {
	return types.InstanceTypeInfo{
		InstanceType: types.InstanceType(t.Name), CurrentGeneration: aws.Bool(true), FreeTierEligible: aws.Bool(t.FreeTier),
		AutoRecoverySupported: aws.Bool(false), BareMetal: aws.Bool(false), BurstablePerformanceSupported: aws.Bool(t.Burstable),
		DedicatedHostsSupported: aws.Bool(false), HibernationSupported: aws.Bool(false), InstanceStorageSupported: aws.Bool(false),
		Hypervisor: t.hypervisor(), SupportedBootModes: t.bootModes(),
		SupportedRootDeviceTypes:     []types.RootDeviceType{types.RootDeviceTypeEbs},
		SupportedUsageClasses:        []types.UsageClassType{types.UsageClassTypeOnDemand},
		SupportedVirtualizationTypes: []types.VirtualizationType{types.VirtualizationTypeHvm},
		MemoryInfo:                   &types.MemoryInfo{SizeInMiB: aws.Int64(t.MemoryMiB)},
		ProcessorInfo:                &types.ProcessorInfo{SupportedArchitectures: []types.ArchitectureType{types.ArchitectureTypeX8664}},
		VCpuInfo: &types.VCpuInfo{
			DefaultVCpus: aws.Int32(t.VCPUs), DefaultCores: aws.Int32(t.VCPUs / t.threads()), DefaultThreadsPerCore: aws.Int32(t.threads()),
		},
		EbsInfo: &types.EbsInfo{
			EbsOptimizedSupport: t.ebsOptimized(), EncryptionSupport: types.EbsEncryptionSupportSupported, NvmeSupport: t.nvmeSupport(),
			AttachmentLimitType: types.AttachmentLimitTypeDedicated, MaximumEbsAttachments: aws.Int32(maxAttached),
		},
		// One interface with one address: what a machine here has, not what
		// AWS would allow.
		NetworkInfo: &types.NetworkInfo{
			NetworkPerformance: aws.String(t.Network), EnaSupport: t.enaSupport(), EfaSupported: aws.Bool(false), Ipv6Supported: aws.Bool(false),
			MaximumNetworkInterfaces: aws.Int32(1), Ipv4AddressesPerInterface: aws.Int32(1), Ipv6AddressesPerInterface: aws.Int32(0),
			MaximumNetworkCards: aws.Int32(1), DefaultNetworkCardIndex: aws.Int32(0),
			NetworkCards: []types.NetworkCardInfo{{
				NetworkCardIndex: aws.Int32(0), MaximumNetworkInterfaces: aws.Int32(1), NetworkPerformance: aws.String(t.Network),
			}},
		},
		PlacementGroupInfo: &types.PlacementGroupInfo{SupportedStrategies: []types.PlacementGroupStrategy{}},
	}
}

// offering is one type in one place.
type offering struct {
	listed
	name     types.InstanceType
	location string
}

var offeringFilters = fields[*offering]{
	"instance-type": one(func(o *offering) string { return string(o.name) }),
	"location":      one(func(o *offering) string { return o.location }),
}

// DescribeInstanceTypeOfferings lists where each type can run: everywhere.
func (c *Cloud) DescribeInstanceTypeOfferings(ctx context.Context, in *ec2.DescribeInstanceTypeOfferingsInput) (*ec2.DescribeInstanceTypeOfferingsOutput, error) {
	kind := in.LocationType
	if kind == "" {
		kind = types.LocationTypeRegion
	}
	places, err := placesOf(from(ctx).Region, kind)
	if err != nil {
		return nil, err
	}
	var all []*offering
	for _, t := range instanceTypes {
		for _, place := range places {
			all = append(all, &offering{listedAs(t.Name + "/" + place), types.InstanceType(t.Name), place})
		}
	}
	if all, err = filter(all, in.Filters, offeringFilters); err != nil {
		return nil, err
	}
	page, next, err := paginate(all, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceTypeOfferingsOutput{NextToken: next}
	for _, o := range page {
		out.InstanceTypeOfferings = append(out.InstanceTypeOfferings, types.InstanceTypeOffering{
			InstanceType: o.name, Location: aws.String(o.location), LocationType: kind,
		})
	}
	return out, nil
}

func placesOf(region string, kind types.LocationType) ([]string, error) {
	switch kind {
	case types.LocationTypeRegion:
		return []string{region}, nil
	case types.LocationTypeAvailabilityZone:
		return zonesOf(region), nil
	case types.LocationTypeAvailabilityZoneId:
		var ids []string
		for _, z := range zonesOf(region) {
			ids = append(ids, zoneID(z))
		}
		return ids, nil
	default:
		return nil, invalid(kind, "LocationType", "There are region, availability-zone and availability-zone-id.")
	}
}

// DescribeInstanceCreditSpecifications says "standard" of the burstable
// instances that were asked for. Asked for none in particular it lists, as EC2
// does, those with unlimited credits: there are none.
func (c *Cloud) DescribeInstanceCreditSpecifications(ctx context.Context, in *ec2.DescribeInstanceCreditSpecificationsInput) (*ec2.DescribeInstanceCreditSpecificationsOutput, error) {
	out := &ec2.DescribeInstanceCreditSpecificationsOutput{}
	err := c.db.View(func(tx *state.Tx) error {
		for _, id := range in.InstanceIds {
			inst, err := find[state.Instance](tx, from(ctx).Scope, instanceIDs, id)
			if err != nil {
				return err
			}
			if t, _ := instanceType(inst.Type); !t.Burstable {
				return fail("InstanceCreditSpecification.NotSupported", "The instance '%s' of type %s does not use CPU credits.", id, inst.Type)
			}
			out.InstanceCreditSpecifications = append(out.InstanceCreditSpecifications, types.InstanceCreditSpecification{
				InstanceId: aws.String(id), CpuCredits: aws.String("standard"),
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
