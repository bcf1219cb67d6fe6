package cloud

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"

	"github.com/steadcloud/stead/internal/state"
)

// maxPolicies is how many lifecycle policies a region takes, as on AWS.
const maxPolicies = 100

func (c *Cloud) registerLifecycle() {
	c.dlmActions = map[string]action{
		"CreateLifecyclePolicy": handle(c.CreateLifecyclePolicy),
		"GetLifecyclePolicies":  handle(c.GetLifecyclePolicies),
		"GetLifecyclePolicy":    handle(c.GetLifecyclePolicy),
		"UpdateLifecyclePolicy": handle(c.UpdateLifecyclePolicy),
		"DeleteLifecyclePolicy": handle(c.DeleteLifecyclePolicy),
		"TagResource":           handle(c.TagResource),
		"UntagResource":         handle(c.UntagResource),
		"ListTagsForResource":   handle(c.ListTagsForResource),
	}
}

// CreateLifecyclePolicy makes a policy. Its first times are those after now.
func (c *Cloud) CreateLifecyclePolicy(ctx context.Context, in *dlm.CreateLifecyclePolicyInput) (*dlm.CreateLifecyclePolicyOutput, error) {
	if in.DefaultPolicy != "" || in.CopyTags != nil || in.CreateInterval != nil || in.RetainInterval != nil ||
		in.ExtendDeletion != nil || in.CrossRegionCopyTargets != nil || in.Exclusions != nil {
		return nil, fail(dlmInvalid, "Default policies are not supported here. Give PolicyDetails with a schedule.")
	}
	p := &state.LifecyclePolicy{Meta: c.meta(from(ctx).Scope, "policy")}
	p.Modified = p.Created
	if in.Description == nil || in.ExecutionRoleArn == nil || in.State == "" || in.PolicyDetails == nil {
		return nil, fail(dlmInvalid, "Description, ExecutionRoleArn, State and PolicyDetails must be given.")
	}
	if err := headPolicy(p, in.Description, in.ExecutionRoleArn, in.State); err != nil {
		return nil, err
	}
	if err := detailPolicy(p, in.PolicyDetails, p.Created); err != nil {
		return nil, err
	}
	var err error
	if p.Tags, err = withPolicyTags(nil, in.Tags); err != nil {
		return nil, err
	}
	err = c.db.Update(func(tx *state.Tx) error {
		all, err := state.List[state.LifecyclePolicy](tx, p.Scope())
		if err != nil {
			return err
		}
		if len(all) >= maxPolicies {
			return &apiError{Code: dlmLimit, Message: "A region has at most 100 lifecycle policies.", Status: http.StatusTooManyRequests}
		}
		return state.Put(tx, p)
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(p))
	return &dlm.CreateLifecyclePolicyOutput{PolicyId: aws.String(p.ID)}, nil
}

// UpdateLifecyclePolicy changes what is given and keeps the rest. A schedule
// whose times are new begins with those after now.
func (c *Cloud) UpdateLifecyclePolicy(ctx context.Context, in *dlm.UpdateLifecyclePolicyInput) (*dlm.UpdateLifecyclePolicyOutput, error) {
	if in.CopyTags != nil || in.CreateInterval != nil || in.RetainInterval != nil || in.ExtendDeletion != nil ||
		in.CrossRegionCopyTargets != nil || in.Exclusions != nil {
		return nil, fail(dlmInvalid, "Default policies are not supported here.")
	}
	p, err := c.changePolicy(ctx, aws.ToString(in.PolicyId), func(p *state.LifecyclePolicy) error {
		was, now := p.State, c.now().UTC()
		if err := headPolicy(p, in.Description, in.ExecutionRoleArn, in.State); err != nil {
			return err
		}
		if in.PolicyDetails != nil {
			if err := detailPolicy(p, in.PolicyDetails, now); err != nil {
				return err
			}
		}
		if was == state.PolicyDisabled && p.State == state.PolicyEnabled {
			for i := range p.Schedules { // what was missed while it was off was not wanted
				p.Schedules[i].Handled = now
			}
		}
		p.Modified = now
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(p))
	return &dlm.UpdateLifecyclePolicyOutput{}, nil
}

// DeleteLifecyclePolicy ends a policy. The snapshots that it took stay.
func (c *Cloud) DeleteLifecyclePolicy(ctx context.Context, in *dlm.DeleteLifecyclePolicyInput) (*dlm.DeleteLifecyclePolicyOutput, error) {
	err := c.db.Update(func(tx *state.Tx) error {
		p, err := findPolicy(tx, from(ctx).Scope, aws.ToString(in.PolicyId))
		if err != nil {
			return err
		}
		return state.Delete(tx, p)
	})
	if err != nil {
		return nil, err
	}
	return &dlm.DeleteLifecyclePolicyOutput{}, nil
}

// GetLifecyclePolicy describes one policy.
func (c *Cloud) GetLifecyclePolicy(ctx context.Context, in *dlm.GetLifecyclePolicyInput) (*dlm.GetLifecyclePolicyOutput, error) {
	p, err := c.policy(ctx, aws.ToString(in.PolicyId))
	if err != nil {
		return nil, err
	}
	return &dlm.GetLifecyclePolicyOutput{Policy: apiPolicy(p)}, nil
}

// GetLifecyclePolicies lists policies; of several filters all must match, of
// several values of one filter any.
func (c *Cloud) GetLifecyclePolicies(ctx context.Context, in *dlm.GetLifecyclePoliciesInput) (*dlm.GetLifecyclePoliciesOutput, error) {
	var all []*state.LifecyclePolicy
	err := c.db.View(func(tx *state.Tx) (err error) {
		for _, id := range in.PolicyIds {
			if _, err := findPolicy(tx, from(ctx).Scope, id); err != nil {
				return err
			}
		}
		all, err = state.List[state.LifecyclePolicy](tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &dlm.GetLifecyclePoliciesOutput{Policies: []dlmtypes.LifecyclePolicySummary{}}
	for _, p := range all {
		if in.DefaultPolicyType == "" && asked(p, in) {
			out.Policies = append(out.Policies, dlmtypes.LifecyclePolicySummary{
				PolicyId: aws.String(p.ID), Description: aws.String(p.Description), State: dlmtypes.GettablePolicyStateValues(p.State),
				PolicyType: dlmtypes.PolicyTypeValuesEbsSnapshotManagement, DefaultPolicy: aws.Bool(false), Tags: nonNil(p.Tags),
			})
		}
	}
	return out, nil
}

// asked tells whether a policy is one of those that a list is asked for.
func asked(p *state.LifecyclePolicy, in *dlm.GetLifecyclePoliciesInput) bool {
	var added []state.Tag
	for _, s := range p.Schedules {
		added = append(added, s.AddTags...)
	}
	return (len(in.PolicyIds) == 0 || slices.Contains(in.PolicyIds, p.ID)) &&
		(len(in.ResourceTypes) == 0 || slices.Contains(in.ResourceTypes, dlmtypes.ResourceTypeValues(p.Target))) &&
		(in.State == "" || string(in.State) == p.State) &&
		anyTag(in.TargetTags, p.TargetTags) && anyTag(in.TagsToAdd, added)
}

// anyTag looks for any of "key=value" among tags; none wanted is fine too.
func anyTag(want []string, have []state.Tag) bool {
	return len(want) == 0 || slices.ContainsFunc(have, func(t state.Tag) bool { return slices.Contains(want, t.Key+"="+t.Value) })
}

// TagResource tags a policy.
func (c *Cloud) TagResource(ctx context.Context, in *dlm.TagResourceInput) (*dlm.TagResourceOutput, error) {
	_, err := c.changePolicy(ctx, policyOf(in.ResourceArn), func(p *state.LifecyclePolicy) (err error) {
		p.Tags, err = withPolicyTags(p.Tags, in.Tags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dlm.TagResourceOutput{}, nil
}

// UntagResource takes tags off a policy.
func (c *Cloud) UntagResource(ctx context.Context, in *dlm.UntagResourceInput) (*dlm.UntagResourceOutput, error) {
	_, err := c.changePolicy(ctx, policyOf(in.ResourceArn), func(p *state.LifecyclePolicy) error {
		for _, key := range in.TagKeys {
			delete(p.Tags, key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &dlm.UntagResourceOutput{}, nil
}

// ListTagsForResource lists a policy's tags.
func (c *Cloud) ListTagsForResource(ctx context.Context, in *dlm.ListTagsForResourceInput) (*dlm.ListTagsForResourceOutput, error) {
	p, err := c.policy(ctx, policyOf(in.ResourceArn))
	if err != nil {
		return nil, err
	}
	return &dlm.ListTagsForResourceOutput{Tags: nonNil(p.Tags)}, nil
}

// policyOf is the ID at the end of a policy's ARN.
func policyOf(arn *string) string {
	_, id, _ := strings.Cut(aws.ToString(arn), ":policy/")
	return id
}

func (c *Cloud) policy(ctx context.Context, id string) (p *state.LifecyclePolicy, err error) {
	err = c.db.View(func(tx *state.Tx) error {
		p, err = findPolicy(tx, from(ctx).Scope, id)
		return err
	})
	return p, err
}

func findPolicy(tx *state.Tx, s state.Scope, id string) (*state.LifecyclePolicy, error) {
	p, err := state.Get[state.LifecyclePolicy](tx, s, id)
	if errors.Is(err, state.ErrNotFound) || id == "" {
		return nil, &apiError{Code: dlmNotFound, Message: "The lifecycle policy '" + id + "' does not exist.", Status: http.StatusNotFound}
	}
	return p, err
}

// changePolicy changes a policy as it is now, or, where change fails, not at
// all.
func (c *Cloud) changePolicy(ctx context.Context, id string, change func(*state.LifecyclePolicy) error) (p *state.LifecyclePolicy, err error) {
	err = c.db.Update(func(tx *state.Tx) error {
		if p, err = findPolicy(tx, from(ctx).Scope, id); err != nil {
			return err
		}
		if err := change(p); err != nil {
			return err
		}
		return state.Put(tx, p)
	})
	return p, err
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func apiPolicy(p *state.LifecyclePolicy) *dlmtypes.LifecyclePolicy {
	details := &dlmtypes.PolicyDetails{
		PolicyType: dlmtypes.PolicyTypeValuesEbsSnapshotManagement, PolicyLanguage: dlmtypes.PolicyLanguageValuesStandard,
		ResourceTypes: []dlmtypes.ResourceTypeValues{dlmtypes.ResourceTypeValues(p.Target)}, TargetTags: apiPolicyTags(p.TargetTags),
		ResourceLocations: []dlmtypes.ResourceLocationValues{dlmtypes.ResourceLocationValuesCloud},
	}
	if p.Target == state.PolicyInstances {
		details.Parameters = &dlmtypes.Parameters{ExcludeBootVolume: aws.Bool(p.ExcludeRoot), ExcludeDataVolumeTags: apiPolicyTags(p.ExcludeTags)}
	}
	for i := range p.Schedules {
		details.Schedules = append(details.Schedules, apiSchedule(&p.Schedules[i]))
	}
	return &dlmtypes.LifecyclePolicy{
		PolicyId: aws.String(p.ID), PolicyArn: aws.String("arn:aws:dlm:" + p.Region + ":" + p.Account + ":policy/" + p.ID),
		Description: aws.String(p.Description), ExecutionRoleArn: aws.String(p.Role), State: dlmtypes.GettablePolicyStateValues(p.State),
		StatusMessage: aws.String(p.State), DateCreated: aws.Time(p.Created), DateModified: aws.Time(p.Modified),
		DefaultPolicy: aws.Bool(false), PolicyDetails: details, Tags: nonNil(p.Tags),
	}
}

func apiSchedule(s *state.PolicySchedule) dlmtypes.Schedule {
	create := &dlmtypes.CreateRule{Location: dlmtypes.LocationValuesCloud}
	if s.Cron != "" {
		create.CronExpression = aws.String(s.Cron)
	} else {
		create.Interval, create.IntervalUnit, create.Times = aws.Int32(s.Every), dlmtypes.IntervalUnitValuesHours, []string{s.At}
	}
	keep := &dlmtypes.RetainRule{}
	if s.KeepCount > 0 {
		keep.Count = aws.Int32(s.KeepCount)
	} else {
		keep.Interval, keep.IntervalUnit = aws.Int32(s.KeepFor), dlmtypes.RetentionIntervalUnitValues(s.KeepUnit)
	}
	return dlmtypes.Schedule{
		Name: aws.String(s.Name), CreateRule: create, RetainRule: keep, CopyTags: aws.Bool(s.CopyTags),
		TagsToAdd: apiPolicyTags(s.AddTags), VariableTags: apiPolicyTags(s.VariableTags),
	}
}

func apiPolicyTags(tags []state.Tag) []dlmtypes.Tag {
	list := []dlmtypes.Tag{}
	for _, t := range tags {
		list = append(list, dlmtypes.Tag{Key: aws.String(t.Key), Value: aws.String(t.Value)})
	}
	return list
}
