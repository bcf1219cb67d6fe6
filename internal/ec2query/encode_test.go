package ec2query

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// encoded returns what Encode writes between the request ID and the end.
func encoded(t testing.TB, action string, out any) string {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, action, "req-1", out); err != nil {
		t.Fatal(err)
	}
	head := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<" + action + `Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>req-1</requestId>`
	tail := "</" + action + "Response>"
	s := b.String()
	if !strings.HasPrefix(s, head) || !strings.HasSuffix(s, tail) {
		t.Fatalf("unexpected envelope: %s", s)
	}
	return s[len(head) : len(s)-len(tail)]
}

func TestEncodeNothing(t *testing.T) {
	tests := []struct {
		name, action string
		out          any
		want         string
	}{
		{"top-level list, nil", "DescribeVolumes", &ec2.DescribeVolumesOutput{}, "<volumeSet/>"},
		{"top-level list, empty", "DescribeVolumes", &ec2.DescribeVolumesOutput{Volumes: []types.Volume{}}, "<volumeSet/>"},
		{"deeper list, nil", "DescribeVolumes", &ec2.DescribeVolumesOutput{Volumes: []types.Volume{{}}}, "<volumeSet><item></item></volumeSet>"},
		{
			"deeper list, empty", "DescribeVolumes", &ec2.DescribeVolumesOutput{Volumes: []types.Volume{{Attachments: []types.VolumeAttachment{}}}},
			"<volumeSet><item><attachmentSet/></item></volumeSet>",
		},
		{
			"empty enum and empty string", "DescribeVolumes",
			&ec2.DescribeVolumesOutput{Volumes: []types.Volume{{State: "", SnapshotId: aws.String("")}}},
			"<volumeSet><item><snapshotId></snapshotId></item></volumeSet>",
		},
		{"no field at all", "DeleteVolume", &ec2.DeleteVolumeOutput{}, "<return>true</return>"},
		{"return not set", "DeleteKeyPair", &ec2.DeleteKeyPairOutput{KeyPairId: aws.String("key-1")}, "<keyPairId>key-1</keyPairId><return>true</return>"},
		{"return false", "DeleteKeyPair", &ec2.DeleteKeyPairOutput{Return: aws.Bool(false)}, "<return>false</return>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := encoded(t, tt.action, tt.out); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestEncodeScalars(t *testing.T) {
	east := time.FixedZone("", 2*3600)
	got := encoded(t, "CreateVolume", &ec2.CreateVolumeOutput{
		CreateTime: aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 6_700_000, east)),
		Encrypted:  aws.Bool(false), Size: aws.Int32(8), Iops: aws.Int32(-1), State: types.VolumeStateCreating,
		Tags: []types.Tag{{Key: aws.String(`<a&b>"'`), Value: aws.String("ü\x00\xff\n")}},
	})
	want := "<attachmentSet/><createTime>2026-01-02T01:04:05.006Z</createTime><encrypted>false</encrypted><iops>-1</iops>" +
		"<size>8</size><status>creating</status>" +
		"<tagSet><item><key>&lt;a&amp;b&gt;&#34;&#39;</key><value>ü\uFFFD\uFFFD&#xA;</value></item></tagSet>"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestElementNames holds names that clients look for, as AWS's reference writes
// them: the SDK's decoder, the oracle of the golden test, ignores case.
func TestElementNames(t *testing.T) {
	s, now := aws.String("x"), aws.Time(time.Unix(0, 0))
	tags := []types.Tag{{Key: s, Value: s}}
	instance := types.Instance{
		InstanceId: s, ImageId: s, State: &types.InstanceState{Code: aws.Int32(16), Name: "running"}, PrivateDnsName: s, PublicDnsName: s,
		KeyName: s, AmiLaunchIndex: aws.Int32(0), InstanceType: "t3.micro", LaunchTime: now, Placement: &types.Placement{AvailabilityZone: s},
		KernelId: s, SubnetId: s, VpcId: s, PrivateIpAddress: s, PublicIpAddress: s, SecurityGroups: []types.GroupIdentifier{{GroupId: s, GroupName: s}},
		RootDeviceName: s, RootDeviceType: "ebs", ClientToken: s, StateReason: &types.StateReason{Code: s}, StateTransitionReason: s,
		BlockDeviceMappings: []types.InstanceBlockDeviceMapping{{DeviceName: s, Ebs: &types.EbsInstanceBlockDevice{VolumeId: s, Status: "attached", DeleteOnTermination: aws.Bool(false)}}},
		NetworkInterfaces:   []types.InstanceNetworkInterface{{NetworkInterfaceId: s, Groups: []types.GroupIdentifier{{GroupId: s}}, Association: &types.InstanceNetworkInterfaceAssociation{PublicIp: s}}},
		Tags:                tags, MetadataOptions: &types.InstanceMetadataOptionsResponse{HttpTokens: "required"}, SourceDestCheck: aws.Bool(true),
	}
	tests := []struct {
		action string
		out    any
		want   []string // paths of elements
	}{
		{"DescribeInstances", &ec2.DescribeInstancesOutput{NextToken: s, Reservations: []types.Reservation{{ReservationId: s, OwnerId: s, Instances: []types.Instance{instance}}}}, []string{
			"nextToken", "reservationSet/item/reservationId", "reservationSet/item/ownerId", "reservationSet/item/instancesSet/item/instanceId",
			"reservationSet/item/instancesSet/item/instanceState/code", "reservationSet/item/instancesSet/item/instanceState/name",
			"reservationSet/item/instancesSet/item/privateDnsName", "reservationSet/item/instancesSet/item/dnsName", "reservationSet/item/instancesSet/item/reason",
			"reservationSet/item/instancesSet/item/amiLaunchIndex", "reservationSet/item/instancesSet/item/ipAddress", "reservationSet/item/instancesSet/item/privateIpAddress",
			"reservationSet/item/instancesSet/item/kernelId", "reservationSet/item/instancesSet/item/placement/availabilityZone",
			"reservationSet/item/instancesSet/item/groupSet/item/groupId", "reservationSet/item/instancesSet/item/rootDeviceName",
			"reservationSet/item/instancesSet/item/blockDeviceMapping/item/deviceName", "reservationSet/item/instancesSet/item/blockDeviceMapping/item/ebs/volumeId",
			"reservationSet/item/instancesSet/item/blockDeviceMapping/item/ebs/deleteOnTermination", "reservationSet/item/instancesSet/item/blockDeviceMapping/item/ebs/status",
			"reservationSet/item/instancesSet/item/networkInterfaceSet/item/groupSet/item/groupId", "reservationSet/item/instancesSet/item/networkInterfaceSet/item/association/publicIp",
			"reservationSet/item/instancesSet/item/tagSet/item/key", "reservationSet/item/instancesSet/item/stateReason/code",
			"reservationSet/item/instancesSet/item/metadataOptions/httpTokens", "reservationSet/item/instancesSet/item/sourceDestCheck",
		}},
		{"RunInstances", &ec2.RunInstancesOutput{ReservationId: s, Instances: []types.Instance{instance}}, []string{"groupSet", "instancesSet/item/imageId", "reservationId"}},
		{"TerminateInstances", &ec2.TerminateInstancesOutput{TerminatingInstances: []types.InstanceStateChange{{InstanceId: s, CurrentState: &types.InstanceState{Name: "shutting-down"}, PreviousState: &types.InstanceState{Name: "running"}}}}, []string{
			"instancesSet/item/instanceId", "instancesSet/item/currentState/name", "instancesSet/item/previousState/name",
		}},
		{"DescribeInstanceAttribute", &ec2.DescribeInstanceAttributeOutput{InstanceId: s, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}, Groups: []types.GroupIdentifier{{}}, UserData: &types.AttributeValue{Value: s}}, []string{
			"blockDeviceMapping", "disableApiTermination/value", "groupSet/item", "instanceId", "productCodes", "userData/value",
		}},
		{"DescribeInstanceStatus", &ec2.DescribeInstanceStatusOutput{InstanceStatuses: []types.InstanceStatus{{InstanceId: s, InstanceStatus: &types.InstanceStatusSummary{Status: "ok"}, SystemStatus: &types.InstanceStatusSummary{Details: []types.InstanceStatusDetails{{Name: "reachability"}}}}}}, []string{
			"instanceStatusSet/item/instanceId", "instanceStatusSet/item/instanceStatus/status", "instanceStatusSet/item/systemStatus/details/item/name",
		}},
		{"GetConsoleOutput", &ec2.GetConsoleOutputOutput{InstanceId: s, Output: s, Timestamp: now}, []string{"instanceId", "output", "timestamp"}},
		{"DescribeVolumes", &ec2.DescribeVolumesOutput{Volumes: []types.Volume{{VolumeId: s, State: "in-use", AvailabilityZone: s, CreateTime: now, VolumeType: "gp3", Tags: tags, Attachments: []types.VolumeAttachment{{InstanceId: s, Device: s, State: "attached", AttachTime: now, DeleteOnTermination: aws.Bool(false)}}}}}, []string{
			"volumeSet/item/volumeId", "volumeSet/item/status", "volumeSet/item/availabilityZone", "volumeSet/item/createTime", "volumeSet/item/volumeType", "volumeSet/item/tagSet/item/value",
			"volumeSet/item/attachmentSet/item/instanceId", "volumeSet/item/attachmentSet/item/device", "volumeSet/item/attachmentSet/item/status", "volumeSet/item/attachmentSet/item/attachTime", "volumeSet/item/attachmentSet/item/deleteOnTermination",
		}},
		{"AttachVolume", &ec2.AttachVolumeOutput{VolumeId: s, State: "attaching", AttachTime: now}, []string{"attachTime", "status", "volumeId"}},
		{"DescribeSnapshots", &ec2.DescribeSnapshotsOutput{Snapshots: []types.Snapshot{{SnapshotId: s, State: "completed", Progress: s, StartTime: now, VolumeSize: aws.Int32(1), StateMessage: s, Tags: tags}}}, []string{
			"snapshotSet/item/snapshotId", "snapshotSet/item/status", "snapshotSet/item/progress", "snapshotSet/item/startTime", "snapshotSet/item/volumeSize", "snapshotSet/item/statusMessage", "snapshotSet/item/tagSet/item/key",
		}},
		{"DescribeImages", &ec2.DescribeImagesOutput{Images: []types.Image{{ImageId: s, State: "available", OwnerId: s, Public: aws.Bool(true), ImageOwnerAlias: s, ImageLocation: s, RootDeviceName: s, EnaSupport: aws.Bool(true), Tags: tags, BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: s, VirtualName: s, Ebs: &types.EbsBlockDevice{SnapshotId: s, DeleteOnTermination: aws.Bool(false)}}}}}}, []string{
			"imagesSet/item/imageId", "imagesSet/item/imageState", "imagesSet/item/imageOwnerId", "imagesSet/item/isPublic", "imagesSet/item/imageOwnerAlias", "imagesSet/item/imageLocation", "imagesSet/item/rootDeviceName", "imagesSet/item/enaSupport", "imagesSet/item/tagSet/item/key",
			"imagesSet/item/blockDeviceMapping/item/deviceName", "imagesSet/item/blockDeviceMapping/item/virtualName", "imagesSet/item/blockDeviceMapping/item/ebs/snapshotId", "imagesSet/item/blockDeviceMapping/item/ebs/deleteOnTermination",
		}},
		{"CreateKeyPair", &ec2.CreateKeyPairOutput{KeyName: s, KeyMaterial: s, KeyFingerprint: s, KeyPairId: s}, []string{"keyFingerprint", "keyMaterial", "keyName", "keyPairId"}},
		{"DescribeKeyPairs", &ec2.DescribeKeyPairsOutput{KeyPairs: []types.KeyPairInfo{{KeyName: s}}}, []string{"keySet/item/keyName"}},
		{"DescribeSecurityGroups", &ec2.DescribeSecurityGroupsOutput{SecurityGroups: []types.SecurityGroup{{GroupId: s, GroupName: s, Description: s, IpPermissions: []types.IpPermission{{IpRanges: []types.IpRange{{CidrIp: s}}, UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: s}}}}, IpPermissionsEgress: []types.IpPermission{{IpProtocol: s}}}}}, []string{
			"securityGroupInfo/item/groupId", "securityGroupInfo/item/groupName", "securityGroupInfo/item/groupDescription", "securityGroupInfo/item/ipPermissions/item/ipRanges/item/cidrIp",
			"securityGroupInfo/item/ipPermissions/item/groups/item/groupId", "securityGroupInfo/item/ipPermissionsEgress/item/ipProtocol",
		}},
		{"DescribeAddresses", &ec2.DescribeAddressesOutput{Addresses: []types.Address{{AllocationId: s, PublicIp: s}}}, []string{"addressesSet/item/allocationId", "addressesSet/item/publicIp"}},
		{"DescribeVpcs", &ec2.DescribeVpcsOutput{Vpcs: []types.Vpc{{VpcId: s, IsDefault: aws.Bool(true)}}}, []string{"vpcSet/item/vpcId", "vpcSet/item/isDefault"}},
		{"DescribeSubnets", &ec2.DescribeSubnetsOutput{Subnets: []types.Subnet{{SubnetId: s}}}, []string{"subnetSet/item/subnetId"}},
		{"DescribeRegions", &ec2.DescribeRegionsOutput{Regions: []types.Region{{RegionName: s, Endpoint: s}}}, []string{"regionInfo/item/regionName", "regionInfo/item/regionEndpoint"}},
		{"DescribeAvailabilityZones", &ec2.DescribeAvailabilityZonesOutput{AvailabilityZones: []types.AvailabilityZone{{ZoneName: s, State: "available"}}}, []string{"availabilityZoneInfo/item/zoneName", "availabilityZoneInfo/item/zoneState"}},
		{"DescribeTags", &ec2.DescribeTagsOutput{Tags: []types.TagDescription{{ResourceId: s, ResourceType: "volume"}}}, []string{"tagSet/item/resourceId", "tagSet/item/resourceType"}},
		{"DescribeAccountAttributes", &ec2.DescribeAccountAttributesOutput{AccountAttributes: []types.AccountAttribute{{AttributeName: s, AttributeValues: []types.AccountAttributeValue{{AttributeValue: s}}}}}, []string{
			"accountAttributeSet/item/attributeName", "accountAttributeSet/item/attributeValueSet/item/attributeValue",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.action, func(t *testing.T) {
			have := paths(t, encoded(t, tt.action, tt.out))
			for _, want := range tt.want {
				if !have[want] {
					t.Errorf("no element %s in %v", want, have)
				}
			}
		})
	}
}

// paths returns the paths of all elements in an XML fragment.
func paths(t *testing.T, fragment string) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	var at []string
	for d := xml.NewDecoder(strings.NewReader(fragment)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return have
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			at = append(at, tok.Name.Local)
			have[strings.Join(at, "/")] = true
		case xml.EndElement:
			at = at[:len(at)-1]
		}
	}
}

func TestEncodeError(t *testing.T) {
	var b bytes.Buffer
	if err := EncodeError(&b, "req-1", "InvalidVolume.NotFound", "The volume 'vol-<1>' does not exist."); err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Response><Errors><Error><Code>InvalidVolume.NotFound</Code>" +
		"<Message>The volume &#39;vol-&lt;1&gt;&#39; does not exist.</Message></Error></Errors><RequestID>req-1</RequestID></Response>"
	if b.String() != want {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}
}

func TestEncodeNotAnOutput(t *testing.T) {
	for _, out := range []any{nil, 1, ec2.DescribeVolumesOutput{}, (*ec2.DescribeVolumesOutput)(nil), &struct{ C chan int }{}, &struct{ M map[string]string }{}} {
		var b bytes.Buffer
		if err := Encode(&b, "DescribeVolumes", "r", out); err == nil || b.Len() > 0 {
			t.Errorf("%T: error %v after %d bytes", out, err, b.Len())
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestEncodeTellsWriteErrors(t *testing.T) {
	if err := Encode(brokenWriter{}, "A", "r", &ec2.DeleteVolumeOutput{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Encode: %v", err)
	}
	if err := EncodeError(brokenWriter{}, "r", "c", "m"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("EncodeError: %v", err)
	}
}
