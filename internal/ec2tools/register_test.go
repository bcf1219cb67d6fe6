package ec2tools_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/ec2tools"
)

// wire is an endpoint that keeps the last request as it came over the wire.
func wire(t *testing.T) (ec2tools.Connect, *url.Values) {
	t.Helper()
	var last url.Values
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		last = r.Form
		fmt.Fprint(w, `<RegisterImageResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId><imageId>ami-0123456789abcdef0</imageId></RegisterImageResponse>`)
	}))
	t.Cleanup(srv.Close)
	connect := func(_ context.Context, _ ec2tools.Endpoint) (ec2tools.EC2, error) {
		return ec2.New(ec2.Options{
			Region: "us-east-1", BaseEndpoint: aws.String(srv.URL),
			Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "x"}, nil
			}),
		}), nil
	}
	return connect, &last
}

// The command lines of the article that the product comes from, IDs put in.
func TestSeedCommandLines(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want map[string]string
	}{
		{
			"base",
			[]string{"-n", "Ubuntu 10.04 20110201.1 Base", "-d", "Basic ubuntu server configuration", "--root-device-name", "/dev/sda1", "-b", "/dev/sda1=snap-1a2b3c4d:8:false", "-a", "x86_64", "--kernel", "aki-427d952b"},
			map[string]string{
				"Name": "Ubuntu 10.04 20110201.1 Base", "Description": "Basic ubuntu server configuration", "KernelId": "aki-427d952b", "VirtualizationType": "",
				"BlockDeviceMapping.2.DeviceName": "",
			},
		},
		{
			"blank data disk",
			[]string{"-n", "Ubuntu server with 10GB at sdf1", "-d", "Ubuntu 10.04 with new 10GB volume at /dev/sdf1", "--root-device-name", "/dev/sda1", "-b", "/dev/sda1=snap-1a2b3c4d:8:false", "-b", "/dev/sdf1=:10:false", "-a", "x86_64", "--kernel", "aki-427d952b"},
			map[string]string{
				"BlockDeviceMapping.2.DeviceName": "/dev/sdf1", "BlockDeviceMapping.2.Ebs.SnapshotId": "",
				"BlockDeviceMapping.2.Ebs.VolumeSize": "10", "BlockDeviceMapping.2.Ebs.DeleteOnTermination": "false",
			},
		},
		{
			"rescue",
			[]string{"-n", "Redis slave server rescue AMI", "-d", "Rescuing the redis slave from snapshots", "--root-device-name", "/dev/sda1", "-b", "/dev/sda1=snap-1a2b3c4d:8:false", "-b", "/dev/sdf1=snap-5e6f7a8b:10:false", "-a", "x86_64", "--kernel", "aki-427d952b"},
			map[string]string{
				"BlockDeviceMapping.2.DeviceName": "/dev/sdf1", "BlockDeviceMapping.2.Ebs.SnapshotId": "snap-5e6f7a8b",
				"BlockDeviceMapping.2.Ebs.VolumeSize": "10", "BlockDeviceMapping.2.Ebs.DeleteOnTermination": "false",
			},
		},
		{
			"without kernel",
			[]string{"--name", "modern", "-s", "snap-1a2b3c4d"},
			map[string]string{"VirtualizationType": "hvm", "EnaSupport": "true", "KernelId": "", "BlockDeviceMapping.1.Ebs.VolumeSize": "", "BlockDeviceMapping.1.Ebs.DeleteOnTermination": ""},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			connect, last := wire(t)
			var out, errs bytes.Buffer
			if err := ec2tools.Run(t.Context(), connect, "/usr/local/bin/ec2reg", tt.args, ec2tools.Streams{Stdout: &out, Stderr: &errs}); err != nil {
				t.Fatal(err)
			}
			if got, want := out.String(), "IMAGE\tami-0123456789abcdef0\n"; got != want {
				t.Errorf("printed %q, want %q", got, want)
			}
			want := map[string]string{
				"Action": "RegisterImage", "Architecture": "x86_64", "RootDeviceName": "/dev/sda1",
				"BlockDeviceMapping.1.DeviceName": "/dev/sda1", "BlockDeviceMapping.1.Ebs.SnapshotId": "snap-1a2b3c4d",
			}
			if tt.name != "without kernel" {
				want["BlockDeviceMapping.1.Ebs.VolumeSize"] = "8"
				want["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] = "false"
			}
			for k, v := range tt.want {
				want[k] = v
			}
			for k, v := range want {
				if got := last.Get(k); got != v {
					t.Errorf("%s is %q, want %q", k, got, v)
				}
			}
		})
	}
}

func TestRegisterHeadersAndEndpoint(t *testing.T) {
	connect, _ := wire(t)
	var asked ec2tools.Endpoint
	spy := func(ctx context.Context, e ec2tools.Endpoint) (ec2tools.EC2, error) {
		asked = e
		return connect(ctx, e)
	}
	var out bytes.Buffer
	args := strings.Fields("-H -n x -s snap-1 --region eu-west-1 -U http://127.0.0.1:1 -O AK -W SK -T TOK")
	if err := ec2tools.Run(t.Context(), spy, "ec2reg", args, ec2tools.Streams{Stdout: &out, Stderr: &out}); err != nil {
		t.Fatal(err)
	}
	if want := "Type\tImageID\nIMAGE\tami-0123456789abcdef0\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	want := ec2tools.Endpoint{Region: "eu-west-1", URL: "http://127.0.0.1:1", AccessKeyID: "AK", SecretAccessKey: "SK", SessionToken: "TOK"}
	if asked != want {
		t.Errorf("connected to %+v, want %+v", asked, want)
	}
}

func TestRegisterRefuses(t *testing.T) {
	never := func(context.Context, ec2tools.Endpoint) (ec2tools.EC2, error) {
		t.Error("connected in spite of wrong arguments")
		return nil, errors.New("no")
	}
	for name, args := range map[string]string{
		"no name":          "-s snap-1",
		"no root":          "-n x -b /dev/sdf=:1:false",
		"root without it":  "-n x -b /dev/sda1=:8:false",
		"twice":            "-n x -s snap-1 -b /dev/sda1=snap-2",
		"architecture":     "-n x -s snap-1 -a vax",
		"unknown option":   "-n x -s snap-1 --nonesuch",
		"two manifests":    "-n x one two",
		"mapping":          "-n x -s snap-1 -b /dev/sdf",
		"unfinished value": "-n x -s",
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := ec2tools.Run(t.Context(), never, "ec2reg", strings.Fields(args), ec2tools.Streams{Stdout: &out, Stderr: &out})
			if !errors.Is(err, ec2tools.ErrUsage) {
				t.Errorf("error is %v, want a usage error", err)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	for name, want := range map[string]bool{
		"ec2reg": true, "/usr/bin/ec2-register": true, "./ec2reg": true,
		"stead": false, "reg": false, "register": false, "ec2": false, "": false, "ec2run": true, "ec2-run-instances": true, "run-instances": false, "ec2link": false,
	} {
		if got := ec2tools.Known(name); got != want {
			t.Errorf("Known(%q) is %v, want %v", name, got, want)
		}
	}
	if err := ec2tools.Run(t.Context(), nil, "nonesuch", nil, ec2tools.Streams{}); !errors.Is(err, ec2tools.ErrUsage) {
		t.Errorf("Run of an unknown tool: %v, want a usage error", err)
	}
}
