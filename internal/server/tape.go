package server

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TapeOptions says what to read of a snapshot set.
type TapeOptions struct {
	HelperOptions
	Set  string    // its ID, or "latest"; "" is the newest at or before At
	At   time.Time // zero: now
	Path string    // of the file or folder, as it was on the server
}

// Tape is a snapshot set that a helper can read.
type Tape struct {
	Set    string  `json:"set"`
	Helper *Server `json:"helper"`
	// Root is the folder in the helper that the server's own paths lie below.
	Root string `json:"root"`
}

// OpenTape makes disks of the snapshots that a path needs, and mounts them in
// a helper, to be read. CloseTape removes all that it made, also what an
// interrupted run left.
func (m *Manager) OpenTape(ctx context.Context, name string, o TapeOptions) (*Tape, error) {
	t, err := m.openTape(ctx, name, o)
	return t, wrap("read a snapshot of", "server "+name, err)
}

func (m *Manager) openTape(ctx context.Context, name string, o TapeOptions) (*Tape, error) {
	if m.guest == nil {
		return nil, &Error{Code: KindUnsupported, Reason: "there is no way into a machine of this cloud"}
	}
	set, err := m.setAt(ctx, name, o.At, o.Set)
	if err != nil {
		return nil, err
	}
	if set.State != "completed" {
		return nil, &Error{Code: KindExists, Resource: "set " + set.ID, Reason: "it is " + set.State, Remedy: "stead snapshots " + name}
	}
	// What an earlier run left may be of another set.
	if err := m.endHelper(ctx, name, stepTape); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	helper, err := m.ensureHelper(ctx, w, stepTape, digest(name, set.ID, strconv.FormatInt(m.now().UnixNano(), 10))[:8], o.HelperOptions)
	if err != nil {
		return nil, err
	}
	t := &Tape{Set: set.ID, Helper: m.helperView(helper), Root: "/mnt/tape"}
	return t, m.mountTape(ctx, helper, set, t.Root, o.Path)
}

// mountTape mounts the root, and the data disks if the path is on one of them.
func (m *Manager) mountTape(ctx context.Context, helper *types.Instance, set *SnapshotSet, dir, path string) error {
	mounts, err := m.mountsOf(ctx, set)
	if err != nil {
		return err
	}
	disks := slices.Clone(set.Snapshots)
	slices.SortFunc(disks, func(a, b Snapshot) int { return -cmp.Compare(a.Role, b.Role) }) // the root first
	var words []string
	for k, s := range disks {
		word, err := m.plugTape(ctx, helper, set, s, mounts[s.SnapshotID])
		if err != nil {
			return err
		}
		words = append(words, word)
		if more := k+1 < len(disks); s.Role == RoleData && more {
			continue
		}
		said, err := m.readTape(ctx, helper, words, dir, path)
		if err != nil {
			return err
		}
		if len(said["root"]) > 0 {
			return nil
		}
	}
	return &Error{Code: KindNotFound, Reason: "the disk that " + path + " was on isn't in set " + set.ID, Remedy: "stead snapshots " + set.Server}
}

func (m *Manager) readTape(ctx context.Context, helper *types.Instance, words []string, dir, path string) (map[string][]string, error) {
	all := ""
	if len(words) > 1 || !strings.HasSuffix(words[0], ",/") {
		all = "1"
	}
	return m.inHelper(ctx, helper, map[string]string{"dir": dir, "path": path, "disks": strings.Join(words, " "), "all": all},
		tapeScript, "name an --image whose system knows the disks' file systems")
}

// mountsOf says of each snapshot where its disk was mounted, as far as its tags
// tell.
func (m *Manager) mountsOf(ctx context.Context, set *SnapshotSet) (map[string]string, error) {
	var ids []string
	for _, s := range set.Snapshots {
		ids = append(ids, s.SnapshotID)
	}
	found, err := m.findSnapshots(ctx, filter("snapshot-id", ids...))
	mounts := map[string]string{}
	for _, s := range found {
		mounts[aws.ToString(s.SnapshotId)] = tagOf(s.Tags, tagMount)
		if tagOf(s.Tags, tagRole) == RoleRoot {
			mounts[aws.ToString(s.SnapshotId)] = "/"
		}
	}
	return mounts, err
}

// plugTape makes a disk of a snapshot and plugs it into the helper. It returns
// what tapeScript wants to know of it.
func (m *Manager) plugTape(ctx context.Context, helper *types.Instance, set *SnapshotSet, s Snapshot, mount string) (string, error) {
	var v *types.Volume
	err := m.step("make disk of", s.SnapshotID, func() error {
		tags := helperTags(set.Server, stepTape).with(tagMap{tagSet: set.ID})
		out, err := m.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{
			AvailabilityZone: aws.String(zoneOf(helper)), SnapshotId: &s.SnapshotID, VolumeType: defaultVolumeType,
			ClientToken:       aws.String(clientToken("tape", set.Server, []string{aws.ToString(helper.InstanceId), s.SnapshotID})),
			TagSpecifications: []types.TagSpecification{tags.spec(types.ResourceTypeVolume)},
		})
		if err != nil {
			return wrap("create", "volume", err)
		}
		v, err = m.waitAvailable(ctx, aws.ToString(out.VolumeId))
		return err
	})
	if err != nil {
		return "", err
	}
	device, err := m.plugIntoHelper(ctx, v, helper)
	if s.Role == RoleRoot {
		mount = "/"
	}
	return strings.Join([]string{aws.ToString(v.VolumeId), device, s.Device, mount}, ","), err
}

// CloseTape removes the helper that read a server's snapshots, and its disks.
func (m *Manager) CloseTape(ctx context.Context, name string) error {
	return wrap("end reading a snapshot of", "server "+name, m.endHelper(ctx, name, stepTape))
}
