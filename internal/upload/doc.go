// Package upload keeps the blocks of a volume that somebody puts one by one and
// in any order, until all are there.
//
// An upload is two files. The data file has a slot for each block that isn't
// zero. The journal says which block is in which slot, with its digest: a block
// is written to a slot that nothing else needs, and then named in the journal.
// So a block that was put stays as it was until another has wholly taken its
// place, wherever the process dies.
//
// What the process wrote is safe from its own death, but not from that of the
// machine, until Seal or Close. The journal therefore notes in which boot it was written
// and up to where it was synced. An upload that may have lost something in a
// power cut says so ([Contents.Doubtful]), and every block is verified when it is
// read.
package upload
