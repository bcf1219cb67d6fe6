package cloud

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

var offeringIDs = idKind{"offering", "InvalidReservedInstancesOfferingId", "InvalidReservedInstancesOfferingId", "The reserved instances offering '%s' does not exist"}

// emptyList answers a list that never has anything, after the checks that one
// with something would make.
func emptyList(filters []types.Filter, limit *int32, token *string, names ...string) error {
	known := fields[*listed]{}
	for _, name := range names {
		known[name] = none[*listed]
	}
	_, _, err := choose([]*listed{}, nil, offeringIDs, filters, known, limit, token)
	return err
}

// DescribeReservedInstancesOfferings has none to tell: one's own machine is not
// let by the year.
func (c *Cloud) DescribeReservedInstancesOfferings(ctx context.Context, in *ec2.DescribeReservedInstancesOfferingsInput) (*ec2.DescribeReservedInstancesOfferingsOutput, error) {
	for _, id := range in.ReservedInstancesOfferingIds {
		return nil, offeringIDs.missing(id)
	}
	if z := aws.ToString(in.AvailabilityZone); z != "" {
		if err := checkZone(from(ctx).Region, z); err != nil {
			return nil, err
		}
	}
	switch {
	case in.OfferingClass != "" && !slices.Contains(in.OfferingClass.Values(), in.OfferingClass):
		return nil, invalid(in.OfferingClass, "offeringClass", "Use standard or convertible.")
	case in.OfferingType != "" && !slices.Contains(in.OfferingType.Values(), in.OfferingType):
		return nil, invalid(in.OfferingType, "offeringType", "Use No Upfront, Partial Upfront or All Upfront.")
	case in.InstanceTenancy == types.TenancyHost || in.InstanceTenancy != "" && !slices.Contains(in.InstanceTenancy.Values(), in.InstanceTenancy):
		return nil, invalid(in.InstanceTenancy, "instanceTenancy", "Use default or dedicated.")
	case in.MaxDuration != nil && in.MinDuration != nil && *in.MinDuration > *in.MaxDuration:
		return nil, invalid(*in.MinDuration, "minDuration", "It is longer than maxDuration.")
	}
	err := emptyList(in.Filters, in.MaxResults, in.NextToken, "availability-zone", "availability-zone-id", "duration", "fixed-price", "instance-type",
		"marketplace", "product-description", "reserved-instances-offering-id", "scope", "usage-price")
	return &ec2.DescribeReservedInstancesOfferingsOutput{ReservedInstancesOfferings: []types.ReservedInstancesOffering{}}, err
}

// DescribeReservedInstances has none to tell, as none are offered.
func (c *Cloud) DescribeReservedInstances(_ context.Context, in *ec2.DescribeReservedInstancesInput) (*ec2.DescribeReservedInstancesOutput, error) {
	for _, id := range in.ReservedInstancesIds {
		return nil, fail("InvalidReservedInstancesId", "The reserved instances '%s' do not exist", id)
	}
	err := emptyList(in.Filters, nil, nil, "availability-zone", "availability-zone-id", "duration", "end", "fixed-price", "instance-type", "scope",
		"product-description", "reserved-instances-id", "start", "state", "usage-price")
	return &ec2.DescribeReservedInstancesOutput{ReservedInstances: []types.ReservedInstances{}}, err
}
