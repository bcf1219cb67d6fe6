package cli

import (
	"strconv"
	"strings"

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

func parseSizes(list []string) ([]int, error) {
	sizes := make([]int, 0, len(list))
	for _, s := range list {
		size, err := parseSize(s)
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

// parseDataSpec reads SIZE[:DEVICE], a data disk of an image.
func parseDataSpec(s string) (server.DataSpec, error) {
	sizePart, device, _ := strings.Cut(s, ":")
	size, err := parseSize(sizePart)
	if err != nil {
		return server.DataSpec{}, err
	}
	if device != "" && !strings.HasPrefix(device, "/dev/") {
		return server.DataSpec{}, usage("data disk %q: the device must be like /dev/sdf", s)
	}
	return server.DataSpec{SizeGiB: size, Device: device}, nil
}

// humanGiB is a size for people.
func humanGiB(gib int) string {
	if gib > 0 && gib%1024 == 0 {
		return strconv.Itoa(gib/1024) + " TiB"
	}
	return strconv.Itoa(gib) + " GiB"
}
