package cloud

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

func TestDirectStartRefusals(t *testing.T) {
	d := newDirect(t)
	big := d.made(ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(2)}, nil)
	pending := d.start(ebsapi.StartSnapshotInput{ClientToken: aws.String("a")})
	for reason, inputs := range map[string][]ebsapi.StartSnapshotInput{
		"INVALID_VOLUME_SIZE": {{VolumeSize: aws.Int64(0)}, {VolumeSize: aws.Int64(65537)}, {VolumeSize: aws.Int64(1), ParentSnapshotId: &big}},
		"INVALID_PARAMETER_VALUE": {
			{Timeout: aws.Int32(9)},
			{Timeout: aws.Int32(4321)},
			{Timeout: aws.Int32(0)},
			{Encrypted: aws.Bool(true)},
			{KmsKeyArn: aws.String("arn:aws:kms:us-east-1:1:key/1")},
			{Encrypted: aws.Bool(false), ParentSnapshotId: &big},
			{Description: aws.String(strings.Repeat("x", 256))},
			{ClientToken: aws.String(strings.Repeat("x", 256))},
		},
		"INVALID_TAG":         {{Tags: []ebstypes.Tag{{Key: aws.String("aws:x"), Value: aws.String("")}}}},
		"INVALID_SNAPSHOT_ID": {{ParentSnapshotId: aws.String("vol-1")}, {ParentSnapshotId: &pending}},
	} {
		for _, in := range inputs {
			if in.VolumeSize == nil {
				in.VolumeSize = aws.Int64(2)
			}
			_, err := d.ebs.StartSnapshot(t.Context(), &in)
			wantReason(t, err, "ValidationException", reason)
		}
	}
	_, err := d.ebs.StartSnapshot(t.Context(), &ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(1), ParentSnapshotId: aws.String("snap-00000000000000000")})
	wantReason(t, err, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
	_, err = d.ebs.StartSnapshot(t.Context(), &ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(3), ClientToken: aws.String("a")})
	wantCode(t, err, "ConflictException")
	long := ebsapi.StartSnapshotInput{ClientToken: aws.String(strings.Repeat("x", 255))}
	if a, b := d.start(long), d.start(long); a != b {
		t.Errorf("a long token gives %s and %s", a, b)
	}
	err = d.cloud.db.Update(func(tx *state.Tx) error {
		for range maxUploads - 2 {
			if err := state.Put(tx, &state.Snapshot{Meta: d.cloud.meta(testScope, "snap"), State: state.SnapshotPending, Upload: &state.Upload{Timeout: 60}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.ebs.StartSnapshot(t.Context(), &ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	wantCode(t, err, "ConcurrentLimitExceededException")
}

func TestDirectPutRefusals(t *testing.T) {
	d := newDirect(t)
	snap, data := d.start(ebsapi.StartSnapshotInput{}), noise(1)
	good := func() *ebsapi.PutSnapshotBlockInput {
		return &ebsapi.PutSnapshotBlockInput{
			SnapshotId: &snap, BlockIndex: aws.Int32(0), BlockData: bytes.NewReader(data), DataLength: aws.Int32(snapshot.BlockSize),
			Checksum: aws.String(checksum(data)), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
		}
	}
	for name, c := range map[string]struct {
		reason string
		change func(*ebsapi.PutSnapshotBlockInput)
	}{
		"index below":  {"INVALID_BLOCK", func(in *ebsapi.PutSnapshotBlockInput) { in.BlockIndex = aws.Int32(-1) }},
		"index past":   {"INVALID_BLOCK", func(in *ebsapi.PutSnapshotBlockInput) { in.BlockIndex = aws.Int32(2048) }},
		"checksum":     {"INVALID_BLOCK", func(in *ebsapi.PutSnapshotBlockInput) { in.Checksum = aws.String(checksum(filled(0))) }},
		"algorithm":    {"INVALID_PARAMETER_VALUE", func(in *ebsapi.PutSnapshotBlockInput) { in.ChecksumAlgorithm = "MD5" }},
		"short":        {"INVALID_PARAMETER_VALUE", func(in *ebsapi.PutSnapshotBlockInput) { in.BlockData = bytes.NewReader(data[:9]) }},
		"length":       {"INVALID_PARAMETER_VALUE", func(in *ebsapi.PutSnapshotBlockInput) { in.DataLength = aws.Int32(9) }},
		"progress":     {"INVALID_PARAMETER_VALUE", func(in *ebsapi.PutSnapshotBlockInput) { in.Progress = aws.Int32(101) }},
		"malformed ID": {"INVALID_SNAPSHOT_ID", func(in *ebsapi.PutSnapshotBlockInput) { in.SnapshotId = aws.String("snap-XYZ") }},
	} {
		t.Run(name, func(t *testing.T) {
			in := good()
			c.change(in)
			_, err := d.ebs.PutSnapshotBlock(t.Context(), in)
			wantReason(t, err, "ValidationException", c.reason)
		})
	}
	vol := makeVolume(t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	taken, err := d.ec2.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, d.tryPut(*taken.SnapshotId, 0, data), "ValidationException", "INVALID_SNAPSHOT_ID")
	// The body is not signed, but its checksum is.
	forged := d.client("us-east-1", "wrong")
	_, err = forged.PutSnapshotBlock(t.Context(), good())
	wantCode(t, err, "InvalidSignatureException")
	elsewhere := d.client("eu-west-1", testKeys.SecretAccessKey)
	_, err = elsewhere.PutSnapshotBlock(t.Context(), good())
	wantReason(t, err, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
}

// An encoded body is refused rather than stored as it is.
func TestDirectContentEncoding(t *testing.T) {
	r := httptest.NewRequest(http.MethodPut, "/snapshots/snap-1/blocks/0", http.NoBody)
	r.Header.Set("Content-Encoding", "gzip")
	_, decode, err := ebsProtocol{}.parse(r, nil)
	if err == nil {
		err = decode(new(ebsapi.PutSnapshotBlockInput))
	}
	var api *apiError
	if !errors.As(err, &api) || api.Reason != "INVALID_CONTENT_ENCODING" {
		t.Errorf("error %v", err)
	}
}

// Too many at a time are told to come again.
func TestDirectThrottle(t *testing.T) {
	d := newDirect(t)
	snap := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{0: noise(1)})
	page, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap})
	if err != nil {
		t.Fatal(err)
	}
	var ends []func()
	for range maxBlockRequests {
		end, err := d.cloud.blockLoad.begin(snap)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	_, err = d.get(snap, 0, *page.Blocks[0].BlockToken)
	wantReason(t, err, "RequestThrottledException", "RESOURCE_LEVEL_THROTTLE")
	for _, end := range ends {
		end()
	}
	if _, err := d.get(snap, 0, *page.Blocks[0].BlockToken); err != nil {
		t.Error(err)
	}
}
