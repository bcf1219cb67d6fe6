package ec2query

import (
	"fmt"
	"io"
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// manyInstances is a listing of n instances as rich as the local cloud's.
func manyInstances(n int) *ec2.DescribeInstancesOutput {
	out := &ec2.DescribeInstancesOutput{}
	for i := range n {
		id := fmt.Sprintf("i-%017x", i)
		now := aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		groups := []types.GroupIdentifier{{GroupId: aws.String("sg-0123456789abcdef0"), GroupName: aws.String("default")}}
		disk := func(device string) types.InstanceBlockDeviceMapping {
			return types.InstanceBlockDeviceMapping{DeviceName: &device, Ebs: &types.EbsInstanceBlockDevice{
				VolumeId: aws.String("vol-" + id), AttachTime: now, DeleteOnTermination: aws.Bool(false), Status: types.AttachmentStatusAttached,
			}}
		}
		out.Reservations = append(out.Reservations, types.Reservation{
			ReservationId: aws.String("r-" + id), OwnerId: aws.String("123456789012"),
			Instances: []types.Instance{{
				InstanceId: &id, ImageId: aws.String("ami-0123456789abcdef0"), InstanceType: types.InstanceTypeT3Micro, AmiLaunchIndex: aws.Int32(0),
				Architecture: types.ArchitectureValuesX8664, ClientToken: aws.String("token"), EbsOptimized: aws.Bool(false), EnaSupport: aws.Bool(true),
				Hypervisor: types.HypervisorTypeXen, KeyName: aws.String("key"), LaunchTime: now, Monitoring: &types.Monitoring{State: types.MonitoringStateDisabled},
				Placement:      &types.Placement{AvailabilityZone: aws.String("us-east-1a"), Tenancy: types.TenancyDefault, GroupName: aws.String("")},
				PrivateDnsName: aws.String("ip-10-0-0-1.ec2.internal"), PrivateIpAddress: aws.String("10.0.0.1"), PublicDnsName: aws.String(""), PublicIpAddress: aws.String("127.1.2.3"),
				RootDeviceName: aws.String("/dev/sda1"), RootDeviceType: types.DeviceTypeEbs, SecurityGroups: groups, SourceDestCheck: aws.Bool(true),
				State: &types.InstanceState{Code: aws.Int32(16), Name: types.InstanceStateNameRunning}, SubnetId: aws.String("subnet-0123456789abcdef0"), VpcId: aws.String("vpc-0123456789abcdef0"),
				VirtualizationType: types.VirtualizationTypeHvm, BlockDeviceMappings: []types.InstanceBlockDeviceMapping{disk("/dev/sda1"), disk("/dev/sdf")},
				NetworkInterfaces: []types.InstanceNetworkInterface{{NetworkInterfaceId: aws.String("eni-" + id), Groups: groups, PrivateIpAddress: aws.String("10.0.0.1"), Status: types.NetworkInterfaceStatusInUse}},
				Tags:              []types.Tag{{Key: aws.String("Name"), Value: aws.String("web")}, {Key: aws.String("stead:server"), Value: aws.String("web")}},
			}},
		})
	}
	return out
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func BenchmarkEncode1000Instances(b *testing.B) {
	out := manyInstances(1000)
	var size counter
	if err := Encode(&size, "DescribeInstances", "r", out); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if err := Encode(io.Discard, "DescribeInstances", "r", out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeRunInstances(b *testing.B) {
	form := form(b, "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&MinCount=1&MaxCount=1&InstanceType=t3.micro&KeyName=k&ClientToken=t&UserData=aGk%3D"+
		"&SecurityGroupId.1=sg-1&SubnetId=subnet-1&Placement.AvailabilityZone=us-east-1a&DisableApiTermination=true"+
		"&BlockDeviceMapping.1.DeviceName=%2Fdev%2Fsda1&BlockDeviceMapping.1.Ebs.DeleteOnTermination=false&BlockDeviceMapping.1.Ebs.VolumeSize=8"+
		"&BlockDeviceMapping.2.DeviceName=%2Fdev%2Fsdf&BlockDeviceMapping.2.Ebs.VolumeSize=10&BlockDeviceMapping.2.Ebs.VolumeType=gp3"+
		"&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=web"+
		"&TagSpecification.2.ResourceType=volume&TagSpecification.2.Tag.1.Key=Name&TagSpecification.2.Tag.1.Value=web")
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(form, new(ec2.RunInstancesInput)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstUse is the cost of a type's plan, paid once by the first request
// of an action.
func BenchmarkFirstUse(b *testing.B) {
	for b.Loop() {
		inputPlans.Clear()
		outputPlans.Clear()
		if err := Decode(url.Values{"MinCount": {"1"}, "MaxCount": {"1"}}, new(ec2.RunInstancesInput)); err != nil {
			b.Fatal(err)
		}
		if err := Encode(io.Discard, "RunInstances", "r", new(ec2.RunInstancesOutput)); err != nil {
			b.Fatal(err)
		}
	}
}
