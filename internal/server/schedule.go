package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

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
	switch {
	case len(have) == 0:
		err = m.step("make the schedule", name, func() error { return m.makePolicy(ctx, want) })
	case *want != have[0]:
		err = m.step("change the schedule", have[0].PolicyID, func() error { return m.changePolicy(ctx, want) })
	}
	if err != nil {
		return nil, err
	}
	for _, extra := range have[min(1, len(have)):] { // of a command that was cut off, or two at once
		if err := m.dropPolicy(ctx, extra.PolicyID); err != nil {
			return nil, err
		}
	}
	return m.scheduleOf(ctx, name)
}

// over lays the options over the schedule that a server has.
func (o ScheduleOptions) over(name string, have []Schedule) (*Schedule, error) {
	s := Schedule{Server: name}
	if len(have) > 0 {
		s = have[0]
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
	case list[0].State == "error":
		return nil, &Error{
			Code: KindFailed, Resource: "policy " + list[0].PolicyID,
			Reason: joinReason("it can't run", list[0].Message), Remedy: roleRemedy,
		}
	}
	return &list[0], nil
}

// policiesOf lists the schedules under a name, or all with name "": by name,
// and the oldest first where one has several.
func (m *Manager) policiesOf(ctx context.Context, name string) ([]Schedule, error) {
	return m.policies(ctx, name, name)
}

// policies lists the schedules that target a server, or all with name "", and
// that belong to one of the owners.
func (m *Manager) policies(ctx context.Context, name string, owners ...string) ([]Schedule, error) {
	list := []Schedule{}
	if m.dlm == nil {
		return nil, &Error{Code: KindUnsupported, Reason: "there is no Data Lifecycle Manager", Err: errNoDLM}
	}
	in := &dlm.GetLifecyclePoliciesInput{}
	if name != "" {
		in.TargetTags = []string{tagServer + "=" + name}
	}
	out, err := m.dlm.GetLifecyclePolicies(ctx, in)
	if err != nil {
		return nil, wrap("list", "lifecycle policies", err)
	}
	for _, p := range out.Policies {
		if owner := p.Tags[tagServer]; owner == "" || name != "" && !slices.Contains(owners, owner) {
			continue
		}
		one, err := m.dlm.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: p.PolicyId})
		if apiCode(err) == codeNoPolicy {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, wrap("describe", "policy "+aws.ToString(p.PolicyId), err)
		}
		if s, ok := readSchedule(one.Policy); ok {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Schedule) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.PolicyID, b.PolicyID))
	})
	return list, nil
}

// makePolicy makes the policy of a schedule. CreateLifecyclePolicy takes no
// client token.
func (m *Manager) makePolicy(ctx context.Context, s *Schedule) error {
	role, err := m.role(ctx, s.Role)
	if err != nil {
		return err
	}
	in := &dlm.CreateLifecyclePolicyInput{
		Description: aws.String("stead schedule of server " + s.Server), ExecutionRoleArn: &role,
		State: dlmtypes.SettablePolicyStateValuesEnabled, PolicyDetails: s.details(), Tags: serverTags(s.Server),
	}
	err = m.takeOnce(ctx, "server "+s.Server, func(ctx context.Context) error {
		_, err := m.dlm.CreateLifecyclePolicy(ctx, in, func(o *dlm.Options) { o.RetryMaxAttempts = 1 })
		return err
	}, func(ctx context.Context) (bool, error) {
		have, err := m.policiesOf(ctx, s.Server)
		return len(have) > 0, err
	})
	return policyError("make a lifecycle policy for", "server "+s.Server, err)
}

func (m *Manager) changePolicy(ctx context.Context, s *Schedule) error {
	in := &dlm.UpdateLifecyclePolicyInput{
		PolicyId: &s.PolicyID, State: dlmtypes.SettablePolicyStateValuesEnabled, ExecutionRoleArn: optionalText(s.Role), PolicyDetails: s.details(),
	}
	in.PolicyDetails.ResourceTypes = nil // it can't be changed, and need not be told
	_, err := m.dlm.UpdateLifecyclePolicy(ctx, in)
	return policyError("change", "policy "+s.PolicyID, err)
}

func (m *Manager) dropPolicy(ctx context.Context, id string) error {
	_, err := m.dlm.DeleteLifecyclePolicy(ctx, &dlm.DeleteLifecyclePolicyInput{PolicyId: &id})
	if apiCode(err) == codeNoPolicy {
		return nil
	}
	return wrap("delete", "policy "+id, err)
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

func (m *Manager) renamePolicy(ctx context.Context, s Schedule, arn, to string) error {
	s.Server = to
	if _, err := m.dlm.TagResource(ctx, &dlm.TagResourceInput{ResourceArn: &arn, Tags: serverTags(to)}); err != nil {
		return wrap("tag", "policy "+s.PolicyID, err)
	}
	return m.changePolicy(ctx, &s)
}

// role is the ARN of the role that DLM is to take snapshots as.
func (m *Manager) role(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if m.sts == nil {
		return "", &Error{Code: KindUsage, Reason: "the account isn't known, so that the role can't be named", Remedy: "--role ARN"}
	}
	id, err := m.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", wrap("ask for", "the account", err)
	}
	partition := "aws"
	if parts := strings.Split(aws.ToString(id.Arn), ":"); len(parts) > 1 && parts[1] != "" {
		partition = parts[1]
	}
	return "arn:" + partition + ":iam::" + aws.ToString(id.Account) + ":role/" + defaultRole, nil
}

func optionalText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
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
