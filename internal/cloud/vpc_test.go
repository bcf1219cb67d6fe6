package cloud

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func TestDefaultVPC(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	vpcs, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filters("is-default", "true", "state", "available")})
	if err != nil {
		t.Fatal(err)
	}
	vpc := *vpcs.Vpcs[0].VpcId
	of := filters("vpc-id", vpc)

	tables, err := client.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: of})
	if err != nil {
		t.Fatal(err)
	}
	gateways, err := client.DescribeInternetGateways(ctx, &ec2.DescribeInternetGatewaysInput{Filters: filters("attachment.vpc-id", vpc)})
	if err != nil {
		t.Fatal(err)
	}
	acls, err := client.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{Filters: of})
	if err != nil {
		t.Fatal(err)
	}
	dhcp, err := client.DescribeDhcpOptions(ctx, &ec2.DescribeDhcpOptionsInput{DhcpOptionsIds: []string{*vpcs.Vpcs[0].DhcpOptionsId}})
	if err != nil {
		t.Fatal(err)
	}
	if len(dhcp.DhcpOptions) != 1 || len(acls.NetworkAcls) != 1 || len(acls.NetworkAcls[0].Associations) != 3 || len(acls.NetworkAcls[0].Entries) != 4 {
		t.Errorf("DHCP options %+v, network ACLs %+v", dhcp.DhcpOptions, acls.NetworkAcls)
	}
	// What a client follows to see that the subnet is a public one.
	if len(tables.RouteTables) != 1 || len(gateways.InternetGateways) != 1 || *tables.RouteTables[0].VpcId != vpc ||
		*tables.RouteTables[0].Routes[1].GatewayId != *gateways.InternetGateways[0].InternetGatewayId || !*tables.RouteTables[0].Associations[0].Main {
		t.Errorf("route tables %+v, gateways %+v", tables.RouteTables, gateways.InternetGateways)
	}
	again, err := client.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{*tables.RouteTables[0].RouteTableId}})
	if err != nil || len(again.RouteTables) != 1 {
		t.Errorf("the route table's ID did not stay: %v", err)
	}
	_, err = client.DescribeInternetGateways(ctx, &ec2.DescribeInternetGatewaysInput{InternetGatewayIds: []string{"igw-0000000000000000f"}})
	wantCode(t, err, "InvalidInternetGatewayID.NotFound")
	_, err = client.CreateDefaultVpc(ctx, &ec2.CreateDefaultVpcInput{})
	wantCode(t, err, "DefaultVpcAlreadyExists")
	_, err = client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{"vpc-0000000000000000f"}})
	wantCode(t, err, "InvalidVpcID.NotFound")
}

func TestVpcAttributes(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	vpcs, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name types.VpcAttributeName) (*ec2.DescribeVpcAttributeOutput, error) {
		return client.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: vpcs.Vpcs[0].VpcId, Attribute: name})
	}
	if out, err := ask(types.VpcAttributeNameEnableDnsHostnames); err != nil || !*out.EnableDnsHostnames.Value || out.EnableDnsSupport != nil {
		t.Errorf("enableDnsHostnames: %+v, %v", out, err)
	}
	if out, err := ask(types.VpcAttributeNameEnableDnsSupport); err != nil || !*out.EnableDnsSupport.Value {
		t.Errorf("enableDnsSupport: %+v, %v", out, err)
	}
	_, err = ask("colour")
	wantCode(t, err, "InvalidParameterValue")
}

func TestSubnets(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	free := func(zone string) int32 {
		t.Helper()
		out, err := client.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: filters("availability-zone", zone, "default-for-az", "true")})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Subnets) != 1 {
			t.Fatalf("%s has %d subnets", zone, len(out.Subnets))
		}
		return *out.Subnets[0].AvailableIpAddressCount
	}
	const fresh = 4096 - 5 // a /20 without what every subnet reserves
	if a, b := free("us-east-1a"), free("us-east-1b"); a != fresh || b != fresh {
		t.Errorf("fresh subnets have %d and %d addresses free, want %d", a, b, fresh)
	}
	putInstance(t, c, state.Stopped, nil)
	putInstance(t, c, state.Terminated, nil)
	if a, b := free("us-east-1a"), free("us-east-1b"); a != fresh-1 || b != fresh {
		t.Errorf("with an instance in the first they have %d and %d", a, b)
	}
	var zones int
	for p := ec2.NewDescribeSubnetsPaginator(client, &ec2.DescribeSubnetsInput{MaxResults: aws.Int32(1)}); p.HasMorePages(); zones++ {
		if _, err := p.NextPage(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if zones != 3 {
		t.Errorf("pages of one subnet: %d", zones)
	}
}

func TestNetworkInterfaces(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	live := putInstance(t, c, state.Running, func(i *state.Instance) { i.PublicIP = "127.77.0.9" })
	putInstance(t, c, state.Terminated, func(i *state.Instance) { i.MAC = "02:00:00:00:00:02" })
	out, err := client.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.NetworkInterfaces) != 1 {
		t.Fatalf("there are %d interfaces, want that of the live instance", len(out.NetworkInterfaces))
	}
	n := out.NetworkInterfaces[0]
	if *n.NetworkInterfaceId != live.Interface || *n.MacAddress != live.MAC || *n.PrivateDnsName != "ip-172-31-0-10.ec2.internal" ||
		*n.Association.PublicIp != "127.77.0.9" || *n.Association.IpOwnerId != "amazon" || n.Association.AllocationId != nil {
		t.Errorf("the interface is %+v", n)
	}
	none, err := client.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filters("attachment.instance-id", live.ID, "mac-address", "02:00:00:00:00:02")})
	if err != nil || len(none.NetworkInterfaces) != 0 {
		t.Errorf("two filters that exclude each other give %v, %v", none, err)
	}
	_, err = client.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{"eni-0000000000000000f"}})
	wantCode(t, err, "InvalidNetworkInterfaceID.NotFound")
}
