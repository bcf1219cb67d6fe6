package dryrun

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// apply does a changing call to the overlay and answers it. A nil answer
// without an error means that the call isn't known. The caller holds the lock.
func (c *Cloud) apply(ctx context.Context, in any) (any, error) {
	for _, part := range []func(context.Context, any) (any, error){c.applyInstances, c.applyDisks, c.applyTapes, c.applyNetwork, c.applyPolicies, c.applyBin, c.applyDirect} {
		if out, err := part(ctx, in); out != nil || err != nil {
			return out, err
		}
	}
	return nil, nil
}

func (c *Cloud) applyInstances(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *ec2.RunInstancesInput:
		return c.runInstances(ctx, in)
	case *ec2.StartInstancesInput:
		return c.startInstances(ctx, in)
	case *ec2.StopInstancesInput:
		return c.stopInstances(ctx, in)
	case *ec2.TerminateInstancesInput:
		return c.terminateInstances(ctx, in)
	case *ec2.RebootInstancesInput:
		return &ec2.RebootInstancesOutput{}, c.all(ctx, in.InstanceIds)
	case *ec2.ModifyInstanceAttributeInput:
		return c.modifyInstanceAttribute(ctx, in)
	case *ec2.CreateReplaceRootVolumeTaskInput:
		return c.replaceRoot(ctx, in)
	case *ec2.CancelSpotInstanceRequestsInput:
		return c.cancelSpots(in)
	}
	return nil, nil
}

func (c *Cloud) applyDisks(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *ec2.CreateVolumeInput:
		return c.createVolume(ctx, in)
	case *ec2.AttachVolumeInput:
		return c.attachVolume(ctx, in)
	case *ec2.DetachVolumeInput:
		return c.detachVolume(ctx, in)
	case *ec2.DeleteVolumeInput:
		return c.deleteVolume(ctx, in)
	case *ec2.ModifyVolumeInput:
		return c.modifyVolume(ctx, in)
	case *ec2.CreateTagsInput:
		return c.createTags(ctx, in)
	case *ec2.DeleteTagsInput:
		return c.deleteTags(ctx, in)
	}
	return nil, nil
}

func (c *Cloud) applyTapes(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *ec2.CreateSnapshotInput:
		return c.createSnapshot(ctx, in)
	case *ec2.CreateSnapshotsInput:
		return c.createSnapshots(ctx, in)
	case *ec2.CopySnapshotInput:
		return c.copySnapshot(ctx, in)
	case *ec2.DeleteSnapshotInput:
		return c.deleteSnapshot(ctx, in)
	case *ec2.RegisterImageInput:
		return c.registerImage(ctx, in)
	case *ec2.CreateImageInput:
		return c.createImage(ctx, in)
	case *ec2.CopyImageInput:
		return c.copyImage(ctx, in)
	case *ec2.DeregisterImageInput:
		if _, err := c.image(ctx, aws.ToString(in.ImageId)); err != nil {
			return nil, err
		}
		c.images.put(aws.ToString(in.ImageId), nil)
		return &ec2.DeregisterImageOutput{Return: aws.Bool(true)}, nil
	}
	return nil, nil
}

func (c *Cloud) applyNetwork(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *ec2.ImportKeyPairInput:
		return c.importKeyPair(ctx, in)
	case *ec2.DeleteKeyPairInput:
		if in.KeyName != nil {
			c.keys.put(*in.KeyName, nil)
		}
		return &ec2.DeleteKeyPairOutput{Return: aws.Bool(true)}, nil
	case *ec2.CreateSecurityGroupInput:
		return c.createGroup(ctx, in)
	case *ec2.DeleteSecurityGroupInput:
		return c.deleteGroup(ctx, in)
	case *ec2.AuthorizeSecurityGroupIngressInput:
		return c.authorize(ctx, in)
	case *ec2.RevokeSecurityGroupIngressInput:
		return c.revoke(ctx, in)
	case *ec2.AllocateAddressInput:
		return c.allocateAddress(in)
	case *ec2.AssociateAddressInput:
		return c.associateAddress(ctx, in)
	case *ec2.DisassociateAddressInput:
		return c.disassociateAddress(ctx, in)
	case *ec2.ReleaseAddressInput:
		return c.releaseAddress(ctx, in)
	}
	return nil, nil
}

func (c *Cloud) createTags(ctx context.Context, in *ec2.CreateTagsInput) (any, error) {
	for k := range 2 * len(in.Resources) { // look at all before one is changed
		tags, err := c.tagsOf(ctx, in.Resources[k%len(in.Resources)])
		if err != nil {
			return nil, err
		}
		for _, t := range in.Tags {
			if k >= len(in.Resources) {
				setTag(tags, t)
			}
		}
	}
	return &ec2.CreateTagsOutput{}, nil
}

func setTag(tags *[]types.Tag, t types.Tag) {
	for k := range *tags {
		if aws.ToString((*tags)[k].Key) == aws.ToString(t.Key) {
			(*tags)[k].Value = aws.String(aws.ToString(t.Value))
			return
		}
	}
	*tags = append(*tags, clone(t))
}

func (c *Cloud) deleteTags(ctx context.Context, in *ec2.DeleteTagsInput) (any, error) {
	for _, id := range in.Resources {
		tags, err := c.tagsOf(ctx, id)
		if err != nil {
			return nil, err
		}
		var kept []types.Tag
		for _, t := range *tags {
			if !doomed(t, in.Tags) {
				kept = append(kept, t)
			}
		}
		*tags = kept
	}
	return &ec2.DeleteTagsOutput{}, nil
}

// doomed tells whether a tag is in a list of those to delete. A tag of the
// list without a value stands for any value, an empty list for all tags.
func doomed(t types.Tag, list []types.Tag) bool {
	for _, d := range list {
		if aws.ToString(d.Key) == aws.ToString(t.Key) && (d.Value == nil || *d.Value == aws.ToString(t.Value)) {
			return true
		}
	}
	return len(list) == 0
}
