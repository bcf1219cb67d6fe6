package ec2tools_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/ec2tools"
)

// endpoint answers each action with a canned body and keeps the requests.
type endpoint struct {
	*httptest.Server
	answers  map[string]string // action → inner XML
	requests []url.Values
}

func newEndpoint(t *testing.T, answers map[string]string) *endpoint {
	t.Helper()
	e := &endpoint{answers: answers}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		e.requests = append(e.requests, r.Form)
		action := r.Form.Get("Action")
		if code, refused := strings.CutPrefix(e.answers[action], "refuse "); refused {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `<Response><Errors><Error><Code>%s</Code><Message>no.</Message></Error></Errors><RequestID>1</RequestID></Response>`, code)
			return
		}
		fmt.Fprintf(w, `<%sResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>%s</%sResponse>`, action, e.answers[action], action)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) connect(context.Context, ec2tools.Endpoint) (ec2tools.EC2, error) {
	return ec2.New(ec2.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(e.URL), RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "x"}, nil
		}),
	}), nil
}

// What each option becomes on the wire.
func TestRequests(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		want string // space-separated NAME=VALUE of the last request
	}{
		{"ec2dereg ami-1", "Action=DeregisterImage ImageId=ami-1"},
		{"ec2cim i-1 -n base -d text --no-reboot -b /dev/sdf=:5:false", "Action=CreateImage InstanceId=i-1 Name=base Description=text NoReboot=true BlockDeviceMapping.1.Ebs.DeleteOnTermination=false"},
		{"ec2cim i-1 -n base", "NoReboot=false"},
		{"ec2dim", "Action=DescribeImages Owner.1=self"},
		{"ec2dim -a", "Owner.1="},
		{"ec2dim -o amazon -x all ami-1", "Owner.1=amazon ExecutableBy.1=all ImageId.1=ami-1"},
		{
			"ec2run ami-1 -n 2-5 -g web -g sg-2 -k mine -d hello -t m1.large -z us-east-1b --kernel aki-1 --ramdisk ari-1",
			"Action=RunInstances MinCount=2 MaxCount=5 SecurityGroup.1=web SecurityGroupId.1=sg-2 KeyName=mine UserData=aGVsbG8= InstanceType=m1.large Placement.AvailabilityZone=us-east-1b KernelId=aki-1 RamdiskId=ari-1",
		},
		{
			"ec2run -f " + file + " --disable-api-termination -m -s subnet-1 --private-ip-address 10.0.0.9 -p role --client-token t ami-1",
			"UserData=ZnJvbSBhIGZpbGU= DisableApiTermination=true Monitoring.Enabled=true SubnetId=subnet-1 PrivateIpAddress=10.0.0.9 IamInstanceProfile.Name=role ClientToken=t MinCount=1 MaxCount=1",
		},
		{"ec2-run-instances ami-1 -b /dev/sda1=:20:false -b /dev/sdb=none", "BlockDeviceMapping.1.Ebs.VolumeSize=20 BlockDeviceMapping.2.NoDevice= BlockDeviceMapping.2.DeviceName=/dev/sdb"},
		{"ec2din -F tag:Role=web -F tag:Role=db -F instance-state-name=running", "Action=DescribeInstances Filter.1.Name=tag:Role Filter.1.Value.1=web Filter.1.Value.2=db Filter.2.Name=instance-state-name Filter.2.Value.1=running"},
		{"ec2start i-1 i-2", "Action=StartInstances InstanceId.1=i-1 InstanceId.2=i-2"},
		{"ec2stop -f i-1", "Action=StopInstances Force=true"},
		{"ec2stop i-1", "Force=false"},
		{"ec2reboot i-1", "Action=RebootInstances InstanceId.1=i-1"},
		{"ec2kill i-1", "Action=TerminateInstances InstanceId.1=i-1"},
		{"ec2minatt i-1 -b /dev/sda1=vol-1:false", "Action=ModifyInstanceAttribute BlockDeviceMapping.1.DeviceName=/dev/sda1 BlockDeviceMapping.1.Ebs.VolumeId=vol-1 BlockDeviceMapping.1.Ebs.DeleteOnTermination=false"},
		{"ec2minatt i-1 --instance-initiated-shutdown-behavior stop", "InstanceInitiatedShutdownBehavior.Value=stop"},
		{"ec2minatt i-1 --user-data hello", "UserData.Value=aGVsbG8="},
		{"ec2minatt i-1 -g sg-1 -g sg-2", "GroupId.1=sg-1 GroupId.2=sg-2"},
		{"ec2minatt i-1 --source-dest-check false", "SourceDestCheck.Value=false"},
		{"ec2addvol -s 10 -z us-east-1a --snapshot snap-1 -t io1 -i 500 --encrypted", "Action=CreateVolume Size=10 AvailabilityZone=us-east-1a SnapshotId=snap-1 VolumeType=io1 Iops=500 Encrypted=true"},
		{"ec2attvol vol-1 -i i-1 -d /dev/sdf", "Action=AttachVolume VolumeId=vol-1 InstanceId=i-1 Device=/dev/sdf"},
		{"ec2detvol vol-1 -i i-1 -d /dev/sdf -f", "Action=DetachVolume InstanceId=i-1 Device=/dev/sdf Force=true"},
		{"ec2delvol vol-1", "Action=DeleteVolume VolumeId=vol-1"},
		{"ec2dvol vol-1 vol-2", "Action=DescribeVolumes VolumeId.1=vol-1 VolumeId.2=vol-2"},
		{"ec2addsnap vol-1 -d tape", "Action=CreateSnapshot VolumeId=vol-1 Description=tape"},
		{"ec2delsnap snap-1", "Action=DeleteSnapshot SnapshotId=snap-1"},
		{"ec2dsnap", "Action=DescribeSnapshots Owner.1=self"},
		{"ec2dsnap -a -r self", "Owner.1= RestorableBy.1=self"},
		{"ec2addkey mine", "Action=CreateKeyPair KeyName=mine"},
		{"ec2-add-group web -d text -c vpc-1", "Action=CreateSecurityGroup GroupName=web GroupDescription=text VpcId=vpc-1"},
		{"ec2auth sg-1 -p 80 -s 198.51.100.0/24 -s 2001:db8::/32", "Action=AuthorizeSecurityGroupIngress GroupId=sg-1 IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=80 IpPermissions.1.ToPort=80 IpPermissions.1.IpRanges.1.CidrIp=198.51.100.0/24 IpPermissions.1.Ipv6Ranges.1.CidrIpv6=2001:db8::/32"},
		{"ec2auth sg-1 -P icmp -t -1:-1", "IpPermissions.1.IpProtocol=icmp IpPermissions.1.FromPort=-1 IpPermissions.1.ToPort=-1 IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"},
		{"ec2auth sg-1 -p -1", "IpPermissions.1.FromPort=0 IpPermissions.1.ToPort=65535"},
		{"ec2auth sg-1 -P all -o sg-2 -u 1234", "IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=sg-2 IpPermissions.1.Groups.1.UserId=1234 IpPermissions.1.IpRanges.1.CidrIp="},
		{"ec2auth sg-1 --egress -p 443", "Action=AuthorizeSecurityGroupEgress"},
		{"ec2addtag i-1 vol-1 --tag a=b=c --tag bare", "Action=CreateTags ResourceId.1=i-1 ResourceId.2=vol-1 Tag.1.Key=a Tag.1.Value=b=c Tag.2.Key=bare Tag.2.Value="},
	} {
		t.Run(tt.line, func(t *testing.T) {
			e := newEndpoint(t, nil)
			words := strings.Fields(tt.line)
			var out bytes.Buffer
			if err := ec2tools.Run(t.Context(), e.connect, words[0], words[1:], ec2tools.Streams{Stdout: &out, Stderr: &out}); err != nil {
				t.Fatal(err)
			}
			last := e.requests[len(e.requests)-1]
			for _, pair := range strings.Fields(tt.want) {
				name, want, _ := strings.Cut(pair, "=")
				if got := last.Get(name); got != want {
					t.Errorf("%s is %q, want %q, in %v", name, got, want, last)
				}
			}
		})
	}
}

// Nothing is sent for a line that makes no sense.
func TestLinesRefused(t *testing.T) {
	e := newEndpoint(t, nil)
	for _, line := range []string{
		"ec2dereg", "ec2dereg a b", "ec2cim i-1", "ec2dim -F nothing", "ec2run", "ec2run ami-1 -n 0", "ec2run ami-1 -n 3-2", "ec2run ami-1 -n x",
		"ec2run ami-1 -d x -f y", "ec2run ami-1 -f /nonesuch", "ec2run ami-1 -b x", "ec2start", "ec2kill", "ec2minatt i-1", "ec2minatt i-1 --disable-api-termination maybe",
		"ec2minatt i-1 -b /dev/sda1=maybe", "ec2addvol -s 1", "ec2addvol -z a", "ec2addvol -s 0 -z a", "ec2addvol -s 1 -z a -t floppy", "ec2addvol -s 1 -z a left over",
		"ec2attvol vol-1", "ec2attvol vol-1 -i i-1", "ec2detvol", "ec2addgrp web", "ec2auth web", "ec2auth web -p x", "ec2auth web -p 70000", "ec2auth web -p 2-1",
		"ec2auth web -p 22 -s everywhere", "ec2addtag i-1", "ec2addtag --tag a", "ec2addtag i-1 --tag =b", "ec2dvol --nonesuch",
	} {
		words := strings.Fields(line)
		var out bytes.Buffer
		err := ec2tools.Run(t.Context(), e.connect, words[0], words[1:], ec2tools.Streams{Stdout: &out, Stderr: &out})
		if !errors.Is(err, ec2tools.ErrUsage) {
			t.Errorf("%s: error is %v, want a usage error", line, err)
		}
		if out.Len() > 0 {
			t.Errorf("%s: printed %q", line, out.String())
		}
	}
	if len(e.requests) > 0 {
		t.Errorf("sent %v", e.requests)
	}
}

// A kernel that isn't taken brings the line that would be; a refusal for
// another reason doesn't.
func TestModernLine(t *testing.T) {
	args := []string{"-n", "Ubuntu 10.04", "-d", "it's basic", "--root-device-name", "/dev/sda1", "-b", "/dev/sda1=snap-1:8:false", "-b", "/dev/sdf1=:10:false", "-a", "x86_64", "--kernel", "aki-427d952b"}
	const modern = `ec2reg -n 'Ubuntu 10.04' -d 'it'\''s basic' --root-device-name /dev/sda1 -b /dev/sda1=snap-1:8:false -b /dev/sdf1=:10:false -a x86_64`
	for code, want := range map[string]bool{
		"InvalidAMIID.NotFound": true, "InvalidParameterValue": true, "InvalidParameterCombination": true, "UnsupportedOperation": true,
		"AuthFailure": false, "RequestLimitExceeded": false, "InvalidSnapshot.NotFound": false, "InvalidAMIName.Duplicate": false,
	} {
		e := newEndpoint(t, map[string]string{"RegisterImage": "refuse " + code})
		var out, notes bytes.Buffer
		err := ec2tools.Run(t.Context(), e.connect, "ec2reg", args, ec2tools.Streams{Stdout: &out, Stderr: &notes})
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: error is %v", code, err)
		}
		if got := strings.Contains(notes.String(), modern+"\n"); got != want || out.Len() > 0 {
			t.Errorf("%s: says %q and prints %q", code, notes.String(), out.String())
		}
	}
}

// So does a launch: for the kernel's sake alone, with all else that was asked.
func TestModernLineOfRun(t *testing.T) {
	args := []string{"ami-1", "-n", "2", "-k", "me", "-g", "web", "-t", "m1.small", "-b", "/dev/sdf1=:10:false", "--kernel", "aki-427d952b"}
	const modern = `ec2run ami-1 -n 2 -g web -k me -t m1.small -b /dev/sdf1=:10:false`
	for code, want := range map[string]bool{
		"UnsupportedOperation": true, "InvalidKeyPair.NotFound": false, "InvalidGroup.NotFound": false, "AuthFailure": false,
	} {
		e := newEndpoint(t, map[string]string{"RunInstances": "refuse " + code})
		var out, notes bytes.Buffer
		err := ec2tools.Run(t.Context(), e.connect, "ec2run", args, ec2tools.Streams{Stdout: &out, Stderr: &notes})
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: error is %v", code, err)
		}
		if got := strings.Contains(notes.String(), modern+"\n"); got != want {
			t.Errorf("%s: says %q", code, notes.String())
		}
	}
}

// Rows are cut by scripts: fields keep their places whatever is empty.
func TestRows(t *testing.T) {
	e := newEndpoint(t, map[string]string{
		"DescribeVolumes": `<volumeSet><item><volumeId>vol-1</volumeId><size>8</size><snapshotId/><availabilityZone>us-east-1a</availabilityZone><status>in-use</status>
			<createTime>2011-03-05T12:34:56.000Z</createTime><attachmentSet><item><volumeId>vol-1</volumeId><instanceId>i-1</instanceId><device>/dev/sda1</device><status>attached</status>
			<attachTime>2011-03-05T12:35:00.000Z</attachTime><deleteOnTermination>false</deleteOnTermination></item></attachmentSet>
			<tagSet><item><key>Name</key><value>two
lines	and a tab</value></item></tagSet></item></volumeSet>`,
	})
	run := func(args ...string) string {
		var out bytes.Buffer
		if err := ec2tools.Run(t.Context(), e.connect, "ec2dvol", args, ec2tools.Streams{Stdout: &out, Stderr: &out}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const attachment = "ATTACHMENT\tvol-1\ti-1\t/dev/sda1\tattached\t2011-03-05T12:35:00+0000\tfalse\n"
	plain := "VOLUME\tvol-1\t8\t\tus-east-1a\tin-use\t2011-03-05T12:34:56+0000\t\t\n" + attachment + "TAG\tvolume\tvol-1\tName\ttwo lines and a tab\n"
	if got := run(); got != plain {
		t.Errorf("printed %q\nwant    %q", got, plain)
	}
	want := "Type\tVolumeID\tSize\tSnapshotID\tZone\tState\tCreateTime\tType\tIops\nVOLUME\tvol-1\t8\t(nil)\tus-east-1a\tin-use\t2011-03-05T12:34:56+0000\t(nil)\t(nil)\n" +
		"Type\tVolumeID\tInstanceID\tDevice\tState\tAttachTime\tDeleteOnTermination\n" + attachment
	if got := run("-H", "--show-empty-fields", "--hide-tags"); got != want {
		t.Errorf("printed %q\nwant    %q", got, want)
	}
}

// Every command's help names its options, and no two options are one letter.
func TestHelp(t *testing.T) {
	if n := len(ec2tools.Tools()); n != 23 {
		t.Errorf("%d tools, want 23", n)
	}
	for _, tool := range ec2tools.Tools() {
		var notes bytes.Buffer
		if err := ec2tools.Run(t.Context(), nil, tool.Long[0], []string{"-h"}, ec2tools.Streams{Stderr: &notes}); err != nil {
			t.Error(err)
		}
		if s := notes.String(); !strings.HasPrefix(s, tool.Short+" ") || !strings.Contains(s, "--region REGION") {
			t.Errorf("%s -h says %q", tool.Short, s)
		}
	}
}
