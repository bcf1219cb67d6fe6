// Package objects keeps immutable byte strings under names: what a folder and a
// bucket have in common, and all that a snapshot store asks of either.
//
// An object is there whole and durable, or not at all. It never changes; its
// name is taken until it is deleted. [Dir] keeps objects in a folder. [Retry],
// [Limit] and [Concurrency] wrap any [Store]; package objectstest holds all of
// them to the contract.
package objects
