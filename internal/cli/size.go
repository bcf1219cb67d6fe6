package cli

import (
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// maxGiB is EBS's largest volume, 64 TiB.
const maxGiB = 64 * 1024

// parseSize reads a disk's size and returns GiB: 10, 10G, 10GiB or 1T. Sizes
// are binary, as EC2's are, whatever the letter case.
func parseSize(s string) (int, error) {
	number := strings.TrimRight(s, "gGtTiIbB")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, badSize(s)
	}
	switch strings.ToLower(s[len(number):]) {
	case "", "g", "gb", "gib":
	case "t", "tb", "tib":
		n *= 1024
	default:
		return 0, badSize(s)
	}
	if n < 1 || n > maxGiB {
		return 0, badSize(s)
	}
	return int(n), nil
}

func badSize(s string) error {
	return usage("size %q: want whole GiB such as 10, 10G or 1T, up to 64T", s)
}

// parseDataSpec reads SIZE[:DEVICE][:TYPE], a blank data disk: 10,
// 10G:sdf, 10G:/dev/sdf:io2, 10G:io2.
func parseDataSpec(s string) (server.DataSpec, error) {
	parts := strings.Split(s, ":")
	size, err := parseSize(parts[0])
	if err != nil {
		return server.DataSpec{}, err
	}
	spec := server.DataSpec{SizeGiB: size}
	for _, part := range parts[1:] {
		switch {
		case part == "":
		case spec.Device == "" && spec.Type == "" && isDevice(part):
			spec.Device = "/dev/" + strings.TrimPrefix(part, "/dev/")
		case spec.Type == "" && isVolumeType(part):
			spec.Type = part
		default:
			return server.DataSpec{}, usage("data disk %q: want SIZE[:DEVICE][:TYPE], such as 100G:sdf:gp3", s)
		}
	}
	return spec, nil
}

func isDevice(s string) bool {
	s = strings.TrimPrefix(s, "/dev/")
	return strings.HasPrefix(s, "sd") || strings.HasPrefix(s, "xvd")
}

func isVolumeType(s string) bool {
	return slices.Contains(types.VolumeType("").Values(), types.VolumeType(s))
}

func parseDataSpecs(list []string) ([]server.DataSpec, error) {
	specs := make([]server.DataSpec, 0, len(list))
	for _, s := range list {
		spec, err := parseDataSpec(s)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// humanGiB is a size for people.
func humanGiB(gib int) string {
	if gib > 0 && gib%1024 == 0 {
		return strconv.Itoa(gib/1024) + " TiB"
	}
	return strconv.Itoa(gib) + " GiB"
}
