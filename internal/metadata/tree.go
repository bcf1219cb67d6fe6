package metadata

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	textPlain   = "text/plain"
	octetStream = "application/octet-stream"

	documentVersion = "2017-09-30" // of the identity document, EC2's only one
)

// versions are the API versions that EC2 lists. Here all serve the same tree:
// a key that an old version lacks does no harm to who doesn't ask for it.
func versions() []string {
	return []string{
		"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
		"2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19",
		"2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03",
		"2021-03-23", "2021-07-15", "2022-09-24", "2024-04-11", "latest",
	}
}

// get returns what is at a clean path and its content type.
func (in *Instance) get(p string) (body []byte, kind string, ok bool) {
	if p == "/" {
		return []byte(strings.Join(versions(), "\n")), textPlain, true
	}
	version, rest, _ := strings.Cut(p[1:], "/")
	if !slices.Contains(versions(), version) {
		return nil, "", false
	}
	if rest == "user-data" {
		return in.UserData, octetStream, len(in.UserData) > 0
	}
	value, ok := in.tree().get(rest)
	return []byte(value), textPlain, ok
}

// tree holds each value under its path. A path with a trailing slash lists
// entries that aren't names of what is below.
type tree map[string]string

// get returns a value, or the listing of what is below p.
func (t tree) get(p string) (string, bool) {
	if v, ok := t[p]; ok {
		return v, true
	}
	if v, ok := t[p+"/"]; ok {
		return v, true
	}
	return t.list(p)
}

func (t tree) list(p string) (string, bool) {
	prefix := p + "/"
	if p == "" {
		prefix = ""
	}
	names := map[string]bool{}
	for k := range t {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok || rest == "" {
			continue
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			rest = rest[:i+1]
		}
		// The directories at the top are listed bare, those below with a slash.
		if p == "" {
			rest = strings.TrimSuffix(rest, "/")
		}
		names[rest] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n"), len(names) > 0
}

// set leaves out what is empty: EC2 answers 404 for what an instance doesn't have.
func (t tree) set(p, value string) {
	if value != "" {
		t[p] = value
	}
}

func (in *Instance) tree() tree {
	t := tree{"dynamic/instance-identity/document": in.document()}
	if len(in.UserData) > 0 {
		t["user-data"] = "" // listed here, served apart: it may be any bytes
	}
	const m = "meta-data/"
	in.addIdentity(t, m)
	in.addNetwork(t, m+"network/interfaces/macs/"+strings.ToLower(in.MAC)+"/")
	for name, device := range in.BlockDevices {
		t.set(m+"block-device-mapping/"+name, device)
	}
	if in.PublicKey != "" {
		t[m+"public-keys/"] = "0=" + in.KeyName
		t[m+"public-keys/0/openssh-key"] = strings.TrimSpace(in.PublicKey) + "\n"
	}
	if in.TagsEnabled {
		for k, v := range in.Tags {
			// EC2 refuses such keys for instances whose tags are in their metadata.
			if k != "." && k != ".." && !strings.ContainsAny(k, "/ ") {
				t[m+"tags/instance/"+k] = v
			}
		}
	}
	return t
}

func (in *Instance) addIdentity(t tree, m string) {
	t.set(m+"ami-id", in.ImageID)
	t.set(m+"ami-launch-index", strconv.Itoa(in.LaunchIndex))
	t.set(m+"ami-manifest-path", "(unknown)")
	t.set(m+"events/maintenance/history", "[]")
	t.set(m+"events/maintenance/scheduled", "[]")
	t.set(m+"hostname", in.hostname())
	t.set(m+"instance-action", "none")
	t.set(m+"instance-id", in.ID)
	t.set(m+"instance-life-cycle", in.lifeCycle())
	t.set(m+"instance-type", in.Type)
	t.set(m+"kernel-id", in.KernelID)
	t.set(m+"local-hostname", in.hostname())
	t.set(m+"local-ipv4", in.PrivateIP.String())
	t.set(m+"mac", strings.ToLower(in.MAC))
	t.set(m+"placement/availability-zone", in.Zone)
	t.set(m+"placement/availability-zone-id", in.ZoneID)
	t.set(m+"placement/region", in.Region)
	t.set(m+"profile", "default-hvm")
	t.set(m+"public-hostname", in.PublicHostname)
	t.set(m+"public-ipv4", addr(in.PublicIP))
	t.set(m+"reservation-id", in.ReservationID)
	t.set(m+"security-groups", in.groups(func(g Group) string { return g.Name }))
	t.set(m+"services/domain", "amazonaws.com")
	t.set(m+"services/partition", "aws")
}

func (in *Instance) addNetwork(t tree, m string) {
	t.set(m+"device-number", "0")
	t.set(m+"interface-id", in.InterfaceID)
	if in.PublicIP.IsValid() {
		t.set(m+"ipv4-associations/"+in.PublicIP.String(), in.PrivateIP.String())
	}
	t.set(m+"local-hostname", in.hostname())
	t.set(m+"local-ipv4s", in.PrivateIP.String())
	t.set(m+"mac", strings.ToLower(in.MAC))
	t.set(m+"owner-id", in.AccountID)
	t.set(m+"public-hostname", in.PublicHostname)
	t.set(m+"public-ipv4s", addr(in.PublicIP))
	t.set(m+"security-group-ids", in.groups(func(g Group) string { return g.ID }))
	t.set(m+"security-groups", in.groups(func(g Group) string { return g.Name }))
	t.set(m+"subnet-id", in.SubnetID)
	t.set(m+"subnet-ipv4-cidr-block", prefix(in.SubnetCIDR))
	t.set(m+"vpc-id", in.VPCID)
	t.set(m+"vpc-ipv4-cidr-block", prefix(in.VPCCIDR))
	t.set(m+"vpc-ipv4-cidr-blocks", prefix(in.VPCCIDR))
}

func (in *Instance) groups(field func(Group) string) string {
	out := make([]string, 0, len(in.SecurityGroups))
	for _, g := range in.SecurityGroups {
		out = append(out, field(g))
	}
	return strings.Join(out, "\n")
}

func (in *Instance) lifeCycle() string {
	if in.Spot {
		return "spot"
	}
	return "on-demand"
}

func (in *Instance) hostname() string {
	if in.Hostname != "" {
		return in.Hostname
	}
	return "ip-" + strings.ReplaceAll(in.PrivateIP.String(), ".", "-") + ".ec2.internal"
}

// identity is the instance identity document, its fields in EC2's order. There
// is no signature to go with it: only EC2 can sign for EC2.
type identity struct {
	AccountID               string   `json:"accountId"`
	Architecture            string   `json:"architecture"`
	AvailabilityZone        string   `json:"availabilityZone"`
	BillingProducts         []string `json:"billingProducts"`
	DevpayProductCodes      []string `json:"devpayProductCodes"`
	MarketplaceProductCodes []string `json:"marketplaceProductCodes"`
	ImageID                 string   `json:"imageId"`
	InstanceID              string   `json:"instanceId"`
	InstanceType            string   `json:"instanceType"`
	KernelID                *string  `json:"kernelId"`
	PendingTime             string   `json:"pendingTime"`
	PrivateIP               string   `json:"privateIp"`
	RamdiskID               *string  `json:"ramdiskId"`
	Region                  string   `json:"region"`
	Version                 string   `json:"version"`
}

func (in *Instance) document() string {
	d := identity{
		AccountID: in.AccountID, Architecture: in.Architecture, AvailabilityZone: in.Zone, ImageID: in.ImageID,
		InstanceID: in.ID, InstanceType: in.Type, PendingTime: in.LaunchTime.UTC().Format(time.RFC3339),
		PrivateIP: in.PrivateIP.String(), Region: in.Region, Version: documentVersion,
	}
	if in.KernelID != "" {
		d.KernelID = &in.KernelID
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil { // strings alone: can't happen, and an empty document would be seen
		return ""
	}
	return string(b)
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}
