package cloud

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// regionCodes are the regions that can be named, with the code that zone IDs
// begin with, as on AWS. They all lie on this machine; each has its own
// resources and its own network.
var regionCodes = map[string]string{
	"us-east-1": "use1", "us-east-2": "use2", "us-west-1": "usw1", "us-west-2": "usw2",
	"ca-central-1": "cac1", "sa-east-1": "sae1",
	"eu-central-1": "euc1", "eu-west-1": "euw1", "eu-west-2": "euw2", "eu-west-3": "euw3", "eu-north-1": "eun1", "eu-south-1": "eus1",
	"ap-south-1": "aps1", "ap-northeast-1": "apne1", "ap-northeast-2": "apne2", "ap-northeast-3": "apne3",
	"ap-southeast-1": "apse1", "ap-southeast-2": "apse2", "ap-east-1": "ape1",
	"af-south-1": "afs1", "me-south-1": "mes1", "il-central-1": "ilc1",
}

// DefaultRegion is where tools look when nobody named a region.
const DefaultRegion = "us-east-1"

const zoneLetters = "abc"

func isRegion(name string) bool { return regionCodes[name] != "" }

func zonesOf(region string) []string {
	zones := make([]string, len(zoneLetters))
	for i, l := range zoneLetters {
		zones[i] = region + string(l)
	}
	return zones
}

func zoneID(zone string) string {
	region := zone[:len(zone)-1]
	return fmt.Sprintf("%s-az%d", regionCodes[region], strings.IndexByte(zoneLetters, zone[len(zone)-1])+1)
}

func checkZone(region, zone string) error {
	if !slices.Contains(zonesOf(region), zone) {
		return fail("InvalidZone.NotFound", "The zone '%s' does not exist in region %s; it has %s.", zone, region, strings.Join(zonesOf(region), ", "))
	}
	return nil
}

const vpcCIDR = "172.31.0.0/16"

// subnetCIDR is the default subnet of the i-th zone, as AWS lays them out.
func subnetCIDR(i int) string {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, byte(i * 16), 0}), 20).String()
}

// ensureRegion makes what every region has from the start: the default VPC
// with a subnet a zone, and its default security group.
func (c *Cloud) ensureRegion(s state.Scope) error {
	if _, ok := c.ready.Load(s); ok {
		return nil
	}
	err := c.db.Update(func(tx *state.Tx) error {
		vpcs, err := state.List[state.VPC](tx, s)
		if err != nil || len(vpcs) > 0 {
			return err
		}
		return c.createDefaults(tx, s)
	})
	if err != nil {
		return fmt.Errorf("prepare region %s: %w", s.Region, err)
	}
	c.ready.Store(s, struct{}{})
	return nil
}

func (c *Cloud) createDefaults(tx *state.Tx, s state.Scope) error {
	vpc := &state.VPC{Meta: c.meta(s, "vpc"), CIDR: vpcCIDR}
	group := &state.SecurityGroup{
		Meta: c.meta(s, "sg"), Name: "default", Description: "default VPC security group", VPCID: vpc.ID,
	}
	group.Rules = []state.Rule{
		{ID: newID("sgr"), Protocol: "-1", From: -1, To: -1, Group: group.ID},
		{ID: newID("sgr"), Egress: true, Protocol: "-1", From: -1, To: -1, CIDR: "0.0.0.0/0"},
	}
	recs := []state.Record{vpc, group}
	for i, zone := range zonesOf(s.Region) {
		recs = append(recs, &state.Subnet{Meta: c.meta(s, "subnet"), VPCID: vpc.ID, Zone: zone, CIDR: subnetCIDR(i)})
	}
	for _, rec := range recs {
		if err := state.Put(tx, rec); err != nil {
			return err
		}
	}
	return nil
}

// meta begins a new record.
func (c *Cloud) meta(s state.Scope, prefix string) state.Meta {
	return state.Meta{Account: s.Account, Region: s.Region, ID: newID(prefix), Created: c.now().UTC()}
}

// DescribeRegions lists the regions: all are enabled and none needs opting in.
func (c *Cloud) DescribeRegions(_ context.Context, in *ec2.DescribeRegionsInput) (*ec2.DescribeRegionsOutput, error) {
	for _, name := range in.RegionNames {
		if !isRegion(name) {
			return nil, invalid(name, "RegionName", "No such region.")
		}
	}
	out := &ec2.DescribeRegionsOutput{}
	for _, name := range sortedKeys(regionCodes) {
		if len(in.RegionNames) == 0 || slices.Contains(in.RegionNames, name) {
			out.Regions = append(out.Regions, types.Region{
				RegionName: aws.String(name), Endpoint: aws.String("ec2." + name + ".amazonaws.com"), OptInStatus: aws.String("opt-in-not-required"),
			})
		}
	}
	return out, nil
}

// DescribeAvailabilityZones lists the zones of the caller's region.
func (c *Cloud) DescribeAvailabilityZones(ctx context.Context, in *ec2.DescribeAvailabilityZonesInput) (*ec2.DescribeAvailabilityZonesOutput, error) {
	region := from(ctx).Region
	for _, z := range in.ZoneNames {
		if err := checkZone(region, z); err != nil {
			return nil, err
		}
	}
	out := &ec2.DescribeAvailabilityZonesOutput{}
	for _, z := range zonesOf(region) {
		if len(in.ZoneNames) > 0 && !slices.Contains(in.ZoneNames, z) {
			continue
		}
		out.AvailabilityZones = append(out.AvailabilityZones, types.AvailabilityZone{
			ZoneName: aws.String(z), ZoneId: aws.String(zoneID(z)), RegionName: aws.String(region),
			State: types.AvailabilityZoneStateAvailable, OptInStatus: types.AvailabilityZoneOptInStatusOptInNotRequired,
			ZoneType: aws.String("availability-zone"), GroupName: aws.String(region), NetworkBorderGroup: aws.String(region),
		})
	}
	return out, nil
}
