package dryrun

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	"github.com/aws/aws-sdk-go-v2/service/dlm/types"
)

// PolicyReader is what a Cloud asks the real endpoint of lifecycle policies.
// *dlm.Client satisfies it.
type PolicyReader interface {
	GetLifecyclePolicy(context.Context, *dlm.GetLifecyclePolicyInput, ...func(*dlm.Options)) (*dlm.GetLifecyclePolicyOutput, error)
}

// Policies tells where lifecycle policies are read. Without it none that is
// there already can be changed.
func (c *Cloud) Policies(r PolicyReader) { c.realPolicies = r }

func (c *Cloud) applyPolicies(ctx context.Context, in any) (any, error) {
	switch in := in.(type) {
	case *dlm.CreateLifecyclePolicyInput:
		return c.createPolicy(clone(in)), nil
	case *dlm.UpdateLifecyclePolicyInput:
		return c.updatePolicy(ctx, clone(in))
	case *dlm.DeleteLifecyclePolicyInput:
		id := aws.ToString(in.PolicyId)
		if _, err := c.policy(ctx, id); err != nil {
			return nil, err
		}
		c.policies.put(id, nil)
		return &dlm.DeleteLifecyclePolicyOutput{}, nil
	case *dlm.TagResourceInput:
		return c.tagPolicy(in), nil
	}
	return nil, nil
}

func (c *Cloud) policy(ctx context.Context, id string) (*types.LifecyclePolicy, error) {
	return load(c.policies, id, "ResourceNotFoundException", func() ([]types.LifecyclePolicy, error) {
		if c.realPolicies == nil {
			return nil, refuse("UnsupportedOperation.DryRun", "a dry run can't look at policy %s", id)
		}
		out, err := c.realPolicies.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: &id})
		if err != nil || out.Policy == nil {
			return nil, err
		}
		p := *out.Policy
		if tags, known := c.policyTags[aws.ToString(p.PolicyArn)]; known {
			p.Tags = tags
		}
		return []types.LifecyclePolicy{p}, nil
	})
}

func (c *Cloud) createPolicy(in *dlm.CreateLifecyclePolicyInput) *dlm.CreateLifecyclePolicyOutput {
	id := c.plan.id("policy")
	c.policies.put(id, &types.LifecyclePolicy{
		PolicyId: &id, PolicyArn: aws.String("arn:aws:dlm:" + c.region + ":000000000000:policy/" + id), Description: in.Description,
		ExecutionRoleArn: in.ExecutionRoleArn, State: types.GettablePolicyStateValues(in.State), PolicyDetails: in.PolicyDetails, Tags: in.Tags,
	})
	return &dlm.CreateLifecyclePolicyOutput{PolicyId: aws.String(id)}
}

func (c *Cloud) updatePolicy(ctx context.Context, in *dlm.UpdateLifecyclePolicyInput) (any, error) {
	p, err := c.policy(ctx, aws.ToString(in.PolicyId))
	if err != nil {
		return nil, err
	}
	if in.State != "" {
		p.State = types.GettablePolicyStateValues(in.State)
	}
	if in.Description != nil {
		p.Description = in.Description
	}
	if in.ExecutionRoleArn != nil {
		p.ExecutionRoleArn = in.ExecutionRoleArn
	}
	if in.PolicyDetails != nil {
		if in.PolicyDetails.ResourceTypes == nil && p.PolicyDetails != nil {
			in.PolicyDetails.ResourceTypes = p.PolicyDetails.ResourceTypes
		}
		p.PolicyDetails = in.PolicyDetails
	}
	return &dlm.UpdateLifecyclePolicyOutput{}, nil
}

func (c *Cloud) tagPolicy(in *dlm.TagResourceInput) any {
	arn := aws.ToString(in.ResourceArn)
	for _, p := range c.policies.items {
		if p != nil && aws.ToString(p.PolicyArn) == arn {
			if p.Tags == nil {
				p.Tags = map[string]string{}
			}
			maps.Copy(p.Tags, in.Tags)
			return &dlm.TagResourceOutput{}
		}
	}
	tags := maps.Clone(in.Tags)
	if had := c.policyTags[arn]; had != nil {
		tags = maps.Clone(had)
		maps.Copy(tags, in.Tags)
	}
	c.policyTags[arn] = tags
	return &dlm.TagResourceOutput{}
}

// getPolicy answers for one policy.
func (c *Cloud) getPolicy(ctx context.Context, in *dlm.GetLifecyclePolicyInput, ask asker) (any, error) {
	id := aws.ToString(in.PolicyId)
	c.mu.Lock()
	p, known := c.policies.items[id]
	c.mu.Unlock()
	switch {
	case known && p != nil:
		n := clone(*p)
		return &dlm.GetLifecyclePolicyOutput{Policy: &n}, nil
	case known || Placeholder(id):
		return nil, refuse("ResourceNotFoundException", "The policy %s does not exist", id)
	}
	return ask(ctx, in)
}

// getPolicies lists policies, with those of the overlay.
func (c *Cloud) getPolicies(ctx context.Context, in *dlm.GetLifecyclePoliciesInput, ask asker) (any, error) {
	res, err := ask(ctx, in)
	if err != nil {
		return nil, err
	}
	out := res.(*dlm.GetLifecyclePoliciesOutput)
	c.mu.Lock()
	defer c.mu.Unlock()
	out.Policies = slices.DeleteFunc(out.Policies, func(p types.LifecyclePolicySummary) bool {
		_, known := c.policies.items[aws.ToString(p.PolicyId)]
		return known
	})
	for _, id := range c.policies.order {
		p := c.policies.items[id]
		if p == nil || len(in.PolicyIds) > 0 && !slices.Contains(in.PolicyIds, id) || !targets(p, in.TargetTags) {
			continue
		}
		out.Policies = append(out.Policies, types.LifecyclePolicySummary{
			PolicyId: aws.String(id), Description: p.Description, State: p.State, Tags: maps.Clone(p.Tags),
		})
	}
	return out, nil
}

// targets tells whether a policy is for one of the tags, each KEY=VALUE.
func targets(p *types.LifecyclePolicy, tags []string) bool {
	if len(tags) == 0 {
		return true
	}
	return p.PolicyDetails != nil && slices.ContainsFunc(p.PolicyDetails.TargetTags, func(t types.Tag) bool {
		return slices.Contains(tags, aws.ToString(t.Key)+"="+aws.ToString(t.Value))
	})
}
