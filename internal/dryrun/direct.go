package dryrun

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// blockSize is that of the EBS direct APIs, in bytes.
const blockSize = 512 << 10

// applyDirect foresees what the EBS direct APIs write.
func (c *Cloud) applyDirect(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *ebs.StartSnapshotInput:
		return c.startSnapshot(ctx, in)
	case *ebs.PutSnapshotBlockInput:
		_, err := c.pending(ctx, aws.ToString(in.SnapshotId))
		return &ebs.PutSnapshotBlockOutput{Checksum: in.Checksum, ChecksumAlgorithm: in.ChecksumAlgorithm}, err
	case *ebs.CompleteSnapshotInput:
		s, err := c.pending(ctx, aws.ToString(in.SnapshotId))
		if err != nil {
			return nil, err
		}
		s.State, s.Progress = types.SnapshotStateCompleted, aws.String("100%")
		return &ebs.CompleteSnapshotOutput{Status: ebstypes.StatusCompleted}, nil
	}
	return nil, nil
}

func (c *Cloud) startSnapshot(ctx context.Context, in *ebs.StartSnapshotInput) (any, error) {
	if in.ParentSnapshotId != nil {
		parent, err := c.snapshot(ctx, *in.ParentSnapshotId)
		switch {
		case err != nil:
			return nil, refuse("ResourceNotFoundException", "The snapshot '%s' does not exist.", *in.ParentSnapshotId)
		case parent.State != types.SnapshotStateCompleted:
			return nil, refuse("ValidationException", "The snapshot '%s' is in the state '%s', not 'completed'.", *in.ParentSnapshotId, parent.State)
		}
	}
	var tags []types.Tag
	for _, t := range in.Tags {
		tags = append(tags, types.Tag{Key: t.Key, Value: t.Value})
	}
	s := c.newSnapshot(aws.String("vol-ffffffff"), aws.Int32(int32(aws.ToInt64(in.VolumeSize))), in.Description, clone(tags))
	s.State, s.Progress = types.SnapshotStatePending, aws.String("0%")
	return &ebs.StartSnapshotOutput{
		SnapshotId: aws.String(*s.SnapshotId), VolumeSize: in.VolumeSize, BlockSize: aws.Int32(blockSize), Status: ebstypes.StatusPending,
		StartTime: s.StartTime, ParentSnapshotId: in.ParentSnapshotId, Description: in.Description, Tags: in.Tags,
	}, nil
}

// pending finds a snapshot that is being written.
func (c *Cloud) pending(ctx context.Context, id string) (*types.Snapshot, error) {
	s, err := c.snapshot(ctx, id)
	switch {
	case err != nil:
		return nil, refuse("ResourceNotFoundException", "The snapshot '%s' does not exist.", id)
	case s.State != types.SnapshotStatePending:
		return nil, refuse("ValidationException", "The snapshot '%s' is in the state '%s', not 'pending'.", id, s.State)
	}
	return s, nil
}

// Often tells how often a step is done that stands for many; else it is empty.
func (s Step) Often() string {
	_, puts := s.Input.(*ebs.PutSnapshotBlockInput)
	switch {
	case puts && s.Times == 0:
		return "for each block that differs by then"
	case puts:
		return fmt.Sprintf("for %d blocks of 512 KiB", s.Times)
	}
	return ""
}

// put counts the blocks that are put into one snapshot: each a step would make a
// plan of thousands. What is in them isn't kept.
func (p *Plan) put(s Step, in *ebs.PutSnapshotBlockInput) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.steps {
		if first, ok := p.steps[k].Input.(*ebs.PutSnapshotBlockInput); ok && aws.ToString(first.SnapshotId) == aws.ToString(in.SnapshotId) {
			p.steps[k].Times++
			return
		}
	}
	s.Input, s.Times = &ebs.PutSnapshotBlockInput{SnapshotId: aws.String(aws.ToString(in.SnapshotId))}, 1
	if aws.ToInt32(in.BlockIndex) < 0 {
		s.Times = 0 // nobody knows yet
	}
	p.steps = append(p.steps, s)
}
