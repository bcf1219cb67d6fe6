// Package metadata is the instance metadata service, IMDSv2 with v1 as an
// option: an http.Handler that tells each machine about itself. Which machine
// asks is known by its address alone, so the handler must be served on a
// listener whose remote addresses can be trusted.
package metadata

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Lookup finds the instance that has the private address addr.
type Lookup func(ctx context.Context, addr netip.Addr) (Instance, bool)

// Instance is all that the service tells about a machine.
type Instance struct {
	ID             string // i-…
	Type           string // t3.micro
	Region         string
	Zone           string // us-east-1a
	ZoneID         string // use1-az1; left out when empty
	AccountID      string
	ImageID        string // ami-…
	KernelID       string // aki-…; left out when empty
	Architecture   string // x86_64 or arm64, as in the identity document
	ReservationID  string
	LaunchIndex    int
	LaunchTime     time.Time // pendingTime of the identity document
	Hostname       string    // private DNS name; ip-a-b-c-d.ec2.internal when empty
	PublicHostname string
	PrivateIP      netip.Addr
	PublicIP       netip.Addr // zero when there is none
	MAC            string
	InterfaceID    string // eni-…
	SubnetID       string
	SubnetCIDR     netip.Prefix
	VPCID          string
	VPCCIDR        netip.Prefix
	SecurityGroups []Group
	KeyName        string            // "" without a key pair
	PublicKey      string            // openssh form, one line
	UserData       []byte            // as the machine gets it, decoded; nil for none
	BlockDevices   map[string]string // virtual name (ami, root, ebs1, …) → device
	Tags           map[string]string // served only with TagsEnabled
	TagsEnabled    bool
	Disabled       bool // HttpEndpoint=disabled: everything is 403
	TokensRequired bool // IMDSv2 alone; without a token 401
	HopLimit       int  // kept for the caller; the handler can't see hops
}

// Group is a security group that the instance is in.
type Group struct{ ID, Name string }

// Handler serves the metadata of whatever instance lookup finds for the
// address that a request comes from. clock is time.Now outside of tests.
func Handler(lookup Lookup, clock func() time.Time, log *slog.Logger) http.Handler {
	return http.NotFoundHandler()
}
