package server

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxTagged is how many resources CreateTags takes at once.
const maxTagged = 500

// Rename gives a server another name: its instance, disks, snapshots, images,
// address, security group and schedules get it. Each resource goes over in one
// call, with a mark that says where it comes from; the marks go last. So after
// an interruption the same call finds what went over already.
func (m *Manager) Rename(ctx context.Context, from, to string) (*Server, error) {
	s, err := m.rename(ctx, from, to)
	return s, wrap("rename", "server "+from, err)
}

func (m *Manager) rename(ctx context.Context, from, to string) (*Server, error) {
	for _, name := range []string{from, to} {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	if from == to {
		return nil, &Error{Code: KindUsage, Reason: "it has that name already"}
	}
	old, err := m.belongings(ctx, from)
	if err != nil {
		return nil, err
	}
	now, err := m.belongings(ctx, to)
	if err != nil {
		return nil, err
	}
	if err := m.mayRename(ctx, from, to, old, now); err != nil {
		return nil, err
	}
	if err := m.step("rename", from+" to "+to, func() error { return m.handOver(ctx, old, from, to) }); err != nil {
		return nil, err
	}
	if err := m.RenameSchedules(ctx, from, to); err != nil {
		return nil, err
	}
	if now, err = m.settledBelongings(ctx, to, append(old, now...)); err != nil {
		return nil, err
	}
	if err := m.dropMarks(ctx, now); err != nil {
		return nil, err
	}
	return m.Get(ctx, to)
}

// belonging is a resource with a server's name in its tags.
type belonging struct {
	id   string
	tags tagMap
}

// belongings are all resources that carry a server's name, by ID.
func (m *Manager) belongings(ctx context.Context, name string) ([]belonging, error) {
	var all []belonging
	add := func(id *string, tags []types.Tag) { all = append(all, belonging{aws.ToString(id), tagsOf(tags)}) }
	mine := filter("tag:"+tagServer, name)
	instances, err := m.findInstances(ctx, mine)
	if err != nil {
		return nil, err
	}
	for k := range instances {
		if live(&instances[k]) {
			add(instances[k].InstanceId, instances[k].Tags)
		}
	}
	volumes, err := m.findVolumes(ctx, mine)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		if v.State != types.VolumeStateDeleting && v.State != types.VolumeStateDeleted {
			add(v.VolumeId, v.Tags)
		}
	}
	snapshots, err := m.findSnapshots(ctx, mine)
	if err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		add(s.SnapshotId, s.Tags)
	}
	images, err := m.findImages(ctx, []string{"self"}, mine)
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		add(i.ImageId, i.Tags)
	}
	groups, err := m.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{mine}})
	if err != nil {
		return nil, wrap("list", "security groups", err)
	}
	for _, g := range groups.SecurityGroups {
		add(g.GroupId, g.Tags)
	}
	addresses, err := m.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: []types.Filter{mine}})
	if err != nil && !unsupported(err) {
		return nil, wrap("list", "addresses", err)
	}
	if err == nil {
		for _, a := range addresses.Addresses {
			if a.AllocationId != nil {
				add(a.AllocationId, a.Tags)
			}
		}
	}
	slices.SortFunc(all, func(a, b belonging) int { return strings.Compare(a.id, b.id) })
	return all, nil
}

// mayRename tells what is in the way: nothing has the old name, something else
// has the new one, or an operation isn't finished.
func (m *Manager) mayRename(ctx context.Context, from, to string, old, now []belonging) error {
	underway := false
	for _, b := range now {
		underway = underway || b.tags[tagRenaming] == from
	}
	switch {
	case len(old) == 0 && !underway:
		e := &Error{Code: KindNotFound, Reason: "there is no such server", Remedy: "stead ls"}
		if len(now) > 0 {
			e.Reason += ", and " + to + " exists: it may have been renamed already"
		}
		return e
	case len(now) > 0 && !underway:
		return &Error{Code: KindExists, Reason: "the name " + to + " is taken", Remedy: "stead show " + to + ", or choose another name"}
	}
	for _, b := range old {
		if other := b.tags[tagRenaming]; other != "" {
			return &Error{Code: KindExists, Reason: "renaming " + other + " to it isn't finished", Remedy: "stead rename " + other + " " + from}
		}
	}
	w, err := m.observe(ctx, from)
	if err != nil || underway {
		return err
	}
	switch {
	case w.standIn != nil:
		return &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + from}
	case w.instance != nil && hasTag(w.instance.Tags, tagStep):
		verb, _, _ := strings.Cut(tagOf(w.instance.Tags, tagStep), " ")
		return &Error{Code: KindExists, Reason: verb + " isn't finished", Remedy: "repeat that first, or stead start " + from}
	}
	return nil
}

// handOver gives resources the new name, those of like tags in one call.
func (m *Manager) handOver(ctx context.Context, old []belonging, from, to string) error {
	byName := map[string][]string{}
	for _, b := range old {
		name := b.tags[tagName]
		if name == from || strings.HasPrefix(name, from+" ") {
			name = to + strings.TrimPrefix(name, from)
		} else {
			name = "" // somebody's own
		}
		byName[name] = append(byName[name], b.id)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		tags := tagMap{tagServer: to, tagRenaming: from}
		if name != "" {
			tags[tagName] = name
		}
		for some := range slices.Chunk(byName[name], maxTagged) {
			if _, err := m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: some, Tags: tags.list()}); err != nil {
				return wrap("tag", strings.Join(some, " "), err)
			}
		}
	}
	return nil
}

// settledBelongings waits until a search by the new name finds all that went
// over: what isn't found would keep its mark.
func (m *Manager) settledBelongings(ctx context.Context, name string, want []belonging) ([]belonging, error) {
	var now []belonging
	err := m.poll(ctx, settleTime, "its resources to be listed", "server "+name, func(ctx context.Context) (bool, error) {
		var err error
		now, err = m.belongings(ctx, name)
		for _, b := range want {
			if err == nil && !slices.ContainsFunc(now, func(n belonging) bool { return n.id == b.id }) {
				return false, nil
			}
		}
		return err == nil, err
	})
	return now, err
}

// dropMarks ends a renaming. The group's mark and the address's may go in any
// order with the others: all are found by the name.
func (m *Manager) dropMarks(ctx context.Context, all []belonging) error {
	var marked []string
	for _, b := range all {
		if b.tags[tagRenaming] != "" {
			marked = append(marked, b.id)
		}
	}
	for some := range slices.Chunk(marked, maxTagged) {
		_, err := m.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: some, Tags: []types.Tag{{Key: aws.String(tagRenaming)}}})
		if err != nil {
			return wrap("untag", strings.Join(some, " "), err)
		}
	}
	return nil
}

// notRenaming refuses to delete anything of a server while it has two names:
// what is under the one is a part of it, and may pass for all.
func (m *Manager) notRenaming(ctx context.Context, name string) error {
	halfway := func(tags []types.Tag) *Error {
		from, to := tagOf(tags, tagRenaming), tagOf(tags, tagServer)
		if from == "" || from != name && to != name {
			return nil
		}
		return &Error{Code: KindExists, Reason: "renaming " + from + " to " + to + " isn't finished", Remedy: "stead rename " + from + " " + to}
	}
	marked := filter("tag-key", tagRenaming)
	volumes, err := m.findVolumes(ctx, marked)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if e := halfway(v.Tags); e != nil {
			return e
		}
	}
	tapes, err := m.findSnapshots(ctx, marked)
	if err != nil {
		return err
	}
	for _, s := range tapes {
		if e := halfway(s.Tags); e != nil {
			return e
		}
	}
	return nil
}
