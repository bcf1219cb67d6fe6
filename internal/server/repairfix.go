package server

import (
	_ "embed"
	"slices"
	"strings"
)

//go:embed guest/fix.sh
var fixScript string

// Fixes are the repairs that need nobody to make them.
func Fixes() []string { return []string{"all", "fstab", "sshd", "disk-full"} }

// CheckFix tells whether there is such a repair.
func CheckFix(fix string) error {
	if slices.Contains(Fixes(), fix) {
		return nil
	}
	return &Error{Code: KindUsage, Reason: "there is no fix " + fix, Remedy: "--fix " + strings.Join(Fixes(), "|")}
}

// FixLine is what makes one of the Fixes on the disk, within it. It can be
// repeated.
func (r *Repair) FixLine(fix string) string {
	if r.Shell == "" {
		return "sh -c " + shellQuote("echo 'nothing is mended: the disk has no shell that runs in the helper. A shell beside it: stead repair NAME' >&2; exit 1")
	}
	return r.CommandLine("fix=" + shellQuote(fix) + "\n" + fixScript)
}
