// Package blocks moves the contents of snapshots by the EBS direct APIs: out
// to a file, in from one, and from one endpoint to another.
//
// A snapshot is blocks of 512 KiB. What is read is checked against the digest
// that the endpoint gives, what is written carries its own, and a snapshot is
// completed with the digest over all digests (LINEAR), so that a snapshot that
// was made here is whole or isn't there.
//
// Work goes on side by side, as much of it as the endpoints bear: it begins
// with sixteen blocks at once, grows to 64, and halves when an endpoint says
// that it is too much.
//
// What was cut off is gone on with. An export keeps beside its file what it has
// of the snapshot, an import and a copy which blocks they have put: the direct
// APIs don't tell that of a pending snapshot. These notes (see journal) are
// trusted no further than they can be checked: each block is read again and
// compared with its digest.
package blocks
