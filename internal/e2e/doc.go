// Package e2e holds the tests that drive the stead program as its users do:
// the built binary as a process of its own, unmodified AWS tools, real
// machines. It has no code but tests.
//
// Each test has a rig: a scratch data folder and configuration folder, and
// with them a local cloud of its own. What a test leaves running there is ended
// by its process ID, and the folders are removed.
package e2e
