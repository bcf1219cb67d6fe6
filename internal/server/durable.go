package server

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

var imageNameGrammar = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9()\[\] ./'@_-]{3,128}$`) })

// ImageDurable makes an image from which whatever launches it keeps its disks:
// of a server's disks as they are now, or of another image. A server of the
// name goes before an image or alias of it.
func (m *Manager) ImageDurable(ctx context.Context, o DurableOptions) (*Image, error) {
	i, err := m.imageDurable(ctx, o)
	if err != nil {
		return nil, wrap("make a durable image of", o.Ref, err)
	}
	return imageView(i, nil), nil
}

func (m *Manager) imageDurable(ctx context.Context, o DurableOptions) (*types.Image, error) {
	if o.Name != "" && !imageNameGrammar().MatchString(o.Name) {
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no image name", o.Name), Remedy: "use 3 to 128 letters, digits, spaces and ( ) [ ] . / - ' @ _"}
	}
	for _, d := range o.Data {
		if d.SizeGiB < 1 {
			return nil, &Error{Code: KindUsage, Reason: "a data disk needs at least 1 GiB"}
		}
		if d.Device != "" {
			if err := checkDevice(d.Device); err != nil {
				return nil, err
			}
		}
	}
	if CheckName(o.Ref) == nil && !imageIDGrammar.MatchString(o.Ref) {
		w, err := m.observe(ctx, o.Ref)
		if err != nil {
			return nil, err
		}
		if !w.empty() {
			return m.durableServer(ctx, o)
		}
	}
	source, _, err := m.resolveImage(ctx, o.Ref, archX86)
	if err != nil {
		return nil, err
	}
	return m.durableImage(ctx, source, o)
}

// durableServer takes a snapshot set of a server and registers it.
func (m *Manager) durableServer(ctx context.Context, o DurableOptions) (*types.Image, error) {
	if o.Name != "" {
		taken, err := m.ownImage(ctx, o.Name)
		if err != nil {
			return nil, err
		}
		if taken != nil {
			return nil, &Error{Code: KindExists, Reason: "image " + aws.ToString(taken.ImageId) + " has the name " + o.Name, Remedy: "choose another --name"}
		}
	}
	set, err := m.snapshot(ctx, o.Ref, SnapshotOptions{Note: "durable image", Wait: true})
	if err != nil {
		return nil, err
	}
	f, err := m.setFacts(ctx, set)
	if err != nil {
		return nil, err
	}
	p := imagePlan{
		name: cmp.Or(o.Name, "stead-"+o.Ref+"-"+set.ID), about: "durable image of server " + o.Ref, data: o.Data,
		tags: tagMap{tagSchema: schemaVersion, tagDurable: o.Ref, tagSet: set.ID},
	}
	i, err := m.setImage(ctx, set, f, p)
	if err != nil {
		return nil, err
	}
	var snapshots []string
	for _, s := range set.Snapshots {
		snapshots = append(snapshots, s.SnapshotID)
	}
	return i, checkDurable(i, snapshots, len(snapshots)+len(o.Data))
}

// durableImage registers an image of another's snapshots. Repeated, it finds
// the image by its name, which follows from the source and the data disks.
func (m *Manager) durableImage(ctx context.Context, source *types.Image, o DurableOptions) (*types.Image, error) {
	id := aws.ToString(source.ImageId)
	p := imagePlan{
		name: cmp.Or(o.Name, "stead-durable-"+digest(id, fmt.Sprint(o.Data))[:12]), data: o.Data,
		about: "durable image of " + id, tags: tagMap{tagSchema: schemaVersion, tagDurable: id},
	}
	done, err := m.ownImage(ctx, p.name)
	if err != nil {
		return nil, err
	}
	if done != nil {
		if tagOf(done.Tags, tagDurable) != id && o.Name != "" {
			return nil, &Error{Code: KindExists, Reason: "image " + aws.ToString(done.ImageId) + " has the name " + o.Name, Remedy: "choose another --name"}
		}
		return m.checkedDurable(ctx, source, done, p)
	}
	base, err := m.ownSnapshots(ctx, source, p)
	if err != nil {
		return nil, err
	}
	f := facts{
		Arch: string(source.Architecture), Virt: string(source.VirtualizationType), BootMode: string(source.BootMode),
		Kernel: aws.ToString(source.KernelId), Ramdisk: aws.ToString(source.RamdiskId), IMDS: string(source.ImdsSupport),
	}
	if source.EnaSupport != nil {
		f.Ena = yesNo(*source.EnaSupport)
	}
	in := registerInput(f, p)
	in.RootDeviceName = base.RootDeviceName
	in.TpmSupport = source.TpmSupport
	in.SriovNetSupport = source.SriovNetSupport
	var used []string
	for _, bdm := range base.BlockDeviceMappings {
		if bdm.Ebs != nil {
			used = append(used, aws.ToString(bdm.DeviceName))
			in.BlockDeviceMappings = append(in.BlockDeviceMappings, keptMapping(aws.ToString(bdm.DeviceName), aws.ToString(bdm.Ebs.SnapshotId), aws.ToInt32(bdm.Ebs.VolumeSize)))
		}
	}
	i, err := m.register(ctx, in, used, p)
	if err != nil {
		return nil, err
	}
	return m.checkedDurable(ctx, source, i, p)
}

// checkedDurable clears up what making an image needed, and checks the result.
func (m *Manager) checkedDurable(ctx context.Context, source, i *types.Image, p imagePlan) (*types.Image, error) {
	if err := m.dropBase(ctx, p); err != nil {
		return nil, err
	}
	disks := len(p.data)
	for _, bdm := range source.BlockDeviceMappings {
		if bdm.Ebs != nil {
			disks++
		}
	}
	return i, checkDurable(i, nil, disks)
}

// checkDurable tells whether what came out is what was asked for: endpoints
// drop mappings without a word.
func checkDurable(i *types.Image, snapshots []string, disks int) error {
	id := aws.ToString(i.ImageId)
	bad := func(reason string) error {
		return &Error{Op: "check", Resource: "image " + id, Code: KindPartial, Reason: reason, Remedy: "the endpoint doesn't do as it was told; deregister " + id}
	}
	have := map[string]bool{}
	count := 0
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs == nil {
			continue
		}
		count++
		have[aws.ToString(bdm.Ebs.SnapshotId)] = true
		if bdm.Ebs.DeleteOnTermination == nil || *bdm.Ebs.DeleteOnTermination {
			return bad("disk " + aws.ToString(bdm.DeviceName) + " would be deleted on termination")
		}
	}
	if count != disks {
		return bad(fmt.Sprintf("it has %d disks, not %d", count, disks))
	}
	for _, s := range snapshots {
		if !have[s] {
			return bad("snapshot " + s + " isn't among its disks")
		}
	}
	return nil
}

// ownSnapshots returns an image whose snapshots may be registered: the source
// itself, when they are the caller's own; else a copy of it; else what a
// machine of it leaves, as the seed of it all does.
func (m *Manager) ownSnapshots(ctx context.Context, source *types.Image, p imagePlan) (*types.Image, error) {
	if own, err := m.ownsSnapshotsOf(ctx, source); err != nil || own {
		return source, err
	}
	base, err := m.ownImage(ctx, baseName(p))
	if err != nil {
		return nil, err
	}
	if base == nil {
		id, err := m.copyImage(ctx, source, p)
		if unsupported(err) || KindOf(err) == KindAuth || id == "" && err == nil {
			m.log.InfoContext(ctx, "the image can't be copied; it is launched and imaged instead", "image", aws.ToString(source.ImageId), "err", err)
			return m.imageOfMachine(ctx, source, p)
		}
		if err != nil {
			return nil, err
		}
		base = &types.Image{ImageId: &id}
	}
	return m.waitImage(ctx, aws.ToString(base.ImageId))
}

func (m *Manager) ownsSnapshotsOf(ctx context.Context, i *types.Image) (bool, error) {
	var ids []string
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil && aws.ToString(bdm.Ebs.SnapshotId) != "" {
			ids = append(ids, *bdm.Ebs.SnapshotId)
		}
	}
	if len(ids) == 0 {
		return false, &Error{Code: KindUsage, Reason: "image " + aws.ToString(i.ImageId) + " has no EBS root disk", Remedy: "choose an EBS-backed image"}
	}
	found, err := m.findSnapshots(ctx, filter("snapshot-id", ids...))
	if err != nil {
		return false, err
	}
	slices.Sort(ids)
	return len(found) == len(slices.Compact(ids)), nil
}

// baseName is the name of an image that is needed on the way only. Nobody
// else's image is called so: it gets deregistered.
func baseName(p imagePlan) string { return "stead-base-" + digest(p.name)[:20] }

// copyImage starts a copy and returns its ID, "" where no region is known.
func (m *Manager) copyImage(ctx context.Context, source *types.Image, p imagePlan) (string, error) {
	if m.region == "" {
		return "", nil
	}
	var id string
	err := m.step("copy image", aws.ToString(source.ImageId), func() error {
		out, err := m.ec2.CopyImage(ctx, &ec2.CopyImageInput{
			Name: aws.String(baseName(p)), SourceImageId: source.ImageId, SourceRegion: &m.region,
			ClientToken:       aws.String(clientToken("copy", p.name, []string{aws.ToString(source.ImageId)})),
			TagSpecifications: []types.TagSpecification{tagMap{tagSchema: schemaVersion, tagBuilder: digest(p.name)[:12]}.spec(types.ResourceTypeImage)},
		})
		if err != nil {
			return wrap("copy", "image "+aws.ToString(source.ImageId), err)
		}
		id = aws.ToString(out.ImageId)
		return nil
	})
	return id, err
}

// dropBase deregisters the image that was needed on the way; its snapshots
// stay under the durable one.
func (m *Manager) dropBase(ctx context.Context, p imagePlan) error {
	base, err := m.ownImage(ctx, baseName(p))
	if err != nil || base == nil {
		return err
	}
	_, err = m.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: base.ImageId})
	if KindOf(err) == KindNotFound {
		return nil
	}
	return wrap("deregister", "image "+aws.ToString(base.ImageId), err)
}
