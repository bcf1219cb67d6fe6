package cloud

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// CopyImage copies an image of any region into the caller's, with copies of its
// snapshots. Kernel images are of every region already.
func (c *Cloud) CopyImage(ctx context.Context, in *ec2.CopyImageInput) (*ec2.CopyImageOutput, error) {
	switch {
	case in.SourceRegion == nil:
		return nil, missing("sourceRegion")
	case in.SourceImageId == nil:
		return nil, missing("sourceImageId")
	case aws.ToBool(in.Encrypted) || in.KmsKeyId != nil:
		return nil, unsupported("An encrypted image", "Leave Encrypted and KmsKeyId out, and encrypt the disk that the data folder is on.")
	case in.DestinationOutpostArn != nil || in.DestinationAvailabilityZone != nil || in.DestinationAvailabilityZoneId != nil:
		return nil, unsupported("A destination other than the region", "Call the region that the copy is to be in.")
	}
	if m := in.SnapshotCopyCompletionDurationMinutes; m != nil {
		if err := checkCopyTime(aws.Int32(int32(*m))); err != nil {
			return nil, err
		}
	}
	s := from(ctx).Scope
	source, err := sourceScope(s, *in.SourceRegion)
	if err != nil {
		return nil, err
	}
	params := *in
	params.ClientToken = nil
	var id string
	var jobs []job
	err = c.db.Update(func(tx *state.Tx) error {
		ids, err := c.once(tx, s, "CopyImage", in.ClientToken, params, func() ([]string, error) {
			img, err := c.planCopy(tx, source, s, in)
			if err != nil {
				return nil, err
			}
			jobs, err = c.copyImage(tx, source, img, in.TagSpecifications)
			return []string{img.ID}, err
		})
		if err == nil {
			id = ids[0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobs...)
	return &ec2.CopyImageOutput{ImageId: aws.String(id)}, nil
}

// planCopy makes the record of an image's copy, which names the source's
// snapshots still.
func (c *Cloud) planCopy(tx *state.Tx, source, to state.Scope, in *ec2.CopyImageInput) (*state.Image, error) {
	if err := checkImageName(tx, to, in.Name); err != nil {
		return nil, err
	}
	src, err := find[state.Image](tx, source, imageIDs, *in.SourceImageId)
	if err != nil {
		return nil, err
	}
	if src.State != state.ImageAvailable {
		return nil, fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available: it is '%s'.", src.ID, src.State)
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeImage, types.ResourceTypeSnapshot)
	if err != nil {
		return nil, err
	}
	img := *src
	img.Meta = c.meta(to, "ami")
	img.State, img.Name, img.Owner, img.OwnerAlias, img.Public = state.ImagePending, *in.Name, to.Account, "", false
	img.SourceInstance, img.CopyOf = "", &state.Origin{Region: source.Region, ID: src.ID}
	if in.Description != nil {
		img.Description = *in.Description
	}
	img.Tags = tags
	if aws.ToBool(in.CopyImageTags) {
		img.Tags = cloneTags(src.Tags)
		for k, v := range tags {
			img.Tags[k] = v
		}
		if len(img.Tags) > maxTags {
			return nil, fail("TagLimitExceeded", "The copy of %s would have %d tags; %d are allowed.", src.ID, len(img.Tags), maxTags)
		}
	}
	return &img, nil
}

// copyImage writes an image with copies of the snapshots that it names, and
// gives who has to work on them.
func (c *Cloud) copyImage(tx *state.Tx, source state.Scope, img *state.Image, specs []types.TagSpecification) ([]job, error) {
	tags, err := tagsFor(specs, types.ResourceTypeSnapshot, types.ResourceTypeImage)
	if err != nil {
		return nil, err
	}
	jobs := []job{jobOf(img)}
	devices := make([]state.BlockDevice, len(img.BlockDevices))
	for i, b := range img.BlockDevices {
		if b.SnapshotID != "" {
			snap, err := c.copyOf(tx, source, b.SnapshotID, img.Scope())
			if err != nil {
				return nil, err
			}
			snap.Description = fmt.Sprintf("Copied for DestinationAmi %s from SourceAmi %s for SourceSnapshot %s.", img.ID, img.CopyOf.ID, b.SnapshotID)
			snap.Tags = cloneTags(tags)
			if err := state.Put(tx, snap); err != nil {
				return nil, err
			}
			b.SnapshotID = snap.ID
			jobs = append(jobs, jobOf(snap))
		}
		devices[i] = b
	}
	img.BlockDevices = devices
	return jobs, state.Put(tx, img)
}
