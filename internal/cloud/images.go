package cloud

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// amazonOwner is the account that kernel images belong to, as on AWS, and that
// the images which this program builds are published by.
const amazonOwner = "137112412989"

func (c *Cloud) registerImages() {
	c.ec2Actions["RegisterImage"] = handle(c.RegisterImage)
	c.ec2Actions["CreateImage"] = handle(c.CreateImage)
	c.ec2Actions["DescribeImages"] = handle(c.DescribeImages)
	c.ec2Actions["DeregisterImage"] = handle(c.DeregisterImage)
	c.ec2Actions["CopyImage"] = handle(c.CopyImage)
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RegisterImage.html
var imageName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9()\[\] ./\-'@_]{3,128}$`) })

func checkImageName(tx *state.Tx, s state.Scope, name *string) error {
	if name == nil {
		return missing("name")
	}
	if !imageName().MatchString(*name) {
		return fail("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, and ( ) [ ] space . / - ' @ _ ; '%s' is not.", *name)
	}
	images, err := state.List[state.Image](tx, s)
	if err != nil {
		return err
	}
	for _, img := range images {
		if img.Name == *name && img.Owner == s.Account && img.State != state.ImageFailed {
			return fail("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", *name, img.ID)
		}
	}
	return nil
}

// RegisterImage makes an image of snapshots: the idea of a server.
func (c *Cloud) RegisterImage(ctx context.Context, in *ec2.RegisterImageInput) (*ec2.RegisterImageOutput, error) {
	s := from(ctx).Scope
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeImage, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	if in.ImageLocation != nil && len(in.BlockDeviceMappings) == 0 {
		return nil, unsupported("Registering from a manifest in S3", "Register from a snapshot: give RootDeviceName and BlockDeviceMappings.")
	}
	if in.RootDeviceName == nil {
		return nil, missing("rootDeviceName")
	}
	img := &state.Image{
		Meta: c.meta(s, "ami"), State: state.ImageAvailable, Name: aws.ToString(in.Name), Description: aws.ToString(in.Description), Owner: s.Account,
		Type: "machine", Architecture: string(in.Architecture), Virtualization: aws.ToString(in.VirtualizationType), BootMode: string(in.BootMode),
		KernelID: aws.ToString(in.KernelId), RamdiskID: aws.ToString(in.RamdiskId), RootDevice: *in.RootDeviceName, ENA: aws.ToBool(in.EnaSupport),
		SRIOV: aws.ToString(in.SriovNetSupport), IMDS: string(in.ImdsSupport), TPM: string(in.TpmSupport),
		UEFIData: aws.ToString(in.UefiData),
	}
	img.Tags = tags
	if img.Architecture == "" {
		img.Architecture = "i386" // EC2's own default, of another age
	}
	if img.Virtualization == "" {
		img.Virtualization = "paravirtual"
	}
	err = c.db.Update(func(tx *state.Tx) error {
		if err := c.checkRegistration(tx, s, img, in); err != nil {
			return err
		}
		return state.Put(tx, img)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.RegisterImageOutput{ImageId: aws.String(img.ID)}, nil
}

func (c *Cloud) checkRegistration(tx *state.Tx, s state.Scope, img *state.Image, in *ec2.RegisterImageInput) error {
	if err := checkImageName(tx, s, in.Name); err != nil {
		return err
	}
	switch {
	case !slices.Contains(types.ArchitectureValues("").Values(), types.ArchitectureValues(img.Architecture)):
		return invalid(img.Architecture, "architecture", "Use x86_64.")
	case img.Virtualization != "hvm" && img.Virtualization != "paravirtual":
		return invalid(img.Virtualization, "virtualizationType", "Use hvm.")
	}
	if err := checkFirmware(img); err != nil {
		return err
	}
	if img.KernelID != "" {
		if _, err := findKernel(tx, s, img.KernelID); err != nil {
			return err
		}
	}
	devices, err := c.blockDevices(tx, s, nil, in.BlockDeviceMappings)
	if err != nil {
		return err
	}
	root := slices.IndexFunc(devices, func(b state.BlockDevice) bool { return sameDevice(b.Device, img.RootDevice) })
	if root < 0 || devices[root].SnapshotID == "" {
		return fail("InvalidBlockDeviceMapping", "The root device %s has no snapshot in the block device mapping.", img.RootDevice)
	}
	img.BlockDevices = devices
	return nil
}

// findKernel reads a kernel image. They are of every region, wherever they were
// built, so that a disk that was copied boots as it did.
func findKernel(tx *state.Tx, s state.Scope, id string) (*state.Image, error) {
	if err := kernelIDs.check(id); err != nil {
		return nil, err
	}
	for _, region := range append([]string{s.Region}, sortedKeys(regionCodes)...) {
		img, err := state.Get[state.Image](tx, state.Scope{Account: s.Account, Region: region}, id)
		if errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err == nil && img.Type == "kernel" {
			return img, nil
		}
		return nil, errors.Join(kernelIDs.missing(id), err)
	}
	return nil, kernelIDs.missing(id)
}

// findImage reads a machine image.
func findImage(tx *state.Tx, s state.Scope, id string) (*state.Image, error) {
	if kernelIDs.check(id) == nil {
		return findKernel(tx, s, id)
	}
	return find[state.Image](tx, s, imageIDs, id)
}

// blockDevices lays changes over an image's mapping, or checks a mapping of
// its own when base is empty. The result is complete: sizes and types are set.
func (c *Cloud) blockDevices(tx *state.Tx, s state.Scope, base []state.BlockDevice, changes []types.BlockDeviceMapping) ([]state.BlockDevice, error) {
	devices := slices.Clone(base)
	seen := map[string]bool{}
	for _, ch := range changes {
		name := aws.ToString(ch.DeviceName)
		if !deviceName.MatchString(name) {
			return nil, fail("InvalidBlockDeviceMapping", "The device name '%s' is invalid. Use /dev/sda1 or /dev/sd[f-p].", name)
		}
		if seen[shortDevice(name)] {
			return nil, fail("InvalidBlockDeviceMapping", "The device '%s' is used more than once in the block device mapping", name)
		}
		seen[shortDevice(name)] = true
		at := slices.IndexFunc(devices, func(b state.BlockDevice) bool { return sameDevice(b.Device, name) })
		if ch.NoDevice != nil {
			if at >= 0 {
				devices = slices.Delete(devices, at, at+1)
			}
			continue
		}
		dev := state.BlockDevice{Device: name, DeleteOnTermination: true}
		if at >= 0 {
			dev = devices[at]
		}
		if err := c.overlay(tx, s, &dev, ch); err != nil {
			return nil, err
		}
		if at >= 0 {
			devices[at] = dev
		} else {
			devices = append(devices, dev)
		}
	}
	if len(devices) > maxAttached {
		return nil, fail("AttachmentLimitExceeded", "%d disks are more than the %d that an instance takes.", len(devices), maxAttached)
	}
	return devices, nil
}

func (c *Cloud) overlay(tx *state.Tx, s state.Scope, dev *state.BlockDevice, ch types.BlockDeviceMapping) error {
	if ch.Ebs == nil {
		if ch.VirtualName == nil {
			return fail("InvalidBlockDeviceMapping", "The mapping of %s names neither a volume (Ebs) nor an instance store (VirtualName).", dev.Device)
		}
		dev.Virtual = *ch.VirtualName
		return nil
	}
	e := ch.Ebs
	if e.VolumeSize != nil && *e.VolumeSize < 1 {
		return fail("InvalidBlockDeviceMapping", "Volume of %d GiB is invalid (device %s)", *e.VolumeSize, dev.Device)
	}
	if e.SnapshotId != nil && *e.SnapshotId != dev.SnapshotID {
		dev.SnapshotID, dev.Size = *e.SnapshotId, 0
	}
	for _, f := range []struct {
		to   *int32
		from *int32
	}{{&dev.Size, e.VolumeSize}, {&dev.IOPS, e.Iops}, {&dev.Throughput, e.Throughput}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if e.VolumeType != "" {
		dev.Type = string(e.VolumeType)
	}
	if e.DeleteOnTermination != nil {
		dev.DeleteOnTermination = *e.DeleteOnTermination
	}
	if e.KmsKeyId != nil {
		return unsupported("An encrypted volume", "Leave KmsKeyId out, and encrypt the disk that the data folder is on.")
	}
	if e.Encrypted != nil {
		dev.Encrypted = *e.Encrypted
	}
	vol, err := c.newVolume(tx, s, zonesOf(s.Region)[0], specOf(*dev))
	if err != nil {
		return err
	}
	dev.Size, dev.Type = vol.Size, vol.Type
	return nil
}

// specOf is the volume that a block device asks for.
func specOf(b state.BlockDevice) diskSpec {
	spec := diskSpec{kind: b.Type, snapshotID: b.SnapshotID, encrypted: b.Encrypted, device: b.Device}
	for _, f := range []struct {
		to   **int32
		from int32
	}{{&spec.size, b.Size}, {&spec.iops, b.IOPS}, {&spec.throughput, b.Throughput}} {
		if f.from != 0 {
			*f.to = aws.Int32(f.from)
		}
	}
	return spec
}

var imageFilters = fields[*state.Image]{
	"image-id":            func(i *state.Image) []string { return []string{i.ID} },
	"name":                func(i *state.Image) []string { return []string{i.Name} },
	"description":         func(i *state.Image) []string { return []string{i.Description} },
	"state":               func(i *state.Image) []string { return []string{i.State} },
	"architecture":        func(i *state.Image) []string { return []string{i.Architecture} },
	"virtualization-type": func(i *state.Image) []string { return []string{i.Virtualization} },
	"hypervisor":          func(*state.Image) []string { return []string{"xen"} },
	"image-type":          func(i *state.Image) []string { return []string{i.Type} },
	"is-public":           func(i *state.Image) []string { return []string{strconv.FormatBool(i.Public)} },
	"kernel-id":           func(i *state.Image) []string { return []string{i.KernelID} },
	"ramdisk-id":          func(i *state.Image) []string { return []string{i.RamdiskID} },
	"owner-id":            func(i *state.Image) []string { return []string{i.Owner} },
	"owner-alias":         func(i *state.Image) []string { return []string{i.OwnerAlias} },
	"root-device-name":    func(i *state.Image) []string { return []string{i.RootDevice} },
	"root-device-type":    func(*state.Image) []string { return []string{"ebs"} },
	"boot-mode":           func(i *state.Image) []string { return []string{i.BootMode} },
	"creation-date":       func(i *state.Image) []string { return []string{timestamp(i.Created)} },
	"ena-support":         func(i *state.Image) []string { return []string{strconv.FormatBool(i.ENA)} },
	"source-image-id":     func(i *state.Image) []string { return ofOrigin(i, func(o *state.Origin) string { return o.ID }) },
	"source-image-region": func(i *state.Image) []string { return ofOrigin(i, func(o *state.Origin) string { return o.Region }) },
	"source-instance-id":  func(i *state.Image) []string { return []string{i.SourceInstance} },
	"block-device-mapping.device-name": ofDevices(func(b state.BlockDevice) string {
		return b.Device
	}),
	"block-device-mapping.snapshot-id": ofDevices(func(b state.BlockDevice) string { return b.SnapshotID }),
	"block-device-mapping.volume-type": ofDevices(func(b state.BlockDevice) string { return b.Type }),
	"block-device-mapping.volume-size": ofDevices(func(b state.BlockDevice) string { return strconv.Itoa(int(b.Size)) }),
	"block-device-mapping.delete-on-termination": ofDevices(func(b state.BlockDevice) string {
		return strconv.FormatBool(b.DeleteOnTermination)
	}),
	"block-device-mapping.encrypted": ofDevices(func(b state.BlockDevice) string { return strconv.FormatBool(b.Encrypted) }),
}

func ofOrigin(i *state.Image, f func(*state.Origin) string) []string {
	if i.CopyOf == nil {
		return nil
	}
	return []string{f(i.CopyOf)}
}

func ofDevices(f func(state.BlockDevice) string) func(*state.Image) []string {
	return func(i *state.Image) []string {
		var out []string
		for _, b := range i.BlockDevices {
			out = append(out, f(b))
		}
		return out
	}
}

// DescribeImages lists machine and kernel images.
func (c *Cloud) DescribeImages(ctx context.Context, in *ec2.DescribeImagesInput) (*ec2.DescribeImagesOutput, error) {
	s := from(ctx).Scope
	var images []*state.Image
	err := c.db.View(func(tx *state.Tx) (err error) {
		if images, err = state.List[state.Image](tx, s); err != nil {
			return err
		}
		for _, id := range in.ImageIds {
			img, err := findImage(tx, s, id)
			if err != nil {
				return err
			}
			if img.Region != s.Region { // a kernel
				images = append(images, img)
			}
		}
		slices.SortFunc(images, func(a, b *state.Image) int { return strings.Compare(a.ID, b.ID) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(i *state.Image) bool {
		return len(in.ImageIds) > 0 && !slices.Contains(in.ImageIds, i.ID) || len(in.Owners) > 0 && !ownedBy(i, s, in.Owners)
	})
	if images, err = filter(images, in.Filters, imageFilters); err != nil {
		return nil, err
	}
	page, next, err := paginate(images, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeImagesOutput{NextToken: next}
	for _, img := range page {
		out.Images = append(out.Images, apiImage(img))
	}
	return out, nil
}

func ownedBy(i *state.Image, s state.Scope, owners []string) bool {
	return slices.ContainsFunc(owners, func(o string) bool {
		return o == i.Owner || o == "self" && i.Owner == s.Account || o != "" && o == i.OwnerAlias
	})
}

func apiImage(i *state.Image) types.Image {
	out := types.Image{
		ImageId: aws.String(i.ID), Name: aws.String(i.Name), State: types.ImageState(i.State), OwnerId: aws.String(i.Owner), Public: aws.Bool(i.Public),
		Architecture: types.ArchitectureValues(i.Architecture), ImageType: types.ImageTypeValues(i.Type), CreationDate: aws.String(timestamp(i.Created)),
		ImageLocation: aws.String(i.Owner + "/" + i.Name), Hypervisor: types.HypervisorTypeXen, RootDeviceType: types.DeviceTypeEbs,
		VirtualizationType: types.VirtualizationType(i.Virtualization), BootMode: types.BootModeValues(i.BootMode), EnaSupport: aws.Bool(i.ENA),
		ImdsSupport: types.ImdsSupportValues(i.IMDS), TpmSupport: types.TpmSupportValues(i.TPM), BlockDeviceMappings: []types.BlockDeviceMapping{},
		PlatformDetails: aws.String("Linux/UNIX"), UsageOperation: aws.String("RunInstances"),
	}
	for _, f := range []struct {
		to   **string
		from string
	}{
		{&out.Description, i.Description},
		{&out.KernelId, i.KernelID},
		{&out.RamdiskId, i.RamdiskID},
		{&out.RootDeviceName, i.RootDevice},
		{&out.ImageOwnerAlias, i.OwnerAlias},
		{&out.SriovNetSupport, i.SRIOV},
		{&out.SourceInstanceId, i.SourceInstance},
	} {
		if f.from != "" {
			*f.to = aws.String(f.from)
		}
	}
	if i.CopyOf != nil {
		out.SourceImageId, out.SourceImageRegion = aws.String(i.CopyOf.ID), aws.String(i.CopyOf.Region)
	}
	if i.Reason != "" {
		out.StateReason = &types.StateReason{Code: aws.String("Client.ImageCreationFailed"), Message: aws.String(i.Reason)}
	}
	for _, b := range i.BlockDevices {
		out.BlockDeviceMappings = append(out.BlockDeviceMappings, apiBlockDevice(b))
	}
	if len(i.Tags) > 0 {
		out.Tags = tagList(i.Tags)
	}
	return out
}

func apiBlockDevice(b state.BlockDevice) types.BlockDeviceMapping {
	m := types.BlockDeviceMapping{DeviceName: aws.String(b.Device)}
	if b.Virtual != "" {
		m.VirtualName = aws.String(b.Virtual)
		return m
	}
	m.Ebs = &types.EbsBlockDevice{
		DeleteOnTermination: aws.Bool(b.DeleteOnTermination), Encrypted: aws.Bool(b.Encrypted), VolumeSize: aws.Int32(b.Size), VolumeType: types.VolumeType(b.Type),
	}
	if b.SnapshotID != "" {
		m.Ebs.SnapshotId = aws.String(b.SnapshotID)
	}
	if b.IOPS > 0 {
		m.Ebs.Iops = aws.Int32(b.IOPS)
	}
	if b.Throughput > 0 {
		m.Ebs.Throughput = aws.Int32(b.Throughput)
	}
	return m
}

// DeregisterImage forgets an image; its snapshots stay, and so do instances
// that were launched from it.
func (c *Cloud) DeregisterImage(ctx context.Context, in *ec2.DeregisterImageInput) (*ec2.DeregisterImageOutput, error) {
	if in.ImageId == nil {
		return nil, missing("imageId")
	}
	s := from(ctx).Scope
	var next *job
	err := c.db.Update(func(tx *state.Tx) error {
		img, err := find[state.Image](tx, s, imageIDs, *in.ImageId)
		if err != nil {
			return err
		}
		if img.Owner != s.Account {
			return fail("AuthFailure", "Not authorized for image %s: it belongs to %s", img.ID, img.Owner)
		}
		if img.State == state.ImageAvailable {
			b := &state.Binned{Image: img}
			done, err := c.bin(tx, img.Meta, b)
			if err != nil {
				return err
			}
			if done {
				j := jobOf(b)
				next = &j
			}
		}
		return state.Delete(tx, img)
	})
	if err != nil {
		return nil, err
	}
	c.kickIf(next)
	return &ec2.DeregisterImageOutput{Return: aws.Bool(true)}, nil
}
