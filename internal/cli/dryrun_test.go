package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/cli"
	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/dryrun"
)

// desk runs the command line in this process, on a local cloud without
// machines that it reaches as any other endpoint: through a proxy that keeps
// what was asked.
type desk struct {
	t   *testing.T
	env map[string]string
	// version is the daemon's: one of another version would be replaced.
	version string

	// tamper, if it isn't nil, may refuse an action with a code or change the
	// answer to it.
	tamper func(action, answer string) (code, changed string)

	mu    sync.Mutex
	calls []string // actions, in their order
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	// As root the daemon runs as another user, who must reach its folder.
	dir, err := os.MkdirTemp("", "stead-desk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	d := &desk{t: t, env: map[string]string{
		"HOME": filepath.Join(dir, "home"), "STEAD_CONFIG_DIR": filepath.Join(dir, "config"), "STEAD_DATA_DIR": data,
		"STEAD_LISTEN": "127.0.0.1:0", "STEAD_MACHINES": "none", "STEAD_EGRESS": "off",
	}}
	d.must("cloud", "start")
	t.Cleanup(func() {
		if control, err := cloud.Connect(data); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = control.Stop(ctx, true)
		}
	})
	d.join(data)
	return d
}

// join makes the context "there": the local cloud by way of the proxy.
func (d *desk) join(data string) {
	d.t.Helper()
	control, err := cloud.Connect(data)
	d.check(err)
	info, err := control.Info(d.t.Context())
	d.check(err)
	d.version = info.Version
	keys, err := control.Credentials(d.t.Context())
	d.check(err)
	target, err := url.Parse(info.Endpoint)
	d.check(err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		action := d.note(r)
		if d.tamper == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		if code, _ := d.tamper(action, ""); code != "" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<Response><Errors><Error><Code>%s</Code><Message>not allowed here</Message></Error></Errors></Response>", code)
			return
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		_, text := d.tamper(action, answer.Body.String())
		w.WriteHeader(answer.Code)
		_, _ = io.WriteString(w, text)
	}))
	d.t.Cleanup(server.Close)
	// The SDK reads the process's own environment.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": keys.AccessKeyID, "AWS_SECRET_ACCESS_KEY": keys.SecretAccessKey, "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": filepath.Join(data, "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(data, "none"),
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
	} {
		d.t.Setenv(name, value)
	}
	d.must("context", "create", "there", "--endpoint-url", server.URL, "--region", info.Region)
	d.must("context", "use", "there")
	d.env["IMAGE"] = d.image(ec2.New(ec2.Options{
		Region: info.Region, BaseEndpoint: &info.Endpoint, HTTPClient: steadyHTTP{},
		Credentials: credentials.NewStaticCredentialsProvider(keys.AccessKeyID, keys.SecretAccessKey, ""),
	}))
}

// note keeps the action of a request.
func (d *desk) note(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return ""
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	action := r.Method + " " + r.URL.Path
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("Action") != "" {
		action = form.Get("Action")
	}
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		_, action, _ = strings.Cut(target, ".")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, action)
	return action
}

// changes are the actions since the last call of it that change something.
func (d *desk) changes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, c := range d.calls {
		if !dryrun.Reads(c) && !strings.HasPrefix(c, "GET ") {
			list = append(list, c)
		}
	}
	d.calls = nil
	return list
}

// image registers an image of a blank disk.
func (d *desk) image(client *ec2.Client) string {
	d.t.Helper()
	ctx := d.t.Context()
	v, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	d.check(err)
	d.check(ec2.NewVolumeAvailableWaiter(client, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay = 10 * time.Millisecond }).
		Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}}, time.Minute))
	s, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId})
	d.check(err)
	d.check(ec2.NewSnapshotCompletedWaiter(client, func(o *ec2.SnapshotCompletedWaiterOptions) { o.MinDelay = 10 * time.Millisecond }).
		Wait(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*s.SnapshotId}}, time.Minute))
	_, err = client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: v.VolumeId})
	d.check(err)
	i, err := client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("base"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), RootDeviceName: aws.String("/dev/sda1"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: s.SnapshotId}}},
	})
	d.check(err)
	return *i.ImageId
}

func (d *desk) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// run runs the command line.
func (d *desk) run(args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	var out, errs bytes.Buffer
	app := &cli.App{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now, Root: os.Geteuid() == 0, Version: d.version,
		Getenv: func(name string) string { return d.env[name] },
	}
	code = app.Run(d.t.Context(), append([]string{"stead"}, args...))
	return out.String(), errs.String(), code
}

// must runs a command that must not fail, and returns what it printed.
func (d *desk) must(args ...string) string {
	d.t.Helper()
	out, errs, code := d.run(args...)
	if code != 0 {
		d.t.Fatalf("stead %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// planned is the commands of a verb's plan.
func (d *desk) planned(args ...string) []string {
	d.t.Helper()
	var steps []struct{ Service, Operation, Command string }
	d.check(json.Unmarshal([]byte(d.must(append([]string{"--dry-run", "-o", "json"}, args...)...)), &steps))
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.Command)
	}
	return lines
}

// done runs a verb and returns the commands that it explains.
func (d *desk) done(args ...string) []string {
	d.t.Helper()
	_, errs, code := d.run(append([]string{"--explain"}, args...)...)
	if code != 0 {
		d.t.Fatalf("stead %s: exit code %d\n%s", strings.Join(args, " "), code, errs)
	}
	var lines []string
	for line := range strings.Lines(errs) {
		if strings.HasPrefix(line, "aws ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

var (
	someID     = regexp.MustCompile(`\b(i|vol|snap|ami|sg|eipalloc|eipassoc|replacevol|policy)-[0-9a-f]{17}\b`)
	someToken  = regexp.MustCompile(`\bstead-[0-9a-f]{40}\b|--client-token ([0-9a-f-]{36}|[A-Z2-7]{26})`)
	severalIDs = regexp.MustCompile(`--resources( snap-[0-9a-f]{17}){2,}`)
	someIP     = regexp.MustCompile(`\b(172\.31|192\.0|198\.51)(\.\d+){2}\b`)
	someSet    = regexp.MustCompile(`\b\d{8}T\d{6}Z-[0-9a-f]{4}\b`)
)

// alike names each ID by the order in which it comes, and takes out what
// follows from the time and from IDs that can't be known before.
func alike(lines []string) []string {
	seen := map[string]string{}
	var list []string
	for _, line := range lines {
		line = severalIDs.ReplaceAllString(line, "--resources SEVERAL") // in the order of their IDs
		line = someID.ReplaceAllStringFunc(line, func(id string) string {
			if seen[id] == "" {
				kind, _, _ := strings.Cut(id, "-")
				seen[id] = fmt.Sprintf("%s-%d", kind, len(seen)+1)
			}
			return seen[id]
		})
		line = someIP.ReplaceAllString(line, "IP")
		list = append(list, someSet.ReplaceAllString(someToken.ReplaceAllString(line, "TOKEN"), "SET"))
	}
	return list
}

// differing lists the calls in which a plan and what was done differ.
func differing(plan, did []string) string {
	var b strings.Builder
	for k := range max(len(plan), len(did)) {
		var p, d string
		if k < len(plan) {
			p = plan[k]
		}
		if k < len(did) {
			d = did[k]
		}
		if p != d {
			fmt.Fprintf(&b, "%d planned %s\n%d did     %s\n", k+1, p, k+1, d)
		}
	}
	return b.String()
}

// same plans a verb and then does it.
func (d *desk) same(args ...string) {
	d.t.Helper()
	name := strings.Join(args, " ")
	d.changes()
	plan := d.planned(args...)
	if sent := d.changes(); len(sent) > 0 {
		d.t.Errorf("stead --dry-run %s sent %v", name, sent)
	}
	did := d.done(args...)
	if sent := d.changes(); len(sent) != len(did) && args[0] != "--context" {
		d.t.Errorf("stead --explain %s explained %d calls and sent %v", name, len(did), sent)
	}
	want, got := strings.Join(alike(plan), "\n"), strings.Join(alike(did), "\n")
	if want != got {
		d.t.Errorf("stead %s\n%s", name, differing(alike(plan), alike(did)))
	}
	d.t.Logf("stead %s: %d calls", name, len(did))
}

// TestPlanIsExact plans each verb and then does it: what is done must be what
// was planned, call by call and option by option, and planning changes nothing.
func TestPlanIsExact(t *testing.T) {
	d := newDesk(t)
	image := d.env["IMAGE"]
	same := func(args ...string) { t.Helper(); d.same(args...) }
	key := filepath.Join(t.TempDir(), "key.pub")
	d.check(os.WriteFile(key, []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPtu6W0cYVUG6B2lBF3Xb4Qq4XuXfBdBNqUaXKBVCyX it's me\n"), 0o600))
	same("create", "web", "--image", image, "--data", "5", "--wait", "running", "--key", key)
	same("stop", "web")
	same("snapshot", "web", "--note", "all quiet")
	same("start", "web", "--wait", "running")
	same("volume", "create", "web", "3")
	volume := d.disk("web", "/dev/sdg")
	same("--context", "local", "volume", "detach", volume) // nothing to unmount there
	same("volume", "attach", volume, "web", "--device", "/dev/sdk")
	same("schedule", "web", "--every", "24h", "--keep", "7")
	same("schedule", "web", "--keep", "9")
	same("protect", "web")
	same("unprotect", "web")
	same("open", "web", "80,443")
	same("close", "web", "443")
	same("schedule", "web", "--off")
	same("terminate", "web", "--yes")
	same("rescue", "web", "--by", "swap", "--wait", "running")
	same("terminate", "web", "--yes")
	same("rescue", "web", "--by", "snapshot", "--wait", "running")
	same("image", "durable", image)
	same("stop", "web", "--force")
	same("image", "durable", "web", "--name", "web's", "--data", "7")
	same("resize", "web", "--type", "t3.large", "--wait", "running")
	same("start", "web", "--wait", "running")
	// Where machines are expected, what is on a disk would be grown too.
	same("--context", "local", "resize", "web", "--type", "t3.small", "--disk", "3", "--yes", "--wait", "running")
	same("--context", "local", "reboot", "web", "--wait", "running")
	same("stop", "web")
	same("restore", "web", "--set", "latest", "--yes", "--wait", "running")
	same("--context", "local", "stop", "web")
	same("--context", "local", "rename", "web", "shop")
	same("--context", "local", "rename", "shop", "web")
	same("--context", "local", "clone", "web", "twin", "--wait", "running")
	same("prune", "web", "--keep", "1", "--yes")
	// A purge would try the snapshots of a durable image in vain, which a plan
	// leaves out: it lists what would be changed.
	for line := range strings.Lines(d.must("image", "ls", "--format", "{{.id}} {{.name}}")) {
		if id, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == "web's" {
			same("image", "rm", id, "--yes")
		}
	}
	same("purge", "web", "--snapshots", "--no-snapshot", "--yes")
}

// TestPlanIsExactForStrangers does the same with what other tools made, and
// with what leaves its zone and region.
func TestPlanIsExactForStrangers(t *testing.T) {
	d := newDesk(t)
	same := func(args ...string) { t.Helper(); d.same(args...) }
	_, instance, _ := strings.Cut(d.must("ec2", "run", d.env["IMAGE"], "-t", "t3.micro", "-b", "/dev/sdf=:2:true"), "\nINSTANCE\t")
	instance, _, _ = strings.Cut(instance, "\t")
	same("adopt", "old", instance)
	same("ec2", "minatt", instance, "--disable-api-termination", "false")
	same("--context", "local", "doctor", "old", "--fix")
	disk := d.disk("old", "/dev/sdf")
	same("--context", "local", "volume", "grow", disk, "3")
	same("--context", "local", "volume", "grow", disk, "3") // which it has
	same("--context", "local", "volume", "detach", disk)
	same("volume", "rm", disk, "--snapshot", "--yes")
	d.changes()
	d.must("serial", "old", "--dry-run")
	if sent := d.changes(); len(sent) > 0 {
		t.Errorf("serial sent %v", sent)
	}
	same("schedule", "old", "--every", "12h", "--at", "03:00", "--keep-for", "30d")
	same("schedule", "old", "--off")
	same("--context", "local", "move", "old", "--zone", "us-east-1b", "--yes", "--wait", "running")
	same("move", "old", "--release", "--yes")
	same("--context", "local", "move", "old", "--region", "us-west-2", "--yes", "--wait", "running")
	same("--context", "local", "move", "old", "--region", "us-west-2", "--release", "--yes")
	same("image", "copy", d.env["IMAGE"], "--region", "us-west-2")
	same("image", "copy", d.env["IMAGE"], "--from", "us-east-1", "--name", "again")
}

// TestPlanOfRepair: what a repair does is known before but for what is found on
// the disk, and nothing is done for it.
func TestPlanOfRepair(t *testing.T) {
	d := newDesk(t)
	d.must("create", "web", "--image", d.env["IMAGE"], "--wait", "running")
	d.changes()
	var steps []struct{ Service, Operation, Command string }
	d.check(json.Unmarshal([]byte(d.must("--dry-run", "-o", "json", "repair", "web", "--fix", "fstab", "--yes")), &steps))
	if sent := d.changes(); len(sent) > 0 {
		t.Errorf("planning sent %v", sent)
	}
	var ops []string
	for _, s := range steps {
		if s.Service == "guest" {
			s.Operation = "guest " + s.Operation
		}
		ops = append(ops, s.Operation)
	}
	const want = "CreateTags CreateSecurityGroup AuthorizeSecurityGroupIngress RunInstances StopInstances DetachVolume AttachVolume guest Run guest Run " +
		"CreateTags guest Run DetachVolume AttachVolume StartInstances TerminateInstances DeleteSecurityGroup DeleteTags"
	if got := strings.Join(ops, " "); got != want {
		t.Errorf("planned\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(fmt.Sprint(steps), "chroot '/mnt/web'") && !strings.Contains(fmt.Sprint(steps), "/mnt/web") {
		t.Errorf("it doesn't show what is done on the disk: %+v", steps)
	}
}

// disk is the volume that a server has at a device.
func (d *desk) disk(name, device string) string {
	d.t.Helper()
	var disks []struct {
		VolumeID string `json:"volume_id"`
		Device   string `json:"device"`
	}
	d.check(json.Unmarshal([]byte(d.must("volume", "ls", name, "-o", "json")), &disks))
	for _, disk := range disks {
		if disk.Device == device {
			return disk.VolumeID
		}
	}
	d.t.Fatalf("server %s has no disk at %s", name, device)
	return ""
}
