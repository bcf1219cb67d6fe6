package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepDelete, followed by an image's ID, marks snapshots that go with it.
const stepDelete = "delete"

// ImageRemoval is what goes with an image.
type ImageRemoval struct {
	Image *Image `json:"image,omitempty"` // nil: it is gone, and these snapshots were left
	ID    string `json:"id"`
	// Snapshots are deleted: nothing else uses them.
	Snapshots []ImageSnapshot `json:"snapshots"`
	// Kept are the image's snapshots that stay.
	Kept []ImageSnapshot `json:"kept,omitempty"`
	// Servers were made from the image, and a stand-in would be again.
	Servers []string `json:"servers,omitempty"`
}

// ImageSnapshot is a snapshot of an image's disk.
type ImageSnapshot struct {
	ID      string `json:"id"`
	SizeGiB int    `json:"size_gib"`
	Reason  string `json:"reason,omitempty"` // why it stays
}

// ImageRemovePlan finds what would go with an own image, by its ID or name.
func (m *Manager) ImageRemovePlan(ctx context.Context, ref string) (*ImageRemoval, error) {
	plan, err := m.imageRemovePlan(ctx, ref)
	return plan, wrap("remove", fmt.Sprintf("image %q", ref), err)
}

func (m *Manager) imageRemovePlan(ctx context.Context, ref string) (*ImageRemoval, error) {
	own, err := m.findImages(ctx, []string{"self"})
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(own, func(i types.Image) bool {
		return aws.ToString(i.ImageId) == ref || !imageIDGrammar.MatchString(ref) && aws.ToString(i.Name) == ref
	})
	if at < 0 {
		return m.leftOver(ctx, ref)
	}
	i := own[at]
	plan := &ImageRemoval{ID: aws.ToString(i.ImageId), Image: imageView(&i, m.aliasOf(&i)), Snapshots: []ImageSnapshot{}}
	if plan.Servers, err = m.serversFrom(ctx, plan.ID); err != nil {
		return nil, err
	}
	return plan, m.sortSnapshots(ctx, plan, &i, slices.Delete(own, at, at+1))
}

// leftOver finds the snapshots of an image whose removal was interrupted.
func (m *Manager) leftOver(ctx context.Context, ref string) (*ImageRemoval, error) {
	if imageIDGrammar.MatchString(ref) {
		left, err := m.findSnapshots(ctx, filter("tag:"+tagStep, stepDelete+" "+ref))
		if err != nil {
			return nil, err
		}
		plan := &ImageRemoval{ID: ref}
		for _, s := range left {
			plan.Snapshots = append(plan.Snapshots, imageSnapshot(&s, ""))
		}
		if len(left) > 0 {
			return plan, nil
		}
	}
	return nil, &Error{Code: KindNotFound, Reason: "you own no such image", Remedy: "stead image ls"}
}

func imageSnapshot(s *types.Snapshot, reason string) ImageSnapshot {
	return ImageSnapshot{ID: aws.ToString(s.SnapshotId), SizeGiB: int(aws.ToInt32(s.VolumeSize)), Reason: reason}
}

// serversFrom lists the servers that need an image: those whose root records it
// as theirs; and of those whose root is gone, or doesn't say, the ones whose
// snapshots do, or whose instance was launched of it.
func (m *Manager) serversFrom(ctx context.Context, id string) ([]string, error) {
	volumes, err := m.findVolumes(ctx, filter("tag:"+tagImage, id))
	if err != nil {
		return nil, err
	}
	instances, err := m.findInstances(ctx, filter("image-id", id))
	if err != nil {
		return nil, err
	}
	tapes, err := m.findSnapshots(ctx, filter("tag:"+tagImage, id))
	if err != nil {
		return nil, err
	}
	var names, maybe []string
	for _, v := range volumes {
		if name := tagOf(v.Tags, tagServer); name != "" && tagOf(v.Tags, tagRole) == RoleRoot && !hasTag(v.Tags, tagSupersededBy) {
			names = append(names, name)
		}
	}
	for _, i := range instances {
		if name := cmp.Or(tagOf(i.Tags, tagServer), tagOf(i.Tags, tagStandIn)); name != "" && live(&i) {
			maybe = append(maybe, name)
		}
	}
	for _, s := range tapes {
		if name := tagOf(s.Tags, tagServer); name != "" && tagOf(s.Tags, tagRole) == RoleRoot {
			maybe = append(maybe, name)
		}
	}
	maybe, err = m.withoutWord(ctx, maybe)
	names = append(names, maybe...)
	slices.Sort(names)
	return slices.Compact(names), err
}

// withoutWord keeps those of the servers that have no root disk that records
// an image: what one says goes before its snapshots and its instance, which may
// be of another.
func (m *Manager) withoutWord(ctx context.Context, names []string) ([]string, error) {
	slices.Sort(names)
	var silent []string
	for some := range slices.Chunk(slices.Compact(names), maxFilterValues) {
		roots, err := m.findVolumes(ctx, filter("tag:"+tagServer, some...), filter("tag:"+tagRole, RoleRoot), filter("tag-key", tagImage))
		if err != nil {
			return nil, err
		}
		for _, name := range some {
			if !slices.ContainsFunc(roots, func(v types.Volume) bool { return tagOf(v.Tags, tagServer) == name && !hasTag(v.Tags, tagSupersededBy) }) {
				silent = append(silent, name)
			}
		}
	}
	return silent, nil
}

// sortSnapshots tells which of an image's snapshots go with it: those that are
// the caller's own, that no other image uses, and that are no backup of a server.
func (m *Manager) sortSnapshots(ctx context.Context, plan *ImageRemoval, i *types.Image, others []types.Image) error {
	ids := snapshotsOf(i)
	if len(ids) == 0 {
		return nil
	}
	found, err := m.findSnapshots(ctx, filter("snapshot-id", ids...))
	if err != nil {
		return err
	}
	for k := range found {
		s := &found[k]
		id := aws.ToString(s.SnapshotId)
		user := slices.IndexFunc(others, func(o types.Image) bool { return slices.Contains(snapshotsOf(&o), id) })
		switch server := tagOf(s.Tags, tagServer); {
		case user >= 0:
			plan.Kept = append(plan.Kept, imageSnapshot(s, "image "+aws.ToString(others[user].ImageId)+" uses it"))
		case server != "":
			plan.Kept = append(plan.Kept, imageSnapshot(s, "it is a snapshot of server "+server))
		default:
			plan.Snapshots = append(plan.Snapshots, imageSnapshot(s, ""))
		}
	}
	return nil
}

// snapshotsOf lists the snapshots of an image's disks.
func snapshotsOf(i *types.Image) []string {
	var ids []string
	for _, b := range i.BlockDeviceMappings {
		if b.Ebs != nil && aws.ToString(b.Ebs.SnapshotId) != "" {
			ids = append(ids, *b.Ebs.SnapshotId)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// ImageRemove deregisters an image and deletes the snapshots of the plan. It
// refuses an image that servers were made from, unless it is forced. Repeated,
// it deletes what an interruption left.
func (m *Manager) ImageRemove(ctx context.Context, plan *ImageRemoval, force bool) error {
	if len(plan.Servers) > 0 && !force {
		return &Error{
			Code: KindExists, Op: "remove", Resource: "image " + plan.ID,
			Reason: "a rescue launches it for " + strings.Join(plan.Servers, ", "),
			Remedy: "keep it, or add --force: a rescue then takes another image of that kind",
		}
	}
	if err := m.deregister(ctx, plan); err != nil {
		return err
	}
	var failed []error
	for _, s := range plan.Snapshots {
		failed = append(failed, m.step("delete snapshot", s.ID, func() error {
			_, err := m.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: aws.String(s.ID)})
			if KindOf(err) == KindNotFound {
				return nil
			}
			return wrap("delete", "snapshot "+s.ID, err)
		}))
	}
	return errors.Join(failed...)
}

// deregister marks the snapshots that go, so that they are found when this is
// interrupted, and deregisters the image: EC2 deletes no snapshot that one uses.
func (m *Manager) deregister(ctx context.Context, plan *ImageRemoval) error {
	if plan.Image == nil {
		return nil
	}
	for _, s := range plan.Snapshots {
		if err := m.tag(ctx, s.ID, tagMap{tagStep: stepDelete + " " + plan.ID}); err != nil {
			return err
		}
	}
	return m.step("deregister image", plan.ID, func() error {
		_, err := m.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: aws.String(plan.ID)})
		if KindOf(err) == KindNotFound {
			return nil
		}
		return wrap("deregister", "image "+plan.ID, err)
	})
}
