package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/image"
)

// patience bounds every wait: the host may be slow, and machines without KVM
// more so.
const patience = 120 * time.Second

// built is the program under test, built once and only when a test runs.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stead-e2e-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the daemon may run as another user
		return dir, err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "github.com/steadcloud/stead/cmd/stead")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build stead: %w\n%s", err, out)
	}
	if out, err := exec.Command(filepath.Join(dir, "stead"), "ec2", "link", dir).CombinedOutput(); err != nil {
		return dir, fmt.Errorf("link the EC2 API tools: %w\n%s", err, out)
	}
	return dir, nil
})

// wanted tells whether a test has asked for the program.
var wanted atomic.Bool

func TestMain(m *testing.M) {
	code := m.Run()
	if wanted.Load() {
		dir, _ := built() // what went wrong with it has been told
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// rig is a user's machine: a program, a configuration and a local cloud.
type rig struct {
	t        *testing.T
	bin      string // folder of the program
	root     string // of all folders
	data     string // the local cloud's folder
	machines string // auto or none
	first    string // goes before the rest of PATH
	mounts   []string
}

// skip skips, unless every test is demanded.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal("STEAD_STRICT=1: " + why)
	}
	t.Skip(why)
}

// newRig makes a rig whose local cloud has real machines.
func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		skip(t, "boots machines, and -short is set")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		skip(t, "needs qemu-system-x86_64")
	}
	if m := image.MissingForTiny(); len(m) > 0 {
		skip(t, fmt.Sprintf("the tiny image cannot be built: %v", m))
	}
	return makeRig(t, "auto")
}

// newBareRig makes a rig whose local cloud serves the API without machines.
func newBareRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		skip(t, "starts hundreds of processes, and -short is set")
	}
	return makeRig(t, "none")
}

func makeRig(t *testing.T, machines string) *rig {
	t.Helper()
	wanted.Store(true)
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "e2e-") // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil { // root's daemon runs as another user
		t.Fatal(err)
	}
	r := &rig{t: t, bin: bin, root: root, data: filepath.Join(root, "data"), machines: machines}
	t.Cleanup(r.destroy)
	return r
}

// destroy ends what the rig's folder still runs and removes it.
func (r *rig) destroy() {
	if r.t.Failed() {
		r.logs()
	}
	// The daemon first: it would take a killed machine for a failed one.
	for _, p := range append(r.processes("cloud"), r.processes("")...) {
		p.kill()
	}
	r.waitUntil("the rig's processes are gone", func() bool { return len(r.processes("")) == 0 })
	for _, dir := range slices.Backward(r.mounts) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			r.t.Error(err)
		}
	}
	if err := os.RemoveAll(r.root); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) logs() {
	names, _ := filepath.Glob(filepath.Join(r.data, "machines", "*", "*.log"))
	for _, name := range append(names, filepath.Join(r.data, "daemon.log")) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		r.t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
	}
}

// environ is the environment of the rig's user: nothing of the caller's but
// the path.
func (r *rig) environ() []string {
	return []string{
		"PATH=" + r.first + r.bin + ":" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(r.root, "home"),
		"STEAD_CONFIG_DIR=" + filepath.Join(r.root, "config"),
		"STEAD_DATA_DIR=" + r.data,
		"STEAD_LISTEN=127.0.0.1:0",
		"STEAD_MACHINES=" + r.machines,
		"STEAD_EGRESS=off",
		"AWS_CONFIG_FILE=/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_PAGER=",
		"AWS_MAX_ATTEMPTS=1",
	}
}

// result is what a program left when it ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
}

// command prepares a program of the rig's path.
func (r *rig) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	r.t.Helper()
	path := name
	if name == "stead" || name == "ec2reg" {
		path = filepath.Join(r.bin, name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(r.environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// finish runs a prepared program to its end, whatever that is.
func (r *rig) finish(cmd *exec.Cmd, onStart func(*os.Process)) result {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if onStart != nil {
		onStart(cmd.Process)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// try runs stead and gives what came of it.
func (r *rig) try(args ...string) result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.finish(r.command(ctx, nil, "stead", args...), nil)
}

// stead runs stead, which must succeed, and gives its stdout.
func (r *rig) stead(args ...string) string {
	r.t.Helper()
	res := r.try(args...)
	if res.code != 0 {
		r.t.Fatalf("stead %s: %v", strings.Join(args, " "), res)
	}
	return strings.TrimSpace(res.stdout)
}

// sh runs a shell command on a server.
func (r *rig) sh(server, command string) string {
	r.t.Helper()
	return r.stead("ssh", server, "--", command)
}

// tiny builds the tiny image and gives its ID.
func (r *rig) tiny() string {
	r.t.Helper()
	var made struct {
		ID string `json:"id"`
	}
	r.decode(r.stead("image", "build", "tiny", "-o", "json"), &made)
	return made.ID
}

func (r *rig) decode(text string, into any) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		r.t.Fatalf("%v in\n%s", err, text)
	}
}

// access is how an AWS tool reaches the local cloud.
type access struct {
	URL    string `json:"AWS_ENDPOINT_URL"`
	Region string `json:"AWS_REGION"`
	ID     string `json:"AWS_ACCESS_KEY_ID"`
	Secret string `json:"AWS_SECRET_ACCESS_KEY"`
}

// access asks for the way to the local cloud, which is started if need be.
func (r *rig) access() access {
	r.t.Helper()
	var a access
	r.decode(r.stead("cloud", "env", "-o", "json"), &a)
	return a
}

// client is an SDK client of the local cloud. A daemon that comes after this
// one may listen elsewhere.
func (r *rig) client() *ec2.Client {
	r.t.Helper()
	return r.access().client()
}

func (a access) client() *ec2.Client {
	return ec2.New(ec2.Options{
		Region: a.Region, BaseEndpoint: aws.String(a.URL), HTTPClient: steadyHTTP{},
		Credentials: credentials.NewStaticCredentialsProvider(a.ID, a.Secret, ""),
	})
}

// steadyHTTP hides the WriteTo of request bodies, as the tool does: the SDK lets
// go of a body at the answer's first byte, and quick answers would be lost.
type steadyHTTP struct{}

func (steadyHTTP) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultClient.Do(r)
}

// aws runs the unmodified aws command, which must succeed.
func (r *rig) aws(args ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a := r.access()
	args = append([]string{"--endpoint-url", a.URL, "--region", a.Region, "--output", "text"}, args...)
	cmd := r.command(ctx, []string{"AWS_ENDPOINT_URL=" + a.URL, "AWS_ACCESS_KEY_ID=" + a.ID, "AWS_SECRET_ACCESS_KEY=" + a.Secret}, "/usr/bin/aws", args...)
	res := r.finish(cmd, nil)
	if res.code != 0 {
		r.t.Fatalf("aws %s: %v", strings.Join(args, " "), res)
	}
	return strings.TrimSpace(res.stdout)
}

// waitUntil waits for a condition, which must come true.
func (r *rig) waitUntil(what string, met func() bool) {
	r.t.Helper()
	if !r.waits(met) {
		r.t.Fatalf("timed out: %s", what)
	}
}

// waits tells whether a condition comes true.
func (r *rig) waits(met func() bool) bool {
	for deadline := time.Now().Add(patience); !met(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
	return true
}

// process is one that has the rig's folder in its command line.
type process struct {
	pid  int
	args string
}

// processes lists the rig's living processes: all, the daemons ("cloud"), or
// the machines ("qemu").
func (r *rig) processes(kind string) []process {
	r.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		r.t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // empty for a zombie
		if err != nil {
			continue
		}
		args := strings.ReplaceAll(string(raw), "\x00", " ")
		if !strings.Contains(args, r.root) {
			continue
		}
		switch {
		case kind == "cloud" && !strings.Contains(args, "cloud run"):
		case kind == "qemu" && !strings.Contains(args, "qemu-system"):
		default:
			found = append(found, process{pid, args})
		}
	}
	return found
}

// kill ends a process that cannot do anything about it.
func (p process) kill() {
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		panic(err)
	}
}

// daemon is the process of the rig's local cloud. One that lost a race for the
// folder takes a while to give up.
func (r *rig) daemon() process {
	r.t.Helper()
	var found []process
	r.waitUntil("one daemon runs", func() bool {
		found = r.processes("cloud")
		return len(found) == 1
	})
	return found[0]
}

// killDaemon ends the daemon as a power cut would, and waits until it is gone.
func (r *rig) killDaemon() {
	r.t.Helper()
	r.daemon().kill()
	r.waitUntil("the daemon is gone", func() bool { return len(r.processes("cloud")) == 0 })
}

// names lists a folder of the data folder; one that isn't there is empty.
func (r *rig) names(folder string) []string {
	r.t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.data, folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// file writes a file of the user's and gives its path.
func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.root, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}
