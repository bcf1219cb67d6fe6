// Package awscli writes a call of the SDK as the command line of AWS's own
// tool that does the same.
//
//	awscli.Line("EC2", "AttachVolume", &ec2.AttachVolumeInput{…})
//	aws ec2 attach-volume --device /dev/sdf --instance-id i-0123… --volume-id vol-0123…
//
// The tool derives its names from those of the API by a rule, which Kebab
// follows, and has a few commands with options of their own making, which
// special.go lists. A test runs the lines through the tool and compares what
// it sends with what the SDK sends.
package awscli
