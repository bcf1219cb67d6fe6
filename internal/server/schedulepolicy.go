package server

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

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
		return cmp.Or(cmp.Compare(a.Server, b.Server), a.made.Compare(b.made), cmp.Compare(a.PolicyID, b.PolicyID))
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
		return slices.ContainsFunc(have, s.same), err
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
