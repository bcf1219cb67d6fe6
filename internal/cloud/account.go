package cloud

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// registerAccount adds the actions of an account's plain resources: keys,
// groups, addresses, the default VPC, instance types, tags and identity.
func (c *Cloud) registerAccount() {
	for name, act := range map[string]action{
		"CreateKeyPair":    handle(c.CreateKeyPair),
		"ImportKeyPair":    handle(c.ImportKeyPair),
		"DescribeKeyPairs": handle(c.DescribeKeyPairs),
		"DeleteKeyPair":    handle(c.DeleteKeyPair),

		"CreateSecurityGroup":                        handle(c.CreateSecurityGroup),
		"DeleteSecurityGroup":                        handle(c.DeleteSecurityGroup),
		"DescribeSecurityGroups":                     handle(c.DescribeSecurityGroups),
		"DescribeSecurityGroupRules":                 handle(c.DescribeSecurityGroupRules),
		"ModifySecurityGroupRules":                   handle(c.ModifySecurityGroupRules),
		"AuthorizeSecurityGroupIngress":              handle(c.AuthorizeSecurityGroupIngress),
		"AuthorizeSecurityGroupEgress":               handle(c.AuthorizeSecurityGroupEgress),
		"RevokeSecurityGroupIngress":                 handle(c.RevokeSecurityGroupIngress),
		"RevokeSecurityGroupEgress":                  handle(c.RevokeSecurityGroupEgress),
		"UpdateSecurityGroupRuleDescriptionsIngress": handle(c.UpdateSecurityGroupRuleDescriptionsIngress),
		"UpdateSecurityGroupRuleDescriptionsEgress":  handle(c.UpdateSecurityGroupRuleDescriptionsEgress),

		"AllocateAddress":            handle(c.AllocateAddress),
		"AssociateAddress":           handle(c.AssociateAddress),
		"DisassociateAddress":        handle(c.DisassociateAddress),
		"ReleaseAddress":             handle(c.ReleaseAddress),
		"DescribeAddresses":          handle(c.DescribeAddresses),
		"DescribeAddressesAttribute": handle(c.DescribeAddressesAttribute),

		"CreateDefaultVpc":          handle(c.CreateDefaultVpc),
		"DescribeVpcs":              handle(c.DescribeVpcs),
		"DescribeVpcAttribute":      handle(c.DescribeVpcAttribute),
		"DescribeSubnets":           handle(c.DescribeSubnets),
		"DescribeRouteTables":       handle(c.DescribeRouteTables),
		"DescribeInternetGateways":  handle(c.DescribeInternetGateways),
		"DescribeNetworkAcls":       handle(c.DescribeNetworkAcls),
		"DescribeDhcpOptions":       handle(c.DescribeDhcpOptions),
		"DescribeNetworkInterfaces": handle(c.DescribeNetworkInterfaces),

		"DescribeInstanceTypes":                handle(c.DescribeInstanceTypes),
		"DescribeInstanceTypeOfferings":        handle(c.DescribeInstanceTypeOfferings),
		"DescribeInstanceCreditSpecifications": handle(c.DescribeInstanceCreditSpecifications),

		"CreateTags":   handle(c.CreateTags),
		"DeleteTags":   handle(c.DeleteTags),
		"DescribeTags": handle(c.DescribeTags),

		"DescribeAccountAttributes":              handle(c.DescribeAccountAttributes),
		"DescribeIamInstanceProfileAssociations": handle(c.DescribeIamInstanceProfileAssociations),
		"DescribeLaunchTemplates":                handle(c.DescribeLaunchTemplates),
		"GetEbsEncryptionByDefault":              handle(c.GetEbsEncryptionByDefault),
		"DescribeReservedInstancesOfferings":     handle(c.DescribeReservedInstancesOfferings),
		"DescribeReservedInstances":              handle(c.DescribeReservedInstances),
	} {
		c.ec2Actions[name] = act
	}
	c.stsActions = map[string]action{"GetCallerIdentity": handle(c.GetCallerIdentity)}
	c.ssmActions = map[string]action{
		"GetParameter":        handle(c.GetParameter),
		"GetParameters":       handle(c.GetParameters),
		"GetParametersByPath": handle(c.GetParametersByPath),
	}
}

// plenty is what limits are given as: clients want a number, and nothing here
// is limited but by the machine.
const plenty = "1000"

// DescribeAccountAttributes tells what platforms and limits an account has.
func (c *Cloud) DescribeAccountAttributes(ctx context.Context, in *ec2.DescribeAccountAttributesInput) (*ec2.DescribeAccountAttributesOutput, error) {
	var vpc *state.VPC
	err := c.db.View(func(tx *state.Tx) (err error) {
		vpc, err = vpcNamed(tx, from(ctx).Scope, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	attributes := []struct{ name, value string }{
		{"supported-platforms", "VPC"},
		{"default-vpc", vpc.ID},
		{"max-instances", plenty},
		{"max-elastic-ips", plenty},
		{"vpc-max-elastic-ips", plenty},
		{"vpc-max-security-groups-per-interface", plenty},
	}
	for _, n := range in.AttributeNames {
		if !slices.ContainsFunc(attributes, func(a struct{ name, value string }) bool { return a.name == string(n) }) {
			return nil, invalid(n, "AttributeName", "No such attribute.")
		}
	}
	out := &ec2.DescribeAccountAttributesOutput{}
	for _, a := range attributes {
		if len(in.AttributeNames) == 0 || slices.Contains(in.AttributeNames, types.AccountAttributeName(a.name)) {
			out.AccountAttributes = append(out.AccountAttributes, types.AccountAttribute{
				AttributeName: aws.String(a.name), AttributeValues: []types.AccountAttributeValue{{AttributeValue: aws.String(a.value)}},
			})
		}
	}
	return out, nil
}

// DescribeIamInstanceProfileAssociations has none to tell: there are no
// instance profiles here.
func (c *Cloud) DescribeIamInstanceProfileAssociations(context.Context, *ec2.DescribeIamInstanceProfileAssociationsInput) (*ec2.DescribeIamInstanceProfileAssociationsOutput, error) {
	return &ec2.DescribeIamInstanceProfileAssociationsOutput{}, nil
}

// DescribeLaunchTemplates has none to tell, and says so of one that is named.
func (c *Cloud) DescribeLaunchTemplates(_ context.Context, in *ec2.DescribeLaunchTemplatesInput) (*ec2.DescribeLaunchTemplatesOutput, error) {
	for _, id := range in.LaunchTemplateIds {
		return nil, fail("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", id)
	}
	for _, name := range in.LaunchTemplateNames {
		return nil, fail("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", name)
	}
	return &ec2.DescribeLaunchTemplatesOutput{}, nil
}

// GetEbsEncryptionByDefault says that new volumes are not encrypted unasked.
func (c *Cloud) GetEbsEncryptionByDefault(context.Context, *ec2.GetEbsEncryptionByDefaultInput) (*ec2.GetEbsEncryptionByDefaultOutput, error) {
	return &ec2.GetEbsEncryptionByDefaultOutput{EbsEncryptionByDefault: aws.Bool(false)}, nil
}
