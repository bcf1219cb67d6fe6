// Package cloud is an EC2-compatible cloud on one machine: API handlers, the
// life of its resources, and the daemon that serves them.
//
// A request is verified (SigV4), decoded onto the SDK's own input type, and
// answered by a plain method of Cloud. A handler checks, commits what is wanted
// in one transaction, and kicks the resource's worker; it starts no machine and
// copies no disk itself. The worker, one a resource, compares the record with
// what really is and makes it so, as often as it takes: after a crash the same
// workers run over all records, adopt what lives, and finish or undo what was
// half done.
//
// The leaves (machine, volume, snapshot, network, metadata, image) know nothing
// of EC2; this package joins them and alone turns their errors into EC2 codes.
package cloud
