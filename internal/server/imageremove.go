package server

import (
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

// serversFrom lists the servers that record an image as theirs.
func (m *Manager) serversFrom(ctx context.Context, id string) ([]string, error) {
	volumes, err := m.findVolumes(ctx, filter("tag:"+tagImage, id))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range volumes {
		if name := tagOf(v.Tags, tagServer); name != "" && tagOf(v.Tags, tagRole) == RoleRoot {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
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
