package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The checks, as Finding.Check names them.
const (
	checkWork       = "unfinished"
	checkHealthy    = "health"
	checkDisks      = "disks"
	checkKept       = "kept-on-termination"
	checkTags       = "tags"
	checkUnplugged  = "plugged-in"
	checkProtection = "termination-protection"
	checkShutdown   = "shutdown-behavior"
	checkRaid       = "raid"
	checkSnapshots  = "snapshots"
	checkSchedule   = "schedule"
	checkForgotten  = "forgotten-snapshots"
	checkBin        = "recycle-bin"
	checkAddress    = "fixed-address"
	checkNofail     = "fstab-nofail"
	checkByName     = "fstab-by-name"
	checkGone       = "fstab-gone"
	checkInside     = "inside"
	checkPublicSSH  = "public-ssh"
	checkVolumeType = "volume-type"
)

// work finds what was begun and not finished, and what ails the instance.
func (e *examiner) work() {
	if e.standIn != nil {
		e.find(checkWork, SeverityFail, aws.ToString(e.standIn.InstanceId), "a rescue isn't finished", "stead rescue "+e.name)
	}
	if e.instance != nil {
		if verb, _, _ := strings.Cut(tagOf(e.instance.Tags, tagStep), " "); verb != "" {
			e.find(checkWork, SeverityFail, aws.ToString(e.instance.InstanceId), verb+" isn't finished", "repeat the stead "+verb+", or stead start "+e.name)
		}
	}
	for k := range e.volumes {
		v := &e.volumes[k]
		id := aws.ToString(v.VolumeId)
		switch verb, _, _ := strings.Cut(tagOf(v.Tags, tagStep), " "); verb {
		case "":
		case stepAttach:
			e.find(checkWork, SeverityFail, id, "it was made and never plugged in", "stead volume attach "+id+" "+e.name)
		case stepRepair:
			e.find(checkWork, SeverityFail, id, "a repair isn't finished", "stead repair "+e.name+" --finish")
		default:
			e.find(checkWork, SeverityFail, id, verb+" isn't finished", "repeat the stead "+verb)
		}
	}
	for _, i := range e.extra {
		e.find(checkTags, SeverityFail, aws.ToString(i.InstanceId), "it claims to be this server too", "stead orphans")
	}
	for _, ailment := range e.ailments {
		e.find(checkHealthy, SeverityFail, aws.ToString(e.instance.InstanceId), ailment, "stead reboot "+e.name)
	}
}

// disks finds what is wrong with the set of disks itself.
func (e *examiner) disks() {
	var roots []string
	for k := range e.volumes {
		v := &e.volumes[k]
		id := aws.ToString(v.VolumeId)
		if tagOf(v.Tags, tagRole) == RoleRoot {
			roots = append(roots, id)
		}
		switch {
		case v.State == types.VolumeStateError:
			e.find(checkDisks, SeverityFail, id, "its disk is in state error", "stead rescue "+e.name+" --by snapshot")
		case v.VolumeType == types.VolumeTypeGp2:
			e.find(checkVolumeType, SeverityHint, id, "it is a gp2 disk; gp3 has its IOPS whatever the size, and costs less", "aws ec2 modify-volume --volume-type gp3 --volume-id "+id)
		}
	}
	switch {
	case e.root() == nil && len(roots) > 1:
		e.find(checkTags, SeverityFail, e.name, "several disks are tagged as its root: "+strings.Join(roots, ", "), "stead show "+e.name)
	case e.root() == nil:
		e.find(checkDisks, SeverityFail, e.name, "it has no root disk", "stead rescue "+e.name+" --by snapshot")
	case len(roots) > 1:
		e.find(checkTags, SeverityFail, e.name, "several disks are tagged as its root: "+strings.Join(roots, ", "), "stead volume detach the one that isn't")
	}
}

// raid finds arrays that lack a disk, or have one twice.
func (e *examiner) raid() {
	have := map[string][]int{} // "LEVEL of COUNT" → indexes
	count := map[string]int{}
	for k := range e.volumes {
		level, index, of, ok := raidPlace(tagOf(e.volumes[k].Tags, tagRaid))
		if !ok {
			continue
		}
		array := fmt.Sprintf("RAID %s of %d disks", level, of)
		have[array], count[array] = append(have[array], index), of
	}
	for array, indexes := range have {
		slices.Sort(indexes)
		var lacks []string
		for index := 1; index <= count[array]; index++ {
			if !slices.Contains(indexes, index) {
				lacks = append(lacks, strconv.Itoa(index))
			}
		}
		switch {
		case len(lacks) > 0:
			e.find(checkRaid, SeverityFail, e.name, "its "+array+" lacks disk "+strings.Join(lacks, ", "),
				"plug that in again: stead volume attach VOLUME "+e.name+"; or come back from a complete set: stead restore "+e.name)
		case len(indexes) > count[array]:
			e.find(checkRaid, SeverityFail, e.name, "two disks claim one place in its "+array, "stead volume detach the one that isn't its own")
		}
	}
}

// raidPlace reads LEVEL INDEX/COUNT.
func raidPlace(tag string) (level string, index, count int, ok bool) {
	level, place, _ := strings.Cut(tag, " ")
	first, of, _ := strings.Cut(place, "/")
	index, err1 := strconv.Atoi(first)
	count, err2 := strconv.Atoi(of)
	return level, index, count, err1 == nil && err2 == nil && index >= 1 && count >= index && count <= 64
}

// snapshots finds a server without a backup, or with an old one.
func (e *examiner) snapshots(now time.Time) {
	newest := e.newestSet()
	switch {
	case newest == nil:
		e.find(checkSnapshots, SeverityWarn, e.name, "there is no complete snapshot set of it", "stead snapshot "+e.name)
	case now.Sub(*newest) > oldSnapshots:
		e.find(checkSnapshots, SeverityWarn, e.name, fmt.Sprintf("its newest snapshot set is %d days old", int(now.Sub(*newest).Hours()/24)), "stead snapshot "+e.name)
	}
}

// schedule finds a server of which nobody takes snapshots by itself. Where the
// endpoint can't say, the snapshots that a schedule took do.
func (e *examiner) schedule(about *surroundings, now time.Time) {
	remedy := "stead schedule " + e.name + " --every 24h --keep 7"
	if !about.lifecycle {
		if !slices.ContainsFunc(e.world.snapshots, func(s types.Snapshot) bool {
			return hasTag(s.Tags, tagPolicy) && now.Sub(aws.ToTime(s.StartTime)) < oldSnapshots
		}) {
			e.find(checkSchedule, SeverityWarn, e.name, "no schedule has taken a snapshot of it for a week", remedy)
		}
		return
	}
	found := false
	for _, s := range about.schedules {
		if s.Server != e.name {
			continue
		}
		found = true
		switch s.State {
		case scheduleEnabled:
		case string(dlmtypes.GettablePolicyStateValuesError):
			e.find(checkSchedule, SeverityFail, s.PolicyID, joinReason("its schedule can't run", s.Message), remedy)
		default:
			e.find(checkSchedule, SeverityWarn, s.PolicyID, joinReason("its schedule is in state "+s.State, s.Message), remedy)
		}
		e.forgotten(&s)
	}
	if !found {
		e.find(checkSchedule, SeverityWarn, e.name, "no schedule takes snapshots of it", remedy)
	}
}

// forgotten finds scheduled sets that no schedule deletes any more: one that
// keeps a number looks after those of the instance alone that there is.
func (e *examiner) forgotten(s *Schedule) {
	n := 0
	for _, t := range gather(e.world.snapshots) {
		if t.scheduled {
			n++
		}
	}
	if s.Keep > 0 && n > s.Keep+1 { // one more while the oldest is being deleted
		e.find(checkForgotten, SeverityHint, e.name, fmt.Sprintf("its schedule keeps %s, and there are %d sets of schedules: "+
			"those of an instance that is gone, or of an earlier schedule, aren't counted any more", s.Kept(), n), "stead prune "+e.name)
	}
}

// ports finds ssh that is open to everybody.
func (e *examiner) ports(groups []types.SecurityGroup) {
	for _, g := range groups {
		for _, rule := range g.IpPermissions {
			from, to := aws.ToInt32(rule.FromPort), aws.ToInt32(rule.ToPort)
			all := aws.ToString(rule.IpProtocol) == "-1"
			if !all && (aws.ToString(rule.IpProtocol) != "tcp" || from > sshPort || to < sshPort) {
				continue
			}
			open := slices.ContainsFunc(rule.IpRanges, func(r types.IpRange) bool { return aws.ToString(r.CidrIp) == anywhere }) ||
				slices.ContainsFunc(rule.Ipv6Ranges, func(r types.Ipv6Range) bool { return aws.ToString(r.CidrIpv6) == "::/0" })
			if open {
				e.find(checkPublicSSH, SeverityHint, aws.ToString(g.GroupId), "ssh is open to the whole internet",
					"stead open "+e.name+" 22 --from YOUR-ADDRESS, then stead close "+e.name+" 22 --from "+anywhere)
				return
			}
		}
	}
}

// serverGroups lists the security groups of all servers.
func (m *Manager) serverGroups(ctx context.Context) (map[string][]types.SecurityGroup, error) {
	groups := map[string][]types.SecurityGroup{}
	pages := ec2.NewDescribeSecurityGroupsPaginator(m.ec2, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{filter("tag-key", tagServer)}, MaxResults: aws.Int32(pageSize),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", "security groups", err)
		}
		for _, g := range page.SecurityGroups {
			name := tagOf(g.Tags, tagServer)
			groups[name] = append(groups[name], g)
		}
	}
	return groups, nil
}

// kept finds disks that would go with the instance, and plugged-in disks whose
// tags don't say what is so.
func (e *examiner) kept() {
	id := aws.ToString(e.instance.InstanceId)
	for _, device := range doomedDevices(e.instance) {
		what := "disk " + device
		if device == aws.ToString(e.instance.RootDeviceName) {
			what = "root disk " + device
		}
		e.find(checkKept, SeverityFail, id+" "+device, "its "+what+" would be deleted with the instance", "").fixable()
	}
	f := e.facts().observed(e.instance)
	f.Disks = devicesOf(e.name, e.instance, e.attached())
	for _, v := range e.attached() {
		have := tagsOf(v.Tags)
		if other := have[tagServer]; other != "" && other != e.name {
			continue
		}
		lack := have.missing(pluggedTags(e.name, e.instance, aws.ToString(v.VolumeId), f))
		delete(lack, tagName) // people may call it as they like
		if len(lack) > 0 {
			e.find(checkTags, SeverityFail, aws.ToString(v.VolumeId), "its tags don't say what is so: "+strings.Join(sortedKeys(lack), ", "), "").fixable()
		}
	}
}

// attached are the disks that are plugged into the server's instance.
func (e *examiner) attached() []types.Volume {
	var list []types.Volume
	ids := mappedVolumes(e.instance)
	for _, v := range e.volumes {
		if slices.Contains(ids, aws.ToString(v.VolumeId)) {
			list = append(list, v)
		}
	}
	return list
}

func sortedKeys(t tagMap) []string {
	var keys []string
	for key := range t {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// plugged finds data disks that the instance lacks.
func (e *examiner) plugged() {
	for _, v := range e.data() {
		id := aws.ToString(v.VolumeId)
		switch holder := attachedTo(v); {
		case holder == aws.ToString(e.instance.InstanceId) || hasTag(v.Tags, tagStep):
		case holder != "":
			e.find(checkUnplugged, SeverityFail, id, "its disk is plugged into "+holder+" instead", "stead volume detach "+id)
		case v.State == types.VolumeStateAvailable:
			e.find(checkUnplugged, SeverityFail, id, "its data disk isn't plugged in", "").fixable()
		}
	}
}

// examineGuards asks for the attributes that keep the instance from ending. An
// endpoint that can't tell is no finding.
func (m *Manager) examineGuards(ctx context.Context, e *examiner) error {
	id := aws.ToString(e.instance.InstanceId)
	ask := func(name types.InstanceAttributeName) (*ec2.DescribeInstanceAttributeOutput, error) {
		out, err := m.ec2.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: name})
		if unsupported(err) {
			return &ec2.DescribeInstanceAttributeOutput{}, nil
		}
		return out, wrap("describe", "instance "+id, err)
	}
	out, err := ask(types.InstanceAttributeNameDisableApiTermination)
	if err != nil {
		return err
	}
	if off := out.DisableApiTermination; off != nil && !aws.ToBool(off.Value) && !isSpot(e.instance) {
		e.find(checkProtection, SeverityFail, id, "any tool can terminate it", "").fixable()
	}
	if out, err = ask(types.InstanceAttributeNameInstanceInitiatedShutdownBehavior); err != nil {
		return err
	}
	if how := out.InstanceInitiatedShutdownBehavior; how != nil && aws.ToString(how.Value) == string(types.ShutdownBehaviorTerminate) {
		e.find(checkShutdown, SeverityFail, id, "a shutdown from inside terminates it", "").fixable()
	}
	return nil
}

// incomplete tells of findings that the server lacks a disk that is its own:
// what is in fstab for that is no mistake.
func incomplete(list []Finding) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return f.Check == checkUnplugged || f.Check == checkRaid })
}

// examineFstab looks inside a server that runs. One that doesn't let in gets a
// hint.
func (m *Manager) examineFstab(ctx context.Context, e *examiner) {
	out, reached, err := m.lookInGuest(ctx, e.view, map[string]string{"fix": "no", "gone": yesNo(!incomplete(e.list))}, fstabScript)
	if err != nil && ctx.Err() == nil {
		e.find(checkInside, SeverityHint, e.name, "nobody could look inside: "+causeText(err), "stead ssh "+e.name)
	}
	if !reached || err != nil {
		return
	}
	said := guestLines(out)
	for _, line := range said["nofail"] {
		e.find(checkNofail, SeverityFail, "/etc/fstab: "+line, "without nofail it doesn't boot when that disk is away", "").fixable()
	}
	for _, line := range said["gone"] {
		e.find(checkGone, SeverityWarn, "/etc/fstab: "+line, "the server hasn't got that disk any more, and each boot waits for it", "").fixable()
	}
	for _, line := range said["name"] {
		e.find(checkByName, SeverityWarn, "/etc/fstab: "+line, "device names change; a UUID doesn't", "").fixable()
	}
}
