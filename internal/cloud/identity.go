package cloud

import (
	"context"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/steadcloud/stead/internal/state"
)

// GetCallerIdentity tells whose keys signed the request: the account's own.
func (c *Cloud) GetCallerIdentity(ctx context.Context, _ *sts.GetCallerIdentityInput) (*sts.GetCallerIdentityOutput, error) {
	account := from(ctx).Account
	return &sts.GetCallerIdentityOutput{
		Account: aws.String(account), Arn: aws.String("arn:aws:iam::" + account + ":root"), UserId: aws.String(account),
	}, nil
}

// publicParameters begins the names of parameters that belong to no account.
const publicParameters = "/aws/service/"

// GetParameter reads one parameter, of which "NAME:VERSION" names a version:
// only the newest is kept.
func (c *Cloud) GetParameter(ctx context.Context, in *ssm.GetParameterInput) (*ssm.GetParameterOutput, error) {
	if aws.ToString(in.Name) == "" {
		return nil, fail("ValidationException", "Name must not be empty")
	}
	all, err := c.parameters(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pick(all, *in.Name)
	if err != nil {
		return nil, err
	}
	return &ssm.GetParameterOutput{Parameter: p}, nil
}

// GetParameters reads several parameters and names those that are not there.
func (c *Cloud) GetParameters(ctx context.Context, in *ssm.GetParametersInput) (*ssm.GetParametersOutput, error) {
	if len(in.Names) == 0 || len(in.Names) > 10 {
		return nil, fail("ValidationException", "Names must have from 1 to 10 entries")
	}
	all, err := c.parameters(ctx)
	if err != nil {
		return nil, err
	}
	out := &ssm.GetParametersOutput{Parameters: []ssmtypes.Parameter{}, InvalidParameters: []string{}}
	for _, name := range in.Names {
		p, err := pick(all, name)
		if err != nil {
			out.InvalidParameters = append(out.InvalidParameters, name)
			continue
		}
		out.Parameters = append(out.Parameters, *p)
	}
	return out, nil
}

const maxParametersPage = 10

// GetParametersByPath lists the parameters below a path.
func (c *Cloud) GetParametersByPath(ctx context.Context, in *ssm.GetParametersByPathInput) (*ssm.GetParametersByPathOutput, error) {
	limit := int32(maxParametersPage)
	if in.MaxResults != nil {
		limit = *in.MaxResults
	}
	switch {
	case !strings.HasPrefix(aws.ToString(in.Path), "/"):
		return nil, fail("ValidationException", "The parameter path must begin with a slash")
	case limit < 1 || limit > maxParametersPage:
		return nil, fail("ValidationException", "MaxResults must be from 1 to %d", maxParametersPage)
	case len(in.ParameterFilters) > 0:
		return nil, fail("InvalidFilterKey", "Filters are not supported here. List the path and pick.")
	}
	all, err := c.parameters(ctx)
	if err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(*in.Path, "/") + "/"
	var below []*state.Parameter
	for _, p := range all {
		rest, ok := strings.CutPrefix(p.Name, path)
		if ok && (aws.ToBool(in.Recursive) || !strings.Contains(rest, "/")) {
			below = append(below, p)
		}
	}
	page, next, err := paginate(below, &limit, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ssm.GetParametersByPathOutput{NextToken: next, Parameters: []ssmtypes.Parameter{}}
	for _, p := range page {
		out.Parameters = append(out.Parameters, *apiParameter(p))
	}
	return out, nil
}

func (c *Cloud) parameters(ctx context.Context) (all []*state.Parameter, err error) {
	if err := c.spreadAliases(ctx); err != nil {
		return nil, err
	}
	err = c.db.View(func(tx *state.Tx) error {
		all, err = state.List[state.Parameter](tx, from(ctx).Scope)
		return err
	})
	return all, err
}

// pick finds the parameter that "NAME" or "NAME:VERSION" names.
func pick(all []*state.Parameter, name string) (*ssmtypes.Parameter, error) {
	name, version, versioned := strings.Cut(name, ":")
	for _, p := range all {
		if p.Name != name {
			continue
		}
		out := apiParameter(p)
		if versioned {
			if version != strconv.FormatInt(p.Count, 10) {
				return nil, fail("ParameterVersionNotFound", "Systems Manager could not find version %s of %s. Verify the version and try again.", version, name)
			}
			out.Selector = aws.String(":" + version)
		}
		return out, nil
	}
	return nil, fail("ParameterNotFound", "Parameter %s not found.", name)
}

func apiParameter(p *state.Parameter) *ssmtypes.Parameter {
	owner := p.Account
	name := p.Name
	if strings.HasPrefix(name, publicParameters) {
		owner = ""
	}
	kind := "text"
	if imageIDs.check(p.Value) == nil {
		kind = "aws:ec2:image"
	}
	return &ssmtypes.Parameter{
		Name: aws.String(name), Value: aws.String(p.Value), Version: p.Count, Type: ssmtypes.ParameterTypeString, DataType: aws.String(kind),
		LastModifiedDate: aws.Time(p.Created), ARN: aws.String("arn:aws:ssm:" + p.Region + ":" + owner + ":parameter/" + strings.TrimPrefix(name, "/")),
	}
}
