package cloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// errInstantLost says that what a copy was being read from is no more.
var errInstantLost = errors.New("the daemon ended while the volume was copied, or the volume was in use again before it was; copy it again")

// CopyVolumes copies a volume as it is now, in use or not, within its zone. The
// instant is before the answer; the copying comes after it.
func (c *Cloud) CopyVolumes(ctx context.Context, in *ec2.CopyVolumesInput) (*ec2.CopyVolumesOutput, error) {
	switch {
	case in.SourceVolumeId == nil:
		return nil, missing("sourceVolumeId")
	case aws.ToBool(in.Encrypted) || in.KmsKeyId != nil:
		return nil, unsupported("An encrypted volume", "Leave Encrypted and KmsKeyId out, and encrypt the disk that the data folder is on.")
	case aws.ToBool(in.MultiAttachEnabled):
		return nil, unsupported("Multi-attach", "Attach the volume to one instance at a time.")
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeVolume)
	if err != nil {
		return nil, err
	}
	s := from(ctx).Scope
	src, done, err := c.copyBegun(s, in)
	if err != nil {
		return nil, err
	}
	if done == nil {
		if done, err = c.copyVolume(ctx, src, in, tags); err != nil {
			return nil, err
		}
	}
	return &ec2.CopyVolumesOutput{Volumes: []types.Volume{apiVolume(done)}}, nil
}

// copyBegun reads the source of a copy, and the copy itself where the request
// repeats one that made it.
func (c *Cloud) copyBegun(s state.Scope, in *ec2.CopyVolumesInput) (src, done *state.Volume, err error) {
	err = c.db.View(func(tx *state.Tx) (err error) {
		ids, err := c.once(tx, s, copyVolumes, in.ClientToken, copyParams(in), func() ([]string, error) { return nil, errNotBegun })
		if err == nil {
			done, err = find[state.Volume](tx, s, volumeIDs, ids[0])
			return err
		}
		if !errors.Is(err, errNotBegun) {
			return err
		}
		src, err = find[state.Volume](tx, s, volumeIDs, *in.SourceVolumeId)
		return err
	})
	return src, done, err
}

const copyVolumes = "CopyVolumes"

var errNotBegun = errors.New("not begun")

func copyParams(in *ec2.CopyVolumesInput) ec2.CopyVolumesInput {
	params := *in
	params.ClientToken = nil
	return params
}

func (c *Cloud) copyVolume(ctx context.Context, src *state.Volume, in *ec2.CopyVolumesInput, tags map[string]string) (*state.Volume, error) {
	if !src.Ready || src.State == state.VolumeDeleting {
		return nil, fail("IncorrectState", "The volume '%s' is '%s'.", src.ID, src.State)
	}
	spec := diskSpec{size: in.Size, iops: in.Iops, throughput: in.Throughput, kind: string(in.VolumeType)}
	if spec.size == nil {
		spec.size = aws.Int32(src.Size)
	}
	if *spec.size < src.Size {
		return nil, spec.refuse("Volume of size %dGB is smaller than volume '%s', expect size >= %dGB", *spec.size, src.ID, src.Size)
	}
	// The instant is named after what is made of it, like a snapshot's.
	name := &state.Snapshot{Meta: c.meta(src.Scope(), "vol")}
	hold, err := c.holdStill(ctx, []*state.Volume{src}, []*state.Snapshot{name}, false)
	if err != nil {
		return nil, err
	}
	c.instants.put(name.ID, hold)
	var vol *state.Volume
	err = c.db.Update(func(tx *state.Tx) error {
		if err := stillThere(tx, src); err != nil {
			return err
		}
		ids, err := c.once(tx, src.Scope(), copyVolumes, in.ClientToken, copyParams(in), func() ([]string, error) {
			if vol, err = c.newVolume(tx, src.Scope(), src.Zone, spec); err != nil {
				return nil, err
			}
			vol.Meta, vol.Tags, vol.CopyOf, vol.CopyLive = name.Meta, tags, src.ID, name.Live
			vol.Lineage = volumeLineage(src)
			return []string{vol.ID}, state.Put(tx, vol)
		})
		if err == nil && ids[0] != name.ID {
			err = fail("IncorrectState", "A request with the client token '%s' is being answered; try again.", aws.ToString(in.ClientToken))
		}
		return err
	})
	if err != nil {
		c.instants.end(name.ID)
		return nil, err
	}
	c.work.kick(jobOf(vol))
	return vol, nil
}

// copyDisk fills a copy's file from the instant that it is to show.
func (c *Cloud) copyDisk(ctx context.Context, vol *state.Volume, size int64) error {
	held := c.instants.get(vol.ID)
	return c.volumes.Fill(ctx, vol.ID, size, func(ctx context.Context, w volume.Sink) error {
		if held == nil {
			return errInstantLost
		}
		src, err := held.open(ctx, vol.CopyOf)
		if err != nil {
			return err
		}
		return errors.Join(copyFrom(ctx, w, src), src.Close())
	})
}

// copyFrom fills a copy from its source: as a clone where that lies still and the
// filesystem can.
func copyFrom(ctx context.Context, w volume.Sink, src *frozen) error {
	if r, still := src.Source.(*volume.Reader); still {
		if cloned, err := r.CloneTo(w); cloned || err != nil {
			return err
		}
	}
	return copyData(ctx, w, src)
}

// copyData writes what a source holds, leaving out what is zero.
func copyData(ctx context.Context, w io.WriterAt, src snapshot.Source) error {
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < src.Size(); {
		start, end, err := src.NextData(off)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find data at %d: %w", off, err)
		}
		for off = start; off < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(int64(len(buf)), end-off)]
			if n, err := src.ReadAt(part, off); err != nil && (n < len(part) || !errors.Is(err, io.EOF)) {
				return fmt.Errorf("read at %d: %w", off, err)
			}
			if !bytes.Equal(part, zero[:len(part)]) {
				if _, err := w.WriteAt(part, off); err != nil {
					return err
				}
			}
			off += int64(len(part))
		}
	}
	return nil
}
