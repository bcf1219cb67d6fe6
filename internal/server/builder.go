package server

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// imageOfMachine launches an image, stops the machine and images that. It is
// the way to snapshots of one's own where an image can't be copied. The
// machine is found by its tag when the call is repeated, and goes in the end.
func (m *Manager) imageOfMachine(ctx context.Context, source *types.Image, p imagePlan) (*types.Image, error) {
	builder, err := m.builder(ctx, p)
	if err != nil {
		return nil, err
	}
	base, err := m.ownImage(ctx, baseName(p))
	if err != nil {
		return nil, err
	}
	if base == nil {
		if base, err = m.buildBase(ctx, source, builder, p); err != nil {
			return nil, err
		}
	}
	image, err := m.waitImage(ctx, aws.ToString(base.ImageId))
	if err != nil {
		return nil, err
	}
	if builder, err = m.builder(ctx, p); err != nil || builder == nil {
		return image, err
	}
	return image, m.step("end builder", aws.ToString(builder.InstanceId), func() error {
		_, err := m.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{aws.ToString(builder.InstanceId)}})
		if err != nil {
			return wrap("terminate", "instance "+aws.ToString(builder.InstanceId), err)
		}
		_, err = m.waitInstance(ctx, aws.ToString(builder.InstanceId), types.InstanceStateNameTerminated)
		return err
	})
}

// builder finds the live machine of an image that is being made.
func (m *Manager) builder(ctx context.Context, p imagePlan) (*types.Instance, error) {
	found, err := m.findInstances(ctx, filter("tag:"+tagBuilder, digest(p.name)[:12]))
	for k := range found {
		if live(&found[k]) && stateOf(&found[k]) != types.InstanceStateNameShuttingDown {
			return &found[k], err
		}
	}
	return nil, err
}

// buildBase brings a builder from nothing, or from wherever it is, to an image.
func (m *Manager) buildBase(ctx context.Context, source *types.Image, builder *types.Instance, p imagePlan) (*types.Image, error) {
	if builder == nil {
		tags := tagMap{tagSchema: schemaVersion, tagBuilder: digest(p.name)[:12], tagName: "image builder"}
		in := &ec2.RunInstancesInput{
			ImageId: source.ImageId, InstanceType: types.InstanceType(builderType(source)),
			BlockDeviceMappings: doomed(source.BlockDeviceMappings),
			TagSpecifications:   []types.TagSpecification{tags.spec(types.ResourceTypeInstance), tags.spec(types.ResourceTypeVolume)},
		}
		if err := m.step("launch builder", aws.ToString(source.ImageId), func() error {
			var err error
			builder, err = m.launch(ctx, "build", p.name, []string{aws.ToString(source.ImageId)}, in)
			return err
		}); err != nil {
			return nil, err
		}
	}
	id := aws.ToString(builder.InstanceId)
	if err := m.stopInstance(ctx, id, stateOf(builder), false); err != nil {
		return nil, err
	}
	out, err := m.ec2.CreateImage(ctx, &ec2.CreateImageInput{InstanceId: &id, Name: aws.String(baseName(p)), Description: aws.String(p.about)})
	if err != nil {
		return nil, wrap("create", "image of "+id, err)
	}
	return &types.Image{ImageId: out.ImageId}, nil
}

func builderType(i *types.Image) string {
	if i.Architecture == types.ArchitectureValuesArm64 {
		return "t4g.micro"
	}
	return DefaultType
}

// doomed repeats mappings for disks that go with their machine.
func doomed(mappings []types.BlockDeviceMapping) []types.BlockDeviceMapping {
	var out []types.BlockDeviceMapping
	for _, bdm := range mappings {
		if bdm.Ebs == nil {
			continue
		}
		d := keptMapping(aws.ToString(bdm.DeviceName), aws.ToString(bdm.Ebs.SnapshotId), aws.ToInt32(bdm.Ebs.VolumeSize))
		d.Ebs.DeleteOnTermination = aws.Bool(true)
		out = append(out, d)
	}
	return out
}
