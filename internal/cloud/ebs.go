package cloud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// The limits of the EBS direct APIs.
// https://docs.aws.amazon.com/ebs/latest/APIReference/API_ListSnapshotBlocks.html
const (
	minBlockResults = 100
	maxBlockResults = 10_000
	// maxBlockRequests is how many blocks of one snapshot are read or written at
	// a time. AWS bounds them by the second; here it is memory that is bounded.
	maxBlockRequests = 128
)

func (c *Cloud) registerDirect() {
	c.ebsActions = map[string]action{
		"ListSnapshotBlocks": handle(c.ListSnapshotBlocks),
		"ListChangedBlocks":  handle(c.ListChangedBlocks),
		"GetSnapshotBlock":   handle(c.GetSnapshotBlock),
		"StartSnapshot":      handle(c.StartSnapshot),
		"PutSnapshotBlock":   handle(c.PutSnapshotBlock),
		"CompleteSnapshot":   handle(c.CompleteSnapshot),
	}
}

// ebsSnapshotID is how the EBS direct APIs take IDs; EC2 is stricter.
var ebsSnapshotID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^snap-[0-9a-f]{1,59}$`) })

// directSnapshot reads a snapshot for the EBS direct APIs.
func directSnapshot(tx *state.Tx, s state.Scope, id *string) (*state.Snapshot, error) {
	if !ebsSnapshotID().MatchString(aws.ToString(id)) {
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidSnapshotId, "'%s' is not a snapshot ID.", aws.ToString(id))
	}
	snap, err := state.Get[state.Snapshot](tx, s, *id)
	if errors.Is(err, state.ErrNotFound) || err == nil && snap.Deleted {
		return nil, ebsFail(ebsNotFound, ebstypes.ResourceNotFoundExceptionReasonSnapshotNotFound, "The snapshot '%s' does not exist.", *id)
	}
	return snap, err
}

// readable reads a snapshot whose blocks can be read.
func (c *Cloud) readable(ctx context.Context, id *string) (snap *state.Snapshot, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		snap, err = directSnapshot(tx, from(ctx).Scope, id)
		if err == nil && snap.State != state.SnapshotCompleted {
			err = notInState(snap, state.SnapshotCompleted)
		}
		return err
	})
	return snap, err
}

func notInState(snap *state.Snapshot, want string) *apiError {
	why := ""
	if snap.Message != "" {
		why = ": " + snap.Message
	}
	return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidSnapshotId, "The snapshot '%s' is in the state '%s', not '%s'%s.", snap.ID, snap.State, want, why)
}

// blockPage is where a list of blocks begins and how long it may be.
func (c *Cloud) blockPage(token *string, start, most *int32, kind byte, s state.Scope, snaps ...string) (from int64, limit int, err error) {
	limit = maxBlockResults
	if most != nil {
		if limit = int(*most); limit < minBlockResults || limit > maxBlockResults {
			return 0, 0, ebsWrong("MaxResults is %d; it is from %d to %d.", limit, minBlockResults, maxBlockResults)
		}
	}
	if token != nil {
		from, err = c.openPage(*token, kind, s, snaps...)
		return from, limit, err
	}
	if from = int64(aws.ToInt32(start)); from < 0 {
		return 0, 0, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidBlock, "StartingBlockIndex is %d; it is at least 0.", from)
	}
	return from, limit, nil
}

// ListSnapshotBlocks lists the blocks of a snapshot that hold data, with the
// tokens to get them.
func (c *Cloud) ListSnapshotBlocks(ctx context.Context, in *ebsapi.ListSnapshotBlocksInput) (*ebsapi.ListSnapshotBlocksOutput, error) {
	snap, err := c.readable(ctx, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	s := from(ctx).Scope
	start, limit, err := c.blockPage(in.NextToken, in.StartingBlockIndex, in.MaxResults, tokenBlocks, s, snap.ID)
	if err != nil {
		return nil, err
	}
	until := c.now().Add(blockTokenLife).UTC().Truncate(time.Second)
	out := &ebsapi.ListSnapshotBlocksOutput{
		BlockSize: aws.Int32(snapshot.BlockSize), VolumeSize: aws.Int64(int64(snap.VolumeSize)), ExpiryTime: &until, Blocks: []ebstypes.Block{},
	}
	err = c.snapshots.Blocks(ctx, snap.ID, start, func(index int64, _ snapshot.Digest) error {
		if len(out.Blocks) == limit {
			out.NextToken = aws.String(c.tokens.sign(tokenBlocks, index, c.now().Add(pageTokenLife), s, snap.ID))
			return snapshot.ErrStop
		}
		out.Blocks = append(out.Blocks, ebstypes.Block{
			BlockIndex: aws.Int32(int32(index)), BlockToken: aws.String(c.tokens.sign(tokenBlock, index, until, s, snap.ID)),
		})
		return nil
	})
	if err != nil {
		return nil, unreadable(err)
	}
	return out, nil
}

// ListChangedBlocks lists the blocks in which two snapshots of one lineage
// differ. One without a token holds only zeros in that snapshot.
func (c *Cloud) ListChangedBlocks(ctx context.Context, in *ebsapi.ListChangedBlocksInput) (*ebsapi.ListChangedBlocksOutput, error) {
	second, err := c.readable(ctx, in.SecondSnapshotId)
	if err != nil {
		return nil, err
	}
	if in.FirstSnapshotId == nil {
		return nil, ebsWrong("FirstSnapshotId must be given; ListSnapshotBlocks lists all blocks of one snapshot.")
	}
	first, err := c.readable(ctx, in.FirstSnapshotId)
	if err != nil {
		return nil, err
	}
	if snapshotLineage(first) != snapshotLineage(second) {
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonUnrelatedSnapshots, "The snapshots '%s' and '%s' are not of one volume, nor is one the other's ancestor.", first.ID, second.ID)
	}
	s := from(ctx).Scope
	start, limit, err := c.blockPage(in.NextToken, in.StartingBlockIndex, in.MaxResults, tokenChanged, s, first.ID, second.ID)
	if err != nil {
		return nil, err
	}
	until := c.now().Add(blockTokenLife).UTC().Truncate(time.Second)
	out := &ebsapi.ListChangedBlocksOutput{
		BlockSize: aws.Int32(snapshot.BlockSize), VolumeSize: aws.Int64(int64(second.VolumeSize)), ExpiryTime: &until, ChangedBlocks: []ebstypes.ChangedBlock{},
	}
	token := func(index int64, sum snapshot.Digest, snap string) *string {
		if sum == (snapshot.Digest{}) {
			return nil
		}
		return aws.String(c.tokens.sign(tokenBlock, index, until, s, snap))
	}
	err = c.snapshots.Changed(ctx, first.ID, second.ID, start, func(index int64, a, b snapshot.Digest) error {
		if len(out.ChangedBlocks) == limit {
			out.NextToken = aws.String(c.tokens.sign(tokenChanged, index, c.now().Add(pageTokenLife), s, first.ID, second.ID))
			return snapshot.ErrStop
		}
		out.ChangedBlocks = append(out.ChangedBlocks, ebstypes.ChangedBlock{
			BlockIndex: aws.Int32(int32(index)), FirstBlockToken: token(index, a, first.ID), SecondBlockToken: token(index, b, second.ID),
		})
		return nil
	})
	if err != nil {
		return nil, unreadable(err)
	}
	return out, nil
}

// GetSnapshotBlock reads one block of a snapshot.
func (c *Cloud) GetSnapshotBlock(ctx context.Context, in *ebsapi.GetSnapshotBlockInput) (*ebsapi.GetSnapshotBlockOutput, error) {
	if in.BlockIndex == nil || in.BlockToken == nil {
		return nil, ebsWrong("BlockIndex and BlockToken must be given.")
	}
	snap, err := c.readable(ctx, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	if index, wrong := c.tokens.open(*in.BlockToken, tokenBlock, c.now(), from(ctx).Scope, snap.ID); wrong != "" || index != int64(*in.BlockIndex) {
		if wrong == "" {
			wrong = "is for another block"
		}
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidBlockToken, "The block token %s; list the blocks again.", wrong)
	}
	done, err := c.blockLoad.begin(snap.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	data, err := c.snapshots.ReadBlock(ctx, snap.ID, int64(*in.BlockIndex), nil)
	if err != nil {
		return nil, unreadable(err)
	}
	if len(data) < snapshot.BlockSize { // the last one of a volume whose size is no multiple
		data = append(make([]byte, 0, snapshot.BlockSize), data...)[:snapshot.BlockSize]
	}
	return &ebsapi.GetSnapshotBlockOutput{
		BlockData: blockData{bytes.NewReader(data), data}, DataLength: aws.Int32(int32(len(data))),
		Checksum: aws.String(checksum(data)), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	}, nil
}

// blockData is a block to be read, which the protocol needn't copy.
type blockData struct {
	*bytes.Reader
	all []byte
}

func (blockData) Close() error { return nil }

// checksum is how the EBS direct APIs write that of a block.
func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// unreadable says that a snapshot was deleted since it was looked up, or what is
// wrong with it.
func unreadable(err error) error {
	if errors.Is(err, snapshot.ErrNotFound) {
		return ebsFail(ebsNotFound, ebstypes.ResourceNotFoundExceptionReasonSnapshotNotFound, "%v", err)
	}
	if errors.Is(err, snapshot.ErrCorrupt) {
		return ebsFail(ebsInternal, "", "%v; `stead cloud store check --read-data` tells what else is", err)
	}
	return err
}

// blockLoad counts the blocks that are being read or written, by snapshot.
type blockLoad struct {
	mu    sync.Mutex
	count map[string]int
}

// begin counts one more until done, or refuses it.
func (l *blockLoad) begin(snap string) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[snap] >= maxBlockRequests {
		return nil, ebsFail(ebsThrottled, ebstypes.RequestThrottledExceptionReasonResourceLevelThrottle,
			"%d blocks of the snapshot '%s' are being read or written at a time; try again.", maxBlockRequests, snap)
	}
	if l.count == nil {
		l.count = make(map[string]int)
	}
	l.count[snap]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.count[snap]--; l.count[snap] == 0 {
			delete(l.count, snap)
		}
	}, nil
}
