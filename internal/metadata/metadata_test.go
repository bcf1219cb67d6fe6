package metadata

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cloud is a metadata service on loopback, where each 127.0.0.x is a machine.
type cloud struct {
	t         *testing.T
	url       string
	instances map[netip.Addr]Instance
	now       atomic.Pointer[time.Time]
}

func newCloud(t *testing.T, instances ...Instance) *cloud {
	t.Helper()
	c := &cloud{t: t, instances: map[netip.Addr]Instance{}}
	c.advance(0)
	for _, in := range instances {
		c.instances[in.PrivateIP] = in
	}
	lookup := func(_ context.Context, a netip.Addr) (Instance, bool) { in, ok := c.instances[a]; return in, ok }
	srv := httptest.NewServer(Handler(lookup, func() time.Time { return *c.now.Load() }, slog.New(slog.DiscardHandler)))
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

func (c *cloud) advance(d time.Duration) {
	now := time.Unix(1e9, 0)
	if p := c.now.Load(); p != nil {
		now = p.Add(d)
	}
	c.now.Store(&now)
}

// ask sends a request from a machine; headers come in pairs.
func (c *cloud) ask(from, method, path string, headers ...string) (int, string, http.Header) {
	c.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	tr := &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := tr.RoundTrip(req) // a client would follow redirects: there must be none
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func (c *cloud) token(from, ttl string) string {
	c.t.Helper()
	status, token, h := c.ask(from, "PUT", tokenPath, "X-aws-ec2-metadata-token-ttl-seconds", ttl)
	if status != http.StatusOK || h.Get(ttlHeader) != ttl {
		c.t.Fatalf("token: status %d, ttl %q", status, h.Get(ttlHeader))
	}
	return token
}

func (c *cloud) get(from, token, path string) (int, string) {
	c.t.Helper()
	status, body, _ := c.ask(from, "GET", path, "X-aws-ec2-metadata-token", token)
	return status, body
}

const (
	me    = "127.0.0.1"
	other = "127.0.0.2"
)

func full() Instance {
	return Instance{
		ID: "i-0123456789abcdef0", Type: "t3.micro", Region: "us-east-1", Zone: "us-east-1a", ZoneID: "use1-az1",
		AccountID: "000000000001", ImageID: "ami-0123456789abcdef0", KernelID: "aki-00000001", Architecture: "x86_64",
		ReservationID: "r-0123456789abcdef0", LaunchIndex: 2, LaunchTime: time.Date(2011, 3, 5, 6, 7, 8, 0, time.UTC),
		PrivateIP: netip.MustParseAddr(me), PublicIP: netip.MustParseAddr("127.1.0.1"), PublicHostname: "web.example",
		MAC: "06:00:AC:1F:00:0A", InterfaceID: "eni-1", SubnetID: "subnet-1", VPCID: "vpc-1",
		SubnetCIDR: netip.MustParsePrefix("127.0.0.0/20"), VPCCIDR: netip.MustParsePrefix("127.0.0.0/16"),
		SecurityGroups: []Group{{"sg-1", "default"}, {"sg-2", "web"}},
		KeyName:        "laptop", PublicKey: "ssh-ed25519 AAAA laptop", UserData: []byte("#cloud-config\n\x00\xff"),
		BlockDevices: map[string]string{"ami": "/dev/sda1", "root": "/dev/sda1", "ebs1": "/dev/sdf1"},
		Tags:         map[string]string{"Name": "web", "a/b": "hidden", "empty": ""}, TagsEnabled: true, TokensRequired: true,
	}
}

const rootListing = `ami-id
ami-launch-index
ami-manifest-path
block-device-mapping/
events/
hostname
instance-action
instance-id
instance-life-cycle
instance-type
kernel-id
local-hostname
local-ipv4
mac
network/
placement/
profile
public-hostname
public-ipv4
public-keys/
reservation-id
security-groups
services/
tags/`

const document = `{
  "accountId": "000000000001",
  "architecture": "x86_64",
  "availabilityZone": "us-east-1a",
  "billingProducts": null,
  "devpayProductCodes": null,
  "marketplaceProductCodes": null,
  "imageId": "ami-0123456789abcdef0",
  "instanceId": "i-0123456789abcdef0",
  "instanceType": "t3.micro",
  "kernelId": "aki-00000001",
  "pendingTime": "2011-03-05T06:07:08Z",
  "privateIp": "127.0.0.1",
  "ramdiskId": null,
  "region": "us-east-1",
  "version": "2017-09-30"
}`

// TestCloudInit asks in the order in which cloud-init's Ec2 source does.
func TestCloudInit(t *testing.T) {
	c := newCloud(t, full())
	token := c.token(me, "21600")
	const v = "/2021-03-23/"
	const macs = v + "meta-data/network/interfaces/macs/"
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{v + "meta-data/instance-id", 200, "i-0123456789abcdef0"},
		{v + "user-data", 200, "#cloud-config\n\x00\xff"},
		{v + "meta-data/", 200, rootListing},
		{v + "meta-data/ami-id", 200, "ami-0123456789abcdef0"},
		{v + "meta-data/ami-launch-index", 200, "2"},
		{v + "meta-data/block-device-mapping/", 200, "ami\nebs1\nroot"},
		{v + "meta-data/block-device-mapping/ebs1", 200, "/dev/sdf1"},
		{v + "meta-data/hostname", 200, "ip-127-0-0-1.ec2.internal"},
		{v + "meta-data/kernel-id", 200, "aki-00000001"},
		{v + "meta-data/network/", 200, "interfaces/"},
		{v + "meta-data/network/interfaces/", 200, "macs/"},
		{macs, 200, "06:00:ac:1f:00:0a/"},
		{macs + "06:00:ac:1f:00:0a/ipv4-associations/127.1.0.1", 200, "127.0.0.1"},
		{macs + "06:00:ac:1f:00:0a/security-group-ids", 200, "sg-1\nsg-2"},
		{macs + "06:00:ac:1f:00:0a/subnet-ipv4-cidr-block", 200, "127.0.0.0/20"},
		{v + "meta-data/placement/", 200, "availability-zone\navailability-zone-id\nregion"},
		{v + "meta-data/public-keys/", 200, "0=laptop"},
		{v + "meta-data/public-keys/0/openssh-key", 200, "ssh-ed25519 AAAA laptop\n"},
		{v + "meta-data/security-groups", 200, "default\nweb"},
		{v + "meta-data/tags/instance/", 200, "Name\nempty"},
		{v + "meta-data/tags/instance/Name", 200, "web"},
		{v + "meta-data/tags/instance/empty", 200, ""},
		{v + "dynamic/instance-identity", 200, "document"},
		{v + "dynamic/instance-identity/document", 200, document},
	} {
		if status, got := c.get(me, token, tc.path); status != tc.status || got != tc.want {
			t.Errorf("%s: %d\n%s\nwant %d\n%s", tc.path, status, got, tc.status, tc.want)
		}
	}
}

// TestListingsAreWhole follows every listing down, as cloud-init does: what a
// listing names must be there.
func TestListingsAreWhole(t *testing.T) {
	c := newCloud(t, full())
	token, leaves := c.token(me, "60"), 0
	var walk func(path string)
	walk = func(path string) {
		status, listing := c.get(me, token, path)
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
			return
		}
		if s, bare := c.get(me, token, strings.TrimSuffix(path, "/")); s != status || bare != listing {
			t.Errorf("%s differs without its slash", path)
		}
		for name := range strings.SplitSeq(listing, "\n") {
			if n, _, ok := strings.Cut(name, "="); ok {
				walk(path + n + "/")
			} else if strings.HasSuffix(name, "/") {
				walk(path + name)
			} else {
				leaves++
				if status, _ := c.get(me, token, path+name); status != http.StatusOK {
					t.Errorf("%s%s: %d", path, name, status)
				}
			}
		}
	}
	walk("/latest/meta-data/")
	walk("/latest/dynamic/")
	if leaves < 40 {
		t.Errorf("only %d leaves", leaves)
	}
	if _, top := c.get(me, token, "/latest"); top != "dynamic\nmeta-data\nuser-data" {
		t.Errorf("/latest lists %q", top)
	}
	if _, top := c.get(me, token, "/"); !strings.HasSuffix(top, "\nlatest") || !strings.Contains(top, "\n2009-04-04\n") {
		t.Errorf("/ lists %q", top)
	}
}

// A machine with next to nothing gets 404 for what it doesn't have.
func TestBareInstance(t *testing.T) {
	c := newCloud(t, Instance{ID: "i-1", PrivateIP: netip.MustParseAddr(me), Tags: map[string]string{"Name": "hidden"}})
	for _, path := range []string{
		"/latest/user-data", "/latest/meta-data/public-keys/", "/latest/meta-data/public-ipv4", "/latest/meta-data/kernel-id",
		"/latest/meta-data/iam/security-credentials/", "/latest/meta-data/tags/instance/Name", "/latest/meta-data/nothing",
		"/latest/dynamic/instance-identity/signature", "/2011-11-11/meta-data/", "/later/meta-data/", "/favicon.ico",
	} {
		if status, _, _ := c.ask(me, "GET", path); status != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, status)
		}
	}
	if _, body, _ := c.ask(me, "GET", "/latest/dynamic/instance-identity/document"); !json.Valid([]byte(body)) || !strings.Contains(body, `"kernelId": null`) {
		t.Errorf("document %s", body)
	}
	if _, top, _ := c.ask(me, "GET", "/latest/"); top != "dynamic\nmeta-data" {
		t.Errorf("/latest/ lists %q without user data", top)
	}
}

func TestTokens(t *testing.T) {
	v1 := full()
	v1.PrivateIP, v1.ID, v1.TokensRequired = netip.MustParseAddr(other), "i-other", false
	off := full()
	off.PrivateIP, off.Disabled = netip.MustParseAddr("127.0.0.3"), true
	c := newCloud(t, full(), v1, off)
	const path, ttl, tok = "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
	mine, theirs := c.token(me, "60"), c.token(other, "60")
	forged := mine[:len(mine)-4] + "AAA="
	for name, tc := range map[string]struct {
		from, method, path string
		headers            []string
		want               int
	}{
		"v2":                         {me, "GET", path, []string{tok, mine}, 200},
		"head":                       {me, "HEAD", path, []string{tok, mine}, 200},
		"v1 where tokens are needed": {me, "GET", path, nil, 401},
		"v1 where it is allowed":     {other, "GET", path, nil, 200},
		"another's token":            {me, "GET", path, []string{tok, theirs}, 401},
		"bad token in place of none": {other, "GET", path, []string{tok, mine}, 401},
		"forged":                     {me, "GET", path, []string{tok, forged}, 401},
		"not base64":                 {me, "GET", path, []string{tok, "?"}, 401},
		"no ttl":                     {me, "PUT", tokenPath, nil, 400},
		"ttl 0":                      {me, "PUT", tokenPath, []string{ttl, "0"}, 400},
		"ttl of a word":              {me, "PUT", tokenPath, []string{ttl, "long"}, 400},
		"ttl too long":               {me, "PUT", tokenPath, []string{ttl, "21601"}, 400},
		"longest ttl":                {me, "PUT", tokenPath, []string{ttl, "21600"}, 200},
		"through a proxy":            {me, "PUT", tokenPath, []string{ttl, "60", "X-Forwarded-For", "192.0.2.1"}, 403},
		"token by get":               {me, "GET", tokenPath, []string{ttl, "60"}, 405},
		"put elsewhere":              {me, "PUT", path, []string{tok, mine}, 405},
		"post":                       {me, "POST", path, []string{tok, mine}, 405},
		"turned off":                 {"127.0.0.3", "GET", path, nil, 403},
		"token where turned off":     {"127.0.0.3", "PUT", tokenPath, []string{ttl, "60"}, 403},
		"nobody's address":           {"127.0.0.9", "GET", path, nil, 404},
	} {
		if status, body, _ := c.ask(tc.from, tc.method, tc.path, tc.headers...); status != tc.want {
			t.Errorf("%s: %d %q, want %d", name, status, body, tc.want)
		}
	}
	if status, _ := newCloud(t, full()).get(me, mine, path); status != 401 {
		t.Errorf("a token of before the restart: %d", status)
	}
	c.advance(59 * time.Second)
	if status, _, h := c.ask(me, "GET", path, tok, mine); status != 200 || h.Get(ttlHeader) != "1" {
		t.Errorf("a second before its end: %d, ttl %q", status, h.Get(ttlHeader))
	}
	c.advance(time.Second)
	if status, _ := c.get(me, mine, path); status != 401 {
		t.Errorf("an expired token: %d", status)
	}
}

// FuzzGet: any path has an answer and none leads out of the tree.
func FuzzGet(f *testing.F) {
	for _, p := range []string{"/", "/latest", "/latest/meta-data/tags/instance/Name", "/latest/user-data", "//", "/1.0/x"} {
		f.Add(p)
	}
	in := full()
	f.Fuzz(func(t *testing.T, p string) {
		if !strings.HasPrefix(p, "/") {
			return
		}
		if _, kind, ok := in.get(p); ok && kind == "" {
			t.Fatal("an answer without a type")
		}
	})
}
