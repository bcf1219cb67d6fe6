package dryrun

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	dlm "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Reader is what a Cloud asks the real endpoint to foresee a change.
// *ec2.Client satisfies it.
type Reader interface {
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
	DescribeInstanceAttribute(context.Context, *ec2.DescribeInstanceAttributeInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceAttributeOutput, error)
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
	DescribeImages(context.Context, *ec2.DescribeImagesInput, ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error)
	DescribeAddresses(context.Context, *ec2.DescribeAddressesInput, ...func(*ec2.Options)) (*ec2.DescribeAddressesOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	DescribeKeyPairs(context.Context, *ec2.DescribeKeyPairsInput, ...func(*ec2.Options)) (*ec2.DescribeKeyPairsOutput, error)
	DescribeAvailabilityZones(context.Context, *ec2.DescribeAvailabilityZonesInput, ...func(*ec2.Options)) (*ec2.DescribeAvailabilityZonesOutput, error)
	DescribeInstanceTypes(context.Context, *ec2.DescribeInstanceTypesInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceTypesOutput, error)
	DescribeSubnets(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error)
}

// Cloud is one region of one endpoint as it would be by now.
type Cloud struct {
	plan   *Plan
	real   Reader
	region string
	name   string
	reach  func(region string) Reader // nil: no other region can be asked

	mu            sync.Mutex // guards what follows
	instances     *shelf[types.Instance]
	volumes       *shelf[types.Volume]
	snapshots     *shelf[types.Snapshot]
	images        *shelf[types.Image]
	addresses     *shelf[types.Address]
	groups        *shelf[types.SecurityGroup]
	keys          *shelf[types.KeyPairInfo]
	tasks         *shelf[types.ReplaceRootVolumeTask]
	modifications *shelf[types.VolumeModification]
	spots         *shelf[types.SpotInstanceRequest]
	attributes    map[string]*attributes // instance ID → what was set
	tokens        map[string][]string    // ClientToken → IDs of what it made
	nets          int                    // addresses given

	realPolicies PolicyReader
	policies     *shelf[dlm.LifecyclePolicy]
	policyTags   map[string]map[string]string // ARN → what was set on a policy not seen yet
}

func newCloud(p *Plan, direct Reader, region string) *Cloud {
	return &Cloud{
		plan: p, real: direct, region: region,
		instances: newShelf[types.Instance](), volumes: newShelf[types.Volume](), snapshots: newShelf[types.Snapshot](),
		images: newShelf[types.Image](), addresses: newShelf[types.Address](), groups: newShelf[types.SecurityGroup](),
		keys: newShelf[types.KeyPairInfo](), tasks: newShelf[types.ReplaceRootVolumeTask](),
		modifications: newShelf[types.VolumeModification](), spots: newShelf[types.SpotInstanceRequest](),
		attributes: map[string]*attributes{}, tokens: map[string][]string{},
		policies: newShelf[dlm.LifecyclePolicy](), policyTags: map[string]map[string]string{},
	}
}

// Regions tells how other regions of the same endpoint are read.
func (c *Cloud) Regions(reach func(region string) Reader) { c.reach = reach }

// of returns the view of another region, nil where it can't be asked.
func (c *Cloud) of(region string) *Cloud {
	for _, other := range c.plan.others() {
		if other != c && other.region == region {
			return other
		}
	}
	if c.reach == nil {
		return nil
	}
	return c.plan.Over(c.reach(region), region)
}

// load returns a resource to change, from the shelf or else from the endpoint.
func load[T any](s *shelf[T], id, code string, ask func() ([]T, error)) (*T, error) {
	v, known := s.items[id]
	if known && v != nil {
		return v, nil
	}
	if known || Placeholder(id) || id == "" {
		return nil, refuse(code, "The ID '%s' does not exist", id)
	}
	found, err := ask()
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, refuse(code, "The ID '%s' does not exist", id)
	}
	v = &found[0]
	s.put(id, v)
	return v, nil
}

func (c *Cloud) instance(ctx context.Context, id string) (*types.Instance, error) {
	return load(c.instances, id, "InvalidInstanceID.NotFound", func() ([]types.Instance, error) {
		out, err := c.real.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		if err != nil {
			return nil, err
		}
		var list []types.Instance
		for _, r := range out.Reservations {
			list = append(list, r.Instances...)
		}
		return list, nil
	})
}

func (c *Cloud) volume(ctx context.Context, id string) (*types.Volume, error) {
	return load(c.volumes, id, "InvalidVolume.NotFound", func() ([]types.Volume, error) {
		out, err := c.real.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		if err != nil {
			return nil, err
		}
		return out.Volumes, nil
	})
}

func (c *Cloud) snapshot(ctx context.Context, id string) (*types.Snapshot, error) {
	return load(c.snapshots, id, "InvalidSnapshot.NotFound", func() ([]types.Snapshot, error) {
		out, err := c.real.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
		if err != nil {
			return nil, err
		}
		return out.Snapshots, nil
	})
}

func (c *Cloud) image(ctx context.Context, id string) (*types.Image, error) {
	return load(c.images, id, "InvalidAMIID.NotFound", func() ([]types.Image, error) {
		out, err := c.real.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		if err != nil {
			return nil, err
		}
		return out.Images, nil
	})
}

func (c *Cloud) address(ctx context.Context, id string) (*types.Address, error) {
	return load(c.addresses, id, "InvalidAllocationID.NotFound", func() ([]types.Address, error) {
		out, err := c.real.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{AllocationIds: []string{id}})
		if err != nil {
			return nil, err
		}
		return out.Addresses, nil
	})
}

func (c *Cloud) group(ctx context.Context, id string) (*types.SecurityGroup, error) {
	return load(c.groups, id, "InvalidGroup.NotFound", func() ([]types.SecurityGroup, error) {
		out, err := c.real.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{id}})
		if err != nil {
			return nil, err
		}
		return out.SecurityGroups, nil
	})
}

// zone is where things are made when nobody says where.
func (c *Cloud) zone(ctx context.Context) (string, error) {
	out, err := c.real.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return "", err
	}
	for _, z := range out.AvailabilityZones {
		if z.State == types.AvailabilityZoneStateAvailable || z.State == "" {
			return aws.ToString(z.ZoneName), nil
		}
	}
	return "", refuse("InvalidZone.NotFound", "there is no zone")
}

// net gives a pair of addresses from the ranges that are kept for examples.
func (c *Cloud) net() (private, public string) {
	c.nets++
	return fmt.Sprintf("192.0.2.%d", c.nets%255), fmt.Sprintf("198.51.100.%d", c.nets%255)
}

// specTags are the tags that a call gives to what it makes.
func specTags(specs []types.TagSpecification, kind types.ResourceType) []types.Tag {
	var tags []types.Tag
	for _, s := range specs {
		if s.ResourceType == kind {
			tags = append(tags, s.Tags...)
		}
	}
	return clone(tags)
}

// tagsOf returns the tags of a resource by its ID, to be changed.
func (c *Cloud) tagsOf(ctx context.Context, id string) (*[]types.Tag, error) {
	kind, _, _ := strings.Cut(id, "-")
	switch kind {
	case "i":
		v, err := c.instance(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	case "vol":
		v, err := c.volume(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	case "snap":
		v, err := c.snapshot(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	case "ami", "aki", "ari":
		v, err := c.image(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	case "eipalloc":
		v, err := c.address(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	case "sg":
		v, err := c.group(ctx, id)
		if err != nil {
			return nil, err
		}
		return &v.Tags, nil
	}
	return nil, fmt.Errorf("a dry run can't foresee tags on %s", id)
}
