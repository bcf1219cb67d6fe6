// Package bucket keeps objects in a bucket in memory that behaves as one of S3
// does: conditional writes, no rename, pages of a list that come late or not at
// all, and answers that are lost after the work was done.
//
// It is for tests. It shows that a store in a bucket can keep the contract of
// objects.Store, and what its writer has to see to: wrapped in [objects.Retry] it
// passes objectstest, and the engine works on it.
package bucket
