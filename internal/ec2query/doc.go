// Package ec2query is the wire codec of EC2's query protocol on the types of
// aws-sdk-go-v2/service/ec2: form parameters to an action's Input, an action's
// Output to its XML response.
//
// It serves every action of the pinned SDK at once. Names on the wire that
// differ from the Go field names come from zz_names.go, which is generated from
// the SDK's own serializers, so that a newer SDK needs a regeneration and no
// edit here.
//
// # Requests
//
// A parameter is a dotted path (BlockDeviceMapping.1.Ebs.VolumeSize). Clients
// in the field number lists from zero, from one, with gaps, or not at all
// (InstanceId=i-1); all are accepted, and elements keep the order of their
// numbers. A parameter that no field of the Input takes is refused, never
// ignored: a client that asks for something must not be told that it was done.
// So is a request without a parameter that the SDK's model requires.
//
// # Responses
//
// A list directly in the Output is always written, empty or not, as EC2 does;
// deeper, a nil list is left out and an empty one is written. Nil pointers and
// empty enums are left out. An Output without any field, or with a Return that is
// nil, answers <return>true</return>.
package ec2query

//go:generate go run ./gen -out zz_names.go
