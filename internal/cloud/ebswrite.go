package cloud

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/upload"
)

// The limits of writing snapshots.
// https://docs.aws.amazon.com/ebs/latest/APIReference/API_StartSnapshot.html
const (
	maxUploads          = 100   // pending in a region
	maxUploadSize       = 65536 // GiB
	maxUploadText       = 255
	maxDirectToken      = 255
	minUploadTimeout    = 10 // minutes
	maxUploadTimeout    = 4320
	normalUploadTimeout = 60
)

// StartSnapshot begins a snapshot that the client writes block by block. Where it
// writes none, it has its parent's.
func (c *Cloud) StartSnapshot(ctx context.Context, in *ebsapi.StartSnapshotInput) (*ebsapi.StartSnapshotOutput, error) {
	if err := checkUpload(in); err != nil {
		return nil, err
	}
	tags, err := directTags(in.Tags)
	if err != nil {
		return nil, err
	}
	s := from(ctx).Scope
	params := *in
	params.ClientToken = nil
	var snap *state.Snapshot
	err = c.db.Update(func(tx *state.Tx) error {
		ids, err := c.once(tx, s, "StartSnapshot", directToken(in.ClientToken), params, func() ([]string, error) {
			snap, err := c.planUpload(tx, s, in)
			if err != nil {
				return nil, err
			}
			snap.Tags = tags
			return []string{snap.ID}, c.beginUpload(tx, snap)
		})
		if err != nil {
			return err
		}
		snap, err = directSnapshot(tx, s, &ids[0])
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(snap))
	out := &ebsapi.StartSnapshotOutput{
		SnapshotId: &snap.ID, OwnerId: &snap.Account, Status: ebstypes.Status(snap.State), StartTime: aws.Time(snap.Created),
		VolumeSize: aws.Int64(int64(snap.VolumeSize)), BlockSize: aws.Int32(snapshot.BlockSize), SseType: ebstypes.SSETypeNone,
	}
	if snap.Description != "" {
		out.Description = &snap.Description
	}
	if snap.Upload != nil && snap.Upload.Parent != "" {
		out.ParentSnapshotId = &snap.Upload.Parent
	}
	for _, t := range tagList(snap.Tags) {
		out.Tags = append(out.Tags, ebstypes.Tag{Key: t.Key, Value: t.Value})
	}
	return out, nil
}

// checkUpload refuses what needs no look at the state.
func checkUpload(in *ebsapi.StartSnapshotInput) error {
	size, timeout := aws.ToInt64(in.VolumeSize), cmp.Or(aws.ToInt32(in.Timeout), normalUploadTimeout)
	switch {
	case size < 1 || size > maxUploadSize:
		return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidVolumeSize, "VolumeSize is %d GiB; it is from 1 to %d.", size, maxUploadSize)
	case in.Encrypted != nil && in.ParentSnapshotId != nil:
		return ebsWrong("Encrypted and ParentSnapshotId can't be given together.")
	case aws.ToBool(in.Encrypted) || in.KmsKeyArn != nil:
		return ebsWrong("Encrypted snapshots are not supported here. Leave Encrypted and KmsKeyArn out, and encrypt the disk that the data folder is on.")
	case in.Timeout != nil && *in.Timeout == 0 || timeout < minUploadTimeout || timeout > maxUploadTimeout:
		return ebsWrong("Timeout is %d minutes; it is from %d to %d.", aws.ToInt32(in.Timeout), minUploadTimeout, maxUploadTimeout)
	case len(aws.ToString(in.Description)) > maxUploadText:
		return ebsWrong("Description has at most %d characters.", maxUploadText)
	case in.ClientToken != nil && (*in.ClientToken == "" || len(*in.ClientToken) > maxDirectToken):
		return ebsWrong("ClientToken has from 1 to %d characters.", maxDirectToken)
	}
	return nil
}

func directTags(list []ebstypes.Tag) (map[string]string, error) {
	tags := map[string]string{}
	plain := make([]types.Tag, len(list))
	for i, t := range list {
		plain[i] = types.Tag{Key: t.Key, Value: t.Value}
	}
	return tags, asEBS(setTags(tags, plain), ebstypes.ValidationExceptionReasonInvalidTag)
}

// directToken makes a client token as short as EC2's, which are what is kept.
func directToken(token *string) *string {
	if token == nil || len(*token) <= 64 {
		return token
	}
	sum := sha256.Sum256([]byte(*token))
	return aws.String(hex.EncodeToString(sum[:]))
}

// planUpload makes the record of a snapshot to be uploaded, and holds its parent.
func (c *Cloud) planUpload(tx *state.Tx, s state.Scope, in *ebsapi.StartSnapshotInput) (*state.Snapshot, error) {
	snaps, err := state.List[state.Snapshot](tx, s)
	if err != nil {
		return nil, err
	}
	pending := 0
	for _, other := range snaps {
		if other.Upload != nil && other.State == state.SnapshotPending && !other.Deleted {
			pending++
		}
	}
	if pending >= maxUploads {
		return nil, ebsFail(ebsConcurrent, "", "%d snapshots are being written; complete or delete some first.", pending)
	}
	snap := &state.Snapshot{
		Meta: c.meta(s, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: int32(*in.VolumeSize),
		Description: aws.ToString(in.Description), Upload: &state.Upload{Timeout: cmp.Or(aws.ToInt32(in.Timeout), normalUploadTimeout)},
	}
	snap.Lineage = snap.ID
	if in.ParentSnapshotId == nil {
		return snap, nil
	}
	parent, err := directSnapshot(tx, s, in.ParentSnapshotId)
	if err != nil {
		return nil, err
	}
	if parent.State != state.SnapshotCompleted {
		return nil, notInState(parent, state.SnapshotCompleted)
	}
	if parent.VolumeSize > snap.VolumeSize {
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidVolumeSize, "VolumeSize is %d GiB, and the parent's is %d: it can't be smaller.", snap.VolumeSize, parent.VolumeSize)
	}
	snap.Upload.Parent, snap.Lineage = parent.ID, snapshotLineage(parent)
	parent.Copying = append(parent.Copying, copyName(snap)) // its data stays for this one
	return snap, state.Put(tx, parent)
}

// PutSnapshotBlock writes one block. When it is answered, the block outlives the
// daemon; CompleteSnapshot sees to the rest.
func (c *Cloud) PutSnapshotBlock(ctx context.Context, in *ebsapi.PutSnapshotBlockInput) (*ebsapi.PutSnapshotBlockOutput, error) {
	data, sum, err := checkBlock(in)
	if err != nil {
		return nil, err
	}
	snap, err := c.writable(ctx, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	if index := int64(*in.BlockIndex); index < 0 || index >= int64(snap.VolumeSize)*gib/snapshot.BlockSize {
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidBlock, "Block %d is outside the volume of %d GiB.", index, snap.VolumeSize)
	}
	done, err := c.blockLoad.begin(snap.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	u, err := c.uploads.open(c.dir, snap.ID)
	if err != nil {
		return nil, err
	}
	progress := int(aws.ToInt32(in.Progress))
	if err := u.Put(int64(*in.BlockIndex), data, sum, progress, c.now()); err != nil {
		return nil, notPut(snap, err)
	}
	c.noteProgress(snap, progress)
	return &ebsapi.PutSnapshotBlockOutput{
		Checksum: aws.String(base64.StdEncoding.EncodeToString(sum[:])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	}, nil
}

// checkBlock gives the block in a request if it is what the request says.
func checkBlock(in *ebsapi.PutSnapshotBlockInput) (data []byte, sum upload.Digest, err error) {
	p := aws.ToInt32(in.Progress)
	switch {
	case in.BlockIndex == nil || in.Checksum == nil || in.DataLength == nil:
		return nil, sum, ebsWrong("BlockIndex, Checksum and DataLength must be given.")
	case *in.DataLength != snapshot.BlockSize:
		return nil, sum, ebsWrong("DataLength is %d; a block has %d bytes.", *in.DataLength, snapshot.BlockSize)
	case p < 0 || p > 100:
		return nil, sum, ebsWrong("Progress is %d; it is from 0 to 100.", p)
	}
	if err := checkAlgorithm(in.ChecksumAlgorithm); err != nil {
		return nil, sum, err
	}
	data = make([]byte, snapshot.BlockSize+1)
	n, err := io.ReadFull(in.BlockData, data)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n != snapshot.BlockSize {
		return nil, sum, ebsWrong("The request has %d bytes of data or more; a block has %d.", n, snapshot.BlockSize)
	}
	data = data[:n]
	if sum = sha256.Sum256(data); base64.StdEncoding.EncodeToString(sum[:]) != *in.Checksum {
		return nil, sum, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidBlock, "The checksum of the data is not '%s'.", *in.Checksum)
	}
	return data, sum, nil
}

func checkAlgorithm(a ebstypes.ChecksumAlgorithm) error {
	if a != ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256 {
		return ebsWrong("ChecksumAlgorithm is '%s'; only SHA256 is supported.", a)
	}
	return nil
}

// writable reads a snapshot that blocks can be put into.
func (c *Cloud) writable(ctx context.Context, id *string) (snap *state.Snapshot, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		snap, err = directSnapshot(tx, from(ctx).Scope, id)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case snap.State != state.SnapshotPending:
		return nil, notInState(snap, state.SnapshotPending)
	case snap.Upload == nil:
		return nil, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidSnapshotId, "The snapshot '%s' was not begun by StartSnapshot.", snap.ID)
	case snap.Upload.Sealed != nil:
		return nil, sealedAlready(snap)
	}
	return snap, nil
}

func sealedAlready(snap *state.Snapshot) error {
	return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidSnapshotId, "The snapshot '%s' is being completed and takes no more blocks.", snap.ID)
}

func notPut(snap *state.Snapshot, err error) error {
	switch {
	case errors.Is(err, upload.ErrConflict):
		return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonConflictingBlockUpdate, "%v of the snapshot '%s'.", err, snap.ID)
	case errors.Is(err, upload.ErrSealed):
		return sealedAlready(snap)
	}
	return diskFull(err)
}

// CompleteSnapshot ends the writing of a snapshot: all its blocks are on the disk
// when it answers, and its worker makes the snapshot of them.
func (c *Cloud) CompleteSnapshot(ctx context.Context, in *ebsapi.CompleteSnapshotInput) (*ebsapi.CompleteSnapshotOutput, error) {
	said, err := sealOf(in)
	if err != nil {
		return nil, err
	}
	snap, err := c.writable(ctx, in.SnapshotId)
	if err != nil {
		return c.completedBefore(ctx, in, said, err)
	}
	u, err := c.uploads.open(c.dir, snap.ID)
	if err != nil {
		return nil, err
	}
	if err := u.Seal(func(all *upload.Contents) error { return checkSeal(all, said) }); err != nil {
		if errors.Is(err, upload.ErrDamaged) {
			err = errors.Join(err, c.failUpload(snap, "its blocks could not be written to the disk: "+err.Error()))
		}
		return nil, diskFull(err)
	}
	err = c.db.Update(func(tx *state.Tx) error {
		now, err := directSnapshot(tx, snap.Scope(), &snap.ID)
		if err != nil {
			return err
		}
		if now.State != state.SnapshotPending {
			return notInState(now, state.SnapshotPending)
		}
		now.Upload.Sealed = &said
		return state.Put(tx, now)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(snap))
	return &ebsapi.CompleteSnapshotOutput{Status: ebstypes.StatusPending}, nil
}

// sealOf reads what a client says of all blocks.
func sealOf(in *ebsapi.CompleteSnapshotInput) (state.Seal, error) {
	said := state.Seal{Blocks: aws.ToInt32(in.ChangedBlocksCount), Checksum: aws.ToString(in.Checksum)}
	if in.ChangedBlocksCount == nil || said.Blocks < 0 {
		return said, ebsWrong("ChangedBlocksCount must be given, and is at least 0.")
	}
	if in.Checksum == nil {
		return said, nil
	}
	if err := checkAlgorithm(in.ChecksumAlgorithm); err != nil {
		return said, err
	}
	if m := in.ChecksumAggregationMethod; m != ebstypes.ChecksumAggregationMethodChecksumAggregationLinear {
		return said, ebsWrong("ChecksumAggregationMethod is '%s'; only LINEAR is supported.", m)
	}
	return said, nil
}

// checkSeal compares what a client says with what there is.
func checkSeal(all *upload.Contents, said state.Seal) error {
	if all.Len() != int(said.Blocks) {
		return ebsWrong("ChangedBlocksCount is %d, and %d blocks were written. Write what is missing, and complete it again.", said.Blocks, all.Len())
	}
	if said.Checksum == "" {
		if all.Doubtful() {
			return ebsWrong("This machine was cut off while blocks were written, and may have lost some. Complete the snapshot with a checksum, which tells, or write all blocks again.")
		}
		return nil
	}
	if sum := all.Sum(); base64.StdEncoding.EncodeToString(sum[:]) != said.Checksum {
		return ebsWrong("The checksum of the %d blocks that were written is not '%s'. Write what differs, and complete it again.", all.Len(), said.Checksum)
	}
	return nil
}

// completedBefore answers a repeated request as the first one.
func (c *Cloud) completedBefore(ctx context.Context, in *ebsapi.CompleteSnapshotInput, said state.Seal, refused error) (*ebsapi.CompleteSnapshotOutput, error) {
	var snap *state.Snapshot
	err := c.db.View(func(tx *state.Tx) (err error) {
		snap, err = directSnapshot(tx, from(ctx).Scope, in.SnapshotId)
		return err
	})
	if err != nil {
		return nil, err
	}
	if snap.Upload == nil || snap.Upload.Sealed == nil || *snap.Upload.Sealed != said {
		return nil, refused
	}
	return &ebsapi.CompleteSnapshotOutput{Status: ebstypes.Status(snap.State)}, c.tryAgain(snap)
}

// noteProgress shows how far the client says that it is, at most twice a second.
func (c *Cloud) noteProgress(snap *state.Snapshot, percent int) {
	if percent <= snap.Progress || !c.uploads.due(snap.ID, 500*time.Millisecond) {
		return
	}
	err := amend(c, jobOf(snap), func(_ *state.Tx, s *state.Snapshot) error {
		if s.State == state.SnapshotPending {
			s.Progress = min(99, max(s.Progress, percent))
		}
		return nil
	})
	if err != nil {
		c.log.Warn("snapshot progress", "snapshot", snap.ID, "err", err)
	}
}
