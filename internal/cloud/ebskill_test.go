package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

const killedDaemon = "STEAD_TEST_KILLED_DAEMON"

// TestDirectKilledDaemon is the daemon of TestDirectKill9, in a process of its
// own. Run by itself it does nothing.
func TestDirectKilledDaemon(t *testing.T) {
	dir := os.Getenv(killedDaemon)
	if dir == "" {
		return
	}
	err := Run(context.Background(), Config{DataDir: dir, Listen: "127.0.0.1:0", Machines: "none", Log: testLog(t, slog.LevelInfo)})
	t.Fatal(err) // it is killed before
}

// spawnDaemon runs a daemon in another process, and gives a client of it.
func spawnDaemon(t *testing.T, dir Dir) (*direct, *exec.Cmd) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirectKilledDaemon$")
	cmd.Env = append(os.Environ(), killedDaemon+"="+string(dir))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var info Info
	var keys Credentials
	eventually(t, "the daemon answers", func() bool {
		c, err := Connect(string(dir))
		if err == nil {
			info, err = c.Info(t.Context())
		}
		if err == nil {
			keys, err = c.Credentials(t.Context())
		}
		return err == nil && info.PID == cmd.Process.Pid
	})
	k := &clock{}
	pair := credentials.NewStaticCredentialsProvider(keys.AccessKeyID, keys.SecretAccessKey, "")
	return &direct{
		timed: &timed{t: t, clock: k, ec2: ec2.New(ec2.Options{Region: info.Region, BaseEndpoint: &info.Endpoint, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, Credentials: pair})},
		ebs:   ebsapi.New(ebsapi.Options{Region: info.Region, BaseEndpoint: &info.Endpoint, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, Credentials: pair}),
	}, cmd
}

// A daemon that is killed at any moment while blocks are put, also over one
// another, loses none that it has answered; and the snapshot is completed in the
// end, whatever it was killed in.
func TestDirectKill9(t *testing.T) {
	dir := shortDir(t)
	d, cmd := spawnDaemon(t, dir)
	base := d.made(ebsapi.StartSnapshotInput{}, map[int32][]byte{0: noise(99), 9: noise(98)})
	snap := d.start(ebsapi.StartSnapshotInput{ParentSnapshotId: &base})
	blocks := map[int32][]byte{} // as answered; nil where that isn't known
	for round := range 6 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		time.AfterFunc(rand.N(120*time.Millisecond), func() { _ = cmd.Process.Kill() })
		for w := range int32(4) {
			wg.Go(func() {
				for i := int32(0); ; i = (i + 1) % 20 {
					index, data := w*20+i, noise(uint64(round)<<8|uint64(w*20+i))
					err := d.tryPut(snap, index, data)
					mu.Lock()
					if err == nil {
						blocks[index] = data
					} else {
						blocks[index] = nil
					}
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		_ = cmd.Wait() // it was killed
		d, cmd = spawnDaemon(t, dir)
		for index, data := range blocks {
			if data == nil { // the one that was under way: put it again, as clients do
				blocks[index] = noise(uint64(index))
				if err := d.tryPut(snap, index, blocks[index]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := d.seal(snap, blocks); err != nil { // the checksum tells of every block
		t.Fatal(err)
	}
	time.Sleep(rand.N(30 * time.Millisecond))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	d, cmd = spawnDaemon(t, dir)
	waitCompleted(t, d.ec2, snap)
	if blocks[0] == nil {
		blocks[0] = noise(99)
	}
	if blocks[9] == nil {
		blocks[9] = noise(98)
	}
	wantBlocks(t, d.all(snap), blocks)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// A full disk refuses blocks with a code that no client retries, and harms none
// that was put: with room, the client goes on.
func TestDirectFullDisk(t *testing.T) {
	d := newDirect(t)
	if err := unix.Mount("tmpfs", d.dir.Uploads(), "tmpfs", 0, "size=2m"); err != nil {
		skipOrFail(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() {
		d.end()
		_ = unix.Unmount(d.dir.Uploads(), unix.MNT_DETACH)
	})
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{}
	var full error
	for i := int32(0); full == nil && i < 10; i++ {
		if full = d.tryPut(snap, i, noise(uint64(i))); full == nil {
			blocks[i] = noise(uint64(i))
		}
	}
	wantCode(t, full, "ServiceQuotaExceededException")
	if len(blocks) < 2 {
		t.Fatalf("%d blocks fit", len(blocks))
	}
	wantCode(t, d.tryPut(snap, 0, noise(77)), "ServiceQuotaExceededException") // over one that is there
	_, err := d.ebs.StartSnapshot(t.Context(), &ebsapi.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	if err != nil { // its journal may or may not fit
		wantCode(t, err, "ServiceQuotaExceededException")
	}
	if err := unix.Mount("tmpfs", d.dir.Uploads(), "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	blocks[9] = noise(9)
	d.put(snap, map[int32][]byte{9: blocks[9]})
	d.complete(snap, blocks)
	wantBlocks(t, d.all(snap), blocks)
}

// A full store keeps what was uploaded waiting and says so. With room it is
// completed, by itself in a while, or at once when the client asks again; a
// daemon's end in between loses nothing.
func TestDirectFullStore(t *testing.T) {
	d := newDirect(t)
	d.end()
	if err := unix.Mount("tmpfs", d.dir.Snapshots(), "tmpfs", 0, "size=2m"); err != nil {
		skipOrFail(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() {
		d.end()
		_ = unix.Unmount(d.dir.Snapshots(), unix.MNT_DETACH)
	})
	d = openDirect(t, d.dir, d.clock)
	snap := d.start(ebsapi.StartSnapshotInput{})
	blocks := map[int32][]byte{}
	for i := range int32(8) {
		blocks[i] = noise(uint64(i))
	}
	d.put(snap, blocks)
	for range 2 {
		if out, err := d.seal(snap, blocks); err != nil || out.Status != ebstypes.StatusPending {
			t.Fatal(out, err)
		}
		eventually(t, "it says that it waits for room", func() bool {
			s := snapshotState(t, d.ec2, snap)
			if s.State != types.SnapshotStatePending {
				t.Fatalf("it is %s: %s", s.State, aws.ToString(s.StateMessage))
			}
			return strings.Contains(aws.ToString(s.StateMessage), "room") && strings.Contains(aws.ToString(s.StateMessage), "no space left")
		})
		d.end()
		d = openDirect(t, d.dir, d.clock)
	}
	if err := unix.Mount("tmpfs", d.dir.Snapshots(), "tmpfs", unix.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(snap, blocks); err != nil {
		t.Fatal(err)
	}
	if s := waitCompleted(t, d.ec2, snap); s.StateMessage != nil {
		t.Errorf("complete, it says %q", *s.StateMessage)
	}
	wantBlocks(t, d.all(snap), blocks)
}

// The aws command reads what is answered, with checks of its own.
func TestDirectByAWSCLI(t *testing.T) {
	t.Parallel() // it waits for processes
	path := "/usr/bin/aws"
	if _, err := os.Stat(path); err != nil {
		t.Skip("no aws-cli")
	}
	_, client := newTestCloud(t)
	run := func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.Command(path, append(append([]string{"ebs"}, args...), "--endpoint-url", *client.Options().BaseEndpoint, "--region", "us-east-1", "--output", "json")...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+testKeys.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+testKeys.SecretAccessKey, "AWS_EC2_METADATA_DISABLED=true")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	var made struct {
		ID string `json:"SnapshotId"`
	}
	if err := json.Unmarshal([]byte(must("start-snapshot", "--volume-size", "1", "--tags", "Key=a,Value=b")), &made); err != nil {
		t.Fatal(err)
	}
	block, file := noise(1), filepath.Join(t.TempDir(), "block")
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := must("put-snapshot-block", "--snapshot-id", made.ID, "--block-index", "3", "--data-length", "524288",
		"--block-data", file, "--checksum", checksum(block), "--checksum-algorithm", "SHA256", "--progress", "50"); !strings.Contains(out, checksum(block)) {
		t.Errorf("put: %s", out)
	}
	if out := must("complete-snapshot", "--snapshot-id", made.ID, "--changed-blocks-count", "1"); !strings.Contains(out, "pending") {
		t.Errorf("completed: %s", out)
	}
	waitCompleted(t, client, made.ID)
	var list ebsapi.ListSnapshotBlocksOutput
	out := must("list-snapshot-blocks", "--snapshot-id", made.ID)
	if err := json.Unmarshal([]byte(out), &struct{ Blocks any }{&list.Blocks}); err != nil || len(list.Blocks) != 1 || !strings.Contains(out, `"ExpiryTime": "20`) {
		t.Fatalf("listed: %s (%v)", out, err)
	}
	must("get-snapshot-block", "--snapshot-id", made.ID, "--block-index", "3", "--block-token", aws.ToString(list.Blocks[0].BlockToken), file+".got")
	if got, err := os.ReadFile(file + ".got"); err != nil || !bytes.Equal(got, block) || len(got) != snapshot.BlockSize {
		t.Errorf("read %d bytes (%v)", len(got), err)
	}
	out, err := run("list-changed-blocks", "--second-snapshot-id", made.ID, "--first-snapshot-id", "snap-00000000000000000")
	var failed *exec.ExitError
	if !errors.As(err, &failed) || !strings.Contains(out, "ResourceNotFoundException") {
		t.Errorf("of one that isn't there: %s (%v)", out, err)
	}
}
