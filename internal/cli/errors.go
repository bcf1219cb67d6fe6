package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"syscall"

	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/ec2tools"
	"github.com/steadcloud/stead/internal/server"
)

// resumable marks a command that, repeated, goes on from where it was stopped.
const resumable = "resumable"

// errorReport is an error as it is shown. Its JSON form is documented in
// "stead help exit-codes".
type errorReport struct {
	Kind     server.Kind `json:"kind"`
	ExitCode int         `json:"exit_code"`
	Message  string      `json:"message"`          // what failed, on what, why
	Remedy   string      `json:"remedy,omitempty"` // what mends it
	Resume   string      `json:"resume,omitempty"` // the command that goes on from here
}

// usage is an error in how the command was called.
func usage(format string, args ...any) *server.Error {
	return &server.Error{Code: server.KindUsage, Reason: fmt.Sprintf(format, args...)}
}

// report sorts err. ctx is the one that a signal cancels.
func (a *App) report(ctx context.Context, cmd *cobra.Command, err error) errorReport {
	r := errorReport{Kind: a.kind(ctx, err), Message: a.message(err), Remedy: remedy(err)}
	r.ExitCode = exitCode(r.Kind)
	switch {
	case r.Kind == server.KindInterrupted, r.Kind == server.KindTimeout, errors.Is(err, syscall.ECONNREFUSED):
		if cmd != nil && cmd.Annotations[resumable] != "" {
			r.Resume = sshclient.Quote(append([]string{"stead"}, a.args...))
			r.Remedy = ""
		}
	case r.Kind == server.KindUsage && r.Remedy == "" && cmd != nil:
		r.Remedy = cmd.CommandPath() + " --help"
	}
	return r
}

func (a *App) kind(ctx context.Context, err error) server.Kind {
	if ctx.Err() != nil {
		return server.KindInterrupted
	}
	if !a.parsed {
		return server.KindUsage
	}
	for _, known := range []struct {
		err  error
		kind server.Kind
	}{
		{contexts.ErrNotFound, server.KindNotFound},
		{contexts.ErrExists, server.KindExists},
		{contexts.ErrBuiltIn, server.KindUsage},
		{contexts.ErrInvalid, server.KindUsage},
		{ec2tools.ErrUsage, server.KindUsage},
		{ec2tools.ErrNotFound, server.KindNotFound},
		{sshclient.ErrDenied, server.KindAuth},
		{sshclient.ErrNoClient, server.KindFailed},
	} {
		if errors.Is(err, known.err) {
			return known.kind
		}
	}
	kind := server.KindOf(err)
	if kind == server.KindFailed && errors.Is(err, fs.ErrPermission) {
		return server.KindAuth
	}
	return kind
}

// remedy is what mends err: what it says itself, or what its cause is known to
// need.
func remedy(err error) string {
	if r := server.Remedy(err); r != "" {
		return r
	}
	var broken *contexts.FileError
	switch {
	case errors.As(err, &broken):
		if errors.Is(err, contexts.ErrNewer) {
			return "use a newer stead, or move " + broken.Path + " away"
		}
		return "mend " + broken.Path + ", or move it away"
	case errors.Is(err, contexts.ErrNotFound):
		return "stead context ls"
	case errors.Is(err, sshclient.ErrNoClient):
		return "apt install openssh-client"
	case errors.Is(err, cloud.ErrVersion):
		return "use the stead that made it, or choose another --data-dir"
	case errors.Is(err, fs.ErrPermission):
		return "run it as the user whom that belongs to, or choose another --data-dir"
	}
	return ""
}

// message is err's text with what the SDK says of a failed request made short,
// and with what the end of a context means to people.
func (a *App) message(err error) string {
	text := err.Error()
	var request *url.Error
	if errors.As(err, &request) && (errors.Is(request, context.Canceled) || request.Timeout()) {
		text = strings.Replace(text, request.Error(), request.Err.Error(), 1)
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		text = strings.Replace(text, op.Error(), operation(op), 1)
	}
	out := "timed out"
	if a.flags.timeout > 0 {
		out += " after " + a.flags.timeout.String()
		if errors.Is(err, context.DeadlineExceeded) && strings.HasSuffix(text, ": timed out") {
			text = strings.TrimSuffix(text, "timed out") + out
		}
	}
	text = strings.ReplaceAll(text, context.DeadlineExceeded.Error(), out)
	text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
	return strings.TrimSpace(text)
}

// operation is "DescribeInstances: AuthFailure: reason" instead of three
// nested sentences and a request ID.
func operation(op *smithy.OperationError) string {
	var api smithy.APIError
	if errors.As(op.Err, &api) {
		return fmt.Sprintf("%s: %s: %s", op.OperationName, api.ErrorCode(), api.ErrorMessage())
	}
	cause := op.Err
	for next := errors.Unwrap(cause); next != nil; next = errors.Unwrap(cause) {
		cause = next
		if strings.HasPrefix(cause.Error(), "dial ") {
			break
		}
	}
	return fmt.Sprintf("%s: %v", op.OperationName, cause)
}

func (a *App) printError(r errorReport) {
	if a.wantsJSON() {
		enc := json.NewEncoder(a.Stderr)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]errorReport{"error": r}) // nowhere left to report to
		return
	}
	fmt.Fprintf(a.Stderr, "stead: %s\n", r.Message)
	if r.Remedy != "" {
		fmt.Fprintf(a.Stderr, "  try: %s\n", r.Remedy)
	}
	if r.Resume != "" {
		fmt.Fprintf(a.Stderr, "  nothing is lost; to go on: %s\n", r.Resume)
	}
}

// wantsJSON tells whether a program reads the output. It also holds when the
// command line couldn't be parsed.
func (a *App) wantsJSON() bool {
	if a.parsed || a.flags.output.forPrograms() {
		return a.flags.output.forPrograms()
	}
	for k, arg := range a.args {
		for _, f := range []format{formatJSON, formatYAML} {
			if arg == "-o"+string(f) || arg == "-o="+string(f) || arg == "--output="+string(f) ||
				arg == string(f) && k > 0 && (a.args[k-1] == "-o" || a.args[k-1] == "--output") {
				return true
			}
		}
	}
	return false
}
