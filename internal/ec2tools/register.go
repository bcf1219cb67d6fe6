package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/pflag"
)

// registerOptions are ec2-register's own options.
type registerOptions struct {
	name, description    string
	arch                 string
	kernel, ramdisk      string
	rootDevice, snapshot string
	virtualization       string
	sriov                string
	mappings             []string
	headers, emptyFields bool
	help                 bool
	endpoint             Endpoint
}

const registerUsage = `ec2reg ([MANIFEST] | -s SNAPSHOT | -b DEVICE=SNAPSHOT…) -n NAME [options]

Register an image: the idea of a server.

  -n, --name NAME                  the image's name
  -d, --description TEXT           what it is
  -a, --architecture ARCH          i386, x86_64 (default) or arm64
  -b, --block-device-mapping MAP   a disk; repeatable (see below)
  -s, --snapshot SNAPSHOT          the root disk's snapshot, short for -b ROOT=SNAPSHOT
      --root-device-name DEVICE    where the root disk is (default /dev/sda1)
      --kernel AKI, --ramdisk ARI  boot this kernel instead of the disk's own boot loader
      --virtualization-type TYPE   hvm or paravirtual (default hvm; left to the endpoint with --kernel)
      --sriov VALUE                enhanced networking: simple
      --region REGION, -U, --url URL   where to
  -O, -W, -t                       access key ID, secret access key, session token
  -H, --headers                    head the columns
      --show-empty-fields          show empty fields as (nil)

A disk is DEVICE=[SNAPSHOT]:[SIZE]:[DELETE]:[TYPE[:IOPS]]:[encrypted],
DEVICE=ephemeral0 or DEVICE=none. DELETE=false keeps it when its instance is
terminated: /dev/sda1=snap-1234abcd:8:false
`

func (o *registerOptions) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("ec2reg", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVarP(&o.name, "name", "n", "", "")
	fs.StringVarP(&o.description, "description", "d", "", "")
	fs.StringVarP(&o.arch, "architecture", "a", string(types.ArchitectureValuesX8664), "")
	fs.StringVar(&o.kernel, "kernel", "", "")
	fs.StringVar(&o.ramdisk, "ramdisk", "", "")
	fs.StringVar(&o.rootDevice, "root-device-name", "/dev/sda1", "")
	fs.StringVarP(&o.snapshot, "snapshot", "s", "", "")
	fs.StringVar(&o.virtualization, "virtualization-type", "", "")
	fs.StringVar(&o.sriov, "sriov", "", "")
	// An array, not a slice: mappings are taken as they are, commas and all.
	fs.StringArrayVarP(&o.mappings, "block-device-mapping", "b", nil, "")
	fs.BoolVarP(&o.headers, "headers", "H", false, "")
	fs.BoolVarP(&o.emptyFields, "show-empty-fields", "F", false, "")
	fs.BoolVarP(&o.help, "help", "h", false, "")
	fs.StringVar(&o.endpoint.Region, "region", "", "")
	fs.StringVarP(&o.endpoint.URL, "url", "U", "", "")
	fs.StringVarP(&o.endpoint.AccessKeyID, "aws-access-key", "O", "", "")
	fs.StringVarP(&o.endpoint.SecretAccessKey, "aws-secret-key", "W", "", "")
	fs.StringVarP(&o.endpoint.SessionToken, "security-token", "t", "", "")
	return fs
}

// Register is ec2-register: it registers an image and prints its ID.
func Register(ctx context.Context, connect Connect, args []string, stdout, stderr io.Writer) error {
	var o registerOptions
	fs := o.flags()
	if err := fs.Parse(args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return usageError("%v", err)
	}
	if o.help {
		_, err := io.WriteString(stderr, registerUsage)
		return err
	}
	in, err := o.input(fs.Args())
	if err != nil {
		return err
	}
	client, err := connect(ctx, o.endpoint)
	if err != nil {
		return fmt.Errorf("ec2reg: %w", err)
	}
	out, err := client.RegisterImage(ctx, in)
	if err != nil {
		return fmt.Errorf("ec2reg: register image %q: %w", o.name, err)
	}
	return o.print(stdout, aws.ToString(out.ImageId))
}

// input turns the options into the request.
func (o *registerOptions) input(args []string) (*ec2.RegisterImageInput, error) {
	if len(args) > 1 {
		return nil, usageError("one manifest at most, not %q", strings.Join(args, " "))
	}
	if o.name == "" {
		return nil, usageError("an image needs a name: -n NAME")
	}
	if !slices.Contains([]string{"i386", "x86_64", "arm64"}, o.arch) {
		return nil, usageError("architecture is i386, x86_64 or arm64, not %q", o.arch)
	}
	mappings, err := o.blockDevices()
	if err != nil {
		return nil, err
	}
	in := &ec2.RegisterImageInput{
		Name: &o.name, Architecture: types.ArchitectureValues(o.arch), RootDeviceName: &o.rootDevice, BlockDeviceMappings: mappings,
		Description: optional(o.description), KernelId: optional(o.kernel), RamdiskId: optional(o.ramdisk),
		SriovNetSupport: optional(o.sriov), VirtualizationType: optional(o.virtualization),
	}
	if o.kernel == "" {
		if o.virtualization == "" {
			in.VirtualizationType = aws.String(string(types.VirtualizationTypeHvm))
		}
		in.EnaSupport = aws.Bool(aws.ToString(in.VirtualizationType) == string(types.VirtualizationTypeHvm))
	}
	if len(args) == 1 {
		in.ImageLocation = &args[0]
	} else if !o.hasRoot(mappings) {
		return nil, usageError("no disk at the root device %s: -s SNAPSHOT, or -b %s=SNAPSHOT", o.rootDevice, o.rootDevice)
	}
	return in, nil
}

// blockDevices reads the mappings; -s is the root's.
func (o *registerOptions) blockDevices() ([]types.BlockDeviceMapping, error) {
	var list []types.BlockDeviceMapping
	seen := map[string]bool{}
	specs := o.mappings
	if o.snapshot != "" {
		specs = append([]string{o.rootDevice + "=" + o.snapshot}, specs...)
	}
	for _, s := range specs {
		m, err := ParseMapping(s)
		if err != nil {
			return nil, err
		}
		if seen[*m.DeviceName] {
			return nil, usageError("device %s is mapped twice", *m.DeviceName)
		}
		seen[*m.DeviceName] = true
		list = append(list, m)
	}
	return list, nil
}

func (o *registerOptions) hasRoot(mappings []types.BlockDeviceMapping) bool {
	return slices.ContainsFunc(mappings, func(m types.BlockDeviceMapping) bool {
		return *m.DeviceName == o.rootDevice && m.Ebs != nil && m.Ebs.SnapshotId != nil
	})
}

// print writes the result as the tools did: IMAGE, a tab, the ID.
func (o *registerOptions) print(w io.Writer, id string) error {
	if o.emptyFields && id == "" {
		id = "(nil)"
	}
	if o.headers {
		if _, err := fmt.Fprint(w, "Type\tImageID\n"); err != nil {
			return fmt.Errorf("ec2reg: %w", err)
		}
	}
	if _, err := fmt.Fprintf(w, "IMAGE\t%s\n", id); err != nil {
		return fmt.Errorf("ec2reg: %w", err)
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
