package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// The tests run on the local cloud without machines, whose state and disks are
// real. Those about what an endpoint may lack run on moto_server as well: an
// EC2 that nobody here wrote (newForeignBench).
//
// STEAD_TEST_EC2_URL=moto runs all of them there. Another value is the URL of
// an endpoint to run them on, with credentials from AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY. It may have one account only: then each test has a
// region of its own, so that not all of them can run at once. Its regions must
// be empty, and it is left full.
const endpointVariable = "STEAD_TEST_EC2_URL"

// testRegions are such as moto and the local cloud both know.
var testRegions = strings.Fields(`us-east-1 us-east-2 us-west-1 us-west-2 eu-west-1 eu-west-2 eu-west-3 eu-central-1 eu-north-1
	ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-southeast-1 ap-southeast-2`)

// farRegions are the others, for tests that need a second one.
var farRegions = strings.Fields(`ap-south-1 sa-east-1 ca-central-1`)

// site is an endpoint and who one is there.
type site struct {
	url  string
	keys aws.CredentialsProvider
	stop func()
}

// sites are the endpoints that this run has started.
var sites struct {
	sync.Mutex
	locals  []site // each full but the last
	moto    *site
	failed  error
	used    int // regions of the last local, or of the endpoint that was named
	far     int // regions of farRegions
	benches int // of moto: each has an account of its own
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range sites.locals {
		s.stop()
	}
	if sites.moto != nil {
		sites.moto.stop()
	}
	if len(sites.locals) > 0 {
		dir, _ := built() // there is a cloud of it
		_ = os.RemoveAll(dir)
	}
	if err := checkCalls(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// skip skips, unless skipping is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// newBench gives a test a region that nothing has used. rt is put between
// client and endpoint; nil is the plain transport.
func newBench(t *testing.T, rt http.RoundTripper) *bench {
	t.Helper()
	switch url := os.Getenv(endpointVariable); url {
	case "":
		return localBench(t, rt)
	case "moto":
		return newForeignBench(t, rt)
	default:
		keys := credentials.NewStaticCredentialsProvider(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), "")
		return benchAt(t, site{url: url, keys: keys}, freeRegion(t), "", rt)
	}
}

// onBoth runs a test on the usual endpoint and on moto, each with a killer of
// its own between client and endpoint.
func onBoth(t *testing.T, test func(t *testing.T, b *bench, k *killer)) {
	t.Helper()
	run := func(name string, newBench func(*testing.T, http.RoundTripper) *bench) {
		t.Run(name, func(t *testing.T) { k := &killer{}; test(t, newBench(t, k), k) })
	}
	run("usual", newBench)
	if os.Getenv(endpointVariable) == "" {
		run("moto", newForeignBench)
	}
}

// newRunningBench is newBench where machines that run can be snapshotted, as
// the local cloud without any can't.
func newRunningBench(t *testing.T, rt http.RoundTripper) *bench {
	t.Helper()
	if os.Getenv(endpointVariable) == "" {
		return newForeignBench(t, rt)
	}
	return newBench(t, rt)
}

// newForeignBench is newBench on moto, for what only another's endpoint lacks.
func newForeignBench(t *testing.T, rt http.RoundTripper) *bench {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if sites.moto == nil && sites.failed == nil {
		sites.moto, sites.failed = startMoto()
	}
	if errors.Is(sites.failed, exec.ErrNotFound) {
		skip(t, "moto_server isn't installed: pip install 'moto[server]'")
	}
	if sites.failed != nil {
		t.Fatal(sites.failed)
	}
	n := sites.benches
	sites.benches++
	return benchAt(t, *sites.moto, testRegions[n%len(testRegions)], fmt.Sprintf("%012d", 100000000000+n), rt)
}

func localBench(t *testing.T, rt http.RoundTripper) *bench {
	t.Helper()
	local, region := freeLocal(t)
	return benchAt(t, local, region, "", rt)
}

// benchAt makes the bench, with an image in it.
func benchAt(t *testing.T, at site, region, account string, rt http.RoundTripper) *bench {
	t.Helper()
	b := &bench{t: t, site: at, region: region, account: account, sshd: bannerServer(t), imageID: publicImage}
	b.ssm = ssm.New(ssm.Options{Region: b.region, BaseEndpoint: &b.url, HTTPClient: b.http(nil), Credentials: b.keys})
	b.client = b.through(rt)
	if !b.isMoto() {
		b.imageID = b.makeImage()
	}
	return b
}

// isMoto tells whether the endpoint is moto, for what only it does wrong.
func (b *bench) isMoto() bool { return b.account != "" }

// freeRegion gives the next region of the endpoint that was named.
func freeRegion(t *testing.T) string {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if sites.used == len(testRegions) {
		t.Fatalf("more than %d tests on an endpoint with one account: choose some by -run", len(testRegions))
	}
	sites.used++
	return testRegions[sites.used-1]
}

// freeFarRegion gives the next of farRegions.
func freeFarRegion(t *testing.T) string {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if sites.far == len(farRegions) {
		t.Fatalf("more than %d tests with a second region", len(farRegions))
	}
	sites.far++
	return farRegions[sites.far-1]
}

// freeLocal gives a local cloud and an unused region of it.
func freeLocal(t *testing.T) (site, string) {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if len(sites.locals) == 0 || sites.used == len(testRegions) {
		local, err := startLocal()
		if err != nil {
			t.Fatal(err)
		}
		sites.locals, sites.used = append(sites.locals, local), 0
	}
	sites.used++
	return sites.locals[len(sites.locals)-1], testRegions[sites.used-1]
}

// built is the folder of the program whose local cloud the tests run on. It is
// built once, as a user has it: the race detector watches the tests' side.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stead-server-bin-")
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
	return dir, nil
})

// startLocal starts a local cloud without machines in a folder of its own.
func startLocal() (site, error) {
	bin, err := built()
	if err != nil {
		return site{}, err
	}
	dir, err := os.MkdirTemp(bin, "cloud-")
	if err != nil {
		return site{}, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return site{}, err
	}
	stead := func(args ...string) ([]byte, error) {
		cmd := exec.Command(filepath.Join(bin, "stead"), append([]string{"cloud"}, args...)...)
		cmd.Env = append(os.Environ(), "STEAD_CONFIG_DIR="+filepath.Join(dir, "config"), "STEAD_DATA_DIR="+filepath.Join(dir, "data"),
			"STEAD_MACHINES=none", "STEAD_LISTEN=127.0.0.1:0")
		var log bytes.Buffer
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("stead cloud %v: %w\n%s", args, err, log.Bytes())
		}
		return out, err
	}
	out, err := stead("env", "-o", "json") // which starts it
	if err != nil {
		return site{}, err
	}
	var env struct {
		URL    string `json:"AWS_ENDPOINT_URL"`
		ID     string `json:"AWS_ACCESS_KEY_ID"`
		Secret string `json:"AWS_SECRET_ACCESS_KEY"`
	}
	if err := json.Unmarshal(out, &env); err != nil {
		return site{}, err
	}
	stop := func() { _, _ = stead("stop") } // its folder goes next
	return site{url: env.URL, keys: credentials.NewStaticCredentialsProvider(env.ID, env.Secret, ""), stop: stop}, nil
}

// startMoto starts moto_server.
func startMoto() (*site, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", exec.ErrNotFound, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		return nil, err
	}
	// A few images: moto's own thousand make each listing slow.
	amis, err := filepath.Abs("testdata/moto_amis.json")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-H", "127.0.0.1", "-p", fmt.Sprint(addr.Port))
	cmd.Env = append(os.Environ(), "MOTO_AMIS_PATH="+amis)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	stop := func() { _ = cmd.Process.Kill(); <-gone }
	url := "http://" + addr.String()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-gone:
			return nil, fmt.Errorf("moto_server ended: %w\n%s", err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if res, err := http.Get(url + "/moto-api/data.json"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return &site{url: url, keys: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""), stop: stop}, nil
			}
		}
	}
	stop()
	return nil, errors.New("moto_server didn't answer within a minute")
}

// http is a client of the bench's account.
func (b *bench) http(rt http.RoundTripper) *http.Client {
	if rt == nil {
		rt = http.DefaultTransport
	}
	return &http.Client{Transport: inAccount{rt, b.account}}
}

// inAccount tells moto which account a request is for.
type inAccount struct {
	next    http.RoundTripper
	account string
}

func (a inAccount) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.account == "" {
		return a.next.RoundTrip(steady(r))
	}
	r = r.Clone(r.Context())
	r.Header.Set("X-Moto-Account-Id", a.account)
	// moto keeps the address of a terminated instance, and breaks when it is
	// asked for again.
	if form := formOf(r); form.Get("Action") == "RunInstances" && form.Get("PrivateIpAddress") != "" {
		return refused(r, http.StatusBadRequest, "InvalidIPAddress.InUse"), nil
	}
	return a.next.RoundTrip(steady(r))
}

// steady hides the WriteTo of a request's body, as the tool does: the SDK lets
// go of a body at the answer's first byte, and quick answers would be lost.
func steady(r *http.Request) *http.Request {
	if r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return r
}
