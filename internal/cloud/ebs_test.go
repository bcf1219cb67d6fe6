package cloud

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
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
