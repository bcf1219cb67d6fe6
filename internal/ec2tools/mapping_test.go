package ec2tools_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/ec2tools"
)

// show writes a mapping field by field, leaving out what isn't set.
func show(m types.BlockDeviceMapping) string {
	var b strings.Builder
	fmt.Fprint(&b, aws.ToString(m.DeviceName))
	if m.NoDevice != nil {
		fmt.Fprintf(&b, " none%q", *m.NoDevice)
	}
	if m.VirtualName != nil {
		fmt.Fprint(&b, " ", *m.VirtualName)
	}
	if e := m.Ebs; e != nil {
		for name, v := range map[string]*string{" snap=": e.SnapshotId} {
			if v != nil {
				fmt.Fprint(&b, name, *v)
			}
		}
		if e.VolumeSize != nil {
			fmt.Fprint(&b, " size=", *e.VolumeSize)
		}
		if e.DeleteOnTermination != nil {
			fmt.Fprint(&b, " delete=", *e.DeleteOnTermination)
		}
		if e.VolumeType != "" {
			fmt.Fprint(&b, " type=", e.VolumeType)
		}
		if e.Iops != nil {
			fmt.Fprint(&b, " iops=", *e.Iops)
		}
		if e.Encrypted != nil {
			fmt.Fprint(&b, " encrypted=", *e.Encrypted)
		}
	}
	return b.String()
}

func TestParseMapping(t *testing.T) {
	for in, want := range map[string]string{
		"/dev/sda1=snap-1a2b:8:false":             "/dev/sda1 snap=snap-1a2b size=8 delete=false",
		"/dev/sdf1=:10:false":                     "/dev/sdf1 size=10 delete=false",
		"/dev/sdf=snap-1a2b":                      "/dev/sdf snap=snap-1a2b",
		"/dev/sdf=snap-1a2b::true":                "/dev/sdf snap=snap-1a2b delete=true",
		"/dev/sdf=:10":                            "/dev/sdf size=10",
		"/dev/sdf=:10::gp2":                       "/dev/sdf size=10 type=gp2",
		"/dev/sdf=:100:false:io1:1000":            "/dev/sdf size=100 delete=false type=io1 iops=1000",
		"/dev/sdf=:100:false:io1:1000:encrypted":  "/dev/sdf size=100 delete=false type=io1 iops=1000 encrypted=true",
		"/dev/sdf=:100:false:standard:encrypted":  "/dev/sdf size=100 delete=false type=standard encrypted=true",
		"/dev/sdf=:100:false:gp3::encrypted":      "/dev/sdf size=100 delete=false type=gp3 encrypted=true",
		"/dev/sdf=:100:false::encrypted":          "/dev/sdf size=100 delete=false encrypted=true",
		"/dev/sdb=ephemeral0":                     "/dev/sdb ephemeral0",
		"/dev/sdb=ephemeral23":                    "/dev/sdb ephemeral23",
		"/dev/sdc=none":                           `/dev/sdc none""`,
		"xvdf=snap-0123456789abcdef0:2147483647:": "xvdf snap=snap-0123456789abcdef0 size=2147483647",
	} {
		got, err := ec2tools.ParseMapping(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if show(got) != want {
			t.Errorf("%s is %q, want %q", in, show(got), want)
		}
	}
}

func TestParseMappingRefuses(t *testing.T) {
	for _, in := range []string{
		"", "=", "/dev/sdf", "/dev/sdf=", "=snap-1", "/dev/sdf=:", "/dev/sdf=::false", "/dev/sdf=:0:false", "/dev/sdf=:-1",
		"/dev/sdf=:2147483648", "/dev/sdf=:ten", "/dev/sdf=snap-1:8:no", "/dev/sdf=snap-1:8:FALSE", "/dev/sdf=vol-1:8", "/dev/sdf=ephemeral24",
		"/dev/sdf=:1:false:floppy", "/dev/sdf=:1:false:io1:fast", "/dev/sdf=:1:false:gp2:100", "/dev/sdf=:1:false:io1:1:encrypted:x",
		"/dev/sdf=:1:false:encrypted", "/dev sdf=snap-1",
	} {
		if m, err := ec2tools.ParseMapping(in); !errors.Is(err, ec2tools.ErrUsage) {
			t.Errorf("%q gave %q, %v; want a usage error", in, show(m), err)
		}
	}
}

func FuzzParseMapping(f *testing.F) {
	for _, s := range []string{"/dev/sda1=snap-1a2b:8:false", "/dev/sdf1=:10:false", "/dev/sdb=ephemeral0", "/dev/sdc=none", "/dev/sdf=:100:false:io1:1000:encrypted"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ec2tools.ParseMapping(s)
		if err != nil {
			if !errors.Is(err, ec2tools.ErrUsage) {
				t.Fatalf("%q: %v is no usage error", s, err)
			}
			return
		}
		// A disk is exactly one of three things, and never says more than
		// was written: a volume that nobody said to delete isn't.
		kinds := 0
		for _, is := range []bool{m.NoDevice != nil, m.VirtualName != nil, m.Ebs != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 || !strings.HasPrefix(s, *m.DeviceName+"=") {
			t.Fatalf("%q became %q", s, show(m))
		}
		if m.Ebs != nil && aws.ToBool(m.Ebs.DeleteOnTermination) && !strings.Contains(s, ":true") {
			t.Fatalf("%q is deleted on termination", s)
		}
		if m.Ebs != nil && m.Ebs.SnapshotId == nil && m.Ebs.VolumeSize == nil {
			t.Fatalf("%q is a volume of nothing", s)
		}
	})
}
