package cloud

import (
	"context"
	"encoding/base64"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func flag(b bool) *types.AttributeBooleanValue {
	return &types.AttributeBooleanValue{Value: aws.Bool(b)}
}

func text(s string) *types.AttributeValue {
	if s == "" {
		return &types.AttributeValue{}
	}
	return &types.AttributeValue{Value: aws.String(s)}
}

// DescribeInstanceAttribute gives one attribute of an instance.
func (c *Cloud) DescribeInstanceAttribute(ctx context.Context, in *ec2.DescribeInstanceAttributeInput) (*ec2.DescribeInstanceAttributeOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	s := from(ctx).Scope
	var v view
	err := c.db.View(func(tx *state.Tx) error {
		i, err := find[state.Instance](tx, s, instanceIDs, *in.InstanceId)
		if err != nil {
			return err
		}
		views, err := c.views(tx, s, []*state.Instance{i})
		if err == nil {
			v = views[0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceAttributeOutput{InstanceId: in.InstanceId}
	switch in.Attribute {
	case types.InstanceAttributeNameInstanceType:
		out.InstanceType = text(v.Type)
	case types.InstanceAttributeNameKernel:
		out.KernelId = text(v.KernelID)
	case types.InstanceAttributeNameRamdisk:
		out.RamdiskId = text("")
	case types.InstanceAttributeNameUserData:
		out.UserData = text(base64.StdEncoding.EncodeToString(v.UserData))
	case types.InstanceAttributeNameDisableApiTermination:
		out.DisableApiTermination = flag(v.ProtectTermination)
	case types.InstanceAttributeNameDisableApiStop:
		out.DisableApiStop = flag(v.ProtectStop)
	case types.InstanceAttributeNameInstanceInitiatedShutdownBehavior:
		out.InstanceInitiatedShutdownBehavior = text(v.ShutdownBehavior)
	case types.InstanceAttributeNameRootDeviceName:
		out.RootDeviceName = text(v.RootDevice)
	case types.InstanceAttributeNameBlockDeviceMapping:
		out.BlockDeviceMappings = apiInstance(v).BlockDeviceMappings
	case types.InstanceAttributeNameSourceDestCheck:
		out.SourceDestCheck = flag(!v.NoSourceDestCheck)
	case types.InstanceAttributeNameGroupSet:
		out.Groups = v.groups
	case types.InstanceAttributeNameEbsOptimized:
		out.EbsOptimized = flag(v.EBSOptimized)
	case types.InstanceAttributeNameEnaSupport:
		out.EnaSupport = flag(true)
	case types.InstanceAttributeNameSriovNetSupport:
		out.SriovNetSupport = text("")
	case types.InstanceAttributeNameProductCodes:
		out.ProductCodes = []types.ProductCode{}
	case types.InstanceAttributeNameEnclaveOptions:
		out.EnclaveOptions = &types.EnclaveOptions{Enabled: aws.Bool(false)}
	case "":
		return nil, missing("attribute")
	default:
		return nil, invalid(in.Attribute, "attribute", "Unknown attribute.")
	}
	return out, nil
}

// ModifyInstanceAttribute changes one attribute, in either of the API's forms:
// a field of its own, or Attribute with Value.
func (c *Cloud) ModifyInstanceAttribute(ctx context.Context, in *ec2.ModifyInstanceAttributeInput) (*ec2.ModifyInstanceAttributeOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	s := from(ctx).Scope
	if err := spreadAttribute(in); err != nil {
		return nil, err
	}
	var groups bool
	err := c.db.Update(func(tx *state.Tx) error {
		i, err := find[state.Instance](tx, s, instanceIDs, *in.InstanceId)
		if err != nil {
			return err
		}
		if i.State == state.Terminated {
			return fail("IncorrectInstanceState", "The instance '%s' is terminated.", i.ID)
		}
		was := slices.Clone(i.Groups)
		if err := c.modify(tx, i, in); err != nil {
			return err
		}
		groups = !slices.Equal(was, i.Groups)
		return state.Put(tx, i)
	})
	if err != nil {
		return nil, err
	}
	if groups {
		c.networkChanged(s)
	}
	return &ec2.ModifyInstanceAttributeOutput{}, nil
}

// spreadAttribute turns the form Attribute=…&Value=… into the field of its own.
func spreadAttribute(in *ec2.ModifyInstanceAttributeInput) error {
	if in.Value == nil {
		return nil
	}
	on := &types.AttributeBooleanValue{Value: aws.Bool(*in.Value == "true")}
	isBool := *in.Value == "true" || *in.Value == "false"
	switch in.Attribute {
	case types.InstanceAttributeNameDisableApiTermination:
		in.DisableApiTermination = on
	case types.InstanceAttributeNameDisableApiStop:
		in.DisableApiStop = on
	case types.InstanceAttributeNameEbsOptimized:
		in.EbsOptimized = on
	case types.InstanceAttributeNameSourceDestCheck:
		in.SourceDestCheck = on
	case types.InstanceAttributeNameEnaSupport:
		in.EnaSupport = on
	case types.InstanceAttributeNameInstanceType:
		in.InstanceType, isBool = &types.AttributeValue{Value: in.Value}, true
	case types.InstanceAttributeNameKernel:
		in.Kernel, isBool = &types.AttributeValue{Value: in.Value}, true
	case types.InstanceAttributeNameInstanceInitiatedShutdownBehavior:
		in.InstanceInitiatedShutdownBehavior, isBool = &types.AttributeValue{Value: in.Value}, true
	case types.InstanceAttributeNameUserData:
		raw, err := base64.StdEncoding.DecodeString(*in.Value)
		if err != nil {
			return fail("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data: %v", err)
		}
		in.UserData, isBool = &types.SecureBlobAttributeValue{Value: raw}, true
	default:
		return invalid(in.Attribute, "attribute", "It cannot be modified.")
	}
	if !isBool {
		return invalid(*in.Value, "value", "Use true or false.")
	}
	return nil
}

func (c *Cloud) modify(tx *state.Tx, i *state.Instance, in *ec2.ModifyInstanceAttributeInput) error {
	if err := mayModifySpot(i, in); err != nil {
		return err
	}
	for _, f := range []struct {
		to   *bool
		from *types.AttributeBooleanValue
	}{{&i.ProtectTermination, in.DisableApiTermination}, {&i.ProtectStop, in.DisableApiStop}, {&i.EBSOptimized, in.EbsOptimized}} {
		if f.from != nil {
			*f.to = aws.ToBool(f.from.Value)
		}
	}
	if in.SourceDestCheck != nil {
		i.NoSourceDestCheck = !aws.ToBool(in.SourceDestCheck.Value)
	}
	if b := in.InstanceInitiatedShutdownBehavior; b != nil {
		v := aws.ToString(b.Value)
		if v != "stop" && v != "terminate" {
			return invalid(v, "instanceInitiatedShutdownBehavior", "Use stop or terminate.")
		}
		i.ShutdownBehavior = v
	}
	if len(in.Groups) > 0 {
		groups, err := pickGroups(tx, i.Scope(), in.Groups, nil)
		if err != nil {
			return err
		}
		i.Groups = groups
	}
	if err := modifyStopped(tx, i, in); err != nil {
		return err
	}
	return modifyDisks(tx, i, in.BlockDeviceMappings)
}

// modifyStopped changes what an instance reads only when it starts.
func modifyStopped(tx *state.Tx, i *state.Instance, in *ec2.ModifyInstanceAttributeInput) error {
	if in.InstanceType == nil && in.Kernel == nil && in.UserData == nil && in.Ramdisk == nil && in.EnaSupport == nil && in.SriovNetSupport == nil {
		return nil
	}
	if i.State != state.Stopped {
		return fail("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state.", i.ID)
	}
	if in.Ramdisk != nil && aws.ToString(in.Ramdisk.Value) != "" {
		return unsupported("A RAM disk of its own", "A kernel image carries its own.")
	}
	if in.EnaSupport != nil && !aws.ToBool(in.EnaSupport.Value) {
		return unsupported("An instance without enhanced networking", "Leave enaSupport on.")
	}
	if in.SriovNetSupport != nil {
		return unsupported("SR-IOV", "Leave sriovNetSupport out.")
	}
	if in.InstanceType != nil {
		name := aws.ToString(in.InstanceType.Value)
		if _, ok := instanceType(name); !ok {
			return invalid(name, "instanceType", "No such type here; DescribeInstanceTypes lists them.")
		}
		i.Type = name
	}
	if in.Kernel != nil {
		id := aws.ToString(in.Kernel.Value)
		if id != "" {
			if _, err := findKernel(tx, i.Scope(), id); err != nil {
				return err
			}
		}
		i.KernelID = id
	}
	if in.UserData != nil {
		if len(in.UserData.Value) > maxUserData {
			return fail("InvalidParameterValue", "User data is limited to %d bytes.", maxUserData)
		}
		i.UserData = in.UserData.Value
	}
	return nil
}

// modifyDisks sets whether volumes go with the instance.
func modifyDisks(tx *state.Tx, i *state.Instance, maps []types.InstanceBlockDeviceMappingSpecification) error {
	if len(maps) == 0 {
		return nil
	}
	disks, err := disksOf(tx, i)
	if err != nil {
		return err
	}
	for _, m := range maps {
		at := slices.IndexFunc(disks, func(d *state.Volume) bool { return sameDevice(d.Attachment.Device, aws.ToString(m.DeviceName)) })
		if at < 0 {
			return fail("InvalidInstanceAttributeValue", "No device is currently mapped at %s of instance %s", aws.ToString(m.DeviceName), i.ID)
		}
		if m.Ebs == nil || m.Ebs.DeleteOnTermination == nil {
			continue
		}
		if m.Ebs.VolumeId != nil && *m.Ebs.VolumeId != disks[at].ID {
			return fail("InvalidInstanceAttributeValue", "At %s of instance %s is %s, not %s", *m.DeviceName, i.ID, disks[at].ID, *m.Ebs.VolumeId)
		}
		disks[at].Attachment.DeleteOnTermination = *m.Ebs.DeleteOnTermination
		if err := state.Put(tx, disks[at]); err != nil {
			return err
		}
	}
	return nil
}

// ModifyInstanceMetadataOptions sets how an instance's metadata is served.
func (c *Cloud) ModifyInstanceMetadataOptions(ctx context.Context, in *ec2.ModifyInstanceMetadataOptionsInput) (*ec2.ModifyInstanceMetadataOptionsOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	var inst *state.Instance
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if inst, err = find[state.Instance](tx, from(ctx).Scope, instanceIDs, *in.InstanceId); err != nil {
			return err
		}
		if in.HttpTokens != "" {
			inst.MetadataTokens = string(in.HttpTokens)
		}
		if in.HttpPutResponseHopLimit != nil {
			inst.MetadataHops = *in.HttpPutResponseHopLimit
		}
		if in.HttpEndpoint != "" {
			inst.MetadataDisabled = in.HttpEndpoint == types.InstanceMetadataEndpointStateDisabled
		}
		if in.InstanceMetadataTags != "" {
			inst.MetadataTags = in.InstanceMetadataTags == types.InstanceMetadataTagsStateEnabled
		}
		return state.Put(tx, inst)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.ModifyInstanceMetadataOptionsOutput{InstanceId: in.InstanceId, InstanceMetadataOptions: metadataOptions(inst)}, nil
}
