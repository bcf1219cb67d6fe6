// Package dryrun plans what a run would change, and changes nothing.
//
// It sits in the SDK's own middleware, before a request is even serialized, so
// that nothing which goes through a client can go around it:
//
//	client call ─→ Cloud ─┬─ a read:   asked of the endpoint, then overlaid with
//	                      │            what this run would have changed by now
//	                      └─ a change: checked, recorded in the Plan, done to the
//	                                   overlay, answered; the endpoint never
//	                                   hears of it
//
// What is made gets placeholder IDs (i-dddddddddddddd001). What would take
// time on the endpoint has happened at once, so that whoever waits goes on. A
// change that the package can't foresee the effect of is an error, never a
// guess: a plan is exact, or there is none.
package dryrun
