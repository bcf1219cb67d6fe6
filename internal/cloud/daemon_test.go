package cloud

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// shortDir is a folder whose sockets' paths are short enough.
func shortDir(t *testing.T) Dir {
	t.Helper()
	dir, err := os.MkdirTemp("", "stead-") // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Dir(dir)
}

// runDaemon runs one until the returned function ends it.
func runDaemon(t *testing.T, dir Dir) (*Control, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{DataDir: string(dir), Listen: "127.0.0.1:0", Machines: "none", Log: testLog(t, slog.LevelInfo)})
	}()
	end := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	var c *Control
	eventually(t, "the daemon answers", func() bool {
		var err error
		c, err = Connect(string(dir))
		return err == nil
	})
	return c, end
}

func TestControlSocketIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := shortDir(t).ControlSocket()
	l, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// An order to stop another process does not stop this one.
func TestStopNamesItsDaemon(t *testing.T) {
	c, _ := runDaemon(t, shortDir(t))
	if err := c.stop(t.Context(), false, os.Getpid()+1); !errors.Is(err, errOtherDaemon) {
		t.Fatalf("error %v, want errOtherDaemon", err)
	}
	info, err := c.Info(t.Context())
	if err != nil || info.PID != os.Getpid() {
		t.Fatalf("the daemon ended: %+v, %v", info, err)
	}
	if err := c.stop(t.Context(), false, info.PID); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(string(c.dir)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("error %v after the stop", err)
	}
}

// Who waits for a daemon's end does not wait for its successor's.
func TestWaitGoneSeesTheSuccessor(t *testing.T) {
	dir := shortDir(t)
	runDaemon(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := waitGone(ctx, dir, os.Getpid()+1); err != nil {
		t.Error(err)
	}
}

// A daemon that lost the folder to one that takes long to answer waits for it.
func TestWaitHealthyWaitsForTheWinner(t *testing.T) {
	dir := shortDir(t)
	unlock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ended <- errors.New("exit status 5")
	got := make(chan error, 1)
	go func() {
		_, err := waitHealthy(t.Context(), dir, ended)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("gave up while another daemon has the folder: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	unlock()
	if err := <-got; !errors.Is(err, errFreed) {
		t.Errorf("error %v, want errFreed", err)
	}
	ended <- errors.New("exit status 1")
	if _, err := waitHealthy(t.Context(), dir, ended); err == nil || errors.Is(err, errFreed) {
		t.Errorf("error %v of a daemon that cannot start", err)
	}
}

func TestLogIsNoLink(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(string) error{
		"link": func(p string) error { return os.Symlink(secret, p) },
		"pipe": func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := Dir(t.TempDir())
			if err := plant(dir.LogFile()); err != nil {
				t.Fatal(err)
			}
			if f, err := appendLog(dir, nil); err == nil {
				_, _ = io.WriteString(f, "log")
				t.Error("opened to write")
			}
			var out strings.Builder
			if err := Logs(t.Context(), string(dir), &out, false); err == nil || out.Len() > 0 {
				t.Errorf("read %q, %v", out.String(), err)
			}
			if got := logEnd(dir); strings.Contains(got, "  secret\n") || got == "  secret" {
				t.Errorf("its end is %q", got)
			}
		})
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
		t.Errorf("the linked file reads %q, %v", got, err)
	}
}

// stubborn machines go off only when they are killed.
type stubborn struct{ noMachines }

type stubbornVM struct{ *shadow }

func (s stubborn) start(ctx context.Context, spec machine.Spec) (vm, error) {
	m, err := s.noMachines.start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return stubbornVM{m.(*shadow)}, nil
}

func (m stubbornVM) Shutdown(ctx context.Context, _ time.Duration) error {
	select {
	case <-m.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestStopKillsWhatStays(t *testing.T) {
	dir := Dir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: testLog(t, slog.LevelInfo)}, stubborn{noMachines{dir.Volumes()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = c.Close() // the test is over
	}()
	client := testClient(t, c, DefaultRegion)
	image := testImage(t, c, client)
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	if err := c.stopMachines(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if i := describe(t, client, id); i.State.Name != types.InstanceStateNameStopped {
		t.Errorf("the instance is %s", i.State.Name)
	}
}

// A stop without a daemon ends what runs and boots nothing; what ran, what the
// host's restart ended and what was about to start runs with the next daemon.
func TestStopOnly(t *testing.T) {
	dir := shortDir(t)
	var ids []string
	t.Run("daemon that dies", func(t *testing.T) {
		ctx, die := context.WithCancel(t.Context())
		c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: testLog(t, slog.LevelInfo)}, noMachines{dir.Volumes()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }() // nothing of it is wanted any more
		client := testClient(t, c, DefaultRegion)
		image := testImage(t, c, client)
		ids = append(ids, launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image}), launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image}))
		die()
		c.work.wait()
		if err := os.Remove(filepath.Join(dir.Machine(ids[1]), shadowFile)); err != nil {
			t.Fatal(err)
		}
		err = amend(c, job{"instance", state.Scope{Account: DefaultAccount, Region: DefaultRegion}, ids[1]}, func(_ *state.Tx, i *state.Instance) error {
			i.BootID = "of another boot"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := client.RunInstances(t.Context(), &ec2.RunInstancesInput{
			ImageId: &image, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: types.InstanceTypeT3Nano,
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, *out.Instances[0].InstanceId)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := Run(ctx, Config{DataDir: string(dir), StopOnly: true, Log: testLog(t, slog.LevelInfo)}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dir.Machines() + "/*/" + shadowFile); len(left) > 0 {
		t.Errorf("machines run: %v", left)
	}
	db, err := state.Open(dir.StateFile())
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *state.Tx) error {
		insts, err := state.All[state.Instance](tx)
		for _, i := range insts {
			if i.State != state.Stopped || !i.Resume {
				t.Errorf("%s is %s, resume %v", i.ID, i.State, i.Resume)
			}
		}
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	client := testClient(t, openTestCloud(t, dir), DefaultRegion)
	for _, id := range ids {
		waitInstance(t, client, id, types.InstanceStateNameRunning)
	}
}

func testImage(t *testing.T, c *Cloud, client *ec2.Client) string {
	t.Helper()
	snap := makeSnapshot(t, c, client, "root")
	return makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}))
}
