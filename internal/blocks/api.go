package blocks

import (
	"context"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Size is that of a block, in bytes.
const Size = 512 << 10

const gib = 1 << 30

// API is what the package needs of the EBS direct APIs. *ebs.Client satisfies
// it.
type API interface {
	ListSnapshotBlocks(context.Context, *ebs.ListSnapshotBlocksInput, ...func(*ebs.Options)) (*ebs.ListSnapshotBlocksOutput, error)
	ListChangedBlocks(context.Context, *ebs.ListChangedBlocksInput, ...func(*ebs.Options)) (*ebs.ListChangedBlocksOutput, error)
	GetSnapshotBlock(context.Context, *ebs.GetSnapshotBlockInput, ...func(*ebs.Options)) (*ebs.GetSnapshotBlockOutput, error)
	StartSnapshot(context.Context, *ebs.StartSnapshotInput, ...func(*ebs.Options)) (*ebs.StartSnapshotOutput, error)
	PutSnapshotBlock(context.Context, *ebs.PutSnapshotBlockInput, ...func(*ebs.Options)) (*ebs.PutSnapshotBlockOutput, error)
	CompleteSnapshot(context.Context, *ebs.CompleteSnapshotInput, ...func(*ebs.Options)) (*ebs.CompleteSnapshotOutput, error)
}

// Snapshots is what the package needs of EC2, which alone tells what state a
// snapshot is in. *ec2.Client satisfies it.
type Snapshots interface {
	DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
	DeleteSnapshot(context.Context, *ec2.DeleteSnapshotInput, ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error)
}

// Compile-time proof that the SDK's clients serve.
var (
	_ API       = (*ebs.Client)(nil)
	_ Snapshots = (*ec2.Client)(nil)
)

// Endpoint is one side of a transfer: a region of a cloud.
type Endpoint struct {
	Blocks API
	EC2    Snapshots
	// Name tells it from others, in errors and in journals: "context lab,
	// eu-west-1".
	Name string
}

// Options are common to all transfers. The zero value is good.
type Options struct {
	// Parallel is how many blocks may be under way at once, at most. Default
	// and ceiling: 64.
	Parallel int
	// Progress is called now and then, from one goroutine at a time.
	Progress func(Progress)
	// Poll is the pause between two looks at a snapshot that is being
	// completed. Default: one second.
	Poll time.Duration
	// Plan makes a dry run of it, by endpoints that only foresee what is
	// changed: notes are read and not written, and an export writes nothing. A
	// copy, whose snapshots may not be there yet, puts a block of the index -1 in
	// the place of all, and says that as many are there.
	Plan bool
	Log  *slog.Logger
}

// Progress is how far a transfer has come.
type Progress struct {
	At     int64 // bytes of the volume that are done with, holes among them
	Size   int64 // bytes of the volume
	Moved  int64 // bytes that were read or written
	Reused int64 // bytes that an earlier try had done already
}

func (o Options) filled() Options {
	if o.Parallel <= 0 || o.Parallel > mostParallel {
		o.Parallel = mostParallel
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
