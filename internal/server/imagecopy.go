package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// ImageCopyOptions says which image is copied, and from where.
type ImageCopyOptions struct {
	ID   string // of the source: names and aliases are a region's own
	From string // the source's region; empty means the Manager's own
	To   string // the copy's region; empty means the Manager's own
	Name string // of the copy; empty means one that is derived from the source
}

// ImageCopy copies an image, with its snapshots and its tags, into a region,
// and waits until the copy can be launched. Repeated, it waits for the copy
// that there is.
func (m *Manager) ImageCopy(ctx context.Context, o ImageCopyOptions) (*Image, error) {
	if o.To != "" && o.To != m.region {
		if m.regional == nil {
			return nil, &Error{Op: "copy", Resource: "image " + o.ID, Code: KindUnsupported, Reason: "this endpoint has no other regions", Remedy: "leave --region out"}
		}
		there, err := m.regional(o.To)
		if err != nil {
			return nil, wrap("copy", "image "+o.ID, err)
		}
		o.From = cmp.Or(o.From, m.region)
		m = there
	}
	i, err := m.imageCopy(ctx, o)
	if err != nil {
		return nil, wrap("copy", "image "+o.ID, err)
	}
	return imageView(i, m.aliasOf(i)), nil
}

func (m *Manager) imageCopy(ctx context.Context, o ImageCopyOptions) (*types.Image, error) {
	o.From = cmp.Or(o.From, m.region)
	switch {
	case !imageIDGrammar.MatchString(o.ID):
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no image ID", o.ID), Remedy: "stead image ls, in the region that it is in"}
	case o.Name != "" && !imageNameGrammar().MatchString(o.Name):
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no image name", o.Name), Remedy: "use 3 to 128 letters, digits, spaces and ( ) [ ] . / - ' @ _"}
	case o.From == "":
		return nil, &Error{Code: KindUsage, Reason: "this context has no region", Remedy: "add --from REGION"}
	}
	name := cmp.Or(o.Name, "copy of "+o.ID+" from "+o.From)
	made, err := m.ownImage(ctx, name)
	if err != nil {
		return nil, err
	}
	if made == nil {
		made, err = m.startCopy(ctx, o, name)
		if err != nil {
			return nil, err
		}
	}
	id := aws.ToString(made.ImageId)
	err = m.step("wait for image", id, func() (err error) {
		made, err = m.waitImage(ctx, id)
		return err
	})
	return made, err
}

// startCopy starts a copy and returns what is known of it.
func (m *Manager) startCopy(ctx context.Context, o ImageCopyOptions, name string) (*types.Image, error) {
	var made *types.Image
	err := m.step("copy image", o.ID, func() error {
		out, err := m.ec2.CopyImage(ctx, &ec2.CopyImageInput{
			Name: &name, SourceImageId: &o.ID, SourceRegion: &o.From, CopyImageTags: aws.Bool(true),
			Description: aws.String("Copy of " + o.ID + " from " + o.From),
			// For the SDK's own repetitions alone: an interrupted copy is found by
			// its name. A token that stays would give one back that was removed.
			ClientToken: aws.String(rand.Text()),
		})
		if err != nil {
			return err
		}
		made = &types.Image{ImageId: out.ImageId}
		return nil
	})
	return made, err
}
