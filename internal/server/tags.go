package server

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Tag keys. docs/tags.md has the grammar of each.
const (
	tagName         = "Name"
	tagSchema       = "stead:schema"
	tagServer       = "stead:server"
	tagStandIn      = "stead:stand-in"
	tagBuilder      = "stead:builder"
	tagHelper       = "stead:helper"
	tagStep         = "stead:step"
	tagRole         = "stead:role"
	tagDevice       = "stead:device"
	tagSupersededBy = "stead:superseded-by"
	tagDetachedFrom = "stead:detached-from"
	// tagCopyOf is what a snapshot that came of another cloud is a copy of,
	// tagMovedTo the context that a server has gone to.
	tagCopyOf  = "stead:copy-of"
	tagMovedTo = "stead:moved-to"

	tagArch      = "stead:arch"
	tagVirt      = "stead:virtualization"
	tagBootMode  = "stead:boot-mode"
	tagEna       = "stead:ena"
	tagKernel    = "stead:kernel"
	tagRamdisk   = "stead:ramdisk"
	tagType      = "stead:type"
	tagZone      = "stead:zone"
	tagOpen      = "stead:open"
	tagFrom      = "stead:from"
	tagKeyName   = "stead:key-name"
	tagElasticIP = "stead:elastic-ip"
	tagImage     = "stead:image"
	tagUser      = "stead:user"
	tagInstance  = "stead:instance"
	tagDisks     = "stead:disks"
	tagMarket    = "stead:market"
	tagProfile   = "stead:profile"
	tagRules     = "stead:rules"
	tagProtected = "stead:protected"
	tagPrivateIP = "stead:private-ip"
	tagSubnet    = "stead:subnet"
	tagTPM       = "stead:tpm"
	tagIMDS      = "stead:imds"

	tagRaid  = "stead:raid"
	tagMount = "stead:mount"
	tagFS    = "stead:fs"

	tagRenaming = "stead:renaming"

	tagSet        = "stead:set"
	tagSetSize    = "stead:set-size"
	tagSetInstant = "stead:set-instant"
	tagSetPart    = "stead:set-part"
	tagSetFrozen  = "stead:set-frozen"
	// tagSetLaunched is when the stopped instance that had the disks was
	// started last, as EC2 tells.
	tagSetLaunched = "stead:set-launched"
	tagNote        = "stead:note"
	tagDurable     = "stead:durable"

	// tagPortPrefix and a port number is where an endpoint that couldn't give
	// a port its own number says which it has.
	tagPortPrefix = "stead:port-"

	schemaVersion = "1"
)

const maxTagValue = 256

// isTagValue tells whether every service takes s as a tag's value. A loop, for
// the pattern with its classes takes milliseconds to compile at every start.
func isTagValue(s string) bool {
	return utf8.RuneCountInString(s) <= maxTagValue && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !strings.ContainsRune(" +-=._:/@", r)
	})
}

// checkTagValue tells whether s can be the value of a tag on every service.
func checkTagValue(what, s string) error {
	if isTagValue(s) {
		return nil
	}
	return &Error{
		Code:   KindUsage,
		Reason: what + " can't be kept in a tag",
		Remedy: "use at most 256 letters, digits, spaces and + - = . _ : / @",
	}
}

// facts are what a server's root volume says about the machine that it needs.
type facts struct {
	Arch, Virt, BootMode, Ena, Kernel, Ramdisk string
	Type, Zone, Open, From, KeyName            string
	ElasticIP, Image, User                     string
	Instance                                   string // the last one it ran in
	Disks                                      string // the devices of all its disks
	Market                                     string // spot, or "" for on demand
	Profile                                    string // instance profile, by name or ARN
	Rules                                      string // open ports beyond Open × From, each PORT@CIDR
	Protected                                  string // yes: the user protected it
	PrivateIP, Subnet                          string // where it was in the private network
	TPM                                        string // its version, "" without one
	IMDS                                       string // v2.0 where its image said so
}

// marketSpot is the market of a spot instance.
const marketSpot = "spot"

// fields pairs each fact with its tag, for reading and for writing.
func (f *facts) fields() map[string]*string {
	return map[string]*string{
		tagArch: &f.Arch, tagVirt: &f.Virt, tagBootMode: &f.BootMode, tagEna: &f.Ena,
		tagKernel: &f.Kernel, tagRamdisk: &f.Ramdisk, tagType: &f.Type, tagZone: &f.Zone,
		tagOpen: &f.Open, tagFrom: &f.From, tagKeyName: &f.KeyName,
		tagElasticIP: &f.ElasticIP, tagImage: &f.Image, tagUser: &f.User, tagInstance: &f.Instance, tagDisks: &f.Disks,
		tagMarket: &f.Market, tagProfile: &f.Profile, tagRules: &f.Rules, tagProtected: &f.Protected,
		tagPrivateIP: &f.PrivateIP, tagSubnet: &f.Subnet, tagTPM: &f.TPM, tagIMDS: &f.IMDS,
	}
}

// tags returns the facts that are known.
func (f facts) tags() tagMap {
	t := tagMap{}
	for key, v := range f.fields() {
		if *v != "" && isTagValue(*v) {
			t[key] = *v
		}
	}
	return t
}

// factsOf reads the facts from a resource's tags.
func factsOf(tags []types.Tag) facts {
	var f facts
	t := tagsOf(tags)
	for key, v := range f.fields() {
		*v = t[key]
	}
	return f
}

// observed overlays what an instance says about itself: it is newer than the
// tags.
func (f facts) observed(i *types.Instance) facts {
	set := func(field *string, v string) {
		if v != "" {
			*field = v
		}
	}
	set(&f.Arch, string(i.Architecture))
	set(&f.Virt, string(i.VirtualizationType))
	set(&f.BootMode, string(i.BootMode))
	if i.EnaSupport != nil {
		f.Ena = yesNo(*i.EnaSupport)
	}
	set(&f.Kernel, aws.ToString(i.KernelId))
	set(&f.Ramdisk, aws.ToString(i.RamdiskId))
	set(&f.Type, string(i.InstanceType))
	set(&f.Zone, zoneOf(i))
	set(&f.KeyName, aws.ToString(i.KeyName))
	set(&f.Instance, aws.ToString(i.InstanceId))
	set(&f.PrivateIP, aws.ToString(i.PrivateIpAddress))
	set(&f.Subnet, aws.ToString(i.SubnetId))
	set(&f.TPM, aws.ToString(i.TpmSupport))
	if i.IamInstanceProfile != nil {
		set(&f.Profile, aws.ToString(i.IamInstanceProfile.Arn))
	}
	if i.InstanceLifecycle == types.InstanceLifecycleTypeSpot {
		f.Market = marketSpot
	}
	return f
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func zoneOf(i *types.Instance) string {
	if i.Placement == nil {
		return ""
	}
	return aws.ToString(i.Placement.AvailabilityZone)
}

// tagMap is tags by key.
type tagMap map[string]string

func tagsOf(tags []types.Tag) tagMap {
	t := make(tagMap, len(tags))
	for _, tag := range tags {
		t[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	return t
}

func tagOf(tags []types.Tag, key string) string {
	for k := range tags {
		if aws.ToString(tags[k].Key) == key {
			return aws.ToString(tags[k].Value)
		}
	}
	return ""
}

func hasTag(tags []types.Tag, key string) bool {
	return slices.ContainsFunc(tags, func(t types.Tag) bool { return aws.ToString(t.Key) == key })
}

// with returns the tags and more, which win.
func (t tagMap) with(more tagMap) tagMap {
	all := maps.Clone(t)
	maps.Copy(all, more)
	return all
}

// list returns the tags as EC2 takes them, in a fixed order: a ClientToken's
// replay must send the same request.
func (t tagMap) list() []types.Tag {
	tags := make([]types.Tag, 0, len(t))
	for _, key := range slices.Sorted(maps.Keys(t)) {
		tags = append(tags, types.Tag{Key: aws.String(key), Value: aws.String(t[key])})
	}
	return tags
}

// spec returns the tags as a TagSpecification for resources of a kind.
func (t tagMap) spec(kind types.ResourceType) types.TagSpecification {
	return types.TagSpecification{ResourceType: kind, Tags: t.list()}
}

// missing returns those of want that have doesn't say.
func (t tagMap) missing(want tagMap) tagMap {
	lack := tagMap{}
	for key, v := range want {
		if have, ok := t[key]; !ok || have != v {
			lack[key] = v
		}
	}
	return lack
}

// serverTags are what every resource of a server carries.
func serverTags(name string) tagMap {
	return tagMap{tagSchema: schemaVersion, tagServer: name, tagName: name}
}

// steadTags keeps the tags that a copy or a snapshot passes on: stead's own,
// without those that speak of the moment, and the name.
func steadTags(tags []types.Tag) tagMap {
	t := tagsOf(tags)
	maps.DeleteFunc(t, func(key, _ string) bool {
		return key != tagName && (!strings.HasPrefix(key, "stead:") || key == tagStep || key == tagRenaming ||
			strings.HasPrefix(key, tagPortPrefix) || key == tagSupersededBy || key == tagDetachedFrom || key == tagCopyOf || key == tagMovedTo)
	})
	return t
}
