// Package snapshot keeps point-in-time copies of volumes in a store of
// deduplicated, compressed blocks.
//
// A snapshot is complete and immutable: a hash tree whose leaves are the digests
// of every 512 KiB block of the volume that isn't zero. A block is stored once,
// however many snapshots name it, so every snapshot is incremental and none
// depends on another. Blocks that none names are found by mark and sweep; there
// are no reference counts to go wrong in a crash.
//
// Three layers share the work. The [Engine] reads volumes, cuts, hashes, builds
// trees, marks and checks. Package pack keeps blobs under digests, compressed and
// many to an object. Package objects keeps objects: in a folder, or in whatever
// else can. The order of a commit is blocks, then pages, then the root, each
// durable before the next: a snapshot that can be listed is whole.
//
// The bytes are specified in docs/snapshot-format.md.
package snapshot
