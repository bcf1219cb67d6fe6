package dryrun

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// attributes are those of an instance that DescribeInstances doesn't show, as
// this run would have set them; nil where it didn't.
type attributes struct {
	terminate, stop *bool // protection
	shutdown        *string
	userData        *string
}

func (c *Cloud) attribute(id string) *attributes {
	if c.attributes[id] == nil {
		a := &attributes{}
		if Placeholder(id) {
			a.terminate, a.stop, a.shutdown = aws.Bool(false), aws.Bool(false), aws.String(string(types.ShutdownBehaviorStop))
		}
		c.attributes[id] = a
	}
	return c.attributes[id]
}

func (c *Cloud) describeInstanceAttribute(ctx context.Context, in *ec2.DescribeInstanceAttributeInput, ask asker) (any, error) {
	id := aws.ToString(in.InstanceId)
	out := &ec2.DescribeInstanceAttributeOutput{InstanceId: in.InstanceId}
	c.mu.Lock()
	a := clone(*c.attribute(id))
	c.mu.Unlock()
	switch in.Attribute {
	case types.InstanceAttributeNameDisableApiTermination:
		out.DisableApiTermination = &types.AttributeBooleanValue{Value: a.terminate}
		if a.terminate != nil {
			return out, nil
		}
	case types.InstanceAttributeNameDisableApiStop:
		out.DisableApiStop = &types.AttributeBooleanValue{Value: a.stop}
		if a.stop != nil {
			return out, nil
		}
	case types.InstanceAttributeNameInstanceInitiatedShutdownBehavior:
		out.InstanceInitiatedShutdownBehavior = &types.AttributeValue{Value: a.shutdown}
		if a.shutdown != nil {
			return out, nil
		}
	case types.InstanceAttributeNameUserData:
		out.UserData = &types.AttributeValue{Value: a.userData}
		if a.userData != nil || Placeholder(id) {
			return out, nil
		}
	default:
	}
	if Placeholder(id) {
		return nil, refuse("UnsupportedOperation.DryRun", "a dry run doesn't know the attribute %s of what it would make", in.Attribute)
	}
	return ask(ctx, in)
}

// protected tells whether an attribute of an instance forbids something.
func (c *Cloud) protected(ctx context.Context, id string, name types.InstanceAttributeName) bool {
	out, err := c.attributeNow(ctx, id, name)
	if err != nil || out == nil {
		return false // an endpoint that can't say it can't enforce it
	}
	v := out.DisableApiTermination
	if name == types.InstanceAttributeNameDisableApiStop {
		v = out.DisableApiStop
	}
	return v != nil && aws.ToBool(v.Value)
}

// attributeNow reads an attribute from the overlay, else from the endpoint. The
// caller holds the lock.
func (c *Cloud) attributeNow(ctx context.Context, id string, name types.InstanceAttributeName) (*ec2.DescribeInstanceAttributeOutput, error) {
	a := c.attribute(id)
	switch {
	case name == types.InstanceAttributeNameDisableApiTermination && a.terminate != nil:
		return &ec2.DescribeInstanceAttributeOutput{DisableApiTermination: &types.AttributeBooleanValue{Value: a.terminate}}, nil
	case name == types.InstanceAttributeNameDisableApiStop && a.stop != nil:
		return &ec2.DescribeInstanceAttributeOutput{DisableApiStop: &types.AttributeBooleanValue{Value: a.stop}}, nil
	}
	return c.real.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: name})
}

func (c *Cloud) modifyInstanceAttribute(ctx context.Context, in *ec2.ModifyInstanceAttributeInput) (any, error) {
	id := aws.ToString(in.InstanceId)
	i, err := c.instance(ctx, id)
	if err != nil {
		return nil, err
	}
	a := c.attribute(id)
	if v := in.DisableApiTermination; v != nil {
		a.terminate = aws.Bool(aws.ToBool(v.Value))
	}
	if v := in.DisableApiStop; v != nil {
		a.stop = aws.Bool(aws.ToBool(v.Value))
	}
	if v := in.InstanceInitiatedShutdownBehavior; v != nil {
		a.shutdown = aws.String(aws.ToString(v.Value))
	}
	if v := in.UserData; v != nil {
		a.userData = aws.String(string(v.Value))
	}
	if v := in.InstanceType; v != nil {
		if !stopped(i) {
			return nil, refuse("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state", id)
		}
		i.InstanceType = types.InstanceType(aws.ToString(v.Value))
	}
	if v := in.EbsOptimized; v != nil {
		i.EbsOptimized = v.Value
	}
	if v := in.EnaSupport; v != nil {
		i.EnaSupport = v.Value
	}
	if len(in.Groups) > 0 {
		if i.SecurityGroups, err = c.groupsOf(ctx, in.Groups, nil); err != nil {
			return nil, err
		}
	}
	for _, m := range in.BlockDeviceMappings {
		if err := c.modifyMapping(ctx, i, m); err != nil {
			return nil, err
		}
	}
	return &ec2.ModifyInstanceAttributeOutput{}, nil
}

func (c *Cloud) modifyMapping(ctx context.Context, i *types.Instance, m types.InstanceBlockDeviceMappingSpecification) error {
	if m.Ebs == nil || m.Ebs.DeleteOnTermination == nil {
		return nil
	}
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs == nil || aws.ToString(bdm.DeviceName) != aws.ToString(m.DeviceName) {
			continue
		}
		bdm.Ebs.DeleteOnTermination = m.Ebs.DeleteOnTermination
		v, err := c.volume(ctx, aws.ToString(bdm.Ebs.VolumeId))
		if err != nil {
			return err
		}
		for k := range v.Attachments {
			v.Attachments[k].DeleteOnTermination = m.Ebs.DeleteOnTermination
		}
		return nil
	}
	return refuse("InvalidInstanceAttributeValue", "No device is currently mapped at %s", aws.ToString(m.DeviceName))
}
