// Package server keeps durable servers on any EC2 endpoint.
//
// A server is a named set of EBS volumes, one root and any number of data
// volumes, whose own tags say everything that is needed to run them again. An
// instance is only the machine that the disks are plugged into today. The
// package holds no state: each call reads the tags, acts, and leaves the truth
// in the tags. docs/tags.md lists them.
//
// # One server
//
// Three facts decide what a name stands for. A volume tagged stead:server=NAME
// and not stead:superseded-by is one of its disks. An instance so tagged and
// not terminated is its machine. An instance or volume tagged
// stead:stand-in=NAME belongs to a rescue that isn't finished, and is never
// the server.
//
// # Disks at launch
//
// Data disks come from RunInstances' own block device mappings, so that they
// are there when the guest first boots and can't be orphaned by a crash
// between two calls. RunInstances tags all volumes alike; they are born with
// the server's name and facts, and each gets its role and device right after.
// Nothing is lost when the process dies in between: the instance's mappings
// say the same, and the next command repairs the tags from them. Every mapping
// has DeleteOnTermination=false, which is verified by DescribeInstances and
// repaired, since images and endpoints differ in what they make of it.
//
// # Interruption
//
// Every operation can be killed after any call and repeated. Calls that take a
// ClientToken get a hash of the verb, the name and the IDs that the server
// already has, so two processes at once launch one instance. Calls that take
// none (RegisterImage, CreateSnapshot, AllocateAddress) are preceded by a
// search for a resource with the same tags. An instance whose operation isn't
// finished carries stead:step; the same command finds it and goes on.
package server
