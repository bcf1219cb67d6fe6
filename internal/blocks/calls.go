package blocks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"golang.org/x/sync/errgroup"
)

// block is one of a list: where it is, and the token by which it can be read.
// Without a token it is all zeros.
type block struct {
	index int32
	token string
}

// lister yields blocks in the order of their indices until one is refused, and
// returns what broke the listing.
type lister func(ctx context.Context, yield func(block) bool) error

// pageSize is the most that the endpoint gives at once.
const pageSize = 10000

// sizeOf returns the size of a snapshot's volume, in GiB.
func sizeOf(ctx context.Context, e Endpoint, g *gate, snapshot string) (int64, error) {
	out, err := e.Blocks.ListSnapshotBlocks(ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: &snapshot, MaxResults: aws.Int32(100)}, g.retryer)
	if err != nil {
		return 0, err
	}
	if size := aws.ToInt32(out.BlockSize); size != 0 && size != Size {
		return 0, fmt.Errorf("%w: blocks of %d bytes", ErrFormat, size)
	}
	return aws.ToInt64(out.VolumeSize), nil
}

// allOf lists the blocks of a snapshot.
func allOf(e Endpoint, g *gate, snapshot string) lister {
	return func(ctx context.Context, yield func(block) bool) error {
		in := &ebs.ListSnapshotBlocksInput{SnapshotId: &snapshot, MaxResults: aws.Int32(pageSize)}
		order := inOrder{}
		for {
			out, err := e.Blocks.ListSnapshotBlocks(ctx, in, g.retryer)
			if err != nil {
				return err
			}
			for _, b := range out.Blocks {
				if err := order.next(aws.ToInt32(b.BlockIndex)); err != nil {
					return err
				}
				if !yield(block{aws.ToInt32(b.BlockIndex), aws.ToString(b.BlockToken)}) {
					return nil
				}
			}
			if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
				return nil
			}
		}
	}
}

// changedSince lists the blocks of a snapshot that another one has otherwise.
func changedSince(e Endpoint, g *gate, first, snapshot string) lister {
	return func(ctx context.Context, yield func(block) bool) error {
		in := &ebs.ListChangedBlocksInput{FirstSnapshotId: &first, SecondSnapshotId: &snapshot, MaxResults: aws.Int32(pageSize)}
		order := inOrder{}
		for {
			out, err := e.Blocks.ListChangedBlocks(ctx, in, g.retryer)
			if err != nil {
				return err
			}
			for _, b := range out.ChangedBlocks {
				if err := order.next(aws.ToInt32(b.BlockIndex)); err != nil {
					return err
				}
				if !yield(block{aws.ToInt32(b.BlockIndex), aws.ToString(b.SecondBlockToken)}) {
					return nil
				}
			}
			if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
				return nil
			}
		}
	}
}

// inOrder holds a listing to its order: what follows relies on it.
type inOrder struct {
	any  bool
	last int32
}

func (o *inOrder) next(index int32) error {
	if index < 0 || o.any && index <= o.last {
		return fmt.Errorf("%w: block %d is listed after block %d", ErrCorrupt, index, o.last)
	}
	o.any, o.last = true, index
	return nil
}

// readTries is how often a block is read that comes broken. The SDK tries again
// by itself only until the answer's head has come.
const readTries = 4

// get reads a block into buf, whole and checked.
func get(ctx context.Context, e Endpoint, g *gate, snapshot string, b block, buf []byte) ([sha256.Size]byte, error) {
	if b.token == "" {
		clear(buf)
		return sha256.Sum256(buf), nil
	}
	var err error
	for try := range readTries {
		var sum [sha256.Size]byte
		var again bool
		if sum, again, err = getOnce(ctx, e, g, snapshot, b, buf); err == nil || !again || ctx.Err() != nil {
			return sum, err
		}
		if err := pause(ctx, time.Duration(try+1)*100*time.Millisecond); err != nil {
			return sum, err
		}
	}
	return [sha256.Size]byte{}, err
}

func getOnce(ctx context.Context, e Endpoint, g *gate, snapshot string, b block, buf []byte) (sum [sha256.Size]byte, again bool, err error) {
	out, err := e.Blocks.GetSnapshotBlock(ctx, &ebs.GetSnapshotBlockInput{SnapshotId: &snapshot, BlockIndex: &b.index, BlockToken: &b.token}, g.retryer)
	if err != nil {
		return sum, false, err
	}
	_, err = io.ReadFull(out.BlockData, buf)
	if err == nil { // nothing may follow
		var n int
		if n, err = out.BlockData.Read(make([]byte, 1)); n == 0 && errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("%w: it is longer than a block", ErrCorrupt)
		}
	}
	_ = out.BlockData.Close() // it was read to its end, or is of no use
	if err != nil {
		return sum, true, fmt.Errorf("block %d: %w", b.index, err)
	}
	sum = sha256.Sum256(buf)
	if want := aws.ToString(out.Checksum); want != base64.StdEncoding.EncodeToString(sum[:]) {
		return sum, true, fmt.Errorf("%w: block %d of %s comes with a checksum that isn't its own", ErrCorrupt, b.index, snapshot)
	}
	return sum, false, nil
}

// put writes a block.
func put(ctx context.Context, e Endpoint, g *gate, snapshot string, index int32, sum [sha256.Size]byte, data []byte, percent int32) error {
	checksum := base64.StdEncoding.EncodeToString(sum[:])
	out, err := e.Blocks.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: &snapshot, BlockIndex: &index, BlockData: bytes.NewReader(data), DataLength: aws.Int32(Size),
		Checksum: &checksum, ChecksumAlgorithm: types.ChecksumAlgorithmChecksumAlgorithmSha256, Progress: &percent,
	}, g.retryer)
	if err != nil {
		return err
	}
	if got := aws.ToString(out.Checksum); got != "" && got != checksum {
		return fmt.Errorf("%w: the endpoint took block %d for something else", ErrCorrupt, index)
	}
	return nil
}

// each does work on all that list yields, side by side as the gate allows, and
// stops at the first failure. The buffer holds a block and is the call's own.
func each[T any](ctx context.Context, g *gate, workers int, list func(ctx context.Context, yield func(T) bool) error, work func(ctx context.Context, job T, buf []byte) error) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan T)
	group.Go(func() error {
		defer close(jobs)
		err := list(ctx, func(job T) bool {
			select {
			case jobs <- job:
				return true
			case <-ctx.Done():
				return false
			}
		})
		if err == nil {
			err = ctx.Err() // else a list that was cut short would pass for whole
		}
		return err
	})
	for range workers {
		group.Go(func() error {
			var buf []byte // most workers of a small transfer never need one
			for job := range jobs {
				if err := g.enter(ctx); err != nil {
					return err
				}
				if buf == nil {
					buf = make([]byte, Size)
				}
				err := work(ctx, job, buf)
				g.leave(err == nil)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// pause waits, or returns the context's end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isZero tells a block without anything in it.
func isZero(b []byte) bool {
	for len(b) >= len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// zeros is compared with and written, and never changed.
var zeros [64 << 10]byte
