package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// TestMachineTwo is two machines on one network: what their security groups
// let through, at once, and nothing else.
func TestMachineTwo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.tiny()
	r.stead("create", "left", "--type", "t3.nano")
	r.stead("create", "right", "--type", "t3.nano")
	left, right := r.show("left"), r.show("right")
	t.Run("ping", func(t *testing.T) {
		r := r.in(t)
		if r.answers("left", "ping -c 1 -W 2 "+right.PrivateIP) {
			t.Error("right answers a ping that its group forbids")
		}
		r.allow(right, left, "icmp", -1)
		r.waitUntil("right answers left", func() bool { return r.answers("left", "ping -c 1 -W 2 "+right.PrivateIP) })
		if r.answers("right", "ping -c 1 -W 2 "+left.PrivateIP) {
			t.Error("left answers a ping that its group forbids")
		}
	})
	t.Run("ports", func(t *testing.T) { r.in(t).tryPorts(left, right) })
	t.Run("metadata", func(t *testing.T) { r.in(t).tryMetadata("left", left.InstanceID) })
	t.Run("wrong key", func(t *testing.T) {
		wrong := r.in(t).access()
		wrong.Secret += "x"
		_, err := wrong.client().DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != "AuthFailure" {
			t.Errorf("a wrong secret key gives %v, want AuthFailure", err)
		}
	})
}

// in is the rig for a part of a test.
func (r *rig) in(t *testing.T) *rig {
	part := *r
	part.t = t
	return &part
}

// answers tells whether a command on a server succeeds.
func (r *rig) answers(server, command string) bool {
	r.t.Helper()
	return r.try("ssh", server, "--", command).code == 0
}

// group is the security group of a server.
func (r *rig) group(s status) *string {
	r.t.Helper()
	return r.instance(s.InstanceID).SecurityGroups[0].GroupId
}

// allow opens a server to another one.
func (r *rig) allow(to, from status, protocol string, port int32) {
	r.t.Helper()
	_, err := r.client().AuthorizeSecurityGroupIngress(context.Background(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: r.group(to),
		IpPermissions: []types.IpPermission{{
			IpProtocol: &protocol, FromPort: &port, ToPort: &port,
			UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: r.group(from)}},
		}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// tryPorts has right serve a page on a port that is closed, then open to left,
// then to the host.
func (r *rig) tryPorts(left, right status) {
	const port = 8080
	r.t.Helper()
	r.sh("right", fmt.Sprintf("mkdir -p /srv && echo hello > /srv/page && busybox httpd -p %d -h /srv && wget -qO- http://127.0.0.1:%d/page", port, port))
	fetch := fmt.Sprintf("timeout 3 wget -qO- http://%s:%d/page", right.PrivateIP, port)
	public := fmt.Sprintf("http://%s/page", net.JoinHostPort(right.PublicIP, fmt.Sprint(port)))
	if r.answers("left", fetch) {
		r.t.Error("a closed port is open to left")
	}
	r.allow(right, left, "tcp", port)
	r.waitUntil("the port opens to left", func() bool { return r.answers("left", fetch) })
	if body, err := get(public); err == nil {
		r.t.Errorf("a port that is open to left alone gives the host %q", body)
	}
	rule := &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: r.group(right), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(port), ToPort: aws.Int32(port), CidrIp: aws.String("0.0.0.0/0"),
	}
	if _, err := r.client().AuthorizeSecurityGroupIngress(context.Background(), rule); err != nil {
		r.t.Fatal(err)
	}
	r.waitUntil("the port opens to the host", func() bool { body, err := get(public); return err == nil && body == "hello\n" })
	_, err := r.client().RevokeSecurityGroupIngress(context.Background(), &ec2.RevokeSecurityGroupIngressInput{
		GroupId: rule.GroupId, IpProtocol: rule.IpProtocol, FromPort: rule.FromPort, ToPort: rule.ToPort, CidrIp: rule.CidrIp,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.waitUntil("the port closes to the host", func() bool { _, err := get(public); return err != nil })
	if !r.answers("left", fetch) {
		r.t.Error("the port closed to left, too")
	}
}

// get fetches a page over a connection of its own.
func get(url string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// tryMetadata asks instance metadata from inside, with a token and without.
func (r *rig) tryMetadata(server, id string) {
	r.t.Helper()
	const at = "http://169.254.169.254/latest/meta-data/instance-id"
	if res := r.try("ssh", server, "--", "wget -O- "+at+" 2>&1"); res.code == 0 || !strings.Contains(res.stdout, "401") {
		r.t.Errorf("metadata without a token: %v, want 401", res)
	}
	got := r.sh(server, `token=$(printf 'PUT /latest/api/token HTTP/1.0\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n' | nc 169.254.169.254 80 | tail -n 1)
wget -qO- --header "X-aws-ec2-metadata-token: $token" `+at)
	if got != id {
		r.t.Errorf("metadata with a token: %q, want %s", got, id)
	}
}
