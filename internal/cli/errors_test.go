package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func TestReport(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	ctx := context.Background()
	resumes := &cobra.Command{Use: "rescue", Annotations: map[string]string{resumable: "yes"}}
	plain := &cobra.Command{Use: "ls"}
	api := &smithy.OperationError{ServiceID: "EC2", OperationName: "RunInstances", Err: fmt.Errorf("https response error StatusCode: 400, RequestID: 1-2, %w",
		&smithy.GenericAPIError{Code: "InsufficientInstanceCapacity", Message: "none left"})}
	tests := []struct {
		name string
		ctx  context.Context
		cmd  *cobra.Command
		err  error
		code int
		want errorReport
	}{
		{"plain", ctx, plain, errors.New("boom"), exitFailed, errorReport{Message: "boom"}},
		{
			"kinds", ctx, plain, &server.Error{Op: "show", Resource: "server x", Reason: "gone", Code: server.KindNotFound, Remedy: "stead ls"},
			exitNotFound,
			errorReport{Message: "show server x: gone", Remedy: "stead ls"},
		},
		{
			"sdk", ctx, plain, fmt.Errorf("create server web: %w", api), exitCapacity,
			errorReport{Message: "create server web: RunInstances: InsufficientInstanceCapacity: none left"},
		},
		{
			"remedy within", ctx, plain, fmt.Errorf("outer: %w", &server.Error{Reason: "in", Remedy: "do this", Code: server.KindProtected}),
			exitExists,
			errorReport{Message: "outer: in", Remedy: "do this"},
		},
		{
			"interrupted", cancelled, resumes, errors.New("half way"), exitInterrupted,
			errorReport{Message: "half way", Resume: "stead rescue 'a b'"},
		},
		{"interrupted reader", cancelled, plain, context.Canceled, exitInterrupted, errorReport{Message: "interrupted"}},
		{
			"timed out", ctx, resumes, context.DeadlineExceeded, exitTimeout,
			errorReport{Message: "timed out", Resume: "stead rescue 'a b'"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &App{parsed: true, args: []string{"rescue", "a b"}}
			got := a.report(tt.ctx, tt.cmd, tt.err)
			if got.ExitCode != tt.code || got.Message != tt.want.Message || got.Remedy != tt.want.Remedy || got.Resume != tt.want.Resume {
				t.Errorf("got %+v\nwant code %d, %+v", got, tt.code, tt.want)
			}
		})
	}
}

// Every code that can be returned is in the help text, and the other way round.
func TestExitCodesAreDocumented(t *testing.T) {
	help := newHelpExitCodes().Long
	for _, code := range []int{
		exitOK, exitFailed, exitUsage, exitAuth, exitNotFound, exitExists, exitTimeout,
		exitCapacity, exitPartial, exitUnsupported, exitInterrupted,
	} {
		if !strings.Contains("\n"+help, fmt.Sprintf("\n  %-4d ", code)) {
			t.Errorf("exit code %d is not in the help text", code)
		}
	}
}

// Every command has a short text and an example, and none of them panics on
// its flags.
func TestEveryCommandIsDocumented(t *testing.T) {
	a := &App{Getenv: func(string) string { return "" }}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Runnable() && cmd.Name() != "help" && !cmd.DisableFlagParsing {
			if cmd.Short == "" || cmd.Example == "" {
				t.Errorf("%s: no short text or no example", cmd.CommandPath())
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot(a))
}
