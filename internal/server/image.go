package server

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

const (
	archX86 = "x86_64"
	archArm = "arm64"
)

// alias is a short name for the newest image of a distribution.
type alias struct {
	name string
	user string
	// parameter is the public SSM parameter that holds the image's ID, by
	// architecture.
	parameter map[string]string
	// owners and pattern find it where there is no such parameter.
	owners  []string
	pattern map[string]string
}

// aliases lists the known ones. The parameters are those that the publishers
// document; 136693071363, 099720109477 and "amazon" are Debian's, Canonical's
// and Amazon's accounts.
func (m *Manager) aliases() []alias {
	tiny := alias{
		name: "tiny", user: "root",
		parameter: map[string]string{archX86: "/aws/service/stead/tiny/latest/x86_64"},
		owners:    []string{"self", "amazon"}, pattern: map[string]string{archX86: "tiny*"},
	}
	public := []alias{{
		name: "debian", user: "admin",
		parameter: map[string]string{
			archX86: "/aws/service/debian/release/12/latest/amd64",
			archArm: "/aws/service/debian/release/12/latest/arm64",
		},
		owners:  []string{"136693071363"},
		pattern: map[string]string{archX86: "debian-12-amd64-*", archArm: "debian-12-arm64-*"},
	}, {
		name: "ubuntu", user: "ubuntu",
		parameter: map[string]string{
			archX86: "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
			archArm: "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
		},
		owners: []string{"099720109477"},
		pattern: map[string]string{
			archX86: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*",
			archArm: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-*",
		},
	}, {
		name: "al2023", user: "ec2-user",
		parameter: map[string]string{
			archX86: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
			archArm: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
		},
		owners:  []string{"amazon"},
		pattern: map[string]string{archX86: "al2023-ami-2023.*-x86_64", archArm: "al2023-ami-2023.*-arm64"},
	}}
	if m.local {
		return append([]alias{tiny}, public...)
	}
	return append(public, tiny)
}

var imageIDGrammar = regexp.MustCompile(`^ami-[0-9a-f]{8,17}$`)

// ResolveImage finds an image by ID, alias or the name of an own image. arch
// is EC2's (x86_64, arm64); "" means x86_64. The alias or name that matched is
// in the result.
func (m *Manager) ResolveImage(ctx context.Context, ref, arch string) (*Image, error) {
	i, a, err := m.resolveImage(ctx, ref, cmp.Or(arch, archX86))
	if err != nil {
		return nil, wrap("find", fmt.Sprintf("image %q", ref), err)
	}
	return imageView(i, a), nil
}

func (m *Manager) resolveImage(ctx context.Context, ref, arch string) (*types.Image, *alias, error) {
	if imageIDGrammar.MatchString(ref) {
		i, err := m.imageByID(ctx, ref)
		return i, m.aliasOf(i), err
	}
	for _, a := range m.aliases() {
		if a.name == ref {
			i, err := m.resolveAlias(ctx, &a, arch)
			return i, &a, err
		}
	}
	images, err := m.findImages(ctx, []string{"self"}, filter("name", ref))
	if err != nil {
		return nil, nil, err
	}
	if len(images) == 0 {
		return nil, nil, &Error{Op: "find", Resource: fmt.Sprintf("image %q", ref), Code: KindNotFound, Reason: "no such image or alias", Remedy: "stead image ls"}
	}
	return &images[0], m.aliasOf(&images[0]), nil
}

// imageByID finds an image that can be launched.
func (m *Manager) imageByID(ctx context.Context, id string) (*types.Image, error) {
	out, err := m.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil {
		return nil, wrap("describe", "image "+id, err)
	}
	for k := range out.Images {
		if i := &out.Images[k]; aws.ToString(i.ImageId) == id && i.State != types.ImageStateDeregistered {
			return i, nil
		}
	}
	return nil, &Error{Op: "describe", Resource: "image " + id, Code: KindNotFound, Reason: "there is no such image", Remedy: "stead image ls"}
}

// resolveAlias asks the public parameter, and lists images by owner and name
// where there is none.
func (m *Manager) resolveAlias(ctx context.Context, a *alias, arch string) (*types.Image, error) {
	if a.pattern[arch] == "" {
		return nil, &Error{Code: KindNotFound, Reason: fmt.Sprintf("alias %s has no image for %s", a.name, arch), Remedy: "stead image ls"}
	}
	if m.ssm != nil {
		out, err := m.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(a.parameter[arch])})
		if err == nil && out.Parameter != nil {
			i, err := m.imageByID(ctx, aws.ToString(out.Parameter.Value))
			if KindOf(err) != KindNotFound {
				return i, err
			}
		}
		if kind := KindOf(err); err != nil && kind != KindNotFound && kind != KindUnsupported && kind != KindAuth && kind != KindUsage && kind != KindFailed {
			return nil, err
		}
		m.log.DebugContext(ctx, "no parameter for alias", "alias", a.name, "err", err)
	}
	images, err := m.findImages(ctx, a.owners, filter("name", a.pattern[arch]), filter("architecture", arch))
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, &Error{Code: KindNotFound, Reason: "this cloud has no image for alias " + a.name, Remedy: "stead image ls"}
	}
	return &images[0], nil
}

// ImageUserTags are the tags by which an image says whom to log in as.
func ImageUserTags(user string) map[string]string { return map[string]string{tagUser: user} }

// aliasOf tells what an image was made of, for its login user. The image's own
// tag goes before a guess.
func (m *Manager) aliasOf(i *types.Image) *alias {
	if i == nil {
		return nil
	}
	if user := tagOf(i.Tags, tagUser); user != "" {
		return &alias{user: user}
	}
	return m.aliasByName(i)
}

// aliasByName guesses what an image was made of, for its login user.
func (m *Manager) aliasByName(i *types.Image) *alias {
	if i == nil {
		return nil
	}
	name := strings.ToLower(aws.ToString(i.Name))
	for _, a := range m.aliases() {
		if strings.Contains(name, a.name) || (a.name == "al2023" && strings.HasPrefix(name, "amzn")) {
			return &a
		}
	}
	return nil
}

// findImages lists available images, newest first.
func (m *Manager) findImages(ctx context.Context, owners []string, filters ...types.Filter) ([]types.Image, error) {
	var all []types.Image
	in := &ec2.DescribeImagesInput{Owners: owners, Filters: filters}
	pages := ec2.NewDescribeImagesPaginator(m.ec2, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", "images", err)
		}
		all = append(all, page.Images...)
	}
	all = slices.DeleteFunc(all, func(i types.Image) bool {
		return i.State == types.ImageStateDeregistered || (i.ImageType != "" && i.ImageType != types.ImageTypeValuesMachine)
	})
	// ISO 8601 dates sort as text.
	slices.SortStableFunc(all, func(a, b types.Image) int {
		return strings.Compare(aws.ToString(b.CreationDate), aws.ToString(a.CreationDate))
	})
	return all, nil
}

// ImageList returns the caller's own images, newest first, and before them
// the aliases that resolve.
func (m *Manager) ImageList(ctx context.Context) ([]Image, error) {
	list := []Image{}
	for _, a := range m.aliases() {
		i, err := m.resolveAlias(ctx, &a, archX86)
		if kind := KindOf(err); err != nil && (kind == KindInterrupted || kind == KindTimeout || kind == KindAuth) {
			return nil, wrap("list", "images", err)
		}
		if err == nil {
			list = append(list, *imageView(i, &a))
		}
	}
	own, err := m.findImages(ctx, []string{"self"})
	if err != nil {
		return nil, err
	}
	for k := range own {
		id := aws.ToString(own[k].ImageId)
		if !slices.ContainsFunc(list, func(i Image) bool { return i.ID == id }) {
			v := imageView(&own[k], m.aliasOf(&own[k]))
			v.Alias = ""
			list = append(list, *v)
		}
	}
	return list, nil
}

func imageView(i *types.Image, a *alias) *Image {
	v := &Image{
		ID: aws.ToString(i.ImageId), Name: aws.ToString(i.Name), State: string(i.State),
		Arch: string(i.Architecture), BootMode: string(i.BootMode), Kernel: aws.ToString(i.KernelId),
		RootDevice: aws.ToString(i.RootDeviceName), Durable: true,
	}
	if a != nil {
		v.Alias, v.User = a.name, a.user
	}
	if t, err := time.Parse(time.RFC3339, aws.ToString(i.CreationDate)); err == nil {
		v.Created = utc(&t)
	}
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs == nil {
			continue
		}
		size := int(aws.ToInt32(bdm.Ebs.VolumeSize))
		if aws.ToString(bdm.DeviceName) == v.RootDevice {
			v.SizeGiB = size
		} else {
			v.DataGiB = append(v.DataGiB, size)
		}
		v.Durable = v.Durable && bdm.Ebs.DeleteOnTermination != nil && !*bdm.Ebs.DeleteOnTermination
	}
	return v
}

// archOf asks which architecture an instance type has. An endpoint that
// doesn't know is taken to be x86_64.
func (m *Manager) archOf(ctx context.Context, instanceType string) string {
	out, err := m.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{types.InstanceType(instanceType)}})
	if err != nil || len(out.InstanceTypes) == 0 || out.InstanceTypes[0].ProcessorInfo == nil {
		return archX86
	}
	for _, a := range out.InstanceTypes[0].ProcessorInfo.SupportedArchitectures {
		if a == types.ArchitectureTypeX8664 || a == types.ArchitectureTypeArm64 {
			return string(a)
		}
	}
	return archX86
}
