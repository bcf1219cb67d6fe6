package cloud

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/state"
)

// spreadAliases makes the public aliases of images, which are built in the
// default region, lead to the same images in the caller's: each is copied when
// it is first looked for. Their blocks are shared, so it costs nothing.
func (c *Cloud) spreadAliases(ctx context.Context) error {
	s := from(ctx).Scope
	home := state.Scope{Account: s.Account, Region: DefaultRegion}
	if s == home {
		return nil
	}
	var want []*state.Parameter
	err := c.db.View(func(tx *state.Tx) error {
		all, err := state.List[state.Parameter](tx, home)
		if err != nil {
			return err
		}
		for _, p := range all {
			if !strings.HasPrefix(p.Name, publicParameters) || imageIDs.check(p.Value) != nil {
				continue
			}
			here, err := state.Get[state.Parameter](tx, s, p.ID)
			if err == nil {
				img, err := state.Get[state.Image](tx, s, here.Value)
				if err == nil && img.CopyOf != nil && img.CopyOf.ID == p.Value {
					continue
				}
			}
			if _, err := state.Get[state.Image](tx, home, p.Value); err == nil {
				want = append(want, p)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range want {
		if err := c.spreadAlias(ctx, home, p); err != nil {
			// One that can't be copied is one that isn't there.
			c.log.Warn("image alias not brought to another region", "name", p.Name, "region", s.Region, "err", err)
		}
	}
	return nil
}

// spreadAlias copies one alias's image and sets the alias once the copy can be
// launched. A copy that an earlier try began is gone on with.
func (c *Cloud) spreadAlias(ctx context.Context, home state.Scope, p *state.Parameter) error {
	s := from(ctx).Scope
	var jobs []job
	var id string
	err := c.db.Update(func(tx *state.Tx) error {
		images, err := state.List[state.Image](tx, s)
		if err != nil {
			return err
		}
		for _, i := range images {
			if i.CopyOf != nil && i.CopyOf.ID == p.Value && i.State != state.ImageFailed {
				id = i.ID
				return nil
			}
		}
		src, err := state.Get[state.Image](tx, home, p.Value)
		if err != nil {
			return err
		}
		img, err := c.planCopy(tx, home, s, &ec2.CopyImageInput{Name: aws.String(src.Name), SourceImageId: aws.String(p.Value), CopyImageTags: aws.Bool(true)})
		if err != nil {
			return err
		}
		id = img.ID
		jobs, err = c.copyImage(tx, home, img, nil)
		return err
	})
	if err != nil {
		return err
	}
	c.work.kick(jobs...)
	if err := c.waitImage(ctx, s, id); err != nil {
		return err
	}
	return c.db.Update(func(tx *state.Tx) error {
		if here, err := state.Get[state.Parameter](tx, s, p.ID); err == nil && here.Value == id {
			return nil // another was quicker
		}
		return c.setParameter(tx, s, p.Name, id)
	})
}

// waitImage returns when an image is available.
func (c *Cloud) waitImage(ctx context.Context, s state.Scope, id string) error {
	for {
		img, err := load[state.Image](c, job{(*state.Image)(nil).Kind(), s, id})
		switch {
		case err != nil:
			return err
		case img == nil:
			return imageIDs.missing(id)
		case img.State == state.ImageAvailable:
			return nil
		case img.State == state.ImageFailed:
			return fail("InvalidAMIID.Unavailable", "The image '%s' could not be copied: %s", id, img.Reason)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
