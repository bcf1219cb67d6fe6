package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/spf13/pflag"
)

// register is ec2reg: it registers an image and prints its ID.
type register struct {
	name, description    string
	arch                 string
	kernel, ramdisk      string
	rootDevice, snapshot string
	virtualization       string
	sriov                string
	mappings             []string
}

const mappingUsage = "a disk, repeatable: `DEVICE`=[SNAPSHOT]:[SIZE]:[DELETE]:[TYPE[:IOPS]]:[encrypted], " +
	"DEVICE=ephemeral0 or DEVICE=none; DELETE=false keeps it when its instance is terminated"

func (o *register) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.name, "name", "n", "", "the image's `NAME`")
	fs.StringVarP(&o.description, "description", "d", "", "`TEXT` on what it is")
	fs.StringVarP(&o.arch, "architecture", "a", string(types.ArchitectureValuesX8664), "i386, x86_64 or arm64")
	// An array, not a slice: mappings are taken as they are, commas and all.
	fs.StringArrayVarP(&o.mappings, "block-device-mapping", "b", nil, mappingUsage)
	fs.StringVarP(&o.snapshot, "snapshot", "s", "", "the root disk's `SNAPSHOT`, short for -b ROOT=SNAPSHOT")
	fs.StringVar(&o.rootDevice, "root-device-name", "/dev/sda1", "the `DEVICE` of the root disk")
	fs.StringVar(&o.kernel, "kernel", "", "boot the kernel `AKI` instead of the disk's own boot loader")
	fs.StringVar(&o.ramdisk, "ramdisk", "", "with the ramdisk `ARI`")
	fs.StringVar(&o.virtualization, "virtualization-type", "", "hvm or paravirtual (hvm; with --kernel left to the endpoint)")
	fs.StringVar(&o.sriov, "sriov", "", "enhanced networking: simple")
}

func (o *register) do(ctx context.Context, c *call) error {
	in, err := o.input(c.args)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	out, err := client.RegisterImage(ctx, in)
	if err != nil {
		if o.kernel != "" && refusesKernel(err) {
			fmt.Fprintf(c.notes, "This endpoint doesn't boot kernel %s. An image whose disk has a boot loader of its own is registered so today:\n  %s\n", o.kernel, o.modernLine())
		}
		return fmt.Errorf("register image %q: %w", o.name, err)
	}
	c.out.row("IMAGE", "ImageID", out.ImageId)
	return nil
}

// input turns the options into the request.
func (o *register) input(args []string) (*ec2.RegisterImageInput, error) {
	if len(args) > 1 {
		return nil, usageError("one manifest at most, not %q", strings.Join(args, " "))
	}
	if o.name == "" {
		return nil, usageError("an image needs a name: -n NAME")
	}
	if !slices.Contains([]string{"i386", "x86_64", "arm64"}, o.arch) {
		return nil, usageError("architecture is i386, x86_64 or arm64, not %q", o.arch)
	}
	specs := o.mappings
	if o.snapshot != "" {
		specs = append([]string{o.rootDevice + "=" + o.snapshot}, specs...)
	}
	mappings, err := parseMappings(specs)
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

func (o *register) hasRoot(mappings []types.BlockDeviceMapping) bool {
	return slices.ContainsFunc(mappings, func(m types.BlockDeviceMapping) bool {
		return *m.DeviceName == o.rootDevice && m.Ebs != nil && m.Ebs.SnapshotId != nil
	})
}

// modernLine is the same command for an endpoint that boots HVM alone.
func (o *register) modernLine() string {
	words := []string{"ec2reg", "-n", o.name}
	option := func(name, value string) {
		if value != "" {
			words = append(words, name, value)
		}
	}
	option("-d", o.description)
	option("--root-device-name", o.rootDevice)
	option("-s", o.snapshot)
	for _, m := range o.mappings {
		option("-b", m)
	}
	option("-a", o.arch)
	for k, w := range words {
		words[k] = quote(w)
	}
	return strings.Join(words, " ")
}

// refusesKernel tells an endpoint's refusal of what was asked, as against of
// who asks and how often.
func refusesKernel(err error) bool {
	var ae smithy.APIError
	if !errors.As(err, &ae) {
		return false
	}
	code := ae.ErrorCode()
	return strings.HasPrefix(code, "Invalid") && !strings.HasPrefix(code, "InvalidSnapshot") && code != "InvalidAMIName.Duplicate" && code != "InvalidClientTokenId" ||
		strings.HasPrefix(code, "Unsupported")
}

// quote makes a word safe in a shell's line.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=:/.,@%+", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
