package dryrun

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// fields are what a resource has under the names of EC2's filters. A name that
// isn't there can't be evaluated.
type fields map[string][]string

// one is a field with a single value; none when it isn't set.
func one[T ~string](v *T) []string {
	if v == nil {
		return []string{}
	}
	return []string{string(*v)}
}

func word[T ~string](v T) []string {
	if v == "" {
		return []string{}
	}
	return []string{string(v)}
}

func number(v *int32) []string {
	if v == nil {
		return []string{}
	}
	return []string{strconv.Itoa(int(*v))}
}

func truth(v *bool) []string { return []string{strconv.FormatBool(aws.ToBool(v))} }

// matches evaluates EC2's filters: all of them must match, each by any of its
// values, in which * and ? are wildcards.
func matches(filters []types.Filter, tags []types.Tag, f fields) (bool, error) {
	for _, filter := range filters {
		name := aws.ToString(filter.Name)
		have, known := f[name]
		switch {
		case name == "tag-key":
			have = nil
			for _, t := range tags {
				have = append(have, aws.ToString(t.Key))
			}
		case strings.HasPrefix(name, "tag:"):
			have = nil
			for _, t := range tags {
				if aws.ToString(t.Key) == strings.TrimPrefix(name, "tag:") {
					have = append(have, aws.ToString(t.Value))
				}
			}
		case !known:
			return false, fmt.Errorf("a dry run can't apply the filter %q to what it would make", name)
		}
		if !slices.ContainsFunc(filter.Values, func(want string) bool {
			return slices.ContainsFunc(have, func(v string) bool { return wild(want, v) })
		}) {
			return false, nil
		}
	}
	return true, nil
}

// wild matches a text against a pattern with * and ?.
func wild(pattern, s string) bool {
	for pattern != "" {
		switch pattern[0] {
		case '*':
			for k := 0; k <= len(s); k++ {
				if wild(pattern[1:], s[k:]) {
					return true
				}
			}
			return false
		case '?':
			if s == "" {
				return false
			}
		default:
			if s == "" || s[0] != pattern[0] {
				return false
			}
		}
		pattern, s = pattern[1:], s[1:]
	}
	return s == ""
}

func instanceFields(i *types.Instance) fields {
	f := fields{
		"instance-id": one(i.InstanceId), "instance-type": word(i.InstanceType), "image-id": one(i.ImageId),
		"client-token": one(i.ClientToken), "root-device-name": one(i.RootDeviceName), "key-name": one(i.KeyName),
		"private-ip-address": one(i.PrivateIpAddress), "ip-address": one(i.PublicIpAddress), "vpc-id": one(i.VpcId),
		"subnet-id": one(i.SubnetId), "instance-lifecycle": word(i.InstanceLifecycle), "architecture": word(i.Architecture),
		"spot-instance-request-id": one(i.SpotInstanceRequestId), "instance-state-name": {}, "availability-zone": {},
		"block-device-mapping.volume-id": {}, "instance.group-id": {}, "instance.group-name": {},
	}
	if i.State != nil {
		f["instance-state-name"] = word(i.State.Name)
	}
	if i.Placement != nil {
		f["availability-zone"] = one(i.Placement.AvailabilityZone)
	}
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil {
			f["block-device-mapping.volume-id"] = append(f["block-device-mapping.volume-id"], aws.ToString(bdm.Ebs.VolumeId))
		}
	}
	for _, g := range i.SecurityGroups {
		f["instance.group-id"] = append(f["instance.group-id"], aws.ToString(g.GroupId))
		f["instance.group-name"] = append(f["instance.group-name"], aws.ToString(g.GroupName))
	}
	return f
}

func volumeFields(v *types.Volume) fields {
	f := fields{
		"volume-id": one(v.VolumeId), "status": word(v.State), "availability-zone": one(v.AvailabilityZone),
		"size": number(v.Size), "snapshot-id": one(v.SnapshotId), "volume-type": word(v.VolumeType), "encrypted": truth(v.Encrypted),
		"attachment.instance-id": {}, "attachment.device": {}, "attachment.status": {}, "attachment.delete-on-termination": {},
	}
	for _, a := range v.Attachments {
		f["attachment.instance-id"] = append(f["attachment.instance-id"], aws.ToString(a.InstanceId))
		f["attachment.device"] = append(f["attachment.device"], aws.ToString(a.Device))
		f["attachment.status"] = append(f["attachment.status"], string(a.State))
		f["attachment.delete-on-termination"] = truth(a.DeleteOnTermination)
	}
	return f
}

func snapshotFields(s *types.Snapshot) fields {
	return fields{
		"snapshot-id": one(s.SnapshotId), "volume-id": one(s.VolumeId), "status": word(s.State), "owner-id": one(s.OwnerId),
		"description": one(s.Description), "volume-size": number(s.VolumeSize), "encrypted": truth(s.Encrypted),
		"storage-tier": word(s.StorageTier),
	}
}

func imageFields(i *types.Image) fields {
	f := fields{
		"image-id": one(i.ImageId), "name": one(i.Name), "state": word(i.State), "architecture": word(i.Architecture),
		"root-device-name": one(i.RootDeviceName), "is-public": truth(i.Public), "owner-id": one(i.OwnerId),
		"virtualization-type": word(i.VirtualizationType), "image-type": word(i.ImageType), "kernel-id": one(i.KernelId),
		"boot-mode": word(i.BootMode), "root-device-type": word(i.RootDeviceType), "description": one(i.Description),
		"block-device-mapping.snapshot-id": {},
	}
	for _, bdm := range i.BlockDeviceMappings {
		if bdm.Ebs != nil {
			f["block-device-mapping.snapshot-id"] = append(f["block-device-mapping.snapshot-id"], one(bdm.Ebs.SnapshotId)...)
		}
	}
	return f
}

func addressFields(a *types.Address) fields {
	return fields{
		"allocation-id": one(a.AllocationId), "public-ip": one(a.PublicIp), "instance-id": one(a.InstanceId),
		"association-id": one(a.AssociationId), "domain": word(a.Domain), "network-interface-id": one(a.NetworkInterfaceId),
	}
}

func groupFields(g *types.SecurityGroup) fields {
	return fields{
		"group-id": one(g.GroupId), "group-name": one(g.GroupName), "vpc-id": one(g.VpcId),
		"description": one(g.Description), "owner-id": one(g.OwnerId),
	}
}

func keyFields(k *types.KeyPairInfo) fields {
	return fields{"key-name": one(k.KeyName), "key-pair-id": one(k.KeyPairId), "fingerprint": one(k.KeyFingerprint)}
}
