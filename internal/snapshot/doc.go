// Package snapshot keeps point-in-time copies of volumes in a store of
// deduplicated, compressed blocks.
//
// A snapshot is a complete, immutable manifest: the digest of every 512 KiB
// block of the volume that isn't zero. A block is stored once, however many
// snapshots name it, so every snapshot is incremental and none depends on
// another. Blocks that no manifest names are found by mark and sweep; there are
// no reference counts to go wrong in a crash.
//
// Two layers share the work. The [Engine] cuts, hashes, verifies, marks and
// checks. The [Store] keeps: it alone knows how a digest becomes a [BlockID],
// how blocks are compressed (and, in other stores, encrypted and packed) and
// what makes them durable. The order of a commit is part of its contract: all
// blocks on the disk, then the manifest. A snapshot that can be listed is
// therefore whole.
package snapshot
