package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

// The exit codes. They are part of the interface: scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitAuth        = 3
	exitNotFound    = 4
	exitExists      = 5
	exitTimeout     = 6
	exitCapacity    = 7
	exitPartial     = 8
	exitUnsupported = 9
	exitInterrupted = 130
)

// exitError is the exit code of a command on a server, handed on as it is.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode maps the kind of an error to its exit code.
func exitCode(kind server.Kind) int {
	switch kind {
	case server.KindUsage:
		return exitUsage
	case server.KindAuth:
		return exitAuth
	case server.KindNotFound:
		return exitNotFound
	case server.KindExists, server.KindProtected:
		return exitExists
	case server.KindTimeout:
		return exitTimeout
	case server.KindCapacity:
		return exitCapacity
	case server.KindPartial:
		return exitPartial
	case server.KindUnsupported:
		return exitUnsupported
	case server.KindInterrupted:
		return exitInterrupted
	default:
		return exitFailed
	}
}

// exitMeaning is a row of the table of exit codes. The help text and
// docs/exit-codes.md are made of these rows.
type exitMeaning struct {
	code          int
	meaning, help string // help is what to do about it, "" for nothing
}

func exitMeanings() []exitMeaning {
	return []exitMeaning{
		{exitOK, "done", ""},
		{exitFailed, "failed, for a reason without a code of its own", "the message"},
		{exitUsage, "usage: the command line makes no sense, or `--yes` is needed", "`stead COMMAND --help`"},
		{exitAuth, "credentials are wrong, missing, or may not do this", "`stead context show`"},
		{exitNotFound, "not found: no such server, disk, image or context", "`stead ls`, `stead image ls`"},
		{exitExists, "exists already, is in the wrong state, or a disk would be at risk", "`stead show NAME`"},
		{exitTimeout, "timed out", "the same command again: it goes on from there"},
		{exitCapacity, "no capacity: the cloud or a quota is full", "another type or zone; room on the disk"},
		{exitPartial, "done in part; the message says which", "the same command again"},
		{exitUnsupported, "not supported by this cloud", "the message names another way, if there is one"},
		{exitInterrupted, "interrupted", "the same command again: it goes on from there"},
	}
}

func newHelpExitCodes() *cobra.Command {
	var b strings.Builder
	for _, m := range exitMeanings() {
		meaning := strings.ReplaceAll(m.meaning, "`", "")
		if m.code == exitTimeout || m.code == exitInterrupted {
			meaning += "; " + strings.Replace(m.help, " again: it goes", " goes", 1)
		}
		fmt.Fprintf(&b, "  %-3d  %s\n", m.code, meaning)
	}
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: b.String() + `
"stead exec" and "stead ssh NAME -- COMMAND" exit with the command's own code,
and with 1 when ssh itself fails.

With -o json or yaml an error is one JSON object on stderr:
  {"error": {"kind", "exit_code", "message", "remedy", "resume"}}`,
	}
}
