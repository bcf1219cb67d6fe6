package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// MaxCount bounds how many servers one CreateMany makes, and createsAtOnce how
// many of them at a time: EC2 throttles who asks for more.
const (
	MaxCount      = 100
	createsAtOnce = 4
)

// Forecast is what a server with these options will cost a month while it
// runs; nil where nobody knows what the endpoint charges.
func (m *Manager) Forecast(ctx context.Context, o CreateOptions) (*Month, error) {
	if m.prices == nil {
		return nil, nil
	}
	if err := o.normalize(); err != nil {
		return nil, wrap("price", "server "+o.Name, err)
	}
	image, _, err := m.resolveImage(ctx, o.Image, m.archOf(ctx, o.Type))
	if err != nil {
		return nil, wrap("price", "server "+o.Name, err)
	}
	mappings, err := launchMappings(image, o.DiskGiB, o.Data)
	if err != nil {
		return nil, wrap("price", "server "+o.Name, err)
	}
	s := &Server{Name: o.Name, State: StateRunning, Type: o.Type, Zone: o.Zone, Spot: o.Spot}
	if s.PublicIP = "new"; !o.NoAddress {
		s.ElasticIP = "new"
	}
	for _, bdm := range mappings {
		d := Disk{VolumeID: *bdm.DeviceName, Device: *bdm.DeviceName, Type: string(bdm.Ebs.VolumeType)}
		if bdm.Ebs.VolumeSize != nil {
			d.SizeGiB = int(*bdm.Ebs.VolumeSize)
		}
		if bdm.Ebs.Iops != nil {
			d.IOPS = int(*bdm.Ebs.Iops)
		}
		s.Data = append(s.Data, d)
	}
	return m.month(s), nil
}

// Names are those of count servers: NAME-1 to NAME-count.
func Names(name string, count int) []string {
	names := make([]string, count)
	for k := range names {
		names[k] = fmt.Sprintf("%s-%d", name, k+1)
	}
	return names
}

// CreateMany makes count servers, NAME-1 to NAME-count, several at a time and
// each as Create does. One that is there already, made with the same options,
// counts as made: so the call can be repeated until all are. The servers that
// were made are returned beside an error that names the others.
func (m *Manager) CreateMany(ctx context.Context, o CreateOptions, count int) ([]Server, error) {
	if count < 1 || count > MaxCount {
		return nil, &Error{Op: "create", Resource: "servers", Code: KindUsage, Reason: fmt.Sprintf("%d of them", count), Remedy: fmt.Sprintf("--count 1 to %d", MaxCount)}
	}
	names := Names(o.Name, count)
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	made := make([]*Server, count)
	failures := make([]error, count)
	old := make([]bool, count)
	var g errgroup.Group
	g.SetLimit(createsAtOnce)
	for k, name := range names {
		g.Go(func() error {
			one := o
			one.Name = name
			made[k], failures[k] = m.Create(ctx, one)
			if KindOf(failures[k]) == KindExists {
				if s := m.madeBefore(ctx, one); s != nil {
					made[k], failures[k], old[k] = s, nil, true
				}
			}
			return nil
		})
	}
	_ = g.Wait() // each keeps its own failure
	servers := []Server{}
	for k := range made {
		if failures[k] == nil {
			servers = append(servers, *made[k])
		}
	}
	if !slices.Contains(old, false) {
		return servers, &Error{Op: "create", Resource: "servers " + names[0] + " to " + names[count-1], Code: KindExists, Reason: "they exist", Remedy: "stead ls, or choose another name"}
	}
	return servers, manyError(ctx, names, failures)
}

// madeBefore returns the finished server of a name if it looks as these options
// would have made it.
func (m *Manager) madeBefore(ctx context.Context, o CreateOptions) *Server {
	s, err := m.Get(ctx, o.Name)
	if err != nil || o.normalize() != nil || s.InstanceID == "" || len(s.Warnings) > 0 || s.Type != o.Type || len(s.Data) < len(o.Data) ||
		strings.Join(s.Open, " ") != o.open() || strings.Join(s.From, " ") != o.from() {
		return nil
	}
	return s
}

// manyError is one error of many: that of a single one as it is, an
// interruption as such, and else a result in part that names each.
func manyError(ctx context.Context, names []string, failures []error) error {
	var failed []string
	var first error
	for k, err := range failures {
		if err != nil {
			failed = append(failed, names[k])
			if first == nil {
				first = err
			}
		}
	}
	switch {
	case first == nil:
		return nil
	case len(names) == 1:
		return first
	case ctx.Err() != nil:
		return &Error{Op: "create", Resource: "servers " + strings.Join(failed, ", "), Code: classify(ctx.Err()), Remedy: remedyFor(classify(ctx.Err())), Err: ctx.Err()}
	case len(failed) == len(names):
		return &Error{Op: "create", Resource: fmt.Sprintf("%d servers", len(names)), Reason: "none was made", Err: errors.Join(distinct(failures)...), Code: KindOf(first), Remedy: Remedy(first)}
	}
	return &Error{
		Op: "create", Resource: "servers " + strings.Join(failed, ", "), Code: KindPartial,
		Reason: fmt.Sprintf("%d of %d failed", len(failed), len(names)), Err: errors.Join(distinct(failures)...),
		Remedy: "run the same command again: those that are made stay as they are",
	}
}

// distinct leaves out what is no failure.
func distinct(failures []error) []error {
	return slices.DeleteFunc(slices.Clone(failures), func(err error) bool { return err == nil })
}
