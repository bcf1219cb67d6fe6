package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Severity is how bad a finding is.
type Severity string

// The severities. Only SeverityFail makes stead doctor fail.
const (
	SeverityFail Severity = "fail" // data or the server is at risk, or work isn't finished
	SeverityWarn Severity = "warn" // it will be missed some day
	SeverityHint Severity = "hint" // may be meant so
)

// Finding is something about a server that isn't as it should be.
type Finding struct {
	Server   string   `json:"server"`
	Check    string   `json:"check"` // which check found it
	Severity Severity `json:"severity"`
	Resource string   `json:"resource"` // what it is about
	Reason   string   `json:"reason"`
	Remedy   string   `json:"remedy,omitempty"` // a command or an action that mends it
	Fixable  bool     `json:"fixable"`          // Fix mends it
	Fixed    bool     `json:"fixed"`            // and has
}

// oldSnapshots is how old the newest snapshot set may be.
const oldSnapshots = 7 * 24 * time.Hour

// DoctorOptions says whom to look at.
type DoctorOptions struct {
	Name string // "" for all servers
	// Fix makes the repairs that put nothing at risk and cost nothing.
	Fix bool
}

// Doctor examines servers and returns what it finds, the worst first. With Fix
// it repairs what it safely can and looks again: what is gone then is Fixed.
func (m *Manager) Doctor(ctx context.Context, o DoctorOptions) ([]Finding, error) {
	list, err := m.doctor(ctx, o)
	if o.Name == "" {
		return list, wrap("examine", "servers", err)
	}
	return list, wrap("examine", "server "+o.Name, err)
}

func (m *Manager) doctor(ctx context.Context, o DoctorOptions) ([]Finding, error) {
	if o.Name != "" {
		if err := CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	worlds, err := m.survey(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(worlds, func(_ string, w *world) bool { return w.empty() && len(w.snapshots) == 0 })
	if len(worlds) == 0 && o.Name != "" {
		return nil, &Error{Reason: "there is no such server", Remedy: "stead ls", Code: KindNotFound}
	}
	about, err := m.surroundings(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	all := []Finding{}
	for _, name := range slices.Sorted(maps.Keys(worlds)) {
		list, err := m.examine(ctx, worlds[name], about)
		if err != nil {
			return nil, err
		}
		if o.Fix && slices.ContainsFunc(list, func(f Finding) bool { return f.Fixable }) {
			if list, err = m.cure(ctx, name, list, about); err != nil {
				return nil, err
			}
		}
		all = append(all, list...)
	}
	rank := []Severity{SeverityFail, SeverityWarn, SeverityHint}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return slices.Index(rank, a.Severity) - slices.Index(rank, b.Severity)
	})
	return all, nil
}

// surroundings are what lies around the servers and is asked for once.
type surroundings struct {
	groups    map[string][]types.SecurityGroup // by server
	schedules []Schedule
	// lifecycle tells that the endpoint could say which schedules there are.
	lifecycle bool
	// unkept tells that the endpoint has a recycle bin and no rule for servers.
	unkept bool
}

func (m *Manager) surroundings(ctx context.Context, name string) (*surroundings, error) {
	s := &surroundings{}
	var err error
	if s.groups, err = m.serverGroups(ctx); err != nil {
		return nil, err
	}
	s.schedules, s.lifecycle = m.knownSchedules(ctx, name)
	if rules, err := m.BinRules(ctx); err == nil { // else there is none, or one may not ask
		s.unkept = len(rules) == 0
	}
	return s, nil
}

// knownSchedules lists the schedules of a server, or of all with name "", and
// tells whether the endpoint could say.
func (m *Manager) knownSchedules(ctx context.Context, name string) ([]Schedule, bool) {
	list, err := m.policiesOf(ctx, name)
	if err != nil {
		m.log.DebugContext(ctx, "no schedules are known", "err", err)
	}
	return list, err == nil
}

// cure repairs what can be repaired and looks again.
func (m *Manager) cure(ctx context.Context, name string, before []Finding, about *surroundings) ([]Finding, error) {
	if err := m.step("repair", name, func() error { return m.treat(ctx, name, before) }); err != nil {
		return nil, err
	}
	worlds, err := m.survey(ctx, name)
	if err != nil {
		return nil, err
	}
	w := worlds[name]
	if w == nil {
		w = &world{name: name}
	}
	after, err := m.examine(ctx, w, about)
	if err != nil {
		return nil, err
	}
	for k := range before {
		before[k].Fixed = !slices.ContainsFunc(after, func(f Finding) bool {
			return f.Check == before[k].Check && f.Resource == before[k].Resource
		})
	}
	for _, f := range after {
		if !slices.ContainsFunc(before, func(b Finding) bool { return b.Check == f.Check && b.Resource == f.Resource }) {
			before = append(before, f)
		}
	}
	return before, nil
}

// treat makes the safe repairs: tags and flags of what is plugged in, the
// instance's protection, disks that belong plugged in, and fstab.
func (m *Manager) treat(ctx context.Context, name string, list []Finding) error {
	w, err := m.observe(ctx, name)
	if err != nil {
		return err
	}
	has := func(checks ...string) bool {
		return slices.ContainsFunc(list, func(f Finding) bool { return f.Fixable && slices.Contains(checks, f.Check) })
	}
	id := ""
	if w.instance != nil {
		id = aws.ToString(w.instance.InstanceId)
	}
	for _, f := range list {
		if f.Check == checkUnplugged && f.Fixable {
			if _, err := m.volumeAttach(ctx, f.Resource, name, ""); err != nil {
				return err
			}
		}
	}
	if id != "" && has(checkKept, checkTags) {
		if err := m.settle(ctx, name, id, w.facts()); err != nil {
			return err
		}
	}
	if id != "" && has(checkProtection, checkShutdown) {
		if err := m.guard(ctx, id); err != nil {
			return err
		}
	}
	if has(checkNofail, checkByName, checkGone) {
		_, _, err := m.inGuest(ctx, m.view(w), map[string]string{"fix": "yes", "gone": yesNo(!incomplete(list))}, fstabScript)
		return err
	}
	return nil
}

// examiner gathers the findings about one server.
type examiner struct {
	*world
	view *Server
	list []Finding
}

func (e *examiner) find(check string, severity Severity, resource, reason, remedy string) *Finding {
	e.list = append(e.list, Finding{Server: e.name, Check: check, Severity: severity, Resource: resource, Reason: reason, Remedy: remedy})
	return &e.list[len(e.list)-1]
}

// fixable says of a finding that doctor itself mends it.
func (f *Finding) fixable() {
	f.Fixable, f.Remedy = true, "stead doctor "+f.Server+" --fix"
}

// examine looks at one server from all sides. It changes nothing.
func (m *Manager) examine(ctx context.Context, w *world, about *surroundings) ([]Finding, error) {
	e := &examiner{world: w, view: m.view(w)}
	if w.empty() {
		e.find(checkDisks, SeverityWarn, w.name, "only snapshots are left of it", "stead rescue "+w.name)
		return e.list, nil
	}
	e.work()
	e.disks()
	e.raid()
	e.snapshots(m.now())
	e.schedule(about, m.now())
	if about.unkept {
		e.find(checkBin, SeverityHint, w.name, "no rule of the Recycle Bin keeps what is deleted of servers: it is gone at once", "stead bin --days 7")
	}
	e.ports(about.groups[w.name])
	if w.instance == nil || stateOf(w.instance) == types.InstanceStateNameShuttingDown {
		return e.list, nil
	}
	e.kept()
	e.plugged()
	if e.view.ElasticIP == "" {
		e.find(checkAddress, SeverityWarn, w.name, "it has no fixed address: it gets another one at each start", "")
	}
	if err := m.examineGuards(ctx, e); err != nil {
		return nil, err
	}
	m.examineFstab(ctx, e)
	return e.list, nil
}
