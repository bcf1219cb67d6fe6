// Package pack keeps blobs, the blocks and pages of snapshots, each once under
// the digest of its contents, compressed and many to an object.
//
// The packs themselves say what is in them: the index is in memory and can be
// made again from their footers, and a footer from the blobs. Nothing counts
// references. What no snapshot needs is found by mark and sweep: the caller
// marks, a [Sweep] deletes what is neither marked nor wanted by an [Upload].
// Swept packs lie in a trash for some days, and a read that misses looks there.
//
// The bytes are specified in docs/snapshot-format.md.
package pack
