package ec2tools

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

var (
	snapshotGrammar  = regexp.MustCompile(`^snap-[0-9A-Za-z]+$`)
	ephemeralGrammar = regexp.MustCompile(`^ephemeral([0-9]|1[0-9]|2[0-3])$`)
)

// ParseMapping reads the block device mapping of the EC2 API tools:
//
//	DEVICE=none                                              leave the device out
//	DEVICE=ephemeral0                                        an instance store
//	DEVICE=[SNAPSHOT]:[SIZE]:[DELETE]:[TYPE[:IOPS]]:[encrypted]   a volume
//
// SIZE is in GiB and may be left out with a snapshot. DELETE is true or false:
// whether the volume is deleted when its instance is terminated; left out it
// is left to the endpoint, which takes true.
func ParseMapping(s string) (types.BlockDeviceMapping, error) {
	device, spec, found := strings.Cut(s, "=")
	if !found || device == "" || spec == "" || strings.ContainsAny(device, " \t:") {
		return types.BlockDeviceMapping{}, usageError("block device mapping %q is not DEVICE=BLOCKDEVICE", s)
	}
	m := types.BlockDeviceMapping{DeviceName: &device}
	switch {
	case spec == "none":
		m.NoDevice = aws.String("")
	case ephemeralGrammar.MatchString(spec):
		m.VirtualName = &spec
	default:
		ebs, err := parseVolume(spec)
		if err != nil {
			return types.BlockDeviceMapping{}, fmt.Errorf("block device mapping %q: %w", s, err)
		}
		m.Ebs = ebs
	}
	return m, nil
}

// parseMappings reads several mappings, no two of one device.
func parseMappings(specs []string) ([]types.BlockDeviceMapping, error) {
	var list []types.BlockDeviceMapping
	seen := map[string]bool{}
	for _, s := range specs {
		m, err := ParseMapping(s)
		if err != nil {
			return nil, err
		}
		if seen[*m.DeviceName] {
			return nil, usageError("device %s is mapped twice", *m.DeviceName)
		}
		seen[*m.DeviceName] = true
		list = append(list, m)
	}
	return list, nil
}

// parseVolume reads [SNAPSHOT]:[SIZE]:[DELETE]:[TYPE[:IOPS]]:[encrypted].
func parseVolume(spec string) (*types.EbsBlockDevice, error) {
	parts := strings.Split(spec, ":")
	e := &types.EbsBlockDevice{}
	if s := part(parts, 0); s != "" {
		if !snapshotGrammar.MatchString(s) {
			return nil, usageError("%q is neither a snapshot ID, ephemeral0 to ephemeral23, nor none", s)
		}
		e.SnapshotId = &s
	}
	if s := part(parts, 1); s != "" {
		size, err := positive("size", s)
		if err != nil {
			return nil, err
		}
		e.VolumeSize = size
	}
	if e.SnapshotId == nil && e.VolumeSize == nil {
		return nil, usageError("a volume needs a snapshot or a size")
	}
	switch s := part(parts, 2); s {
	case "":
	case "true", "false":
		e.DeleteOnTermination = aws.Bool(s == "true")
	default:
		return nil, usageError("delete-on-termination is true or false, not %q", s)
	}
	return e, parseType(e, parts)
}

// parseType reads the parts from the volume type on. The IOPS follow a type
// that takes them; what is left must be "encrypted".
func parseType(e *types.EbsBlockDevice, parts []string) error {
	e.VolumeType = types.VolumeType(part(parts, 3))
	if e.VolumeType != "" && !known(e.VolumeType) {
		return usageError("no volume type is called %q", e.VolumeType)
	}
	rest := parts[min(len(parts), 4):]
	if len(rest) > 0 && provisioned(e.VolumeType) && rest[0] != "" && rest[0] != "encrypted" {
		iops, err := positive("IOPS", rest[0])
		if err != nil {
			return err
		}
		e.Iops, rest = iops, rest[1:]
	}
	for k, s := range rest {
		switch {
		case s == "encrypted" && k == len(rest)-1:
			e.Encrypted = aws.Bool(true)
		case s != "":
			return usageError("%q is left over", strings.Join(rest[k:], ":"))
		}
	}
	return nil
}

func known(t types.VolumeType) bool {
	for _, v := range t.Values() {
		if v == t {
			return true
		}
	}
	return false
}

func provisioned(t types.VolumeType) bool {
	return t == types.VolumeTypeIo1 || t == types.VolumeTypeIo2 || t == types.VolumeTypeGp3
}

func positive(what, s string) (*int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return nil, usageError("%s %q is no positive number", what, s)
	}
	return aws.Int32(int32(n)), nil
}

func part(parts []string, k int) string {
	if k < len(parts) {
		return parts[k]
	}
	return ""
}
