package awscli_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/steadcloud/stead/internal/awscli"
)

func TestKebab(t *testing.T) {
	for name, want := range map[string]string{
		"RunInstances": "run-instances", "DescribeVpcs": "describe-vpcs", "CidrIpv6": "cidr-ipv6", "VolumeARNs": "volume-arns",
		"Ebs": "ebs", "DisableApiTermination": "disable-api-termination", "TagSpecifications": "tag-specifications",
		"GetInstanceUefiData": "get-instance-uefi-data", "IamInstanceProfile": "iam-instance-profile",
	} {
		if got := awscli.Kebab(name); got != want {
			t.Errorf("Kebab(%q) = %q, want %q", name, got, want)
		}
	}
}

// call is one call of the SDK.
type call struct {
	service, operation string
	input              any
	send               func(context.Context, *clients) error
}

type clients struct {
	ec2 *ec2.Client
	ssm *ssm.Client
	dlm *dlm.Client
}

// of makes a call of a client's method.
func of[I, O, P any](service string, method func(*clients) func(context.Context, *I, ...func(P)) (*O, error), in *I) call {
	name := strings.TrimSuffix(reflect.TypeFor[I]().Name(), "Input")
	return call{service, name, in, func(ctx context.Context, c *clients) error {
		_, err := method(c)(ctx, in)
		return err
	}}
}

var tags = []types.Tag{{Key: aws.String("stead:note"), Value: aws.String("it's \"quiet\" & so $on")}, {Key: aws.String("empty"), Value: aws.String("")}}

func spec(kind types.ResourceType) []types.TagSpecification {
	return []types.TagSpecification{{ResourceType: kind, Tags: tags}}
}

// calls has every form of parameter, and each call in the forms that the tool
// makes.
func calls() []call {
	id := aws.String
	rules := []types.IpPermission{{
		IpProtocol: id("tcp"), FromPort: aws.Int32(0), ToPort: aws.Int32(80),
		IpRanges: []types.IpRange{{CidrIp: id("0.0.0.0/0")}}, Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: id("::/0")}},
	}}
	return append([]call{
		of("EC2", func(c *clients) func(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
			return c.ec2.RunInstances
		}, &ec2.RunInstancesInput{
			ImageId: id("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: types.InstanceTypeT3Micro, KeyName: id("a key"),
			SecurityGroupIds: []string{"sg-1", "sg-2"}, ClientToken: id("token"), DisableApiTermination: aws.Bool(true), DisableApiStop: aws.Bool(false),
			InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorStop, Placement: &types.Placement{AvailabilityZone: id("us-east-1a")},
			BlockDeviceMappings: []types.BlockDeviceMapping{
				{DeviceName: id("/dev/sda1"), Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false), VolumeSize: aws.Int32(8), VolumeType: types.VolumeTypeGp3}},
				{DeviceName: id("/dev/sdb"), NoDevice: id("")},
			},
			UserData:              id(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho \"it's $HOME\"\t'\\n'\n"))),
			IamInstanceProfile:    &types.IamInstanceProfileSpecification{Name: id("web")},
			InstanceMarketOptions: &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypePersistent, InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorStop}},
			MetadataOptions:       &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired},
			TagSpecifications:     append(spec(types.ResourceTypeInstance), spec(types.ResourceTypeVolume)...),
		}),
		of("EC2", func(c *clients) func(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
			return c.ec2.RunInstances
		}, &ec2.RunInstancesInput{
			ImageId: id("ami-1"), MinCount: aws.Int32(2), MaxCount: aws.Int32(5), ClientToken: id("token"),
			UserData: id(base64.StdEncoding.EncodeToString([]byte{0x1f, 0x8b, 0, 0xff})), KernelId: id("aki-1"),
		}),
		of("EC2", func(c *clients) func(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
			return c.ec2.DescribeInstances
		}, &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: id("tag:stead:server"), Values: []string{"web", "db"}}}}),
		of("EC2", func(c *clients) func(context.Context, *ec2.ImportKeyPairInput, ...func(*ec2.Options)) (*ec2.ImportKeyPairOutput, error) {
			return c.ec2.ImportKeyPair
		}, &ec2.ImportKeyPairInput{KeyName: id("k"), PublicKeyMaterial: []byte("ssh-ed25519 AAAA it's me"), TagSpecifications: spec(types.ResourceTypeKeyPair)}),
		of("EC2", func(c *clients) func(context.Context, *ec2.CreateSecurityGroupInput, ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error) {
			return c.ec2.CreateSecurityGroup
		}, &ec2.CreateSecurityGroupInput{GroupName: id("stead-web"), Description: id("ports of server web"), TagSpecifications: spec(types.ResourceTypeSecurityGroup)}),
		of("EC2", func(c *clients) func(context.Context, *ec2.AuthorizeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error) {
			return c.ec2.AuthorizeSecurityGroupIngress
		}, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: id("sg-1"), IpPermissions: rules}),
		of("EC2", func(c *clients) func(context.Context, *ec2.RevokeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupIngressOutput, error) {
			return c.ec2.RevokeSecurityGroupIngress
		}, &ec2.RevokeSecurityGroupIngressInput{GroupId: id("sg-1"), IpPermissions: rules}),
		of("EC2", func(c *clients) func(context.Context, *ec2.AllocateAddressInput, ...func(*ec2.Options)) (*ec2.AllocateAddressOutput, error) {
			return c.ec2.AllocateAddress
		}, &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc, TagSpecifications: spec(types.ResourceTypeElasticIp)}),
		of("EC2", func(c *clients) func(context.Context, *ec2.AssociateAddressInput, ...func(*ec2.Options)) (*ec2.AssociateAddressOutput, error) {
			return c.ec2.AssociateAddress
		}, &ec2.AssociateAddressInput{AllocationId: id("eipalloc-1"), InstanceId: id("i-1"), AllowReassociation: aws.Bool(false)}),
	}, diskCalls()...)
}

func diskCalls() []call {
	id := aws.String
	modify := func(c *clients) func(context.Context, *ec2.ModifyInstanceAttributeInput, ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error) {
		return c.ec2.ModifyInstanceAttribute
	}
	return append([]call{
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), DisableApiStop: &types.AttributeBooleanValue{Value: aws.Bool(true)}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: id("stop")}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), InstanceType: &types.AttributeValue{Value: id("t3.large")}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), Groups: []string{"sg-1"}}),
		of("EC2", modify, &ec2.ModifyInstanceAttributeInput{InstanceId: id("i-1"), BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: id("/dev/sdf"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(false)},
		}}}),
		of("EC2", func(c *clients) func(context.Context, *ec2.StopInstancesInput, ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error) {
			return c.ec2.StopInstances
		}, &ec2.StopInstancesInput{InstanceIds: []string{"i-1"}, Force: aws.Bool(true)}),
		of("EC2", func(c *clients) func(context.Context, *ec2.CreateVolumeInput, ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error) {
			return c.ec2.CreateVolume
		}, &ec2.CreateVolumeInput{AvailabilityZone: id("us-east-1a"), Size: aws.Int32(3), VolumeType: types.VolumeTypeGp3, ClientToken: id("t"), Encrypted: aws.Bool(false), TagSpecifications: spec(types.ResourceTypeVolume)}),
		of("EC2", func(c *clients) func(context.Context, *ec2.AttachVolumeInput, ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error) {
			return c.ec2.AttachVolume
		}, &ec2.AttachVolumeInput{Device: id("/dev/sdf"), InstanceId: id("i-1"), VolumeId: id("vol-1")}),
		of("EC2", func(c *clients) func(context.Context, *ec2.ModifyVolumeInput, ...func(*ec2.Options)) (*ec2.ModifyVolumeOutput, error) {
			return c.ec2.ModifyVolume
		}, &ec2.ModifyVolumeInput{VolumeId: id("vol-1"), Size: aws.Int32(20), VolumeType: types.VolumeTypeGp3}),
		of("EC2", func(c *clients) func(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
			return c.ec2.CreateTags
		}, &ec2.CreateTagsInput{Resources: []string{"vol-1"}, Tags: tags}),
		of("EC2", func(c *clients) func(context.Context, *ec2.DeleteTagsInput, ...func(*ec2.Options)) (*ec2.DeleteTagsOutput, error) {
			return c.ec2.DeleteTags
		}, &ec2.DeleteTagsInput{Resources: []string{"vol-1", "i-1"}, Tags: []types.Tag{{Key: id("stead:step")}}}),
		of("EC2", func(c *clients) func(context.Context, *ec2.CreateReplaceRootVolumeTaskInput, ...func(*ec2.Options)) (*ec2.CreateReplaceRootVolumeTaskOutput, error) {
			return c.ec2.CreateReplaceRootVolumeTask
		}, &ec2.CreateReplaceRootVolumeTaskInput{InstanceId: id("i-1"), SnapshotId: id("snap-1"), ClientToken: id("t"), DeleteReplacedRootVolume: aws.Bool(true)}),
	}, tapeCalls()...)
}

func tapeCalls() []call {
	id := aws.String
	return []call{
		of("EC2", func(c *clients) func(context.Context, *ec2.CreateSnapshotsInput, ...func(*ec2.Options)) (*ec2.CreateSnapshotsOutput, error) {
			return c.ec2.CreateSnapshots
		}, &ec2.CreateSnapshotsInput{
			InstanceSpecification: &types.InstanceSpecification{InstanceId: id("i-1"), ExcludeBootVolume: aws.Bool(false), ExcludeDataVolumeIds: []string{"vol-9"}},
			CopyTagsFromSource:    types.CopyTagsFromSourceVolume, Description: id("server web, set 1"), TagSpecifications: spec(types.ResourceTypeSnapshot),
		}),
		of("EC2", func(c *clients) func(context.Context, *ec2.RegisterImageInput, ...func(*ec2.Options)) (*ec2.RegisterImageOutput, error) {
			return c.ec2.RegisterImage
		}, &ec2.RegisterImageInput{
			Name: id("web's (image)"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: id("hvm"), EnaSupport: aws.Bool(true),
			BootMode: types.BootModeValuesUefiPreferred, RootDeviceName: id("/dev/sda1"), ImdsSupport: types.ImdsSupportValuesV20,
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: id("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: id("snap-1"), DeleteOnTermination: aws.Bool(false)}}},
		}),
		of("EC2", func(c *clients) func(context.Context, *ec2.CopyImageInput, ...func(*ec2.Options)) (*ec2.CopyImageOutput, error) {
			return c.ec2.CopyImage
		}, &ec2.CopyImageInput{Name: id("copy"), SourceImageId: id("ami-1"), SourceRegion: id("us-east-1"), ClientToken: id("t")}),
		of("SSM", func(c *clients) func(context.Context, *ssm.GetParameterInput, ...func(*ssm.Options)) (*ssm.GetParameterOutput, error) {
			return c.ssm.GetParameter
		}, &ssm.GetParameterInput{Name: id("/aws/service/debian/release/12/latest/amd64")}),
		of("DLM", func(c *clients) func(context.Context, *dlm.CreateLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.CreateLifecyclePolicyOutput, error) {
			return c.dlm.CreateLifecyclePolicy
		}, &dlm.CreateLifecyclePolicyInput{
			Description: id("daily"), ExecutionRoleArn: id("arn:aws:iam::123456789012:role/r"), State: dlmtypes.SettablePolicyStateValuesEnabled,
			PolicyDetails: &dlmtypes.PolicyDetails{
				ResourceTypes: []dlmtypes.ResourceTypeValues{dlmtypes.ResourceTypeValuesInstance}, TargetTags: []dlmtypes.Tag{{Key: id("stead:server"), Value: id("web")}},
				Schedules: []dlmtypes.Schedule{{Name: id("web"), CreateRule: &dlmtypes.CreateRule{Interval: aws.Int32(24), IntervalUnit: dlmtypes.IntervalUnitValuesHours, Times: []string{"03:00"}}, RetainRule: &dlmtypes.RetainRule{Count: aws.Int32(7)}}},
			},
			Tags: map[string]string{"stead:server": "web"},
		}),
	}
}

// sent is a request as both ways make it.
type sent struct {
	Method, Path, Body, Target, Error string
}

// recorder keeps a request and answers nothing useful.
type recorder struct{ last sent }

func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	body := []byte{}
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	r.last = sent{Method: req.Method, Path: req.URL.Path, Body: string(body), Target: req.Header.Get("X-Amz-Target")}
	return nil, errors.New("nothing is sent")
}

// TestLinesDoTheSame runs each line through the tool itself, shell and all, and
// compares what it would send with what the SDK would.
func TestLinesDoTheSame(t *testing.T) {
	if _, err := os.Stat("/usr/bin/aws"); err != nil {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal("needs /usr/bin/aws")
		}
		t.Skip("needs /usr/bin/aws")
	}
	list := calls()
	got := runLines(t, list)
	rec := &recorder{}
	keys := credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")
	c := &clients{
		ec2: ec2.New(ec2.Options{Region: "us-east-1", Credentials: keys, HTTPClient: rec, RetryMaxAttempts: 1}),
		ssm: ssm.New(ssm.Options{Region: "us-east-1", Credentials: keys, HTTPClient: rec, RetryMaxAttempts: 1}),
		dlm: dlm.New(dlm.Options{Region: "us-east-1", Credentials: keys, HTTPClient: rec, RetryMaxAttempts: 1}),
	}
	for k, one := range list {
		line := awscli.Line(one.service, one.operation, one.input)
		if got[k].Error != "" {
			t.Errorf("%s\n%s", line, got[k].Error)
			continue
		}
		rec.last = sent{}
		_ = one.send(t.Context(), c) // the recorder's own error
		if a, b := meaning(t, got[k]), meaning(t, rec.last); !reflect.DeepEqual(a, b) {
			t.Errorf("%s\nthe tool sends %v\nthe SDK sends  %v", line, a, b)
		}
	}
}

// runLines has bash take the lines apart and the tool make requests of them.
func runLines(t *testing.T, list []call) []sent {
	t.Helper()
	dir := t.TempDir()
	script := `aws() {
	local a
	for a in "$@"; do
		case $a in
		fileb://*) n=$((n+1)); cat "${a#fileb://}" > "$DIR/$n"; printf '%s\0' "fileb://$DIR/$n" ;;
		*) printf '%s\0' "$a" ;;
		esac
	done
	printf 'end of line\0'
}
`
	for _, one := range list {
		script += awscli.Line(one.service, one.operation, one.input) + "\n"
	}
	bash := exec.Command("bash", "-eu", "-c", "n=0\n"+script)
	bash.Env = append(os.Environ(), "DIR="+dir)
	words, err := bash.Output()
	if err != nil {
		t.Fatal(err)
	}
	var args [][]string
	for _, line := range strings.Split(strings.TrimSuffix(string(words), "end of line\x00"), "end of line\x00") {
		args = append(args, strings.Split(strings.TrimSuffix(line, "\x00"), "\x00"))
	}
	in, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	python := exec.Command("/usr/bin/python3", "testdata/capture.py")
	python.Stdin, python.Stderr = bytes.NewReader(in), os.Stderr
	python.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_REGION=us-east-1", "AWS_PAGER=",
		"AWS_CONFIG_FILE="+filepath.Join(dir, "none"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(dir, "none"), "AWS_EC2_METADATA_DISABLED=true")
	out, err := python.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []sent
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(got) != len(list) {
		t.Fatalf("%d lines became %d requests", len(list), len(got))
	}
	return got
}

// meaning is what a request asks for.
func meaning(t *testing.T, s sent) any {
	t.Helper()
	if strings.HasPrefix(strings.TrimSpace(s.Body), "{") {
		var v map[string]any
		if err := json.Unmarshal([]byte(s.Body), &v); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"path": s.Path, "target": s.Target, "body": v}
	}
	form, err := url.ParseQuery(s.Body)
	if err != nil {
		t.Fatal(err)
	}
	form.Del("Version")
	return form
}
