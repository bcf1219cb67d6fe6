// Package objects keeps immutable byte strings under names: what a folder and a
// bucket have in common, and all that a snapshot store asks of either.
//
// An object is there whole and durable, or not at all. It never changes; its
// name is taken until it is deleted. [Dir] keeps objects in a folder, and needs
// nothing else. [Retry], [Limit] and [Concurrency] are for stores behind a network:
// package bucket has one, as yet for tests alone. Package objectstest holds all of
// them to the contract.
package objects
