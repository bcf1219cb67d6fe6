package cloud

// registerActions names every action that is served. An action is added by
// writing its handler, a method on the SDK's own types, and one line here.
func (c *Cloud) registerActions() {
	c.ec2Actions = map[string]action{
		"DescribeRegions":           handle(c.DescribeRegions),
		"DescribeAvailabilityZones": handle(c.DescribeAvailabilityZones),
	}
	c.registerAccount()
	c.registerVolumes()
	c.registerSnapshots()
	c.registerDirect()
	c.registerLifecycle()
	c.registerImages()
	c.registerInstances()
	c.registerReplaceRoot()
	c.registerSpot()
	c.registerBin()
	c.registerBinRules()
}
