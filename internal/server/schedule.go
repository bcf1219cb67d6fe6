package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// DLM is what the package needs of a Data Lifecycle Manager. *dlm.Client
// satisfies it.
type DLM interface {
	CreateLifecyclePolicy(context.Context, *dlm.CreateLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.CreateLifecyclePolicyOutput, error)
	GetLifecyclePolicies(context.Context, *dlm.GetLifecyclePoliciesInput, ...func(*dlm.Options)) (*dlm.GetLifecyclePoliciesOutput, error)
	GetLifecyclePolicy(context.Context, *dlm.GetLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.GetLifecyclePolicyOutput, error)
	UpdateLifecyclePolicy(context.Context, *dlm.UpdateLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.UpdateLifecyclePolicyOutput, error)
	DeleteLifecyclePolicy(context.Context, *dlm.DeleteLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.DeleteLifecyclePolicyOutput, error)
	TagResource(context.Context, *dlm.TagResourceInput, ...func(*dlm.Options)) (*dlm.TagResourceOutput, error)
}

// STS is what the package needs to know whose account it works in.
// *sts.Client satisfies it.
type STS interface {
	GetCallerIdentity(context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options)) (*sts.GetCallerIdentityOutput, error)
}

var (
	_ DLM = (*dlm.Client)(nil)
	_ STS = (*sts.Client)(nil)
)

// defaultRole is what `aws dlm create-default-role` makes. DLM takes snapshots
// as this role.
const defaultRole = "AWSDataLifecycleManagerDefaultRole"

// scheduleName is what the one schedule of a policy is called. It is on every
// snapshot that the policy takes.
const scheduleName = "stead"

// ScheduleOptions says when snapshots are taken, and for how long each is
// kept. What isn't given stays as it is in the server's schedule.
type ScheduleOptions struct {
	Every    int    // hours: 1, 2, 3, 4, 6, 8, 12 or 24; or ...
	Cron     string // ... a crontab's five fields, or the six of EventBridge
	At       string // hh:mm in UTC from which Every counts; "" leaves it to the cloud
	Keep     int    // the newest so many; or ...
	KeepFor  int    // ... those younger than so many ...
	KeepUnit string // ... DAYS, WEEKS, MONTHS or YEARS
	Role     string // ARN of the role that takes the snapshots; "" is DLM's default one
}

// Schedule is when the cloud itself takes snapshots of a server.
type Schedule struct {
	Server   string `json:"server"`
	PolicyID string `json:"policy_id"`
	State    string `json:"state"` // enabled, disabled or error
	Message  string `json:"message,omitempty"`
	Every    int    `json:"every_hours,omitempty"`
	At       string `json:"at,omitempty"`   // hh:mm in UTC
	Cron     string `json:"cron,omitempty"` // the other way to say when
	Keep     int    `json:"keep,omitempty"`
	KeepFor  int    `json:"keep_for,omitempty"`
	KeepUnit string `json:"keep_unit,omitempty"` // days, weeks, months or years
	Role     string `json:"role"`

	made time.Time // of the policy
}

// Schedule has the cloud take snapshots of a server: of all its disks at one
// instant, for as long as it has an instance. The same again changes nothing;
// other options change the schedule that there is.
//
// The policy targets the instance by its tag, and nothing else. Disks without
// an instance lie still, so nothing is missed that the last run hasn't got but
// what was written since; a second policy for those would take the disks of a
// stopped instance twice, and push sets that differ out by sets that don't.
func (m *Manager) Schedule(ctx context.Context, name string, o ScheduleOptions) (*Schedule, error) {
	s, err := m.schedule(ctx, name, o)
	return s, wrap("schedule", "server "+name, err)
}

func (m *Manager) schedule(ctx context.Context, name string, o ScheduleOptions) (*Schedule, error) {
	w, err := m.world(ctx, "schedule", name)
	if err != nil {
		return nil, err
	}
	have, err := m.policiesOf(ctx, name)
	if unsupported(err) {
		return nil, noSchedules(name, o, err)
	}
	if err != nil {
		return nil, err
	}
	want, err := o.over(name, have)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && live(w.instance) {
		// So that the root says which disks make a set complete.
		if err := m.settle(ctx, name, aws.ToString(w.instance.InstanceId), w.facts()); err != nil {
			return nil, err
		}
	}
	if err := m.havePolicy(ctx, want, have); err != nil {
		return nil, err
	}
	return m.scheduleOf(ctx, name)
}

// havePolicy sees to it that the wanted schedule is the only one, of those that
// there are, oldest first. The new one is made before the old one goes.
//
// A policy can't change between a number and a time for which it keeps
// snapshots: DLM wants another policy for that. What the old one took is then
// nobody's to delete but the user's, as after a rescue: see Prune.
func (m *Manager) havePolicy(ctx context.Context, want *Schedule, have []Schedule) error {
	keep := slices.IndexFunc(have, want.same)
	if keep < 0 {
		var err error
		keep = slices.IndexFunc(have, func(s Schedule) bool { return (s.Keep > 0) == (want.Keep > 0) })
		if keep < 0 {
			err = m.step("make the schedule", want.Server, func() error { return m.makePolicy(ctx, want) })
		} else {
			want.PolicyID = have[keep].PolicyID
			err = m.step("change the schedule", want.PolicyID, func() error { return m.changePolicy(ctx, want) })
		}
		if err != nil {
			return err
		}
	}
	for k, extra := range have { // of the other kind, of a command that was cut off, or of two at once
		if k == keep {
			continue
		}
		if err := m.step("end the schedule", extra.PolicyID, func() error { return m.dropPolicy(ctx, extra.PolicyID) }); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether a policy is as s wants one. A role that isn't given is any.
func (s *Schedule) same(o Schedule) bool {
	o.PolicyID, o.made = s.PolicyID, s.made
	o.Message = s.Message
	o.Role = cmp.Or(s.Role, o.Role)
	w := *s
	w.Role = o.Role
	if w.At == "" {
		w.At = o.At
	}
	return w == o
}

// over lays the options over the schedule that a server has.
func (o ScheduleOptions) over(name string, have []Schedule) (*Schedule, error) {
	s := Schedule{Server: name}
	if len(have) > 0 {
		s = have[len(have)-1] // the newest, where a change was cut off
	}
	s.State, s.Message = scheduleEnabled, ""
	s.Role = cmp.Or(o.Role, s.Role)
	switch {
	case o.Every != 0 && o.Cron != "":
		return nil, &Error{Code: KindUsage, Reason: "an interval and a cron expression are two ways to say when", Remedy: "give one of them"}
	case o.Every != 0 && !slices.Contains([]int{1, 2, 3, 4, 6, 8, 12, 24}, o.Every):
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("there is no schedule every %d hours", o.Every), Remedy: "every 1, 2, 3, 4, 6, 8, 12 or 24 hours"}
	case o.Every != 0:
		s.Every, s.Cron = o.Every, ""
	case o.Cron != "":
		expr, err := dlmCron(o.Cron)
		if err != nil {
			return nil, err
		}
		s.Every, s.At, s.Cron = 0, "", expr
	case s.Every == 0 && s.Cron == "":
		return nil, &Error{Code: KindUsage, Reason: "say when", Remedy: "stead schedule " + name + " --every 24h --keep 7"}
	}
	if o.At != "" {
		if s.Cron != "" || !isTimeOfDay(o.At) {
			return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no time from which an interval counts", o.At), Remedy: "hh:mm in UTC, with an interval"}
		}
		s.At = o.At
	}
	switch {
	case o.Keep != 0 && o.KeepFor != 0:
		return nil, &Error{Code: KindUsage, Reason: "a number and a time are two ways to say how many are kept", Remedy: "give one of them"}
	case o.Keep < 0 || o.Keep > 1000 || o.KeepFor < 0:
		return nil, &Error{Code: KindUsage, Reason: "that can't be kept", Remedy: "keep from 1 to 1000"}
	case o.Keep != 0:
		s.Keep, s.KeepFor, s.KeepUnit = o.Keep, 0, ""
	case o.KeepFor != 0:
		s.Keep, s.KeepFor, s.KeepUnit = 0, o.KeepFor, strings.ToLower(o.KeepUnit)
	case s.Keep == 0 && s.KeepFor == 0:
		return nil, &Error{Code: KindUsage, Reason: "say how many are kept", Remedy: "stead schedule " + name + " --every 24h --keep 7"}
	}
	return &s, nil
}

// details are what DLM is told. The tags of the disks go with the snapshots:
// they make sets of them.
func (s *Schedule) details() *dlmtypes.PolicyDetails {
	create := &dlmtypes.CreateRule{}
	if s.Cron != "" {
		create.CronExpression = aws.String(s.Cron)
	} else {
		create.Interval, create.IntervalUnit = aws.Int32(int32(s.Every)), dlmtypes.IntervalUnitValuesHours
		if s.At != "" {
			create.Times = []string{s.At}
		}
	}
	keep := &dlmtypes.RetainRule{}
	if s.Keep > 0 {
		keep.Count = aws.Int32(int32(s.Keep))
	} else {
		keep.Interval, keep.IntervalUnit = aws.Int32(int32(s.KeepFor)), dlmtypes.RetentionIntervalUnitValues(strings.ToUpper(s.KeepUnit))
	}
	return &dlmtypes.PolicyDetails{
		PolicyType:    dlmtypes.PolicyTypeValuesEbsSnapshotManagement,
		ResourceTypes: []dlmtypes.ResourceTypeValues{dlmtypes.ResourceTypeValuesInstance},
		TargetTags:    []dlmtypes.Tag{{Key: aws.String(tagServer), Value: aws.String(s.Server)}},
		Schedules: []dlmtypes.Schedule{{
			Name: aws.String(scheduleName), CreateRule: create, RetainRule: keep, CopyTags: aws.Bool(true),
			TagsToAdd: []dlmtypes.Tag{{Key: aws.String(tagSetInstant), Value: aws.String(yesNo(true))}},
		}},
	}
}

// scheduleEnabled is the state of a schedule that runs.
const scheduleEnabled = "enabled"

// readSchedule reads a policy of a server; false: it is none that stead made.
func readSchedule(p *dlmtypes.LifecyclePolicy) (Schedule, bool) {
	if p == nil || p.PolicyDetails == nil || len(p.PolicyDetails.Schedules) != 1 || p.Tags[tagServer] == "" {
		return Schedule{}, false
	}
	s := Schedule{
		Server: p.Tags[tagServer], PolicyID: aws.ToString(p.PolicyId), State: strings.ToLower(string(p.State)), Role: aws.ToString(p.ExecutionRoleArn),
		made: aws.ToTime(p.DateCreated),
	}
	if p.State != dlmtypes.GettablePolicyStateValuesEnabled {
		s.Message = aws.ToString(p.StatusMessage)
	}
	if c := p.PolicyDetails.Schedules[0].CreateRule; c != nil {
		s.Every, s.Cron = int(aws.ToInt32(c.Interval)), aws.ToString(c.CronExpression)
		s.At = strings.Join(c.Times, " ")
	}
	if r := p.PolicyDetails.Schedules[0].RetainRule; r != nil {
		s.Keep, s.KeepFor = int(aws.ToInt32(r.Count)), int(aws.ToInt32(r.Interval))
		s.KeepUnit = strings.ToLower(string(r.IntervalUnit))
	}
	return s, true
}

// Schedules lists the schedules of all servers, by name.
func (m *Manager) Schedules(ctx context.Context) ([]Schedule, error) {
	list, err := m.policiesOf(ctx, "")
	if unsupported(err) {
		return nil, noSchedules("NAME", ScheduleOptions{}, err)
	}
	return list, wrap("list", "schedules", err)
}

// ScheduleOf returns the server's schedule, or ErrNotFound.
func (m *Manager) ScheduleOf(ctx context.Context, name string) (*Schedule, error) {
	if _, err := m.world(ctx, "find the schedule of", name); err != nil {
		return nil, err
	}
	s, err := m.scheduleOf(ctx, name)
	return s, wrap("find the schedule of", "server "+name, err)
}

func (m *Manager) scheduleOf(ctx context.Context, name string) (*Schedule, error) {
	list, err := m.policiesOf(ctx, name)
	switch {
	case unsupported(err):
		return nil, noSchedules(name, ScheduleOptions{}, err)
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, &Error{Code: KindNotFound, Reason: "it has none", Remedy: "stead schedule " + name + " --every 24h --keep 7"}
	}
	s := &list[len(list)-1]
	if s.State == "error" {
		return nil, &Error{
			Code: KindFailed, Resource: "policy " + s.PolicyID,
			Reason: joinReason("it can't run", s.Message), Remedy: roleRemedy,
		}
	}
	return s, nil
}

// DropSchedules ends all schedules of a server, if it has any and the endpoint
// knows of such. The snapshots that they took stay.
func (m *Manager) DropSchedules(ctx context.Context, name string) error {
	have, err := m.policiesOf(ctx, name)
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return wrap("end the schedule of", "server "+name, err)
	}
	for _, s := range have {
		if err := m.step("end the schedule", s.PolicyID, func() error { return m.dropPolicy(ctx, s.PolicyID) }); err != nil {
			return wrap("end the schedule of", "server "+name, err)
		}
	}
	return nil
}

// RenameSchedules makes the schedules of one server those of another name.
// What they target is changed last: it is what they are found by again.
func (m *Manager) RenameSchedules(ctx context.Context, from, to string) error {
	have, err := m.policies(ctx, from, from, to)
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return wrap("rename the schedule of", "server "+from, err)
	}
	for _, s := range have {
		one, err := m.dlm.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: &s.PolicyID})
		if err != nil {
			return wrap("describe", "policy "+s.PolicyID, err)
		}
		if err := m.renamePolicy(ctx, s, aws.ToString(one.Policy.PolicyArn), to); err != nil {
			return wrap("rename the schedule of", "server "+from, err)
		}
	}
	return nil
}

// When says when, for people: "every 24 hours from 03:00 UTC".
func (s *Schedule) When() string {
	if s.Cron != "" {
		return s.Cron + " UTC"
	}
	text := "every " + strconv.Itoa(s.Every) + " hours"
	if s.Every == 1 {
		text = "every hour"
	}
	if s.At != "" {
		text += " from " + s.At + " UTC"
	}
	return text
}

// Kept says how many stay, for people: "the newest 7", "for 14 days".
func (s *Schedule) Kept() string {
	if s.Keep > 0 {
		return "the newest " + strconv.Itoa(s.Keep)
	}
	return "for " + strconv.Itoa(s.KeepFor) + " " + s.KeepUnit
}

// scheduledRule is how many sets, or for how long, a server's schedule keeps;
// neither where it has none.
func (m *Manager) scheduledRule(ctx context.Context, name string) (keep int, keepFor time.Duration) {
	list, known := m.knownSchedules(ctx, name)
	if !known || len(list) == 0 {
		return 0, 0
	}
	s := list[len(list)-1]
	return s.Keep, time.Duration(s.KeepFor*daysOf[strings.ToUpper(s.KeepUnit)]) * 24 * time.Hour
}
