package ec2tools

// commands lists the tools: the short name first, then the long ones.
func commands() []command {
	tool := func(short, summary, args string, begin func() run, long ...string) command {
		return command{Tool: Tool{Short: short, Long: long, Summary: summary}, args: args, begin: begin}
	}
	return []command{
		tool("ec2reg", "Register an image: the idea of a server", "[MANIFEST]", func() run { return new(register) }, "ec2-register"),
		tool("ec2dereg", "Deregister an image; its snapshots stay", "IMAGE", func() run { return new(deregister) }, "ec2-deregister"),
		tool("ec2cim", "Create an image of an instance", "INSTANCE", func() run { return new(createImage) }, "ec2-create-image"),
		tool("ec2dim", "Describe images", "[IMAGE…]", func() run { return new(describeImages) }, "ec2-describe-images"),

		tool("ec2run", "Launch instances of an image", "IMAGE", func() run { return new(runInstances) }, "ec2-run-instances"),
		tool("ec2din", "Describe instances", "[INSTANCE…]", func() run { return new(describeInstances) }, "ec2-describe-instances"),
		tool("ec2start", "Start stopped instances", "INSTANCE…", func() run { return new(start) }, "ec2-start-instances"),
		tool("ec2stop", "Stop instances; their volumes stay attached", "INSTANCE…", func() run { return new(stop) }, "ec2-stop-instances"),
		tool("ec2reboot", "Reboot instances", "INSTANCE…", func() run { return new(reboot) }, "ec2-reboot-instances"),
		tool("ec2kill", "Terminate instances, and delete the volumes that are set to be", "INSTANCE…", func() run { return new(terminate) }, "ec2-terminate-instances"),
		tool("ec2minatt", "Modify one attribute of an instance", "INSTANCE", func() run { return new(modifyInstance) }, "ec2-modify-instance-attribute"),

		tool("ec2addvol", "Create a volume", "", func() run { return new(createVolume) }, "ec2-create-volume"),
		tool("ec2attvol", "Attach a volume to an instance", "VOLUME", func() run { return new(attach) }, "ec2-attach-volume"),
		tool("ec2detvol", "Detach a volume", "VOLUME", func() run { return new(detach) }, "ec2-detach-volume"),
		tool("ec2delvol", "Delete a volume", "VOLUME", func() run { return new(deleteVolume) }, "ec2-delete-volume"),
		tool("ec2dvol", "Describe volumes", "[VOLUME…]", func() run { return new(describeVolumes) }, "ec2-describe-volumes"),

		tool("ec2addsnap", "Take a snapshot of a volume", "VOLUME", func() run { return new(createSnapshot) }, "ec2-create-snapshot"),
		tool("ec2delsnap", "Delete a snapshot", "SNAPSHOT", func() run { return new(deleteSnapshot) }, "ec2-delete-snapshot"),
		tool("ec2dsnap", "Describe snapshots", "[SNAPSHOT…]", func() run { return new(describeSnapshots) }, "ec2-describe-snapshots"),

		tool("ec2addkey", "Make a key pair, and print the private key", "KEY", func() run { return new(createKey) }, "ec2-create-keypair", "ec2-add-keypair"),
		tool("ec2addgrp", "Create a security group", "GROUP", func() run { return new(createGroup) }, "ec2-create-group", "ec2-add-group"),
		tool("ec2auth", "Allow traffic to a security group", "GROUP", func() run { return new(authorize) }, "ec2-authorize"),
		tool("ec2addtag", "Tag resources", "RESOURCE…", func() run { return new(createTags) }, "ec2-create-tags", "ec2tag"),
	}
}
