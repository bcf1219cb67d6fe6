package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/price"
)

// CostOptions says what to compute.
type CostOptions struct {
	Name      string // "" for all servers
	EgressGiB int64  // traffic out to the internet, a month, of each server
	Prices    *price.Book
	Region    string // whose prices
	// Own asks the endpoint itself for spot prices and reservations.
	Own bool
}

// Cost is what one server costs a month, in each way to have it, next to what
// others sell.
type Cost struct {
	Server string `json:"server"`
	State  string `json:"state"`
	Type   string `json:"type,omitempty"`
	RAMMiB int64  `json:"ram_mib,omitempty"`
	*price.Bill
	// Offers are plans with as much memory, compared with the server running
	// all month.
	Offers []price.Offer `json:"offers"`
	// Answer says in one sentence whether it is cheaper.
	Answer string `json:"answer"`
}

// Costs computes what servers cost a month. Figures that nobody has make no
// rows; the bills name them.
func (m *Manager) Costs(ctx context.Context, o CostOptions) ([]Cost, error) {
	costs, err := m.costs(ctx, o)
	if o.Name != "" {
		return costs, wrap("price", "server "+o.Name, err)
	}
	return costs, wrap("price", "servers", err)
}

func (m *Manager) costs(ctx context.Context, o CostOptions) ([]Cost, error) {
	if o.EgressGiB < 0 {
		return nil, &Error{Code: KindUsage, Reason: "the traffic is negative", Remedy: "--egress 500"}
	}
	if o.Name != "" {
		if err := CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	worlds, err := m.survey(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	var list []*world
	var kinds []string
	for _, w := range worlds {
		if !w.empty() || len(w.snapshots) > 0 {
			list = append(list, w)
			kinds = append(kinds, w.facts().Type)
		}
	}
	if len(list) == 0 && o.Name != "" {
		return nil, &Error{Reason: "there is no such server", Remedy: "stead ls", Code: KindNotFound}
	}
	slices.SortFunc(list, func(a, b *world) int { return cmp.Compare(a.name, b.name) })
	slices.Sort(kinds)
	kinds = slices.DeleteFunc(slices.Compact(kinds), func(s string) bool { return s == "" })
	if o.Own {
		o.Prices = o.Prices.With(m.OwnPrices(ctx, o.Region, kinds)...)
	}
	memory := m.memoryOf(ctx, kinds)
	costs := []Cost{}
	free := int64(price.FreeEgressGiB)
	for _, w := range list {
		spec := m.costSpec(w, o)
		spec.FreeGiB = min(free, spec.EgressGiB)
		free -= spec.FreeGiB
		costs = append(costs, costOf(m.view(w), spec, o.Prices, memory))
	}
	return costs, nil
}

// OwnPrices asks the endpoint for spot prices and reservations of instance
// types. One that has none costs nothing but a line in the log.
func (m *Manager) OwnPrices(ctx context.Context, region string, instanceTypes []string) []price.Figure {
	r := price.Refresher{EC2: m.ec2, Now: m.now, Log: m.log}
	figures, err := r.Own(ctx, instanceTypes)
	if err != nil {
		m.log.DebugContext(ctx, "no prices of the endpoint's own", "err", err)
	}
	for k := range figures {
		figures[k].Region = region
	}
	return figures
}

// memoryOf asks how much memory instance types have, in MiB. What isn't known
// isn't there.
func (m *Manager) memoryOf(ctx context.Context, instanceTypes []string) map[string]int64 {
	memory := map[string]int64{}
	for some := range slices.Chunk(instanceTypes, maxStatusIDs) { // EC2 takes a hundred at once
		in := &ec2.DescribeInstanceTypesInput{}
		for _, t := range some {
			in.InstanceTypes = append(in.InstanceTypes, types.InstanceType(t))
		}
		out, err := m.ec2.DescribeInstanceTypes(ctx, in)
		if err != nil {
			m.log.DebugContext(ctx, "no instance types", "err", err)
			return memory
		}
		for _, t := range out.InstanceTypes {
			if t.MemoryInfo != nil {
				memory[string(t.InstanceType)] = aws.ToInt64(t.MemoryInfo.SizeInMiB)
			}
		}
	}
	return memory
}

// costSpec is all that a server is paid for: as PriceSpec, with its snapshots
// and traffic.
func (m *Manager) costSpec(w *world, o CostOptions) price.Spec {
	s := m.view(w)
	if w.empty() {
		s.Type, s.ElasticIP = "", "" // snapshots alone
	}
	spec := s.PriceSpec(o.Region)
	spec.Snapshots = stored(w.snapshots)
	spec.EgressGiB = o.EgressGiB
	if s.ElasticIP == "" && !w.empty() {
		spec.LooseAddresses = 1 // that it has, or would have, while it runs
	}
	return spec
}

// stored is how much snapshots may take up. At least the largest snapshot of
// each disk is stored in full; at most all are, each with nothing in common.
func stored(snapshots []types.Snapshot) price.Snapshots {
	var sum price.Snapshots
	largest := map[string]int64{}
	for k := range snapshots {
		s := &snapshots[k]
		if s.State == types.SnapshotStateError {
			continue
		}
		sum.Count++
		low, high := snapshotBytes(s)
		sum.HighBytes += high
		disk := tagOf(s.Tags, tagRole) + tagOf(s.Tags, tagDevice)
		largest[disk] = max(largest[disk], low)
	}
	for _, bytes := range largest {
		sum.LowBytes += bytes
	}
	return sum
}

// snapshotBytes is how much a snapshot refers to: what the endpoint says, or
// anything from nothing to all of its disk.
func snapshotBytes(s *types.Snapshot) (low, high int64) {
	if s.FullSnapshotSizeInBytes != nil {
		return *s.FullSnapshotSizeInBytes, *s.FullSnapshotSizeInBytes
	}
	return 0, int64(aws.ToInt32(s.VolumeSize)) << 30
}

func costOf(s *Server, spec price.Spec, prices *price.Book, memory map[string]int64) Cost {
	c := Cost{Server: s.Name, State: s.State, Type: spec.Type, RAMMiB: memory[spec.Type], Bill: prices.Month(spec), Offers: []price.Offer{}}
	way := price.OnDemand
	if s.Spot {
		way = price.Spot
	}
	running, known := c.Total(way)
	if spec.Type == "" || !known {
		return c
	}
	c.Offers = prices.Offers(c.RAMMiB, running, spec.Addresses+spec.LooseAddresses > 0)
	c.Answer = "running all month, " + price.Sentence(running, c.Offers)
	if len(c.Missing) > 0 {
		c.Answer += " (without what has no figure)"
	}
	if reserved, cheapest := c.Cheapest(price.ReservedNone, price.ReservedPartial, price.ReservedAll); cheapest != "" {
		c.Answer += "; reserved for a year it is $" + reserved.Cents()
	}
	if stopped, ok := c.Total(price.Stopped); ok && len(c.Offers) > 0 {
		c.Answer += "; stopped it is $" + stopped.Cents() + ", where such plans cost the same on and off"
	}
	return c
}
