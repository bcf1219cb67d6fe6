// Package metadata is the instance metadata service, IMDSv2 with v1 as an
// option: an http.Handler that tells each machine about itself. Which machine
// asks is known by its address alone, so the handler must be served on a
// listener whose remote addresses can be trusted.
package metadata

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"strconv"
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
	Spot           bool      // a spot instance, not one on demand
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
//
// Tokens are signed with a key that dies with the handler: after a restart a
// client gets 401 and asks for a new one, as it does when a token expires.
func Handler(lookup Lookup, clock func() time.Time, log *slog.Logger) http.Handler {
	return &service{lookup: lookup, tokens: newTokens(), clock: clock, log: log}
}

type service struct {
	lookup Lookup
	tokens *tokens
	clock  func() time.Time
	log    *slog.Logger
}

const tokenPath = "/latest/api/token"

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws") // how some clients recognize the service
	status := s.serve(w, r)
	s.log.Debug("instance metadata", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "status", status)
}

// serve answers and returns the status.
func (s *service) serve(w http.ResponseWriter, r *http.Request) int {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return fail(w, http.StatusNotFound)
	}
	in, ok := s.lookup(r.Context(), from.Addr().Unmap())
	switch {
	case !ok:
		return fail(w, http.StatusNotFound)
	case in.Disabled:
		return fail(w, http.StatusForbidden)
	}
	p := path.Clean("/" + r.URL.Path)
	if p == tokenPath {
		return s.issue(w, r, &in)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(w, http.StatusMethodNotAllowed)
	}
	if !s.authorized(w, r, &in) {
		return fail(w, http.StatusUnauthorized)
	}
	body, kind, ok := in.get(p)
	if !ok {
		return fail(w, http.StatusNotFound)
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if _, err := w.Write(body); err != nil {
		s.log.Debug("instance metadata not sent", "to", from, "err", err)
	}
	return http.StatusOK
}

// issue makes a token. A request that came through a proxy gets none, so that
// an open proxy on the instance doesn't give its credentials to the world.
func (s *service) issue(w http.ResponseWriter, r *http.Request, in *Instance) int {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "PUT")
		return fail(w, http.StatusMethodNotAllowed)
	}
	if _, proxied := r.Header["X-Forwarded-For"]; proxied {
		return fail(w, http.StatusForbidden)
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < minTTL || ttl > maxTTL {
		return fail(w, http.StatusBadRequest)
	}
	w.Header().Set(ttlHeader, strconv.Itoa(ttl))
	w.Header().Set("Content-Type", textPlain)
	if _, err := io.WriteString(w, s.tokens.issue(in, s.clock().Add(time.Duration(ttl)*time.Second))); err != nil {
		s.log.Debug("metadata token not sent", "to", in.ID, "err", err)
	}
	return http.StatusOK
}

// authorized checks the token of a request. One that is there must be good,
// also where none is needed.
func (s *service) authorized(w http.ResponseWriter, r *http.Request, in *Instance) bool {
	token := r.Header.Get(tokenHeader)
	if token == "" {
		return !in.TokensRequired
	}
	left, ok := s.tokens.check(in, token, s.clock())
	if ok {
		w.Header().Set(ttlHeader, strconv.Itoa(int(left/time.Second)))
	}
	return ok
}

func fail(w http.ResponseWriter, status int) int {
	http.Error(w, http.StatusText(status), status)
	return status
}
