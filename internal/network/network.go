package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Errors that a caller may tell apart with errors.Is.
var (
	// ErrAddressInUse: another port has the MAC or private address already.
	ErrAddressInUse = errors.New("address in use")
	// ErrAddress: the address can't be a machine's: outside of every subnet,
	// or one that each subnet reserves (its first four and its last).
	ErrAddress = errors.New("address not usable")
	// ErrNotAttached: no port of that ID or address, or its machine isn't connected.
	ErrNotAttached = errors.New("not attached")
	// ErrTooManyPorts: the rules open more ports than one machine gets forwards.
	ErrTooManyPorts = errors.New("too many ports to forward")
	// ErrClosed: the network is closed.
	ErrClosed = errors.New("network closed")
)

// Addresses that every VPC has.
var (
	broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	metadataAddr  = netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 169, 254}), 80)
	linkLocalDNS  = netip.AddrFrom4([4]byte{169, 254, 169, 253})
	// gatewayMAC is where each address lives that isn't a machine's.
	gatewayMAC = mac{0x02, 0x00, 0x00, 0xff, 0x00, 0x01}
)

const (
	defaultMTU    = 9001 // EC2's
	defaultDomain = "ec2.internal"
	reservedLow   = 4 // network, gateway, DNS and one more, at the start of each subnet
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
	Protocol string // tcp, udp, icmp, a protocol number, or -1 for all
	// FromPort and ToPort bound the destination ports of tcp and udp, and are
	// type and code for icmp, where -1 is any.
	FromPort, ToPort int
	Sources          []netip.Prefix
}

// Forward is one port of the host that leads to a machine, or the reason why
// there is none.
type Forward struct {
	Protocol string         // tcp; udp only with Err set
	Private  int            // the machine's port; the first one where Err is about a range
	Public   netip.AddrPort // where the host listens; zero when Err is set
	Err      error          // ErrTooManyPorts, errors.ErrUnsupported, or what the host's listen said
}

// Network is a running VPC.
type Network struct {
	cfg     Config
	log     *slog.Logger
	own     map[netip.Addr]bool // addresses of the VPC's own stack
	dnsAddr netip.Addr
	stack   *stack.Stack
	link    *link
	track   *conntrack
	dns     *resolver
	meta    net.Listener
	table   atomic.Pointer[table]
	// outside opens the host's sockets for egress; tests lead it elsewhere.
	outside func(ctx context.Context, network, addr string) (net.Conn, error)

	ctx    context.Context // done once the network closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the network's own

	mu     sync.Mutex // guards what follows, and serializes changes
	ports  map[string]*port
	life   sync.RWMutex // guards closed, against new goroutines
	closed bool
}

// New makes the network. It serves its ports until Close.
func New(cfg Config, log *slog.Logger) (*Network, error) {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.Domain == "" {
		cfg.Domain = defaultDomain
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("network %s: %w", cfg.VPC, err)
	}
	n := &Network{
		cfg: cfg, log: log, dnsAddr: offset(cfg.VPC.Addr(), 2),
		own:   map[netip.Addr]bool{metadataAddr.Addr(): true, linkLocalDNS: true},
		track: newConntrack(), ports: map[string]*port{}, outside: new(net.Dialer).DialContext,
	}
	n.own[n.dnsAddr] = true
	for _, s := range cfg.Subnets {
		n.own[gatewayOf(s.Prefix)] = true
	}
	n.table.Store(&table{})
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.link = &link{mtu: uint32(cfg.MTU), deliver: n.fromStack}
	if err := n.startStack(); err != nil {
		return nil, errors.Join(fmt.Errorf("network %s: %w", cfg.VPC, err), n.Close())
	}
	return n, nil
}

func (n *Network) startStack() (err error) {
	if n.stack, err = newStack(n.link, slices.Collect(maps.Keys(n.own)), n.cfg.Egress); err != nil {
		return err
	}
	if n.cfg.Egress {
		n.startEgress()
	}
	if n.dns, err = n.startDNS(n.dnsAddr, linkLocalDNS); err != nil {
		return err
	}
	l, err := gonet.ListenTCP(n.stack, fullAddress(metadataAddr), ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("listen for metadata: %w", err)
	}
	n.meta = &stackListener{TCPListener: l}
	return nil
}

func (c *Config) check() error {
	if !c.VPC.IsValid() || !c.VPC.Addr().Is4() || c.VPC != c.VPC.Masked() {
		return errors.New("not an IPv4 network")
	}
	if c.MTU < 576 || c.MTU > bufferSize-ethernetLen-lengthSize {
		return fmt.Errorf("mtu %d out of range", c.MTU)
	}
	for i, s := range c.Subnets {
		if !s.Prefix.IsValid() || s.Prefix != s.Prefix.Masked() || !c.VPC.Contains(s.Prefix.Addr()) ||
			s.Prefix.Bits() < c.VPC.Bits() || s.Prefix.Bits() > 28 {
			return fmt.Errorf("subnet %s: %s is not a part of the network", s.ID, s.Prefix)
		}
		for _, o := range c.Subnets[:i] {
			if o.Prefix.Overlaps(s.Prefix) {
				return fmt.Errorf("subnets %s and %s overlap", o.ID, s.ID)
			}
		}
	}
	return nil
}

// Attach joins a machine and keeps redialing its socket until Detach. A port
// that is attached already is updated, or replaced if its MAC, address or
// socket has changed. The errors are ErrAddress, ErrAddressInUse, ErrClosed,
// and what can't be parsed; a host port that can't be had is no error, see
// Forwards.
func (n *Network) Attach(p Port) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	np, set, err := n.newPort(p)
	if err != nil {
		return fmt.Errorf("attach %s to network: %w", p.ID, err)
	}
	if old, ok := n.ports[p.ID]; ok {
		if old.hw == np.hw && old.ip == np.ip && old.socket == np.socket {
			n.set(map[*port]*settings{old: set})
			return nil
		}
		n.detach(old)
	}
	np.settings.Store(set)
	var ctx context.Context
	ctx, np.cancel = context.WithCancel(n.ctx)
	np.ctx = ctx
	if !n.start(func() { np.run(ctx, func(frame []byte) { n.fromMachine(np, frame) }) }) {
		np.cancel()
		return fmt.Errorf("attach %s to network: %w", p.ID, ErrClosed)
	}
	n.ports[p.ID] = np
	n.rebuild()
	np.forwards.take(set)
	return nil
}

// newPort checks and parses p; the result is not running yet.
func (n *Network) newPort(p Port) (*port, *settings, error) {
	hw, err := net.ParseMAC(p.MAC)
	if err != nil {
		return nil, nil, err
	}
	if len(hw) != len(mac{}) || hw[0]&1 != 0 || mac(hw) == gatewayMAC {
		return nil, nil, fmt.Errorf("mac %s: %w", p.MAC, ErrAddress)
	}
	i := slices.IndexFunc(n.cfg.Subnets, func(s Subnet) bool { return s.Prefix.Contains(p.IP) })
	if i < 0 || reserved(n.cfg.Subnets[i].Prefix, p.IP) {
		return nil, nil, fmt.Errorf("address %s: %w", p.IP, ErrAddress)
	}
	for _, o := range n.ports {
		if o.id != p.ID && (o.ip == p.IP || o.hw == mac(hw)) {
			return nil, nil, fmt.Errorf("address %s, mac %s: %w by %s", p.IP, p.MAC, ErrAddressInUse, o.id)
		}
	}
	set, err := newSettings(p)
	if err != nil {
		return nil, nil, err
	}
	np := &port{
		id: p.ID, hw: mac(hw), ip: p.IP, subnet: n.cfg.Subnets[i], socket: p.Socket, mtu: n.cfg.MTU, log: n.log,
		queue: make(chan []byte, queueFrames), done: make(chan struct{}),
	}
	np.forwards = newForwards(n, np)
	return np, set, nil
}

func newSettings(p Port) (*settings, error) {
	in, err := compileRules(p.Rules)
	if err != nil {
		return nil, err
	}
	s := &settings{hostname: p.Hostname, public: p.Public, rules: in}
	if s.hostname == "" {
		s.hostname = ipLabel(p.IP)
	}
	return s, nil
}

// Update gives a port new rules, public address or host name. Flows that the
// new rules still allow go on, the others end. The error is ErrNotAttached, or
// about a rule.
func (n *Network) Update(p Port) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.ports[p.ID]; !ok {
		return fmt.Errorf("update network of %s: %w", p.ID, ErrNotAttached)
	}
	return n.updateAll([]Port{p})
}

// UpdateAll is Update for several ports at once: each gives up what it has no
// more before any takes what it gets, so that a public address can pass from
// one to another. Those that aren't attached are left out; one with a bad rule
// stays as it is, and the others follow.
func (n *Network) UpdateAll(ports []Port) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.updateAll(ports)
}

func (n *Network) updateAll(ports []Port) error {
	var errs []error
	changes := map[*port]*settings{}
	for _, p := range ports {
		old, ok := n.ports[p.ID]
		if !ok {
			continue
		}
		p.IP = old.ip
		set, err := newSettings(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("update network of %s: %w", p.ID, err))
			continue
		}
		changes[old] = set
	}
	n.set(changes)
	return errors.Join(errs...)
}

func (n *Network) set(changes map[*port]*settings) {
	for p, s := range changes {
		p.settings.Store(s)
	}
	n.rebuild()
	for p, s := range changes {
		n.track.recheck(p.ip, s.rules)
		p.forwards.letGo(s)
	}
	for p, s := range changes {
		p.forwards.take(s)
	}
}

// Detach disconnects a machine and closes its forwards; unknown IDs are fine.
func (n *Network) Detach(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, ok := n.ports[id]; ok {
		n.detach(p)
	}
}

func (n *Network) detach(p *port) {
	p.forwards.close()
	p.cancel()
	<-p.done
	delete(n.ports, p.id)
	n.rebuild()
	n.track.forget(p.ip)
}

// rebuild replaces the table that the frames' path reads.
func (n *Network) rebuild() {
	t := &table{byIP: make(map[netip.Addr]*port, len(n.ports)), byName: make(map[string]*port, len(n.ports))}
	for _, p := range n.ports {
		t.byIP[p.ip] = p
		t.byName[hostLabel(p.settings.Load().hostname)] = p
	}
	n.table.Store(t)
}

// Forwards tells what really listens on the host for a machine, and what
// doesn't though its rules ask for it, by private port.
func (n *Network) Forwards(id string) []Forward {
	if p, ok := n.port(id); ok {
		return p.forwards.list()
	}
	return nil
}

// Stats counts a machine's frames; false if it isn't attached.
func (n *Network) Stats(id string) (Stats, bool) {
	p, ok := n.port(id)
	if !ok {
		return Stats{}, false
	}
	return p.count.stats(), true
}

func (n *Network) port(id string) (*port, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.ports[id]
	return p, ok
}

// Dial connects from the host to a machine's TCP port, whatever its security
// groups say (for readiness probes). It tries until ctx is done or the machine
// refuses; the error is ErrNotAttached when there is no machine.
func (n *Network) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	p, ok := n.table.Load().byIP[addr.Addr()]
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", addr, ErrNotAttached)
	}
	return n.dialPort(ctx, p, addr.Port())
}

// dialPort asks anew after growing pauses rather than wait for TCP's own
// retransmission: a machine that is booting answers as soon as it can.
func (n *Network) dialPort(ctx context.Context, p *port, to uint16) (stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	addr := netip.AddrPortFrom(p.ip, to)
	local := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(gatewayOf(p.subnet.Prefix).As4())}
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		if !p.connected.Load() {
			return nil, fmt.Errorf("dial %s: machine %w", addr, ErrNotAttached)
		}
		try, done := context.WithTimeout(ctx, wait)
		c, err := gonet.DialTCPWithBind(try, n.stack, local, fullAddress(addr), ipv4.ProtocolNumber)
		expired := try.Err() != nil
		done()
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil || !expired {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
	}
}

// MetadataListener is 169.254.169.254:80. The remote address of its
// connections is the private address of the machine that asks: no other
// machine can send from it. It is the same one each time, and ends with the
// network.
func (n *Network) MetadataListener() net.Listener { return n.meta }

// Close detaches all and frees everything. It returns when nothing of the
// network runs any more.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life.Lock()
	closed := n.closed
	n.closed = true
	n.life.Unlock()
	if closed {
		return nil
	}
	for _, p := range n.ports {
		n.detach(p)
	}
	n.cancel()
	if n.dns != nil {
		n.dns.close()
	}
	var err error
	if n.meta != nil {
		err = n.meta.Close()
	}
	if n.stack != nil {
		n.stack.Close() // ends what still waits for a machine
	}
	n.wg.Wait()
	if n.stack != nil {
		n.stack.Wait()
	}
	return err
}

// start runs f in a goroutine that Close waits for; false if it has begun.
func (n *Network) start(f func()) bool {
	n.life.RLock()
	defer n.life.RUnlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

// stackListener says that it is closed in the words that net/http knows.
type stackListener struct {
	*gonet.TCPListener
	closed atomic.Bool
}

func (l *stackListener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil && l.closed.Load() {
		return nil, net.ErrClosed
	}
	return c, err
}

func (l *stackListener) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.Shutdown() // wakes Accept
	return l.TCPListener.Close()
}

func gatewayOf(subnet netip.Prefix) netip.Addr { return offset(subnet.Addr(), 1) }

func offset(a netip.Addr, by int) netip.Addr {
	for range by {
		a = a.Next()
	}
	return a
}

// reserved tells whether a subnet keeps an address for itself, as EC2's do.
func reserved(subnet netip.Prefix, a netip.Addr) bool {
	return a.Compare(offset(subnet.Addr(), reservedLow)) < 0 || !subnet.Contains(a.Next())
}
