package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
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
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/steadcloud/stead/internal/server"
)

// The tests' endpoint is moto_server: an EC2 that nobody here wrote. One
// serves all tests; each has an account of its own, where nothing is yet, and
// one of these regions, which moto knows.
//
// STEAD_TEST_EC2_URL names another endpoint to run them on, with credentials
// from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, such as `stead cloud run
// --machines none`. It may have one account only: then each test has a region
// of its own instead, so that not all of them can run at once. Its regions must
// be empty, and it is left full.
var moto struct {
	sync.Mutex
	url     string
	imageID string
	err     error
	stop    func()
	benches int // how many tests have one
}

var motoRegions = strings.Fields(`us-east-1 us-east-2 us-west-1 us-west-2 eu-west-1 eu-west-2 eu-west-3 eu-central-1 eu-north-1
	ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-southeast-1 ap-southeast-2 ap-south-1 sa-east-1 ca-central-1`)

func TestMain(m *testing.M) {
	code := m.Run()
	if moto.stop != nil {
		moto.stop()
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

// startMoto starts moto_server once and returns its URL.
func startMoto(t *testing.T) string {
	t.Helper()
	if url := os.Getenv("STEAD_TEST_EC2_URL"); url != "" {
		return url
	}
	moto.Lock()
	defer moto.Unlock()
	if moto.url == "" && moto.err == nil {
		moto.url, moto.stop, moto.err = runMoto()
	}
	if errors.Is(moto.err, exec.ErrNotFound) {
		skip(t, "moto_server isn't installed: pip install 'moto[server]'")
	}
	if moto.err != nil {
		t.Fatal(moto.err)
	}
	return moto.url
}

func runMoto() (string, func(), error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", exec.ErrNotFound, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		return "", nil, err
	}
	// A few images: moto's own thousand make each listing slow.
	amis, err := filepath.Abs("testdata/moto_amis.json")
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(path, "-H", "127.0.0.1", "-p", fmt.Sprint(addr.Port))
	cmd.Env = append(os.Environ(), "MOTO_AMIS_PATH="+amis)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	stop := func() { _ = cmd.Process.Kill(); <-gone }
	url := "http://" + addr.String()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-gone:
			return "", nil, fmt.Errorf("moto_server ended: %w\n%s", err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if res, err := http.Get(url + "/moto-api/data.json"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return url, stop, nil
			}
		}
	}
	stop()
	return "", nil, errors.New("moto_server didn't answer within a minute")
}

// publicImage is one of testdata/moto_amis.json, whose root is /dev/xvda.
const publicImage = "ami-0a00000000000001"

// bench is one test's view of the endpoint.
type bench struct {
	t       *testing.T
	client  *ec2.Client
	ssm     *ssm.Client
	url     string
	region  string
	account string // moto's, "" elsewhere
	imageID string
	sshd    net.Addr
	events  []server.Event
	mu      sync.Mutex
}

// newBench gives a test a region that nothing has used. rt is put between
// client and endpoint; nil is the plain transport.
func newBench(t *testing.T, rt http.RoundTripper) *bench {
	t.Helper()
	url := startMoto(t)
	moto.Lock()
	n := moto.benches
	moto.benches++
	moto.Unlock()
	b := &bench{t: t, region: motoRegions[n%len(motoRegions)], sshd: bannerServer(t), url: url, imageID: publicImage}
	switch {
	case b.isMoto():
		b.account = fmt.Sprintf("%012d", 100000000000+n)
	case n >= len(motoRegions):
		t.Fatalf("more than %d tests on an endpoint with one account: choose some by -run", len(motoRegions))
	}
	b.ssm = ssm.New(ssm.Options{Region: b.region, BaseEndpoint: &url, HTTPClient: b.http(nil), Credentials: credentials()})
	b.client = b.through(rt)
	if !b.isMoto() {
		b.imageID = b.makeImage()
	}
	return b
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
		return a.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	r.Header.Set("X-Moto-Account-Id", a.account)
	// moto keeps the address of a terminated instance, and breaks when it is
	// asked for again.
	if form := formOf(r); form.Get("Action") == "RunInstances" && form.Get("PrivateIpAddress") != "" {
		return refused(r, http.StatusBadRequest, "InvalidIPAddress.InUse"), nil
	}
	return a.next.RoundTrip(r)
}

// isMoto tells whether the endpoint is moto, for what only it does wrong.
func (b *bench) isMoto() bool { return os.Getenv("STEAD_TEST_EC2_URL") == "" }

// makeImage registers an image of a blank disk.
func (b *bench) makeImage() string {
	b.t.Helper()
	ctx := context.Background()
	v, err := b.client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(b.region + "a"), Size: aws.Int32(1)})
	b.check(err)
	b.check(ec2.NewVolumeAvailableWaiter(b.client, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = time.Millisecond, time.Second }).
		Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}}, time.Minute))
	s, err := b.client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId})
	b.check(err)
	b.check(ec2.NewSnapshotCompletedWaiter(b.client, func(o *ec2.SnapshotCompletedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Millisecond, time.Second }).
		Wait(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*s.SnapshotId}}, time.Minute))
	b.deleteVolume(*v.VolumeId)
	i, err := b.client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("base"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		RootDeviceName: aws.String("/dev/xvda"), BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: s.SnapshotId}}},
	})
	b.check(err)
	return *i.ImageId
}

func credentials() aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		if id := os.Getenv("AWS_ACCESS_KEY_ID"); id != "" && os.Getenv("STEAD_TEST_EC2_URL") != "" {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY")}, nil
		}
		return aws.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "secret"}, nil
	})
}

// through returns a client of the endpoint whose calls go through rt.
func (b *bench) through(rt http.RoundTripper) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: b.region, BaseEndpoint: &b.url, HTTPClient: b.http(rt),
		Credentials: credentials(),
		// What is tried again is tried soon: nobody is spared by waiting.
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = 20 * time.Millisecond }),
	})
}

// bannerServer answers every connection as an ssh server begins.
func bannerServer(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w := bufio.NewWriter(c)
			fmt.Fprint(w, "a notice first\r\nSSH-2.0-test\r\n")
			_ = w.Flush()
			_ = c.Close()
		}
	}()
	return l.Addr()
}

// manager returns a Manager on the given API; its guests' ssh is the bench's.
func (b *bench) manager(api server.EC2) *server.Manager { return server.New(b.config(api)) }

func (b *bench) config(api server.EC2) server.Config {
	return server.Config{
		EC2: recorded(api), SSM: recordedSSM(b.ssm), Region: b.region,
		PollMin: time.Millisecond, PollMax: 20 * time.Millisecond, StateTimeout: 20 * time.Second, SSHTimeout: 20 * time.Second,
		Notify: func(e server.Event) { b.mu.Lock(); b.events = append(b.events, e); b.mu.Unlock() },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, b.sshd.String())
		},
	}
}

// otherZone is a zone of the region that isn't the given one.
func (b *bench) otherZone(zone string) string {
	b.t.Helper()
	out, err := b.client.DescribeAvailabilityZones(b.t.Context(), &ec2.DescribeAvailabilityZonesInput{})
	b.check(err)
	for _, z := range out.AvailabilityZones {
		if name := aws.ToString(z.ZoneName); name != zone {
			return name
		}
	}
	b.t.Fatalf("%s has no zone but %s", b.region, zone)
	return ""
}

// inventory is everything in the region that a user pays for or trips over.
type inventory struct {
	live      []types.Instance
	volumes   map[string]types.Volume
	snapshots int // own ones with a set
	images    []string
	groups    int
	addresses []types.Address
}

func (b *bench) inventory() inventory {
	b.t.Helper()
	ctx := context.Background()
	inv := inventory{volumes: map[string]types.Volume{}}
	instances, err := b.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	b.check(err)
	for _, r := range instances.Reservations {
		for _, i := range r.Instances {
			if i.State.Name != types.InstanceStateNameTerminated {
				inv.live = append(inv.live, i)
			}
		}
	}
	volumes, err := b.client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
	b.check(err)
	for _, v := range volumes.Volumes {
		if v.State != types.VolumeStateDeleting {
			inv.volumes[*v.VolumeId] = v
		}
	}
	snaps, err := b.client.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{"stead:set"}}}})
	b.check(err)
	inv.snapshots = len(snaps.Snapshots)
	images, err := b.client.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}})
	b.check(err)
	for _, i := range images.Images {
		if aws.ToString(i.ImageId) == b.imageID {
			continue
		}
		inv.images = append(inv.images, aws.ToString(i.Name))
	}
	groups, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	b.check(err)
	for _, g := range groups.SecurityGroups {
		if strings.HasPrefix(aws.ToString(g.GroupName), "stead-") {
			inv.groups++
		}
	}
	addresses, err := b.client.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
	b.check(err)
	inv.addresses = addresses.Addresses
	return inv
}

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func (b *bench) deleteVolume(id string) {
	b.t.Helper()
	_, err := b.client.DeleteVolume(context.Background(), &ec2.DeleteVolumeInput{VolumeId: &id})
	b.check(err)
}

func (b *bench) releaseAddresses() {
	b.t.Helper()
	for _, a := range b.inventory().addresses {
		_, err := b.client.ReleaseAddress(context.Background(), &ec2.ReleaseAddressInput{AllocationId: a.AllocationId})
		b.check(err)
	}
}

// deleteAccess deletes the security groups and key pairs that servers leave.
func (b *bench) deleteAccess() {
	b.t.Helper()
	ctx := context.Background()
	groups, err := b.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	b.check(err)
	for _, g := range groups.SecurityGroups {
		if strings.HasPrefix(aws.ToString(g.GroupName), "stead-") {
			_, err := b.client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
			b.check(err)
		}
	}
	keys, err := b.client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{})
	b.check(err)
	for _, k := range keys.KeyPairs {
		_, err := b.client.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: k.KeyName})
		b.check(err)
	}
}

// doom makes the server's data disk go with its instance.
func (b *bench) doom(name string) {
	b.t.Helper()
	for _, i := range b.inventory().live {
		if tag(i.Tags, "stead:server") != name {
			continue
		}
		_, err := b.client.ModifyInstanceAttribute(context.Background(), &ec2.ModifyInstanceAttributeInput{
			InstanceId: i.InstanceId,
			BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
				DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
			}},
		})
		b.check(err)
	}
}
