package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const defaultVolumeType = types.VolumeTypeGp3

// digest is a stable short name for a list of parts.
func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// clientToken makes two processes that want the same thing ask for the same.
func clientToken(verb, name string, ids []string) string {
	return "stead-" + digest(append([]string{verb, name}, ids...)...)[:40]
}

// freshDeath is how long after its launch a dead instance is taken to be this
// launch's, and not one of an earlier life.
const freshDeath = 2 * time.Minute

// launch runs one instance, and is safe to repeat: the same verb, name and IDs
// yield the same instance. A token that answers with a dead instance was spent
// in an earlier life; its ID makes the next one.
func (m *Manager) launch(ctx context.Context, verb, name string, ids []string, in *ec2.RunInstancesInput) (*types.Instance, error) {
	in.MinCount, in.MaxCount = aws.Int32(1), aws.Int32(1)
	for range 4 {
		in.ClientToken = aws.String(clientToken(verb, name, ids))
		out, err := m.ec2.RunInstances(ctx, in)
		if apiCode(err) == "IdempotentParameterMismatch" {
			spent, lookErr := m.spentToken(ctx, name, *in.ClientToken)
			if lookErr != nil {
				return nil, lookErr
			}
			if spent {
				ids = append(slices.Clone(ids), *in.ClientToken)
				continue
			}
			return nil, &Error{
				Op: "launch", Resource: "server " + name, Code: KindExists, Err: err,
				Reason: "the same command with other options is under way or was interrupted", Remedy: "repeat it with the options it had",
			}
		}
		if err != nil {
			return nil, wrap("launch", "instance", err)
		}
		if len(out.Instances) == 0 {
			return nil, &Error{Op: "launch", Resource: "instance", Reason: "the endpoint's answer names none"}
		}
		i := &out.Instances[0]
		now, err := m.instanceByID(ctx, aws.ToString(i.InstanceId))
		if err != nil {
			return nil, err
		}
		if now == nil || live(now) && !renamed(now, name) {
			return cmp.Or(now, i), nil
		}
		if diedByItself(now) && m.now().Sub(aws.ToTime(now.LaunchTime)) < freshDeath {
			return nil, diedWaiting(now, types.InstanceStateNameRunning)
		}
		ids = append(slices.Clone(ids), aws.ToString(i.InstanceId))
	}
	return nil, &Error{Op: "launch", Resource: "instance", Reason: "each instance was dead at once"}
}

// renamed tells an instance that a server of this name was launched as, and
// that is another's now.
func renamed(i *types.Instance, name string) bool {
	owner := cmp.Or(tagOf(i.Tags, tagStandIn), tagOf(i.Tags, tagServer))
	return owner != "" && owner != name
}

// spentToken tells whether nothing lives any more under this name of what a
// token launched: a server of the same name had it in an earlier life, with
// other options, or has another name since. All
// instances are looked at, for not every endpoint filters by token.
func (m *Manager) spentToken(ctx context.Context, name, token string) (bool, error) {
	pages := ec2.NewDescribeInstancesPaginator(m.ec2, &ec2.DescribeInstancesInput{})
	for pages.HasMorePages() {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return false, wrap("find the instance of", "client token "+token, err)
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				if aws.ToString(i.ClientToken) == token && live(&i) && !renamed(&i, name) {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// launchMappings are an image's block device mappings as a launch of a durable
// server needs them: each repeated in full (endpoints differ in what they
// inherit), each kept on termination, the root of the given size, and a blank
// disk for each of data.
func launchMappings(i *types.Image, rootGiB int, data []DataSpec) ([]types.BlockDeviceMapping, error) {
	var (
		out  []types.BlockDeviceMapping
		used []string
	)
	for _, bdm := range i.BlockDeviceMappings {
		device := aws.ToString(bdm.DeviceName)
		used = append(used, device)
		if bdm.Ebs == nil {
			continue // instance store: the launch inherits it
		}
		size := aws.ToInt32(bdm.Ebs.VolumeSize)
		if device == aws.ToString(i.RootDeviceName) && rootGiB > 0 {
			if int32(rootGiB) < size {
				return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("a root disk of %d GiB is smaller than the image's %d GiB", rootGiB, size), Remedy: fmt.Sprintf("--disk %d or more", size)}
			}
			size = int32(rootGiB)
		}
		out = append(out, keptMapping(device, aws.ToString(bdm.Ebs.SnapshotId), size))
	}
	if len(out) == 0 {
		return nil, &Error{Code: KindUsage, Reason: "image " + aws.ToString(i.ImageId) + " has no EBS root disk", Remedy: "choose an EBS-backed image"}
	}
	blank, err := blankMappings(data, used)
	return append(out, blank...), err
}

// blankMappings are the mappings of blank disks, those without a device of
// their own at the next free ones.
func blankMappings(data []DataSpec, used []string) ([]types.BlockDeviceMapping, error) {
	for _, d := range data {
		if d.Device == "" {
			continue
		}
		if slices.ContainsFunc(used, func(u string) bool { return slot(u) == slot(d.Device) }) {
			return nil, &Error{Code: KindUsage, Reason: "two disks can't be at " + d.Device, Remedy: "choose another device, or leave the choice to stead"}
		}
		used = append(used, d.Device)
	}
	var out []types.BlockDeviceMapping
	for _, d := range data {
		if d.Device == "" {
			var err error
			if d.Device, err = nextDevice(used); err != nil {
				return nil, err
			}
			used = append(used, d.Device)
		}
		m := keptMapping(d.Device, "", int32(d.SizeGiB))
		if d.Type != "" {
			m.Ebs.VolumeType = types.VolumeType(d.Type)
		}
		if iops := leastIOPS(m.Ebs.VolumeType, d.SizeGiB); iops > 0 {
			m.Ebs.Iops = aws.Int32(iops)
		}
		out = append(out, m)
	}
	return out, nil
}

// leastIOPS is what a volume of provisioned IOPS gets, for these types have no
// default: gp3's own 3,000, or 50 a GiB where that is less, and EC2's minimum
// of 100. Zero for the other types.
func leastIOPS(t types.VolumeType, sizeGiB int) int32 {
	if t != types.VolumeTypeIo1 && t != types.VolumeTypeIo2 {
		return 0
	}
	return int32(min(3000, max(100, 50*sizeGiB)))
}

// keptMapping is a disk that stays when its instance is terminated.
func keptMapping(device, snapshotID string, sizeGiB int32) types.BlockDeviceMapping {
	ebs := &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false), VolumeType: defaultVolumeType}
	if snapshotID != "" {
		ebs.SnapshotId = &snapshotID
	}
	if sizeGiB > 0 {
		ebs.VolumeSize = &sizeGiB
	}
	return types.BlockDeviceMapping{DeviceName: &device, Ebs: ebs}
}

// nextDevice returns the first of EC2's recommended names for data disks that
// is free. /dev/xvdf and /dev/sdf1 are the same slot as /dev/sdf.
func nextDevice(used []string) (string, error) {
	taken := map[byte]bool{}
	for _, d := range used {
		taken[slot(d)] = true
	}
	for c := byte('f'); c <= 'p'; c++ {
		if !taken[c] {
			return "/dev/sd" + string(c), nil
		}
	}
	return "", &Error{Code: KindUsage, Reason: "no device name from /dev/sdf to /dev/sdp is free", Remedy: "detach a disk first"}
}

// sameSlot tells whether two names are of one place: /dev/sdf and /dev/xvdf are.
func sameSlot(a, b string) bool { return a == b || slot(a) != 0 && slot(a) == slot(b) }

// slot is the letter of a device name, 0 when it has none.
func slot(device string) byte {
	for _, prefix := range []string{"/dev/sd", "/dev/xvd"} {
		if rest, ok := strings.CutPrefix(device, prefix); ok && rest != "" {
			return rest[0]
		}
	}
	return 0
}
