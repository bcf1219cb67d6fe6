package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
)

// Errors that a caller may tell apart with errors.Is.
var (
	// ErrAddressInUse: another port has the MAC or private address already.
	ErrAddressInUse = errors.New("address in use")
	// ErrAddress: the address can't be a machine's: outside of every subnet,
	// or one that a subnet reserves (network, gateway, DNS, the one after it, broadcast).
	ErrAddress = errors.New("address not usable")
	// ErrNotAttached: no port of that ID, or its machine isn't connected.
	ErrNotAttached = errors.New("not attached")
	// ErrTooManyPorts: the rules open more ports than one machine gets forwards.
	ErrTooManyPorts = errors.New("too many ports to forward")
	// ErrClosed: the network is closed.
	ErrClosed = errors.New("network closed")
)

// Subnet is a part of the VPC in one availability zone.
type Subnet struct {
	ID     string // subnet-…
	Zone   string
	Prefix netip.Prefix
}

// Config is what a network is made of. It doesn't change while it lives.
type Config struct {
	VPC     netip.Prefix
	Subnets []Subnet
	MTU     int    // of the machines' interfaces, in bytes; 9001 when zero
	Egress  bool   // machines may reach the world outside through the host
	Domain  string // of private names; ec2.internal when empty
}

// Port is a machine's place in the network.
type Port struct {
	ID       string     // instance ID
	MAC      string     // the only source address its frames may have
	IP       netip.Addr // private address, inside of one of the subnets
	Hostname string     // given by DHCP and known to DNS; ip-a-b-c-d when empty
	Socket   string     // unix socket that QEMU listens on
	Public   netip.Addr // host address of its forwards (127.x.y.z); zero for none
	Rules    []Rule     // what may come in; everything may go out
}

// Rule is one ingress permission of a security group, its group references
// resolved to addresses.
type Rule struct {
	Protocol string // tcp, udp, icmp, or -1 for all
	// FromPort and ToPort bound the destination ports of tcp and udp, and are
	// type and code for icmp, where -1 is any.
	FromPort, ToPort int
	Sources          []netip.Prefix
}

// Forward is one port of the host that leads to a machine, or the reason why
// there is none.
type Forward struct {
	Protocol string         // tcp
	Private  int            // the machine's port
	Public   netip.AddrPort // where the host listens; zero when Err is set
	Err      error          // ErrTooManyPorts, or what the host's listen said
}

// New makes the network. It serves its ports until Close.
func New(cfg Config, log *slog.Logger) (*Network, error) { return nil, errors.New("not built yet") }

// Network is a running VPC.
type Network struct{}

// Attach joins a machine and keeps redialing its socket until Detach. A port
// that is attached already is updated.
func (n *Network) Attach(p Port) error { return nil }

// Detach disconnects a machine and closes its forwards; unknown IDs are fine.
func (n *Network) Detach(id string) {}

// Update gives a port new rules, public address or hostname. Flows that the
// new rules still allow go on, the others end.
func (n *Network) Update(p Port) error { return nil }

// Forwards tells what really listens on the host for a machine, by private port.
func (n *Network) Forwards(id string) []Forward { return nil }

// Dial connects from the host to a machine's TCP port, whatever its security
// groups say (for readiness probes).
func (n *Network) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) { return nil, nil }

// MetadataListener is 169.254.169.254:80. The remote address of its
// connections is the private address of the machine that asks: no other
// machine can send from it.
func (n *Network) MetadataListener() net.Listener { return nil }

// Close detaches all and frees everything.
func (n *Network) Close() error { return nil }
