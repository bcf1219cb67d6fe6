package cloud

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/rbin"
	rbintypes "github.com/aws/aws-sdk-go-v2/service/rbin/types"

	"github.com/steadcloud/stead/internal/awsproto"
	"github.com/steadcloud/stead/internal/state"
)

// binRoutes are the actions of the Recycle Bin's own service.
var binRoutes = []awsproto.Route{
	{Method: http.MethodPost, Path: "/rules", Action: "CreateRule"},
	{Method: http.MethodPost, Path: "/list-rules", Action: "ListRules"},
	{Method: http.MethodGet, Path: "/rules/{Identifier}", Action: "GetRule"},
	{Method: http.MethodPatch, Path: "/rules/{Identifier}", Action: "UpdateRule"},
	{Method: http.MethodDelete, Path: "/rules/{Identifier}", Action: "DeleteRule"},
}

// The Recycle Bin's own error codes.
const (
	binInvalid  = "ValidationException"
	binNotFound = "ResourceNotFoundException"
	binQuota    = "ServiceQuotaExceededException"
)

const (
	maxBinRules   = 250
	maxBinTags    = 50
	ruleAvailable = rbintypes.RuleStatusAvailable
)

// longestStay is for how many days a rule may keep what it is for.
var longestStay = map[string]int32{state.BinSnapshots: 365, state.BinImages: 365, state.BinVolumes: 7}

func (c *Cloud) registerBinRules() {
	c.binActions = map[string]action{
		"CreateRule": handle(c.CreateRule),
		"ListRules":  handle(c.ListRules),
		"GetRule":    handle(c.GetRule),
		"UpdateRule": handle(c.UpdateRule),
		"DeleteRule": handle(c.DeleteRule),
	}
}

// CreateRule makes a rule: what it is for is kept for some days when it is
// deleted from now on.
func (c *Cloud) CreateRule(ctx context.Context, in *rbin.CreateRuleInput) (*rbin.CreateRuleOutput, error) {
	if in.LockConfiguration != nil {
		return nil, fail(binInvalid, "LockConfiguration is not supported here: a rule of this cloud is never locked.")
	}
	if _, ok := longestStay[string(in.ResourceType)]; !ok {
		return nil, fail(binInvalid, "ResourceType must be EBS_SNAPSHOT, EC2_IMAGE or EBS_VOLUME.")
	}
	r := &state.BinRule{Meta: c.meta(from(ctx).Scope, "rule"), Of: string(in.ResourceType), Description: aws.ToString(in.Description)}
	r.ID = strings.TrimPrefix(r.ID, "rule-")
	r.Tags = map[string]string{}
	for _, t := range in.Tags {
		if err := setTags(r.Tags, []types.Tag{{Key: t.Key, Value: t.Value}}); err != nil {
			return nil, asBinInvalid(err)
		}
	}
	if err := ruleOver(r, in.RetentionPeriod, in.ResourceTags, in.ExcludeResourceTags); err != nil {
		return nil, err
	}
	if r.Days == 0 {
		return nil, fail(binInvalid, "RetentionPeriod must be given.")
	}
	err := c.db.Update(func(tx *state.Tx) error {
		all, err := state.List[state.BinRule](tx, r.Scope())
		if err == nil && len(all) >= maxBinRules {
			err = &apiError{Code: binQuota, Message: "A region has at most 250 retention rules.", Status: http.StatusPaymentRequired}
		}
		if err != nil {
			return err
		}
		return state.Put(tx, r)
	})
	if err != nil {
		return nil, err
	}
	out := apiBinRule(r)
	return &rbin.CreateRuleOutput{
		Identifier: out.Identifier, RuleArn: out.RuleArn, Description: out.Description, ResourceType: out.ResourceType,
		ResourceTags: out.ResourceTags, ExcludeResourceTags: out.ExcludeResourceTags, RetentionPeriod: out.RetentionPeriod, Status: out.Status, Tags: in.Tags,
	}, nil
}

// ruleOver sets what is given of a rule and keeps the rest.
func ruleOver(r *state.BinRule, stay *rbintypes.RetentionPeriod, only, except []rbintypes.ResourceTag) error {
	if stay != nil {
		days, longest := aws.ToInt32(stay.RetentionPeriodValue), longestStay[r.Of]
		if stay.RetentionPeriodUnit != rbintypes.RetentionPeriodUnitDays || days < 1 || days > longest {
			return fail(binInvalid, "RetentionPeriod of %s is from 1 to %d DAYS.", r.Of, longest)
		}
		r.Days = days
	}
	var err error
	if only != nil {
		if r.Only, err = binTags("ResourceTags", only); err != nil {
			return err
		}
	}
	if except != nil {
		if r.Except, err = binTags("ExcludeResourceTags", except); err != nil {
			return err
		}
	}
	if len(r.Only) > 0 && len(r.Except) > 0 {
		return fail(binInvalid, "ExcludeResourceTags is for rules without ResourceTags.")
	}
	return nil
}

func binTags(param string, in []rbintypes.ResourceTag) ([]state.Tag, error) {
	if len(in) > maxBinTags {
		return nil, fail(binInvalid, "%s has at most %d tags.", param, maxBinTags)
	}
	var out []state.Tag
	for _, t := range in {
		tag := state.Tag{Key: aws.ToString(t.ResourceTagKey), Value: aws.ToString(t.ResourceTagValue)}
		if err := setTags(map[string]string{}, []types.Tag{{Key: &tag.Key, Value: &tag.Value}}); err != nil {
			return nil, asBinInvalid(err)
		}
		out = append(out, tag)
	}
	return out, nil
}

func asBinInvalid(err error) error {
	var api *apiError
	if errors.As(err, &api) {
		return fail(binInvalid, "%s", api.Message)
	}
	return err
}

func findRule(tx *state.Tx, s state.Scope, id string) (*state.BinRule, error) {
	r, err := state.Get[state.BinRule](tx, s, id)
	if errors.Is(err, state.ErrNotFound) || id == "" {
		return nil, &apiError{Code: binNotFound, Message: "The retention rule '" + id + "' does not exist.", Status: http.StatusNotFound}
	}
	return r, err
}

// ListRules lists the rules for one kind of resource; with tags, those that are
// for resources with any of them.
func (c *Cloud) ListRules(ctx context.Context, in *rbin.ListRulesInput) (*rbin.ListRulesOutput, error) {
	if _, ok := longestStay[string(in.ResourceType)]; !ok {
		return nil, fail(binInvalid, "ResourceType must be EBS_SNAPSHOT, EC2_IMAGE or EBS_VOLUME.")
	}
	only, err := binTags("ResourceTags", in.ResourceTags)
	if err != nil {
		return nil, err
	}
	except, err := binTags("ExcludeResourceTags", in.ExcludeResourceTags)
	if err != nil {
		return nil, err
	}
	out := &rbin.ListRulesOutput{Rules: []rbintypes.RuleSummary{}}
	if in.LockState != "" {
		return out, nil // none was ever locked
	}
	return out, c.db.View(func(tx *state.Tx) error {
		all, err := state.List[state.BinRule](tx, from(ctx).Scope)
		for _, r := range all {
			if r.Of == string(in.ResourceType) && shareTag(only, r.Only) && shareTag(except, r.Except) {
				a := apiBinRule(r)
				out.Rules = append(out.Rules, rbintypes.RuleSummary{Identifier: a.Identifier, RuleArn: a.RuleArn, Description: a.Description, RetentionPeriod: a.RetentionPeriod})
			}
		}
		return err
	})
}

// shareTag tells whether any of the wanted tags is there; none wanted is fine.
func shareTag(want, have []state.Tag) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(t state.Tag) bool { return slices.Contains(have, t) })
}

// GetRule describes a rule.
func (c *Cloud) GetRule(ctx context.Context, in *rbin.GetRuleInput) (*rbin.GetRuleOutput, error) {
	var r *state.BinRule
	err := c.db.View(func(tx *state.Tx) (err error) {
		r, err = findRule(tx, from(ctx).Scope, aws.ToString(in.Identifier))
		return err
	})
	if err != nil {
		return nil, err
	}
	return apiBinRule(r), nil
}

// UpdateRule changes what is given of a rule. What is in the bin stays for as
// long as it was to.
func (c *Cloud) UpdateRule(ctx context.Context, in *rbin.UpdateRuleInput) (*rbin.UpdateRuleOutput, error) {
	var r *state.BinRule
	err := c.db.Update(func(tx *state.Tx) (err error) {
		if r, err = findRule(tx, from(ctx).Scope, aws.ToString(in.Identifier)); err != nil {
			return err
		}
		if in.ResourceType != "" && string(in.ResourceType) != r.Of {
			return fail(binInvalid, "The resource type of a rule cannot be changed.")
		}
		if in.Description != nil {
			r.Description = *in.Description
		}
		if err := ruleOver(r, in.RetentionPeriod, in.ResourceTags, in.ExcludeResourceTags); err != nil {
			return err
		}
		return state.Put(tx, r)
	})
	if err != nil {
		return nil, err
	}
	a := apiBinRule(r)
	return &rbin.UpdateRuleOutput{
		Identifier: a.Identifier, RuleArn: a.RuleArn, Description: a.Description, ResourceType: a.ResourceType,
		ResourceTags: a.ResourceTags, ExcludeResourceTags: a.ExcludeResourceTags, RetentionPeriod: a.RetentionPeriod, Status: a.Status,
	}, nil
}

// DeleteRule ends a rule. What is in the bin stays for as long as it was to.
func (c *Cloud) DeleteRule(ctx context.Context, in *rbin.DeleteRuleInput) (*rbin.DeleteRuleOutput, error) {
	err := c.db.Update(func(tx *state.Tx) error {
		r, err := findRule(tx, from(ctx).Scope, aws.ToString(in.Identifier))
		if err != nil {
			return err
		}
		return state.Delete(tx, r)
	})
	if err != nil {
		return nil, err
	}
	return &rbin.DeleteRuleOutput{}, nil
}

func apiBinRule(r *state.BinRule) *rbin.GetRuleOutput {
	tags := func(list []state.Tag) []rbintypes.ResourceTag {
		var out []rbintypes.ResourceTag
		for _, t := range list {
			out = append(out, rbintypes.ResourceTag{ResourceTagKey: aws.String(t.Key), ResourceTagValue: aws.String(t.Value)})
		}
		return out
	}
	return &rbin.GetRuleOutput{
		Identifier: aws.String(r.ID), RuleArn: aws.String("arn:aws:rbin:" + r.Region + ":" + r.Account + ":rule/" + r.ID),
		Description: aws.String(r.Description), ResourceType: rbintypes.ResourceType(r.Of), ResourceTags: tags(r.Only), ExcludeResourceTags: tags(r.Except),
		RetentionPeriod: &rbintypes.RetentionPeriod{RetentionPeriodUnit: rbintypes.RetentionPeriodUnitDays, RetentionPeriodValue: aws.Int32(r.Days)},
		Status:          ruleAvailable,
	}
}
