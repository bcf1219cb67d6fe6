package cloud

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/metadata"
	"github.com/steadcloud/stead/internal/network"
	"github.com/steadcloud/stead/internal/state"
)

// networkMTU is that of EC2's own networks.
const networkMTU = 9001

// portTag says at which port of the public address a machine's port is found,
// where the host could not give the same one. It is computed, not stored.
const portTag = "stead:port-"

// networks are the regions' networks, made when their first machine starts.
type networks struct {
	mu      sync.Mutex // no transaction begins while it is held
	byScope map[state.Scope]*network.Network
	// change is held from reading the records to applying them, so that what
	// was read later is also applied later: a revoked rule stays revoked.
	change sync.Mutex
}

func (n *networks) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s, nw := range n.byScope {
		_ = nw.Close() // everything that it could fail at is in memory
		delete(n.byScope, s)
	}
}

func (n *networks) get(s state.Scope) *network.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byScope[s]
}

// network gives a region's network, making it if need be. Its lock is not held
// while the records are read: a transaction may be waiting for it, see
// movedPorts.
func (c *Cloud) network(s state.Scope) (*network.Network, error) {
	if nw := c.networks.get(s); nw != nil {
		return nw, nil
	}
	cfg, err := c.networkConfig(s)
	if err != nil {
		return nil, err
	}
	c.networks.mu.Lock()
	defer c.networks.mu.Unlock()
	if nw := c.networks.byScope[s]; nw != nil {
		return nw, nil
	}
	nw, err := network.New(cfg, c.log.With("region", s.Region))
	if err != nil {
		return nil, fmt.Errorf("network of %s: %w", s.Region, err)
	}
	lookup := func(ctx context.Context, addr netip.Addr) (metadata.Instance, bool) { return c.tell(ctx, s, addr) }
	srv := &http.Server{Handler: metadata.Handler(lookup, c.now, c.log), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(nw.MetadataListener()) }() // ends when the network closes
	c.networks.byScope[s] = nw
	return nw, nil
}

func (c *Cloud) networkConfig(s state.Scope) (network.Config, error) {
	cfg := network.Config{VPC: netip.MustParsePrefix(vpcCIDR), MTU: networkMTU, Egress: c.egress, Domain: "ec2.internal"}
	err := c.db.View(func(tx *state.Tx) error {
		subs, err := state.List[state.Subnet](tx, s)
		for _, sub := range subs {
			prefix, err := netip.ParsePrefix(sub.CIDR)
			if err != nil {
				return fmt.Errorf("subnet %s: %w", sub.ID, err)
			}
			cfg.Subnets = append(cfg.Subnets, network.Subnet{ID: sub.ID, Zone: sub.Zone, Prefix: prefix})
		}
		return err
	})
	return cfg, err
}

// plugNetwork joins a machine to its region's network and brings the others'
// rules up to date, which may name its security group, and who let go of an
// address before this one takes it.
func (c *Cloud) plugNetwork(inst *state.Instance, m vm) error {
	if m.NetSocket() == "" {
		return nil
	}
	nw, err := c.network(inst.Scope())
	if err != nil {
		return err
	}
	c.networks.change.Lock()
	defer c.networks.change.Unlock()
	ports, err := c.ports(inst.Scope())
	if err != nil {
		return err
	}
	c.updatePorts(nw, ports) // this one's too, if it was plugged in before
	for _, p := range ports {
		if p.ID == inst.ID {
			p.Socket = m.NetSocket()
			return nw.Attach(p)
		}
	}
	return nil // it was terminated meanwhile
}

func (c *Cloud) unplugNetwork(inst *state.Instance) {
	if nw := c.networks.get(inst.Scope()); nw != nil {
		nw.Detach(inst.ID)
	}
}

// networkChanged has the machines of a region follow changed rules and
// addresses. Call it outside of transactions, which it waits for.
func (c *Cloud) networkChanged(s state.Scope) {
	nw := c.networks.get(s)
	if nw == nil {
		return
	}
	c.networks.change.Lock()
	defer c.networks.change.Unlock()
	ports, err := c.ports(s)
	if err != nil {
		c.log.Error("network rules", "region", s.Region, "err", err)
		return
	}
	c.updatePorts(nw, ports)
}

// updatePorts applies what was read under networks.change.
func (c *Cloud) updatePorts(nw *network.Network, ports []network.Port) {
	if err := nw.UpdateAll(ports); err != nil {
		c.log.Warn("network rules", "err", err)
	}
}

// ports describes the network ports of a region's live instances.
func (c *Cloud) ports(s state.Scope) ([]network.Port, error) {
	var views []view
	groups := map[string]*state.SecurityGroup{}
	err := c.db.View(func(tx *state.Tx) error {
		insts, err := state.List[state.Instance](tx, s)
		if err != nil {
			return err
		}
		if views, err = c.views(tx, s, insts); err != nil {
			return err
		}
		all, err := state.List[state.SecurityGroup](tx, s)
		for _, g := range all {
			groups[g.ID] = g
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	members := map[string][]netip.Prefix{}
	for _, v := range views {
		if v.State == state.Terminated {
			continue
		}
		if a, err := netip.ParseAddr(v.PrivateIP); err == nil {
			for _, g := range v.Groups {
				members[g] = append(members[g], netip.PrefixFrom(a, 32))
			}
		}
	}
	var ports []network.Port
	for _, v := range views {
		if v.State == state.Terminated {
			continue
		}
		p := network.Port{ID: v.ID, MAC: v.MAC, Hostname: hostLabel(v.PrivateIP)}
		if p.IP, err = netip.ParseAddr(v.PrivateIP); err != nil {
			return nil, fmt.Errorf("address of %s: %w", v.ID, err)
		}
		if public := publicOf(v.Instance, v.eip); public != "" {
			if p.Public, err = netip.ParseAddr(public); err != nil {
				return nil, fmt.Errorf("public address of %s: %w", v.ID, err)
			}
		}
		for _, id := range v.Groups {
			if g := groups[id]; g != nil {
				p.Rules = append(p.Rules, openings(g, members)...)
			}
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func openings(g *state.SecurityGroup, members map[string][]netip.Prefix) []network.Rule {
	var out []network.Rule
	for _, r := range g.Rules {
		if r.Egress {
			continue
		}
		nr := network.Rule{Protocol: r.Protocol, FromPort: int(r.From), ToPort: int(r.To)}
		if r.Group != "" {
			nr.Sources = members[r.Group]
		} else if prefix, err := netip.ParsePrefix(r.CIDR); err == nil {
			nr.Sources = []netip.Prefix{prefix}
		}
		if len(nr.Sources) > 0 {
			out = append(out, nr)
		}
	}
	return out
}

func hostLabel(ip string) string {
	name := privateName(ip)
	return name[:len(name)-len(".ec2.internal")]
}

// movedPorts are the tags that tell of ports that the host gives under
// another number.
func (c *Cloud) movedPorts(i *state.Instance) map[string]string {
	nw := c.networks.get(i.Scope())
	if nw == nil || i.State != state.Running {
		return nil
	}
	moved := map[string]string{}
	for _, f := range nw.Forwards(i.ID) {
		if f.Err == nil && f.Protocol == "tcp" && int(f.Public.Port()) != f.Private {
			moved[portTag+strconv.Itoa(f.Private)] = strconv.Itoa(int(f.Public.Port()))
		}
	}
	return moved
}

// newPublicIP picks an unused public address.
func (c *Cloud) newPublicIP(tx *state.Tx) (string, error) {
	taken, err := state.AllInstanceAddresses(tx)
	if err != nil {
		return "", err
	}
	next, err := c.publicIPs(tx, taken)
	if err != nil {
		return "", err
	}
	return next()
}

// publicIPs gives public addresses that neither the instances nor an elastic
// IP has taken, another one at each call. They are the host's own, of the
// loopback range; each data folder has its own /16 of it, so that two clouds on
// one machine seldom meet.
func (c *Cloud) publicIPs(tx *state.Tx, taken []state.InstanceAddresses) (next func() (string, error), err error) {
	used := map[string]bool{}
	for _, i := range taken {
		used[i.PublicIP] = true
	}
	addresses, err := state.All[state.Address](tx)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		used[a.IP] = true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.dir))
	net := byte(16 + h.Sum32()%224)
	n := 9
	return func() (string, error) {
		for n++; n < 1<<16-1; n++ {
			ip := netip.AddrFrom4([4]byte{127, net, byte(n >> 8), byte(n)}).String()
			if !used[ip] && byte(n) != 0 && byte(n) != 255 {
				return ip, nil
			}
		}
		return "", fail("AddressLimitExceeded", "Every public address of this cloud is in use.")
	}, nil
}

// tell gives an instance's metadata.
func (c *Cloud) tell(_ context.Context, s state.Scope, addr netip.Addr) (metadata.Instance, bool) {
	var out metadata.Instance
	found := false
	err := c.db.View(func(tx *state.Tx) error {
		insts, err := state.List[state.Instance](tx, s)
		if err != nil {
			return err
		}
		for _, i := range insts {
			if i.PrivateIP != addr.String() || i.State == state.Terminated {
				continue
			}
			views, err := c.views(tx, s, []*state.Instance{i})
			if err != nil {
				return err
			}
			out, found = metadataOf(views[0]), true
			return tellKey(tx, s, i, &out)
		}
		return nil
	})
	if err != nil {
		c.log.Error("metadata", "address", addr, "err", err)
	}
	return out, found && err == nil
}

func tellKey(tx *state.Tx, s state.Scope, i *state.Instance, out *metadata.Instance) error {
	subnet, err := state.Get[state.Subnet](tx, s, i.SubnetID)
	if err != nil {
		return err
	}
	if out.SubnetCIDR, err = netip.ParsePrefix(subnet.CIDR); err != nil {
		return err
	}
	keys, err := state.List[state.KeyPair](tx, s)
	for _, k := range keys {
		if k.Name == i.KeyName && i.KeyName != "" {
			out.PublicKey = k.PublicKey
		}
	}
	return err
}

func metadataOf(v view) metadata.Instance {
	i := v.Instance
	out := metadata.Instance{
		ID: i.ID, Type: i.Type, Region: i.Region, Zone: i.Zone, ZoneID: zoneID(i.Zone), AccountID: i.Account, ImageID: i.ImageID, KernelID: i.KernelID,
		Architecture: i.Architecture, ReservationID: i.ReservationID, LaunchIndex: i.LaunchIndex, LaunchTime: i.Launched, Hostname: privateName(i.PrivateIP),
		MAC: i.MAC, InterfaceID: i.Interface, SubnetID: i.SubnetID, VPCID: i.VPCID, VPCCIDR: netip.MustParsePrefix(vpcCIDR), KeyName: i.KeyName,
		UserData: i.UserData, BlockDevices: map[string]string{"ami": i.RootDevice, "root": i.RootDevice}, Tags: i.Tags, TagsEnabled: i.MetadataTags,
		Spot: i.SpotRequest != "", Disabled: i.MetadataDisabled, TokensRequired: i.MetadataTokens == "required", HopLimit: int(i.MetadataHops),
	}
	out.PrivateIP, _ = netip.ParseAddr(i.PrivateIP) // zero when there is none
	out.PublicIP, _ = netip.ParseAddr(v.public)
	for _, g := range v.groups {
		out.SecurityGroups = append(out.SecurityGroups, metadata.Group{ID: *g.GroupId, Name: *g.GroupName})
	}
	n := 0
	for _, d := range v.disks {
		if !sameDevice(d.Attachment.Device, i.RootDevice) {
			n++
			out.BlockDevices["ebs"+strconv.Itoa(n)] = d.Attachment.Device
		}
	}
	return out
}
