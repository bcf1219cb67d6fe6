package awscli

import (
	"regexp"
	"strings"
)

var (
	plural   = regexp.MustCompile(`[A-Z]{2,}s$`) // VolumeARNs
	firstCap = regexp.MustCompile(`(.)([A-Z][a-z]+)`)
	endCap   = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// Kebab writes a name of the API as the tool does: CidrIpv6 is cidr-ipv6,
// DescribeVpcs is describe-vpcs, ResourceARNs is resource-arns.
func Kebab(name string) string {
	if m := plural.FindString(name); m != "" {
		name = strings.TrimSuffix(name, m) + "-" + strings.ToLower(m)
	}
	name = firstCap.ReplaceAllString(name, "${1}-${2}")
	return strings.ToLower(endCap.ReplaceAllString(name, "${1}-${2}"))
}

// service is a service's name on the command line, of its ID in the SDK.
func service(id string) string { return strings.ReplaceAll(strings.ToLower(id), " ", "-") }
