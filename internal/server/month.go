package server

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/price"
)

// Month is what a server costs a month in its present state.
type Month struct {
	price.Range
	Currency string    `json:"currency"`
	Way      price.Way `json:"way"` // on_demand, spot or stopped
	// Missing names what there is no price of; the sum is without it.
	Missing []string `json:"missing,omitempty"`
}

// PriceSpec is what has to be paid for s in a region: its instance, disks and
// addresses, without snapshots and traffic.
func (s *Server) PriceSpec(region string) price.Spec {
	p := price.Spec{Region: region, Zone: s.Zone, Type: s.Type}
	disks := s.Data
	if s.Root.VolumeID != "" {
		disks = append([]Disk{s.Root}, disks...)
	}
	seen := map[string]bool{}
	for _, d := range disks {
		called := d.Device
		if called == "" || seen[called] {
			called = d.VolumeID
		}
		seen[called] = true
		p.Volumes = append(p.Volumes, price.Volume{
			ID: called, Type: d.Type, GiB: int64(d.SizeGiB), IOPS: int64(d.IOPS), Throughput: int64(d.ThroughputMiBs),
		})
	}
	switch {
	case s.ElasticIP != "":
		p.Addresses = 1
	case s.PublicIP != "":
		p.LooseAddresses = 1
	}
	return p
}

// month prices a server as it is now; nil when that isn't known.
func (m *Manager) month(s *Server) *Month {
	if m.prices == nil {
		return nil
	}
	way := price.Stopped
	switch s.State {
	case StatePending, StateRunning, StateRescuing:
		if way = price.OnDemand; s.Spot {
			way = price.Spot
		}
	}
	spec := s.PriceSpec(m.region)
	if way == price.Stopped {
		spec.Type = ""
	}
	bill := m.prices.Month(spec)
	r, known := bill.Total(way)
	if !known || len(bill.Lines) == 0 && len(bill.Missing) > 0 {
		return nil
	}
	return &Month{Range: r, Currency: bill.Currency, Way: way, Missing: bill.Missing}
}

// newestSet is when the newest snapshot set was taken that a server could come
// back from; nil when there is none.
func (w *world) newestSet() *time.Time {
	for _, set := range setsOf(w.snapshots) { // the newest first
		if set.Complete && set.State == string(types.SnapshotStateCompleted) {
			return &set.Started
		}
	}
	return nil
}

// newestRoot is the newest snapshot of a root disk, nil when there is none.
func (w *world) newestRoot() *types.Snapshot {
	var newest *types.Snapshot
	for k := range w.snapshots {
		s := &w.snapshots[k]
		if tagOf(s.Tags, tagRole) == RoleRoot && (newest == nil || aws.ToTime(s.StartTime).After(aws.ToTime(newest.StartTime))) {
			newest = s
		}
	}
	return newest
}
