package cloud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	rbintypes "github.com/aws/aws-sdk-go-v2/service/rbin/types"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// direct is a cloud with a clock and a client of its EBS direct APIs.
type direct struct {
	*timed
	dir Dir
	ebs *ebsapi.Client
}

func newDirect(t *testing.T) *direct {
	t.Helper()
	return openDirect(t, Dir(t.TempDir()), &clock{at: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)})
}

func openDirect(t *testing.T, dir Dir, k *clock) *direct {
	t.Helper()
	d := &direct{timed: openTimed(t, dir, k), dir: dir}
	d.ebs = d.client("us-east-1", testKeys.SecretAccessKey)
	return d
}

func (d *direct) client(region, secret string) *ebsapi.Client {
	srv := httptest.NewServer(d.cloud)
	d.t.Cleanup(srv.Close)
	return ebsapi.New(ebsapi.Options{
		Region: region, BaseEndpoint: &srv.URL, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, HTTPSignerV4: d.clock,
		Credentials: credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, secret, ""),
	})
}

// killed goes on with what the folder holds at this moment, as after kill -9: the
// first cloud closes nothing in it.
func (d *direct) killed() *direct {
	d.t.Helper()
	dir := Dir(d.t.TempDir())
	if err := os.CopyFS(string(dir), os.DirFS(string(d.dir))); err != nil {
		d.t.Fatal(err)
	}
	d.end()
	return openDirect(d.t, dir, d.clock)
}

func (d *direct) start(in ebsapi.StartSnapshotInput) string {
	d.t.Helper()
	if in.VolumeSize == nil {
		in.VolumeSize = aws.Int64(1)
	}
	out, err := d.ebs.StartSnapshot(d.t.Context(), &in)
	if err != nil {
		d.t.Fatal(err)
	}
	if out.Status != ebstypes.StatusPending || *out.BlockSize != snapshot.BlockSize || *out.OwnerId != DefaultAccount {
		d.t.Fatalf("begun: %+v", out)
	}
	return *out.SnapshotId
}

func (d *direct) tryPut(snap string, index int32, data []byte) error {
	_, err := d.ebs.PutSnapshotBlock(d.t.Context(), &ebsapi.PutSnapshotBlockInput{
		SnapshotId: &snap, BlockIndex: &index, BlockData: bytes.NewReader(data), DataLength: aws.Int32(int32(len(data))),
		Checksum: aws.String(checksum(data)), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	})
	return err
}

func (d *direct) put(snap string, blocks map[int32][]byte) {
	d.t.Helper()
	for index, data := range blocks {
		if err := d.tryPut(snap, index, data); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *direct) seal(snap string, blocks map[int32][]byte) (*ebsapi.CompleteSnapshotOutput, error) {
	h := sha256.New()
	for _, index := range slices.Sorted(maps.Keys(blocks)) {
		sum := sha256.Sum256(blocks[index])
		h.Write(sum[:])
	}
	return d.ebs.CompleteSnapshot(d.t.Context(), &ebsapi.CompleteSnapshotInput{
		SnapshotId: &snap, ChangedBlocksCount: aws.Int32(int32(len(blocks))), Checksum: aws.String(base64.StdEncoding.EncodeToString(h.Sum(nil))),
		ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear,
	})
}

func (d *direct) complete(snap string, blocks map[int32][]byte) {
	d.t.Helper()
	if _, err := d.seal(snap, blocks); err != nil {
		d.t.Fatal(err)
	}
	waitCompleted(d.t, d.ec2, snap)
}

// made uploads a snapshot.
func (d *direct) made(in ebsapi.StartSnapshotInput, blocks map[int32][]byte) string {
	d.t.Helper()
	snap := d.start(in)
	d.put(snap, blocks)
	d.complete(snap, blocks)
	return snap
}

// all reads a snapshot's blocks, by their tokens.
func (d *direct) all(snap string) map[int32][]byte {
	d.t.Helper()
	blocks := map[int32][]byte{}
	pages := ebsapi.NewListSnapshotBlocksPaginator(d.ebs, &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, MaxResults: aws.Int32(100)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		for _, b := range page.Blocks {
			data, err := d.get(snap, *b.BlockIndex, *b.BlockToken)
			if err != nil {
				d.t.Fatal(err)
			}
			blocks[*b.BlockIndex] = data
		}
	}
	return blocks
}

func (d *direct) get(snap string, index int32, token string) ([]byte, error) {
	out, err := d.ebs.GetSnapshotBlock(d.t.Context(), &ebsapi.GetSnapshotBlockInput{SnapshotId: &snap, BlockIndex: &index, BlockToken: &token})
	if err != nil {
		return nil, err
	}
	defer out.BlockData.Close()
	data, err := io.ReadAll(out.BlockData)
	if err == nil && (*out.Checksum != checksum(data) || int(*out.DataLength) != len(data) || len(data) != snapshot.BlockSize) {
		d.t.Errorf("block %d: %d bytes, said to be %d with checksum %s", index, len(data), *out.DataLength, *out.Checksum)
	}
	return data, err
}

func wantBlocks(t *testing.T, got, want map[int32][]byte) {
	t.Helper()
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Fatalf("blocks %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	for index := range want {
		if !bytes.Equal(got[index], want[index]) {
			t.Errorf("block %d is %x…, want %x…", index, got[index][:4], want[index][:4])
		}
	}
}

// wantReason checks an error's type and EBS's reason for it.
func wantReason(t *testing.T, err error, code, reason string) {
	t.Helper()
	wantCode(t, err, code)
	var got string
	var invalid *ebstypes.ValidationException
	var absent *ebstypes.ResourceNotFoundException
	var throttled *ebstypes.RequestThrottledException
	switch {
	case errors.As(err, &invalid):
		got = string(invalid.Reason)
	case errors.As(err, &absent):
		got = string(absent.Reason)
	case errors.As(err, &throttled):
		got = string(throttled.Reason)
	}
	if got != reason {
		t.Errorf("reason %q of %v, want %q", got, err, reason)
	}
}

func filled(b byte) []byte { return bytes.Repeat([]byte{b}, snapshot.BlockSize) }

func noise(seed uint64) []byte {
	data := make([]byte, snapshot.BlockSize)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(data)
	return data
}

// What is uploaded is read back, by both APIs, and volumes are made of it.
func TestDirectRoundTrip(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{0: noise(1), 7: noise(2), 2047: noise(3)}
	snap := d.start(ebsapi.StartSnapshotInput{
		Description: aws.String("disk"), Tags: []ebstypes.Tag{{Key: aws.String("k"), Value: aws.String("v")}}, Timeout: aws.Int32(10),
	})
	s := snapshotState(t, d.ec2, snap)
	if s.State != types.SnapshotStatePending || *s.VolumeSize != 1 || *s.Description != "disk" || len(s.Tags) != 1 || *s.VolumeId != noVolume {
		t.Errorf("pending, it is %+v", s)
	}
	_, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap})
	wantReason(t, err, "ValidationException", "INVALID_SNAPSHOT_ID")
	put := &ebsapi.PutSnapshotBlockInput{
		SnapshotId: &snap, BlockIndex: aws.Int32(7), BlockData: bytes.NewReader(blocks[7]), DataLength: aws.Int32(snapshot.BlockSize), Progress: aws.Int32(30),
		Checksum: aws.String(checksum(blocks[7])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	}
	out, err := d.ebs.PutSnapshotBlock(t.Context(), put)
	if err != nil || *out.Checksum != *put.Checksum {
		t.Fatal(out, err)
	}
	if s := snapshotState(t, d.ec2, snap); *s.Progress != "30%" {
		t.Errorf("progress %s", *s.Progress)
	}
	d.put(snap, blocks)
	d.complete(snap, blocks)
	wantBlocks(t, d.all(snap), blocks)
	vol := makeVolume(t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snap})
	f, err := os.Open(d.cloud.volumes.Path(vol))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for index, want := range blocks {
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, int64(index)*snapshot.BlockSize); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the volume differs at block %d (%v)", index, err)
		}
	}
	if files, err := os.ReadDir(d.dir.Uploads()); err != nil || len(files) != 0 {
		t.Errorf("left over: %v (%v)", files, err)
	}
}

// With a parent only what changed is put; a block of zeros takes the parent's
// away, and the parent may be deleted as soon as it was named.
func TestDirectParent(t *testing.T) {
	d := newDirect(t)
	first := map[int32][]byte{1: noise(1), 2: noise(2), 3: noise(3), 2000: noise(4)}
	base := d.made(ebsapi.StartSnapshotInput{}, first)
	snap := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &base, VolumeSize: aws.Int64(2)})
	changes := map[int32][]byte{2: noise(5), 3: filled(0), 9: noise(6), 10: filled(0), 4000: noise(7)}
	d.put(snap, changes)
	changed := func(from, to string, most int32) (indices []int32, firsts, seconds map[int32]string) {
		firsts, seconds = map[int32]string{}, map[int32]string{}
		pages := ebsapi.NewListChangedBlocksPaginator(d.ebs, &ebsapi.ListChangedBlocksInput{FirstSnapshotId: &from, SecondSnapshotId: &to, MaxResults: &most})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range page.ChangedBlocks {
				indices = append(indices, *b.BlockIndex)
				firsts[*b.BlockIndex], seconds[*b.BlockIndex] = aws.ToString(b.FirstBlockToken), aws.ToString(b.SecondBlockToken)
			}
		}
		return indices, firsts, seconds
	}
	d.complete(snap, changes)
	indices, firsts, seconds := changed(base, snap, 100)
	if !slices.Equal(indices, []int32{2, 3, 9, 4000}) {
		t.Errorf("changed blocks %v", indices)
	}
	if firsts[2] == "" || seconds[2] == "" || firsts[3] == "" || seconds[3] != "" || firsts[9] != "" || seconds[9] == "" {
		t.Errorf("tokens %v and %v", firsts, seconds)
	}
	if old, err := d.get(base, 2, firsts[2]); err != nil || !bytes.Equal(old, first[2]) {
		t.Errorf("the first's block 2: %v", err)
	}
	if now, err := d.get(snap, 2, seconds[2]); err != nil || !bytes.Equal(now, changes[2]) {
		t.Errorf("the second's block 2: %v", err)
	}
	next := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &snap, VolumeSize: aws.Int64(2)})
	for _, id := range []string{base, snap} {
		if _, err := d.ec2.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	d = d.killed()
	d.complete(next, nil)
	wantBlocks(t, d.all(next), map[int32][]byte{1: first[1], 2: changes[2], 9: changes[9], 2000: first[2000], 4000: changes[4000]})
	eventually(t, "the parents are gone", func() bool {
		infos, err := d.cloud.snapshots.List(t.Context())
		return err == nil && len(infos) == 1
	})
}

// A parent in the Recycle Bin is let go of like any other.
func TestDirectParentInBin(t *testing.T) {
	d := newDirect(t)
	d.rule(rbintypes.ResourceTypeEbsSnapshot, 1)
	base := d.made(ebsapi.StartSnapshotInput{Tags: []ebstypes.Tag{{Key: aws.String("app"), Value: aws.String("web")}}}, map[int32][]byte{1: noise(1)})
	snap := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &base})
	d.delete(base)
	_, err := d.cloud.Undelete(t.Context(), base)
	wantCode2(t, err, "IncorrectState")
	d.complete(snap, nil)
	wantBlocks(t, d.all(snap), map[int32][]byte{1: noise(1)})
	d.set(d.now().Add(25 * time.Hour))
	d.cloud.work.kick(job{(*state.Binned)(nil).Kind(), testScope, base})
	d.trashed(base) // from the bin into the store's trash
}

// A parent that can't be read fails the snapshot: nothing is made up.
func TestDirectParentLost(t *testing.T) {
	d := newDirect(t)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1)})
	snap := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &base})
	if err := d.cloud.snapshots.Delete(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(snap, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it failed", func() bool {
		s := snapshotState(t, d.ec2, snap)
		return s.State == types.SnapshotStateError && strings.Contains(aws.ToString(s.StateMessage), base)
	})
}

// Whatever is answered outlives a daemon that is killed after each call.
func TestDirectKilledAfterEachCall(t *testing.T) {
	d := newDirect(t)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{5: noise(1)})
	d = d.killed()
	in := ebsapi.StartSnapshotInput{ParentSnapshotId: &base, ClientToken: aws.String("once")}
	snap := d.start(in)
	blocks := map[int32][]byte{0: noise(2), 5: filled(0), 6: noise(3), 7: noise(4)}
	for index, data := range blocks {
		d = d.killed()
		if again := d.start(in); again != snap {
			t.Fatalf("the same token gives %s, then %s", snap, again)
		}
		d.put(snap, map[int32][]byte{index: noise(9)})
		d = d.killed()
		d.put(snap, map[int32][]byte{index: data}) // over it
	}
	d = d.killed()
	if out, err := d.seal(snap, blocks); err != nil || out.Status != ebstypes.StatusPending {
		t.Fatal(out, err)
	}
	d = d.killed()
	if _, err := d.seal(snap, blocks); err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, d.ec2, snap)
	d = d.killed()
	if out, err := d.seal(snap, blocks); err != nil || out.Status != ebstypes.StatusCompleted {
		t.Fatal(out, err)
	}
	delete(blocks, 5)
	wantBlocks(t, d.all(snap), blocks)
}

// A snapshot is completed only with all blocks, and then takes no more.
func TestDirectComplete(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{0: noise(1), 1: noise(2)}
	d.put(snap, map[int32][]byte{0: blocks[0]})
	_, err := d.seal(snap, blocks)
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.put(snap, map[int32][]byte{1: noise(8)})
	_, err = d.seal(snap, blocks)
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.put(snap, blocks)
	for _, in := range []ebsapi.CompleteSnapshotInput{
		{ChangedBlocksCount: aws.Int32(-1)},
		{ChangedBlocksCount: aws.Int32(2), Checksum: aws.String("x")},
		{ChangedBlocksCount: aws.Int32(2), Checksum: aws.String("x"), ChecksumAlgorithm: "SHA256", ChecksumAggregationMethod: "TREE"},
	} {
		in.SnapshotId = &snap
		_, err := d.ebs.CompleteSnapshot(t.Context(), &in)
		wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	}
	d.complete(snap, blocks)
	wantReason(t, d.tryPut(snap, 1, noise(2)), "ValidationException", "INVALID_SNAPSHOT_ID")
	_, err = d.seal(snap, map[int32][]byte{0: blocks[0]})
	wantReason(t, err, "ValidationException", "INVALID_SNAPSHOT_ID")
	// Without a checksum the number alone is compared.
	plain := d.start(ebsapi.StartSnapshotInput{})
	d.put(plain, blocks)
	if _, err := d.ebs.CompleteSnapshot(t.Context(), &ebsapi.CompleteSnapshotInput{SnapshotId: &plain, ChangedBlocksCount: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, d.ec2, plain)
}

// A block that the disk has lost fails the snapshot.
func TestDirectLostBlock(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{0: noise(1)}
	d.put(snap, blocks)
	if err := os.WriteFile(uploadPath(d.dir, snap)+".data", noise(2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(snap, blocks); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it failed", func() bool {
		s := snapshotState(t, d.ec2, snap)
		return s.State == types.SnapshotStateError && strings.Contains(aws.ToString(s.StateMessage), "block 0")
	})
}

// Written before a power cut, a snapshot is completed only with a checksum over
// all of it, as nothing else tells what was lost.
func TestDirectPowerCut(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{0: noise(1), 1: noise(2)}
	d.put(snap, blocks)
	// What is on the disk was written in another boot: the first record says in
	// which, see package upload.
	path := uploadPath(d.dir, snap) + ".journal"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record := raw[64:128]
	record[30] ^= 1
	binary.LittleEndian.PutUint32(record[60:], crc32.Checksum(record[:60], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d = d.killed()
	_, err = d.ebs.CompleteSnapshot(t.Context(), &ebsapi.CompleteSnapshotInput{SnapshotId: &snap, ChangedBlocksCount: aws.Int32(2)})
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.put(snap, map[int32][]byte{1: blocks[1]})
	d = d.killed()
	_, err = d.ebs.CompleteSnapshot(t.Context(), &ebsapi.CompleteSnapshotInput{SnapshotId: &snap, ChangedBlocksCount: aws.Int32(2)})
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	d.complete(snap, blocks)
	wantBlocks(t, d.all(snap), blocks)
}

// A snapshot that nothing is put into for its time-out fails, and each block
// begins the time anew, also over restarts.
func TestDirectTimeout(t *testing.T) {
	d := newDirect(t)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{5: noise(1)})
	idle := d.start(ebsapi.StartSnapshotInput{Timeout: aws.Int32(30), ParentSnapshotId: &base})
	busy := d.start(ebsapi.StartSnapshotInput{Timeout: aws.Int32(30)})
	d.set(d.now().Add(29 * time.Minute))
	d.put(busy, map[int32][]byte{1: noise(1)})
	d = d.killed()
	if s := snapshotState(t, d.ec2, idle); s.State != types.SnapshotStatePending {
		t.Errorf("before its time it is %s", s.State)
	}
	d.set(d.now().Add(2 * time.Minute))
	d = d.killed()
	eventually(t, "the idle one failed", func() bool {
		s := snapshotState(t, d.ec2, idle)
		return s.State == types.SnapshotStateError && strings.Contains(aws.ToString(s.StateMessage), "30 minutes")
	})
	wantReason(t, d.tryPut(idle, 1, noise(1)), "ValidationException", "INVALID_SNAPSHOT_ID")
	_, err := d.seal(idle, nil)
	wantReason(t, err, "ValidationException", "INVALID_SNAPSHOT_ID")
	d.complete(busy, map[int32][]byte{1: noise(1)})
	var parent *state.Snapshot
	if err := d.cloud.db.View(func(tx *state.Tx) (err error) { parent, err = state.Get[state.Snapshot](tx, testScope, base); return }); err != nil || len(parent.Copying) != 0 {
		t.Errorf("the parent is held by %v (%v)", parent.Copying, err)
	}
}

// A snapshot that is being written can be deleted, and nothing is left of it.
func TestDirectDeletePending(t *testing.T) {
	d := newDirect(t)
	in := ebsapi.StartSnapshotInput{ClientToken: aws.String("t")}
	snap := d.start(in)
	d.put(snap, map[int32][]byte{1: noise(1)})
	if _, err := d.ec2.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snap}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, d.tryPut(snap, 2, noise(1)), "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
	eventually(t, "its files are gone", func() bool {
		files, err := os.ReadDir(d.dir.Uploads())
		return err == nil && len(files) == 0
	})
	eventually(t, "its token makes another", func() bool {
		out, err := d.ebs.StartSnapshot(t.Context(), &ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(1), ClientToken: in.ClientToken})
		return err == nil && *out.SnapshotId != snap
	})
}

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

// Lists are ordered, whole over their pages, and begin where they are told to.
func TestDirectPages(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{}
	for i := range int32(250) {
		blocks[i*8] = filled(byte(1 + i%5))
	}
	snap := d.made(ebsapi.StartSnapshotInput{}, blocks)
	list := func(in ebsapi.ListSnapshotBlocksInput) *ebsapi.ListSnapshotBlocksOutput {
		t.Helper()
		in.SnapshotId = &snap
		out, err := d.ebs.ListSnapshotBlocks(t.Context(), &in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var got []int32
	sizes := []int{}
	in := ebsapi.ListSnapshotBlocksInput{MaxResults: aws.Int32(100)}
	for {
		out := list(in)
		sizes = append(sizes, len(out.Blocks))
		for _, b := range out.Blocks {
			got = append(got, *b.BlockIndex)
		}
		if in.NextToken = out.NextToken; out.NextToken == nil {
			break
		}
		in.StartingBlockIndex = aws.Int32(1999) // is ignored with a token
	}
	if !slices.Equal(got, slices.Sorted(maps.Keys(blocks))) || !slices.Equal(sizes, []int{100, 100, 50}) {
		t.Errorf("pages of %v with %v", sizes, got)
	}
	out := list(ebsapi.ListSnapshotBlocksInput{StartingBlockIndex: aws.Int32(1977)})
	if len(out.Blocks) != 2 || *out.Blocks[0].BlockIndex != 1984 || *out.VolumeSize != 1 || *out.BlockSize != snapshot.BlockSize ||
		!out.ExpiryTime.Equal(d.now().Add(7*24*time.Hour)) {
		t.Errorf("from 1977: %+v", out)
	}
	for _, n := range []int32{99, 10001} {
		_, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, MaxResults: &n})
		wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
	}
	_, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, StartingBlockIndex: aws.Int32(-1)})
	wantReason(t, err, "ValidationException", "INVALID_BLOCK")
}

// A token is good for what it was given for, and for its time.
func TestDirectTokens(t *testing.T) {
	d := newDirect(t)
	many := map[int32][]byte{}
	for i := range int32(101) {
		many[i] = filled(1)
	}
	snap := d.made(ebsapi.StartSnapshotInput{}, many)
	other := d.made(ebsapi.StartSnapshotInput{ParentSnapshotId: &snap}, nil)
	page, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, MaxResults: aws.Int32(100)})
	if err != nil {
		t.Fatal(err)
	}
	token := *page.Blocks[3].BlockToken
	if len(token) > 256 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != "" {
		t.Errorf("the token %q isn't one", token)
	}
	for name, try := range map[string]func() error{
		"another block":    func() error { _, err := d.get(snap, 4, token); return err },
		"another snapshot": func() error { _, err := d.get(other, 3, token); return err },
		"a page token":     func() error { _, err := d.get(snap, 3, *page.NextToken); return err },
		"cut":              func() error { _, err := d.get(snap, 3, token[:len(token)-4]); return err },
		"nonsense":         func() error { _, err := d.get(snap, 3, "AAAA"); return err },
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, try(), "ValidationException", "INVALID_BLOCK_TOKEN") })
	}
	for _, in := range []ebsapi.ListSnapshotBlocksInput{{SnapshotId: &other, NextToken: page.NextToken}, {SnapshotId: &snap, NextToken: &token}} {
		_, err := d.ebs.ListSnapshotBlocks(t.Context(), &in)
		wantReason(t, err, "ValidationException", "INVALID_PAGE_TOKEN")
	}
	d = d.killed() // the key outlives the daemon
	d.set(d.now().Add(59 * time.Minute))
	if _, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, NextToken: page.NextToken}); err != nil {
		t.Error(err)
	}
	d.set(d.now().Add(2 * time.Minute))
	_, err = d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap, NextToken: page.NextToken})
	wantReason(t, err, "ValidationException", "INVALID_PAGE_TOKEN")
	if _, err := d.get(snap, 3, token); err != nil {
		t.Error(err)
	}
	d.set(page.ExpiryTime.Add(time.Second))
	_, err = d.get(snap, 3, token)
	wantReason(t, err, "ValidationException", "INVALID_BLOCK_TOKEN")
}

func FuzzTokens(f *testing.F) {
	key := tokenKey(bytes.Repeat([]byte{7}, 32))
	now := time.Unix(1_700_000_000, 0)
	f.Add(key.sign(tokenBlock, 5, now.Add(time.Hour), testScope, "snap-1"), byte(tokenBlock), "snap-1")
	f.Add("", byte(tokenBlocks), "")
	f.Add("AAAA", byte(tokenChanged), "snap-2")
	f.Fuzz(func(t *testing.T, token string, kind byte, snap string) {
		index, wrong := key.open(token, kind, now, testScope, snap)
		if wrong != "" {
			return
		}
		raw, _ := base64.StdEncoding.DecodeString(token)
		if len(raw) != tokenSize || token != key.sign(kind, index, time.Unix(int64(raw[5])<<56|int64(raw[6])<<48|int64(raw[7])<<40|int64(raw[8])<<32|int64(raw[9])<<24|int64(raw[10])<<16|int64(raw[11])<<8|int64(raw[12]), 0), testScope, snap) {
			t.Errorf("a token that was never given is taken: %q for %q", token, snap)
		}
	})
}

// Only snapshots of one lineage are compared: of one volume, of what was made of
// its snapshots, and copies.
func TestDirectLineage(t *testing.T) {
	d := newDirect(t)
	one := makeSnapshot(t, d.cloud, d.ec2, "one")
	vol := makeVolume(t, d.ec2, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &one})
	two, err := d.ec2.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &vol})
	if err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, d.ec2, *two.SnapshotId)
	three := d.made(ebsapi.StartSnapshotInput{ParentSnapshotId: two.SnapshotId}, map[int32][]byte{9: noise(1)})
	copied, err := d.ec2.CopySnapshot(t.Context(), &ec2.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: &three})
	if err != nil {
		t.Fatal(err)
	}
	waitCompleted(t, d.ec2, *copied.SnapshotId)
	for _, to := range []string{*two.SnapshotId, three, *copied.SnapshotId} {
		out, err := d.ebs.ListChangedBlocks(t.Context(), &ebsapi.ListChangedBlocksInput{FirstSnapshotId: &one, SecondSnapshotId: &to})
		if err != nil || len(out.ChangedBlocks) > 1 {
			t.Errorf("to %s: %v (%v)", to, out, err)
		}
	}
	stranger := makeSnapshot(t, d.cloud, d.ec2, "other")
	_, err = d.ebs.ListChangedBlocks(t.Context(), &ebsapi.ListChangedBlocksInput{FirstSnapshotId: &one, SecondSnapshotId: &stranger})
	wantReason(t, err, "ValidationException", "UNRELATED_SNAPSHOTS")
	_, err = d.ebs.ListChangedBlocks(t.Context(), &ebsapi.ListChangedBlocksInput{SecondSnapshotId: &one})
	wantReason(t, err, "ValidationException", "INVALID_PARAMETER_VALUE")
}

// Many clients may write and read at once.
func TestDirectConcurrently(t *testing.T) {
	d := newDirect(t)
	blocks := map[int32][]byte{}
	for i := range int32(64) {
		blocks[i*3] = noise(uint64(i))
	}
	snap := d.start(ebsapi.StartSnapshotInput{})
	var wg sync.WaitGroup
	for index, data := range blocks {
		for range 2 { // as when an answer was lost
			wg.Go(func() {
				if err := d.tryPut(snap, index, data); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for range 3 {
		wg.Go(func() {
			if _, err := d.seal(snap, blocks); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	waitCompleted(t, d.ec2, snap)
	wantBlocks(t, d.all(snap), blocks)
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

// An end of the daemon while blocks are put loses none that were answered.
func TestDirectDaemonEndsMeanwhile(t *testing.T) {
	d := newDirect(t)
	snap := d.start(ebsapi.StartSnapshotInput{})
	var mu sync.Mutex
	answered := map[int32][]byte{}
	var wg sync.WaitGroup
	for w := range int32(4) {
		wg.Go(func() {
			for i := range int32(40) {
				index, data := w*100+i, noise(uint64(w*100+i))
				if d.tryPut(snap, index, data) != nil {
					return
				}
				mu.Lock()
				answered[index] = data
				mu.Unlock()
			}
		})
	}
	time.Sleep(30 * time.Millisecond)
	d.end()
	wg.Wait()
	d = openDirect(t, d.dir, d.clock)
	u, err := d.cloud.uploads.open(d.dir, snap)
	if err != nil {
		t.Fatal(err)
	}
	all, err := u.Contents()
	if err != nil {
		t.Fatal(err)
	}
	for index, data := range answered {
		got := make([]byte, snapshot.BlockSize)
		if err := all.Read(int64(index), got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("block %d was answered and is lost (%v)", index, err)
		}
	}
}

// A snapshot of a volume is read by its blocks, also one of a deleted volume.
func TestDirectReadsTakenSnapshots(t *testing.T) {
	d := newDirect(t)
	snap := makeSnapshot(t, d.cloud, d.ec2, "head")
	blocks := d.all(snap)
	if len(blocks) != 1 || !bytes.HasPrefix(blocks[0], []byte("head")) {
		t.Errorf("%d blocks", len(blocks))
	}
	for _, id := range []string{"snap-00000000000000000", fmt.Sprintf("snap-%059d", 1)} {
		_, err := d.ebs.ListSnapshotBlocks(context.Background(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &id})
		wantReason(t, err, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
	}
}
