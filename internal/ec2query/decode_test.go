package ec2query

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func form(t testing.TB, query string) url.Values {
	t.Helper()
	f, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDecodeLists(t *testing.T) {
	tests := []struct{ name, query string }{
		{"one-based", "InstanceId.1=a&InstanceId.2=b&InstanceId.3=c"},
		{"zero-based", "InstanceId.0=a&InstanceId.1=b&InstanceId.2=c"},
		{"gaps", "InstanceId.7=b&InstanceId.3=a&InstanceId.900=c"},
		{"numbers, not letters, give the order", "InstanceId.10=c&InstanceId.9=b&InstanceId.1=a"},
		{"leading zeros", "InstanceId.02=b&InstanceId.3=c&InstanceId.01=a"},
		{"not numbered", "InstanceId=a&InstanceId=b&InstanceId=c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var in ec2.DescribeInstancesInput
			if err := Decode(form(t, tt.query), &in); err != nil {
				t.Fatal(err)
			}
			if want := []string{"a", "b", "c"}; !reflect.DeepEqual(in.InstanceIds, want) {
				t.Errorf("got %q, want %q", in.InstanceIds, want)
			}
		})
	}
}

func TestDecodeStructures(t *testing.T) {
	var in ec2.RunInstancesInput
	err := Decode(form(t, "Action=RunInstances&Version=2012-06-15&ImageId=ami-1&MinCount=1&MaxCount=3&UserData=aGk%3D"+
		"&BlockDeviceMapping.0.DeviceName=%2Fdev%2Fsda1&BlockDeviceMapping.0.Ebs.VolumeSize=8&BlockDeviceMapping.0.Ebs.DeleteOnTermination=false"+
		"&BlockDeviceMapping.1.DeviceName=%2Fdev%2Fsdf&BlockDeviceMapping.1.NoDevice="+
		"&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value="+
		"&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SecurityGroupId.1=sg-1"+
		"&InstanceMarketOptions.SpotOptions.ValidUntil=2026-01-02T03:04:05.678Z"+
		"&X-Amz-Signature=x&AWSAccessKeyId=y"), &in)
	if err != nil {
		t.Fatal(err)
	}
	want := ec2.RunInstancesInput{
		ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(3), UserData: aws.String("aGk="),
		BlockDeviceMappings: []types.BlockDeviceMapping{
			{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(8), DeleteOnTermination: aws.Bool(false)}},
			{DeviceName: aws.String("/dev/sdf"), NoDevice: aws.String("")},
		},
		TagSpecifications: []types.TagSpecification{{ResourceType: "volume", Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("")}}}},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), Groups: []string{"sg-1"}}},
		InstanceMarketOptions: &types.InstanceMarketOptionsRequest{SpotOptions: &types.SpotMarketOptions{
			ValidUntil: aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)),
		}},
	}
	if !reflect.DeepEqual(in, want) {
		t.Errorf("got  %+v\nwant %+v", in, want)
	}
}

// Some clients (the SDK for JavaScript) write an empty list or structure as its
// name with an empty value.
func TestDecodeEmptyMarks(t *testing.T) {
	var in ec2.RunInstancesInput
	if err := Decode(form(t, "MinCount=1&MaxCount=1&Placement=&SecurityGroupId=&TagSpecification="), &in); err != nil {
		t.Fatal(err)
	}
	if in.Placement != nil || len(in.SecurityGroupIds) != 0 || len(in.TagSpecifications) != 0 {
		t.Errorf("got %+v", in)
	}
}

func TestDecodeBlob(t *testing.T) {
	var in ec2.ImportKeyPairInput
	if err := Decode(form(t, "KeyName=k&PublicKeyMaterial=c3NoLXJzYQ%3D%3D"), &in); err != nil || string(in.PublicKeyMaterial) != "ssh-rsa" {
		t.Errorf("got %q, %v", in.PublicKeyMaterial, err)
	}
}

func TestDecodeLostParameter(t *testing.T) {
	var in ec2.CopySnapshotInput
	if err := Decode(form(t, "SourceRegion=r&SourceSnapshotId=s&DestinationRegion=d"), &in); err != nil || aws.ToString(in.SourceRegion) != "r" {
		t.Errorf("got %+v, %v", in, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const run = "MinCount=1&MaxCount=1&"
	tests := []struct {
		name  string
		in    any
		query string
		kind  ParamKind
		param string
	}{
		{"unknown", &ec2.RunInstancesInput{}, run + "Colour=red", ParamUnknown, "Colour"},
		{"unknown below", &ec2.RunInstancesInput{}, run + "Placement.Colour=red", ParamUnknown, "Placement.Colour"},
		{"unknown in a list", &ec2.RunInstancesInput{}, run + "BlockDeviceMapping.1.Ebs.Colour=x", ParamUnknown, "BlockDeviceMapping.1.Ebs.Colour"},
		{"lower case", &ec2.RunInstancesInput{}, run + "imageId=x", ParamUnknown, "imageId"},
		{"Go's name", &ec2.DescribeInstancesInput{}, "InstanceIds.1=x", ParamUnknown, "InstanceIds.1"},
		{"bookkeeping", &ec2.CopySnapshotInput{}, "destinationRegion=x", ParamUnknown, "destinationRegion"},
		{"below a scalar", &ec2.RunInstancesInput{}, run + "ImageId.1=x", ParamUnknown, "ImageId.1"},
		{"list without number", &ec2.DescribeInstancesInput{}, "InstanceId.x=1", ParamUnknown, "InstanceId.x"},
		{"negative number", &ec2.DescribeInstancesInput{}, "InstanceId.-1=1", ParamUnknown, "InstanceId.-1"},
		{"number with sign", &ec2.DescribeInstancesInput{}, "InstanceId.%2B1=1", ParamUnknown, "InstanceId.+1"},
		{"number too large", &ec2.DescribeInstancesInput{}, "InstanceId.99999999999=1", ParamUnknown, "InstanceId.99999999999"},
		{"empty part", &ec2.DescribeInstancesInput{}, "InstanceId.=1", ParamUnknown, "InstanceId."},
		{"empty name", &ec2.DescribeInstancesInput{}, "=1", ParamUnknown, ""},
		{"dot first", &ec2.DescribeInstancesInput{}, ".InstanceId=1", ParamUnknown, ".InstanceId"},
		{"same number twice", &ec2.DescribeInstancesInput{}, "InstanceId.1=a&InstanceId.01=b", ParamInvalid, "InstanceId.1"},
		{"both ways", &ec2.DescribeInstancesInput{}, "InstanceId=a&InstanceId.1=b", ParamInvalid, "InstanceId"},
		{"given twice", &ec2.RunInstancesInput{}, run + "ImageId=a&ImageId=b", ParamInvalid, "ImageId"},
		{"structure with value", &ec2.RunInstancesInput{}, run + "Placement=x", ParamInvalid, "Placement"},
		{"list of structures with value", &ec2.RunInstancesInput{}, run + "BlockDeviceMapping=x", ParamInvalid, "BlockDeviceMapping"},
		{"integer", &ec2.RunInstancesInput{}, run + "BlockDeviceMapping.1.Ebs.VolumeSize=8G", ParamInvalid, "BlockDeviceMapping.1.Ebs.VolumeSize"},
		{"integer empty", &ec2.RunInstancesInput{}, "MinCount=&MaxCount=1", ParamInvalid, "MinCount"},
		{"integer too large", &ec2.RunInstancesInput{}, "MinCount=1&MaxCount=2147483648", ParamInvalid, "MaxCount"},
		{"boolean", &ec2.RunInstancesInput{}, run + "DryRun=perhaps", ParamInvalid, "DryRun"},
		{"time", &ec2.DescribeSpotPriceHistoryInput{}, "StartTime=today", ParamInvalid, "StartTime"},
		{"blob", &ec2.ImportKeyPairInput{}, "KeyName=a&PublicKeyMaterial=%21", ParamInvalid, "PublicKeyMaterial"},
		{"not a number", &ec2.CreateFleetInput{}, "TargetCapacitySpecification.TotalTargetCapacity=1&LaunchTemplateConfigs.1.Overrides.1.WeightedCapacity=NaN", ParamInvalid, "LaunchTemplateConfigs.1.Overrides.1.WeightedCapacity"},
		{"missing", &ec2.DeleteVolumeInput{}, "DryRun=true", ParamMissing, "VolumeId"},
		{"missing list", &ec2.TerminateInstancesInput{}, "", ParamMissing, "InstanceId"},
		{"missing list, marked empty", &ec2.TerminateInstancesInput{}, "InstanceId=", ParamMissing, "InstanceId"},
		{"missing in a list", &ec2.RunInstancesInput{}, run + "ElasticGpuSpecification.1.Type=a&ElasticInferenceAccelerator.1.Count=1", ParamMissing, "ElasticInferenceAccelerator.1.Type"},
		{"first by name", &ec2.RunInstancesInput{}, "Zeta=1&Alpha=1&Beta.1=1", ParamUnknown, "Alpha"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Decode(form(t, tt.query), tt.in)
			var p *ParamError
			if !errors.As(err, &p) || p.Kind != tt.kind || p.Param != tt.param {
				t.Errorf("got %+v (%v), want kind %d for %q", p, err, tt.kind, tt.param)
			}
		})
	}
}

func TestDecodeNotAnInput(t *testing.T) {
	for _, in := range []any{nil, 1, ec2.RunInstancesInput{}, (*ec2.RunInstancesInput)(nil), &struct{ C chan int }{}} {
		var p *ParamError
		if err := Decode(url.Values{}, in); err == nil || errors.As(err, &p) {
			t.Errorf("%T: %v", in, err)
		}
	}
}

// selfish holds itself, as some of the SDK's types do.
type selfish struct {
	Name     *string
	Children []selfish
}

func TestDecodeTypeThatHoldsItself(t *testing.T) {
	var v selfish
	key := strings.Repeat("Children.1.", 10_000) + "Name"
	if err := Decode(url.Values{key: {"deep"}}, &v); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; len(v.Children) == 1; v = v.Children[0] {
		n++
	}
	if n != 10_000 || aws.ToString(v.Name) != "deep" {
		t.Errorf("depth %d, name %v", n, v.Name)
	}
}

// FuzzDecode: no form makes Decode panic, what it takes it reads again the same,
// and what it refuses it names.
func FuzzDecode(f *testing.F) {
	f.Add("InstanceId.1=a&Filter.1.Name=n&Filter.1.Value.1=v&MaxResults=5")
	f.Add("MinCount=1&MaxCount=1&BlockDeviceMapping.0.Ebs.VolumeSize=8&BlockDeviceMapping.0.NoDevice=")
	f.Add("InstanceId=a&InstanceId=b&Placement=&X.=..&.=&=")
	f.Add("A-B=1&A=1&A.1=2&MinCount.1=2&Filter.1=x")
	f.Fuzz(func(t *testing.T, query string) {
		form, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, fresh := range []func() any{
			func() any { return new(ec2.RunInstancesInput) },
			func() any { return new(ec2.DescribeInstancesInput) },
			func() any { return new(selfish) },
		} {
			in, again := fresh(), fresh()
			err := Decode(form, in)
			var p *ParamError
			if err != nil {
				if !errors.As(err, &p) {
					t.Fatalf("%q: %v", query, err)
				}
				if _, sent := form[p.Param]; !sent && p.Kind != ParamMissing {
					t.Fatalf("%q: refuses %q, which was not sent", query, p.Param)
				}
			}
			if err2 := Decode(form, again); fmt.Sprint(err) != fmt.Sprint(err2) || !reflect.DeepEqual(in, again) {
				t.Fatalf("%q: %v, then %v", query, err, err2)
			}
		}
	})
}
