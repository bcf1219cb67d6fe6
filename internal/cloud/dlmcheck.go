package cloud

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// The limits of https://docs.aws.amazon.com/dlm/latest/APIReference/API_Schedule.html
// and what it refers to.
const (
	maxSchedules   = 4
	maxKeepCount   = 1000
	maxDescription = 500
	maxAddedTags   = 45
	yearsKept      = 100
)

var (
	policyDescription = regexp.MustCompile(`^[0-9A-Za-z _-]+$`)
	policyRole        = regexp.MustCompile(`^arn:aws(-[a-z-]+)?:iam::\d{12}:role/.+$`)
	timeOfDay         = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$`)
)

// perDay are the intervals in hours that DLM knows. Each divides a day.
var perDay = []int32{1, 2, 3, 4, 6, 8, 12, 24}

// headPolicy sets what is given of a policy's head. There is no IAM here: a
// role is taken for what its name says.
func headPolicy(p *state.LifecyclePolicy, description, role *string, wanted dlmtypes.SettablePolicyStateValues) error {
	if description != nil {
		if !policyDescription.MatchString(*description) || len(*description) > maxDescription {
			return fail(dlmInvalid, "Description has 1 to %d letters, digits, spaces, - and _.", maxDescription)
		}
		p.Description = *description
	}
	if role != nil {
		if !policyRole.MatchString(*role) {
			return fail(dlmInvalid, "ExecutionRoleArn '%s' is not the ARN of a role.", *role)
		}
		p.Role = *role
	}
	switch wanted {
	case "":
	case dlmtypes.SettablePolicyStateValuesEnabled, dlmtypes.SettablePolicyStateValuesDisabled:
		p.State = string(wanted)
	default:
		return fail(dlmInvalid, "State '%s' is neither ENABLED nor DISABLED.", wanted)
	}
	return nil
}

// detailPolicy sets what details say. A new policy gets all of it; one that
// there is keeps what they leave out, and may not change what it targets.
// Schedules whose times are new count from now on.
func detailPolicy(p *state.LifecyclePolicy, d *dlmtypes.PolicyDetails, now time.Time) error {
	if err := refuseDetails(d); err != nil {
		return err
	}
	if err := aimPolicy(p, d); err != nil {
		return err
	}
	if d.Parameters != nil {
		if err := limitPolicy(p, d.Parameters); err != nil {
			return err
		}
	}
	if d.Schedules == nil && p.Schedules != nil {
		return nil
	}
	if len(d.Schedules) < 1 || len(d.Schedules) > maxSchedules {
		return fail(dlmInvalid, "A policy has 1 to %d Schedules.", maxSchedules)
	}
	var schedules []state.PolicySchedule
	for i := range d.Schedules {
		s, err := newSchedule(&d.Schedules[i], p.Target, now)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(schedules, func(o state.PolicySchedule) bool { return o.Name == s.Name }) {
			return fail(dlmInvalid, "Two schedules are called '%s'.", s.Name)
		}
		for _, o := range p.Schedules {
			if o.Name == s.Name {
				// So does AWS, which says when each is taken how long it is kept.
				if (o.KeepUnit == "") != (s.KeepUnit == "") {
					return fail(dlmInvalid, "The schedule '%s' cannot be changed between retention by count and by age. Create a new policy.", s.Name)
				}
				s.goOn(o)
			}
		}
		if s.Every > 0 && s.At == "" { // DLM chooses a time within the next 24 hours
			s.At = now.UTC().Format("15:04")
		}
		schedules = append(schedules, s.PolicySchedule)
	}
	p.Schedules = schedules
	return nil
}

// aimPolicy sets what a policy takes snapshots of.
func aimPolicy(p *state.LifecyclePolicy, d *dlmtypes.PolicyDetails) error {
	switch {
	case len(d.ResourceTypes) == 0 && p.Target != "":
	case len(d.ResourceTypes) != 1 || !slices.Contains([]string{state.PolicyVolumes, state.PolicyInstances}, string(d.ResourceTypes[0])):
		return fail(dlmInvalid, "ResourceTypes must be VOLUME or INSTANCE, one of them.")
	case p.Target != "" && p.Target != string(d.ResourceTypes[0]):
		return fail(dlmInvalid, "The resource type of a policy cannot be changed.")
	default:
		p.Target = string(d.ResourceTypes[0])
	}
	if d.TargetTags == nil && p.TargetTags != nil {
		return nil
	}
	if len(d.TargetTags) == 0 {
		return fail(dlmInvalid, "TargetTags must name a tag.")
	}
	var err error
	p.TargetTags, err = policyTags("TargetTags", d.TargetTags, maxTags)
	return err
}

func limitPolicy(p *state.LifecyclePolicy, in *dlmtypes.Parameters) error {
	if in.NoReboot != nil {
		return fail(dlmInvalid, "Parameters.NoReboot is for policies that make images, which are not supported here.")
	}
	if p.Target == state.PolicyVolumes && (aws.ToBool(in.ExcludeBootVolume) || len(in.ExcludeDataVolumeTags) > 0) {
		return fail(dlmInvalid, "Parameters are for policies that target instances.")
	}
	p.ExcludeRoot = aws.ToBool(in.ExcludeBootVolume)
	var err error
	p.ExcludeTags, err = policyTags("ExcludeDataVolumeTags", in.ExcludeDataVolumeTags, maxTags)
	return err
}

// refuseDetails names what is not served here.
func refuseDetails(d *dlmtypes.PolicyDetails) error {
	for name, given := range map[string]bool{
		"PolicyType " + string(d.PolicyType):         d.PolicyType != "" && d.PolicyType != dlmtypes.PolicyTypeValuesEbsSnapshotManagement,
		"PolicyLanguage " + string(d.PolicyLanguage): d.PolicyLanguage != "" && d.PolicyLanguage != dlmtypes.PolicyLanguageValuesStandard,
		"Actions": d.Actions != nil, "EventSource": d.EventSource != nil, "Exclusions": d.Exclusions != nil,
		"CopyTags": d.CopyTags != nil, "CreateInterval": d.CreateInterval != nil, "RetainInterval": d.RetainInterval != nil,
		"ExtendDeletion": d.ExtendDeletion != nil, "CrossRegionCopyTargets": d.CrossRegionCopyTargets != nil, "ResourceType": d.ResourceType != "",
	} {
		if given {
			return fail(dlmInvalid, "PolicyDetails.%s is not supported here; EBS_SNAPSHOT_MANAGEMENT with Schedules is.", name)
		}
	}
	for _, l := range d.ResourceLocations {
		if l != dlmtypes.ResourceLocationValuesCloud {
			return fail(dlmInvalid, "ResourceLocations %s is not supported here; CLOUD is.", l)
		}
	}
	return nil
}

// checkedSchedule is a schedule that can be run.
type checkedSchedule struct{ state.PolicySchedule }

// goOn takes over how far the schedule of the same name had come, where its
// times are the same, and its time of the day where none is given.
func (s *checkedSchedule) goOn(was state.PolicySchedule) {
	if s.At == "" {
		s.At = was.At
	}
	if s.Every == was.Every && s.At == was.At && s.Cron == was.Cron {
		s.Handled, s.Due, s.Begun = was.Handled, was.Due, was.Begun
	}
	s.Untidy, s.Tidied = true, was.Tidied // another rule may keep less
}

func newSchedule(in *dlmtypes.Schedule, target string, now time.Time) (*checkedSchedule, error) {
	for name, given := range map[string]bool{
		"ArchiveRule": in.ArchiveRule != nil, "CrossRegionCopyRules": len(in.CrossRegionCopyRules) > 0, "DeprecateRule": in.DeprecateRule != nil,
		"FastRestoreRule": in.FastRestoreRule != nil, "ShareRules": len(in.ShareRules) > 0,
	} {
		if given {
			return nil, fail(dlmInvalid, "%s is not supported here.", name)
		}
	}
	s := &checkedSchedule{state.PolicySchedule{Name: aws.ToString(in.Name), CopyTags: aws.ToBool(in.CopyTags), Handled: now}}
	if s.Name == "" || len(s.Name) > 120 {
		return nil, fail(dlmInvalid, "A schedule's Name has 1 to 120 characters.")
	}
	if err := s.create(in.CreateRule, now); err != nil {
		return nil, err
	}
	if err := s.retain(in.RetainRule); err != nil {
		return nil, err
	}
	var err error
	if s.AddTags, err = policyTags("TagsToAdd", in.TagsToAdd, maxAddedTags); err != nil {
		return nil, err
	}
	if s.VariableTags, err = policyTags("VariableTags", in.VariableTags, maxAddedTags); err != nil {
		return nil, err
	}
	for _, t := range s.VariableTags {
		if target != state.PolicyInstances || t.Value != variableInstance && t.Value != variableTime {
			return nil, fail(dlmInvalid, "VariableTags are for policies that target instances, and have the values %s or %s.", variableInstance, variableTime)
		}
	}
	return s, nil
}

// create reads when a schedule comes.
func (s *checkedSchedule) create(in *dlmtypes.CreateRule, now time.Time) error {
	switch {
	case in == nil || (in.CronExpression == nil) == (in.Interval == nil):
		return fail(dlmInvalid, "CreateRule must have either CronExpression or Interval.")
	case in.Scripts != nil:
		return fail(dlmInvalid, "CreateRule.Scripts is not supported here.")
	case in.Location != "" && in.Location != dlmtypes.LocationValuesCloud:
		return fail(dlmInvalid, "CreateRule.Location %s is not supported here.", in.Location)
	case in.CronExpression != nil:
		if len(in.Times) > 0 || in.IntervalUnit != "" {
			return fail(dlmInvalid, "CreateRule.CronExpression goes without IntervalUnit and Times.")
		}
		c, err := parseCron(*in.CronExpression)
		if err == nil {
			err = tooDense(c, now)
		}
		if err != nil {
			return fail(dlmInvalid, "CreateRule.CronExpression: %v.", err)
		}
		s.Cron = *in.CronExpression
		return nil
	case !slices.Contains(perDay, *in.Interval) || in.IntervalUnit != dlmtypes.IntervalUnitValuesHours:
		return fail(dlmInvalid, "CreateRule.Interval must be 1, 2, 3, 4, 6, 8, 12 or 24, and IntervalUnit HOURS.")
	case len(in.Times) > 1 || len(in.Times) == 1 && !timeOfDay.MatchString(in.Times[0]):
		return fail(dlmInvalid, "CreateRule.Times has one time, as hh:mm in UTC.")
	}
	s.Every = *in.Interval
	if len(in.Times) == 1 {
		s.At = in.Times[0]
	}
	return nil
}

func (s *checkedSchedule) retain(in *dlmtypes.RetainRule) error {
	longest := map[dlmtypes.RetentionIntervalUnitValues]int32{
		dlmtypes.RetentionIntervalUnitValuesDays: yearsKept * 365, dlmtypes.RetentionIntervalUnitValuesWeeks: yearsKept * 52,
		dlmtypes.RetentionIntervalUnitValuesMonths: yearsKept * 12, dlmtypes.RetentionIntervalUnitValuesYears: yearsKept,
	}
	switch {
	case in == nil || (in.Count == nil) == (in.Interval == nil):
		return fail(dlmInvalid, "RetainRule must have either Count or Interval.")
	case in.Count != nil:
		if *in.Count < 1 || *in.Count > maxKeepCount {
			return fail(dlmInvalid, "RetainRule.Count must be from 1 to %d.", maxKeepCount)
		}
		s.KeepCount = *in.Count
	case *in.Interval < 1 || *in.Interval > longest[in.IntervalUnit]:
		return fail(dlmInvalid, "RetainRule.Interval must be 1 or more, at most %d years, and IntervalUnit DAYS, WEEKS, MONTHS or YEARS.", yearsKept)
	default:
		s.KeepFor, s.KeepUnit = *in.Interval, string(in.IntervalUnit)
	}
	return nil
}

// policyTags reads a list of tags that EC2 would take.
func policyTags(param string, in []dlmtypes.Tag, limit int) ([]state.Tag, error) {
	if len(in) > limit {
		return nil, fail(dlmInvalid, "%s has at most %d tags.", param, limit)
	}
	var out []state.Tag
	for _, t := range in {
		tag := state.Tag{Key: aws.ToString(t.Key), Value: aws.ToString(t.Value)}
		if err := setTags(map[string]string{}, []types.Tag{{Key: &tag.Key, Value: &tag.Value}}); err != nil {
			return nil, asInvalid(err)
		}
		out = append(out, tag)
	}
	return out, nil
}

// withPolicyTags adds tags to a policy's own.
func withPolicyTags(have, more map[string]string) (map[string]string, error) {
	all := cloneTags(have)
	var list []types.Tag
	for _, key := range slices.Sorted(maps.Keys(more)) {
		list = append(list, types.Tag{Key: aws.String(key), Value: aws.String(more[key])})
	}
	if err := setTags(all, list); err != nil {
		return nil, asInvalid(err)
	}
	return all, nil
}
