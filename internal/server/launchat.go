package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// launchAt launches like launch, at the private address that the server had:
// other servers may know it by that. Where the address or its subnet can't be
// had any more the server comes back without, and a warning says so.
func (m *Manager) launchAt(ctx context.Context, verb, name string, ids []string, in *ec2.RunInstancesInput, f facts) (*types.Instance, error) {
	zone := ""
	if in.Placement != nil {
		zone = aws.ToString(in.Placement.AvailabilityZone)
	}
	if f.PrivateIP == "" || zone != f.Zone {
		i, err := m.launch(ctx, verb, name, ids, in)
		return i, m.roomFor(ctx, name, in, err)
	}
	in.PrivateIpAddress = aws.String(f.PrivateIP)
	if f.Subnet != "" {
		in.SubnetId = aws.String(f.Subnet)
	}
	i, err := m.launch(ctx, verb, name, ids, in)
	if !addressGone(err) {
		return i, m.roomFor(ctx, name, in, err)
	}
	m.warn("launch", name, "its private address "+f.PrivateIP+" can't be had any more, so it gets another: "+causeOf(err))
	in.PrivateIpAddress, in.SubnetId = nil, nil
	i, err = m.launch(ctx, verb, name, append(slices.Clone(ids), "any address"), in)
	return i, m.roomFor(ctx, name, in, err)
}

// onSpot asks for a spot instance by a persistent request that stops it when
// it is interrupted.
func onSpot(in *ec2.RunInstancesInput, name string) {
	in.DisableApiTermination = nil // EC2 refuses it for spot instances
	in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{
		MarketType: types.MarketTypeSpot,
		SpotOptions: &types.SpotMarketOptions{
			SpotInstanceType:             types.SpotInstanceTypePersistent,
			InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorStop,
		},
	}
	in.TagSpecifications = append(in.TagSpecifications, serverTags(name).spec(types.ResourceTypeSpotInstancesRequest))
}

// addressGone tells a launch that fails for the address or the subnet that it
// asks for, and would do without.
func addressGone(err error) bool {
	if err == nil {
		return false
	}
	if endpointBroke(err) {
		return true // if not over the address, the launch without tells
	}
	text := strings.ToLower(err.Error())
	switch code := apiCode(err); code {
	case "InvalidIPAddress.InUse", "InvalidIPAddress.Malformed", "InvalidSubnetID.NotFound", "InvalidSubnet.Conflict",
		"InvalidNetworkInterface.InUse", "PrivateIpAddressLimitExceeded", "UnknownParameter":
		return true
	case "InvalidParameterValue", "InvalidParameterCombination", "InvalidParameter":
		// Also a group of another network than the subnet's.
		return strings.Contains(text, "address") || strings.Contains(text, "subnet")
	}
	return false
}

// endpointBroke tells an answer that is none of EC2's, as emulators give for
// what they didn't think of.
func endpointBroke(err error) bool {
	var re *awshttp.ResponseError
	return errors.As(err, &re) && apiCode(err) == "" && re.HTTPStatusCode() == http.StatusInternalServerError
}

// roomFor says of a launch for which there is no room where else there may be
// some. Nothing has been changed by it.
func (m *Manager) roomFor(ctx context.Context, name string, in *ec2.RunInstancesInput, err error) error {
	if KindOf(err) != KindCapacity || err == nil {
		return err
	}
	e := &Error{
		Op: "launch", Resource: "server " + name, Code: KindCapacity, Err: err,
		Reason: "no room for a " + string(in.InstanceType) + "; its disks are as they were",
		Remedy: "stead rescue " + name + " --type TYPE, or later",
	}
	if in.Placement == nil {
		return e
	}
	zone := aws.ToString(in.Placement.AvailabilityZone)
	e.Reason = "no room for a " + string(in.InstanceType) + " in " + zone + "; its disks are as they were"
	if others := m.otherZones(ctx, zone); len(others) > 0 {
		e.Remedy = "another type: stead rescue " + name + " --type TYPE, or another zone, by snapshot: stead rescue " + name +
			" --zone " + strings.Join(others, "|")
	}
	return e
}

// otherZones lists the region's zones beside one. What can't be learned is
// left out: it is advice.
func (m *Manager) otherZones(ctx context.Context, zone string) []string {
	out, err := m.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		m.log.DebugContext(ctx, "no list of zones", "err", err)
		return nil
	}
	var others []string
	for _, z := range out.AvailabilityZones {
		if n := aws.ToString(z.ZoneName); n != zone && n != "" && z.State == types.AvailabilityZoneStateAvailable {
			others = append(others, n)
		}
	}
	slices.Sort(others)
	return others
}

// causeOf is what the endpoint said, without what was being done.
func causeOf(err error) string {
	if code := apiCode(err); code != "" {
		return code
	}
	return "the endpoint broke over it"
}
