package cloud

// registerAccount adds the actions of an account's plain resources: keys,
// groups, addresses, the default VPC, instance types and tags.
func (c *Cloud) registerAccount() {
	c.ec2Actions["AllocateAddress"] = handle(c.AllocateAddress)
	c.ec2Actions["DescribeInstanceTypes"] = handle(c.DescribeInstanceTypes)
	c.ec2Actions["DescribeInstanceTypeOfferings"] = handle(c.DescribeInstanceTypeOfferings)
	c.ec2Actions["DescribeInstanceCreditSpecifications"] = handle(c.DescribeInstanceCreditSpecifications)
	c.stsActions = map[string]action{}
	c.ssmActions = map[string]action{}
}
