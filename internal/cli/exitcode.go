package cli

import (
	"fmt"

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

func newHelpExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `  0    done
  1    failed, for a reason without a code of its own
  2    usage: the command line makes no sense, or --yes is needed
  3    credentials are wrong, missing, or may not do this
  4    not found: no such server, disk, image or context
  5    exists already, is in the wrong state, or a disk would be at risk
  6    timed out; the same command goes on from there
  7    no capacity: the cloud or a quota is full
  8    done in part; the message says which
  9    not supported by this cloud
  130  interrupted; the same command goes on from there

"stead exec" and "stead ssh NAME -- COMMAND" exit with the command's own code,
and with 1 when ssh itself fails.

With -o json an error is one JSON object on stderr:
  {"error": {"kind", "exit_code", "message", "remedy", "resume"}}`,
	}
}
