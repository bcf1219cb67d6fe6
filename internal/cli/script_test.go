package cli_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/steadcloud/stead/internal/cli"
	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/ec2tools"
)

func TestMain(m *testing.M) {
	stead := func() { os.Exit(cli.Main(os.Args...)) }
	programs := map[string]func(){
		"stead": stead,
		"exe":   stead, // a daemon is started as /proc/self/exe
	}
	for _, tool := range ec2tools.Tools() {
		for _, name := range tool.Names() {
			programs[name] = stead
		}
	}
	testscript.Main(m, programs)
}

// TestScript runs the command line in testdata/script, each script with its
// own folders and, where it needs one, its own local cloud without machines.
func TestScript(t *testing.T) { runScripts(t, "testdata/script", "none") }

// TestMachineScript does the same with real machines.
func TestMachineScript(t *testing.T) {
	if testing.Short() {
		skip(t, "boots machines, and -short is set")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		skip(t, "needs qemu-system-x86_64")
	}
	runScripts(t, "testdata/machine", "auto")
}

// skip skips, unless every test is demanded.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal("STEAD_STRICT=1: " + why)
	}
	t.Skip(why)
}

func runScripts(t *testing.T, dir, machines string) {
	// As root the daemon runs as another user, who must reach its folder.
	root, err := os.MkdirTemp("", "stead-script")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		WorkdirRoot:         root,
		RequireExplicitExec: false,
		RequireUniqueNames:  true,
		Setup:               func(env *testscript.Env) error { return setup(env, machines) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":      code,
			"either":    either,
			"until":     until,
			"image":     image,
			"diskimage": diskImage,
			"grab":      grab,
			"spoil":     spoil,
			"serve":     serve,
			"sums":      sums,
			"other":     other,
		},
	})
}

func setup(env *testscript.Env, machines string) error {
	data := filepath.Join(env.WorkDir, "data")
	for name, value := range map[string]string{
		"HOME":                        filepath.Join(env.WorkDir, "home"),
		"STEAD_CONFIG_DIR":            filepath.Join(env.WorkDir, "config"),
		"STEAD_DATA_DIR":              data,
		"STEAD_CACHE_DIR":             filepath.Join(env.WorkDir, "cache"),
		"STEAD_LISTEN":                "127.0.0.1:0",
		"STEAD_MACHINES":              machines,
		"STEAD_EGRESS":                "off",
		"AWS_CONFIG_FILE":             filepath.Join(env.WorkDir, "aws-config"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(env.WorkDir, "aws-credentials"),
		"AWS_EC2_METADATA_DISABLED":   "true",
		"AWS_MAX_ATTEMPTS":            "1",
		// Under the race detector a process sleeps for a second when it ends.
		"GORACE": "atexit_sleep_ms=0",
	} {
		env.Setenv(name, value)
	}
	env.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if control, err := cloud.Connect(data); err == nil {
			if err := control.Stop(ctx, true); err != nil {
				env.T().Log("stop the local cloud:", err)
			}
		}
	})
	return nil
}

// code runs a command and checks its exit code: code 4 stead show nobody.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCode(ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// either runs a command whose exit code depends on the machine.
func either(ts *testscript.TestScript, _ bool, args []string) {
	if got := exitCode(ts.Exec(args[0], args[1:]...)); got != 0 && got != 1 {
		ts.Fatalf("exit code %d, want 0 or 1", got)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// until repeats a command until its stdout matches: until 'running' stead ls.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP command [args...]")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		_ = ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
	ts.Fatalf("%q never matched", args[0])
}

// grab sets a variable to the first group that a pattern finds on stdout:
// grab VOL '(vol-[0-9a-f]+)'.
func grab(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: grab NAME REGEXP")
	}
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("no match for %q on stdout", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// image registers an image of a blank disk on the script's local cloud, and
// sets IMAGE and SNAPSHOT: image base.
func image(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: image NAME")
	}
	ts.Check(ts.Exec("stead", "cloud", "start"))
	ctx := context.Background()
	client := localClient(ctx, ts)
	volume, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	ts.Check(err)
	waitVolume(ctx, ts, client, *volume.VolumeId)
	snapshot, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: volume.VolumeId})
	ts.Check(err)
	ts.Check(ec2.NewSnapshotCompletedWaiter(client, func(o *ec2.SnapshotCompletedWaiterOptions) { o.MinDelay = 10 * time.Millisecond }).
		Wait(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snapshot.SnapshotId}}, time.Minute))
	_, err = client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: volume.VolumeId})
	ts.Check(err)
	made, err := client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: &args[0], Architecture: types.ArchitectureValuesX8664, RootDeviceName: aws.String("/dev/sda1"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{
			DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: snapshot.SnapshotId},
		}},
	})
	ts.Check(err)
	ts.Setenv("IMAGE", *made.ImageId)
	ts.Setenv("SNAPSHOT", *snapshot.SnapshotId)
}

// other starts a second local cloud, in a folder of its own, and makes it a
// context: other NAME.
func other(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: other NAME")
	}
	data, own := ts.MkAbs(args[0]+"-data"), ts.Getenv("STEAD_DATA_DIR")
	ts.Setenv("STEAD_DATA_DIR", data)
	ts.Check(ts.Exec("stead", "cloud", "start"))
	ts.Setenv("STEAD_DATA_DIR", own)
	control, err := cloud.Connect(data)
	ts.Check(err)
	ctx := context.Background()
	ts.Defer(func() {
		if err := control.Stop(ctx, true); err != nil {
			ts.Logf("stop the other cloud: %v", err)
		}
	})
	info, err := control.Info(ctx)
	ts.Check(err)
	keys, err := control.Credentials(ctx)
	ts.Check(err)
	profile := fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", args[0], keys.AccessKeyID, keys.SecretAccessKey)
	ts.Check(os.WriteFile(ts.Getenv("AWS_SHARED_CREDENTIALS_FILE"), []byte(profile), 0o600))
	ts.Check(ts.Exec("stead", "context", "create", args[0], "--endpoint-url", info.Endpoint, "--profile", args[0], "--region", info.Region))
}

// diskImage writes a raw disk that a BIOS would boot from: diskimage FILE.
func diskImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: diskimage FILE")
	}
	disk := make([]byte, 2<<20+512)
	disk[0], disk[510], disk[511] = 0xfa, 0x55, 0xaa
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), disk, 0o600))
}

// sums writes a list of SHA-256 sums of files, as sha256sum does: sums LIST
// FILE...
func sums(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sums LIST FILE...")
	}
	var list strings.Builder
	for _, name := range args[1:] {
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256([]byte(ts.ReadFile(name))), name)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(list.String()), 0o600))
}

func waitVolume(ctx context.Context, ts *testscript.TestScript, client *ec2.Client, id string) {
	w := ec2.NewVolumeAvailableWaiter(client, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay = 10 * time.Millisecond })
	ts.Check(w.Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}}, time.Minute))
}

// localClient is an SDK client of the script's local cloud.
func localClient(ctx context.Context, ts *testscript.TestScript) *ec2.Client {
	control, err := cloud.Connect(ts.Getenv("STEAD_DATA_DIR"))
	ts.Check(err)
	info, err := control.Info(ctx)
	ts.Check(err)
	keys, err := control.Credentials(ctx)
	ts.Check(err)
	return ec2.New(ec2.Options{
		Region: info.Region, BaseEndpoint: &info.Endpoint, HTTPClient: steadyHTTP{},
		Credentials: credentials.NewStaticCredentialsProvider(keys.AccessKeyID, keys.SecretAccessKey, ""),
	})
}

// spoil takes away what guards an instance of the script's local cloud: spoil
// ID.
func spoil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: spoil ID")
	}
	ctx := context.Background()
	client := localClient(ctx, ts)
	for _, in := range []*ec2.ModifyInstanceAttributeInput{
		{DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(false)}},
		{InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String("terminate")}},
		{BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
		}}},
	} {
		in.InstanceId = &args[0]
		_, err := client.ModifyInstanceAttribute(ctx, in)
		ts.Check(err)
	}
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
