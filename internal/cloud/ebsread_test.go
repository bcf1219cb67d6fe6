package cloud

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/snapshot"
)

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

// A key for tokens that the disk has changed makes earlier tokens void, and no
// more than that; what isn't a key is refused with what to do.
func TestDirectDamagedTokenKey(t *testing.T) {
	d := newDirect(t)
	snap := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{1: noise(1)})
	token := func() string {
		page, err := d.ebs.ListSnapshotBlocks(t.Context(), &ebsapi.ListSnapshotBlocksInput{SnapshotId: &snap})
		if err != nil {
			t.Fatal(err)
		}
		return *page.Blocks[0].BlockToken
	}
	old := token()
	d.end()
	key, err := os.ReadFile(d.dir.TokenKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	key[7] ^= 4
	if err := os.WriteFile(d.dir.TokenKeyFile(), key, 0o600); err != nil {
		t.Fatal(err)
	}
	d = openDirect(t, d.dir, d.clock)
	_, err = d.get(snap, 1, old)
	wantReason(t, err, "ValidationException", "INVALID_BLOCK_TOKEN")
	if data, err := d.get(snap, 1, token()); err != nil || !bytes.Equal(data, noise(1)) {
		t.Errorf("by a new token: %v", err)
	}
	d.end()
	if err := os.WriteFile(d.dir.TokenKeyFile(), key[:9], 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = loadTokenKey(d.dir.TokenKeyFile())
	if err == nil || !strings.Contains(err.Error(), d.dir.TokenKeyFile()) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a key that is cut short: %v", err)
	}
}
