// Package cli is the command line: flags into an options struct, one call into
// the library, and the result on stdout. One verb a file.
//
// What a run was given and where it writes is in an App; there is no state
// beside it. Data goes to stdout, and everything else (progress, questions,
// errors) to stderr. Errors leave through errors.go and become exit codes in
// exitcode.go, and nowhere else.
package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/steadcloud/stead/internal/dryrun"
	"github.com/steadcloud/stead/internal/ec2tools"
)

// App is one run of the command line.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Root           bool // runs as the superuser
	Version        string

	args  []string // as the user typed them, without the program's name
	flags globalFlags
	// parsed tells that the command line made sense, and that an error is one
	// of what it does rather than of how it was written.
	parsed bool
	// What --dry-run and --explain need while a command runs.
	plan    *dryrun.Plan
	planned string // the context whose steps a plan needn't name: the first
	views   map[string]*planView
	shown   *progress
	region  string // of the first client
}

// globalFlags are the flags that every command has.
type globalFlags struct {
	context string
	output  format
	dataDir string
	quiet   bool
	debug   bool
	timeout time.Duration
	dryRun  bool
	explain explain
	// How results are printed.
	template string
	columns  []string
	noHeader bool
}

// Main runs the command line with args, the program's name first, on the
// process's own streams and environment, and returns the exit code. Called by
// a name of the EC2 API tools (ec2reg) it is that tool.
func Main(args ...string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The second Ctrl-C ends the process at once.
	context.AfterFunc(ctx, stop)

	app := &App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now, Root: os.Geteuid() == 0,
		Version: buildVersion(),
	}
	return app.Run(ctx, args)
}

// Run runs the command line with args, the program's name first.
func (a *App) Run(ctx context.Context, args []string) int {
	name, args := filepath.Base(args[0]), args[1:]
	a.args = args
	if ec2tools.Known(name) {
		a.parsed = true
		return a.exit(ctx, nil, a.runEC2Tool(ctx, name, args))
	}
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return a.exit(ctx, cmd, err)
}

func newRoot(a *App) *cobra.Command {
	root := &cobra.Command{
		Use:   "stead",
		Short: "Servers whose disks outlive their machines",
		Long: `stead keeps durable servers on any EC2 endpoint: on AWS, or on the cloud that
it brings along and starts on this machine by itself.

A server is a named set of disks. The instance is only the machine that they
are plugged into today: stop it, terminate it, lose it, and "stead rescue"
puts the same disks into another one.`,
		Example: `  stead create web --data 10      # a server with a 10 GiB data disk
  stead ssh web
  stead terminate web             # the machine goes, the disks stay
  stead rescue web                # and are back in a new one`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		TraverseChildren:  true, // so that global flags may stand before "ec2 reg"
		PersistentPreRun:  func(*cobra.Command, []string) { a.parsed = true },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	group(root)
	a.addGlobalFlags(root)
	addCommands(a, root)
	a.completeFlags(root)
	root.InitDefaultHelpCmd()
	return root
}

func addCommands(a *App, root *cobra.Command) {
	root.AddGroup(
		&cobra.Group{ID: groupServers, Title: "Servers:"},
		&cobra.Group{ID: groupDisks, Title: "Disks and images:"},
		&cobra.Group{ID: groupClouds, Title: "Clouds:"},
	)
	add := func(id string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = id
			root.AddCommand(cmd)
		}
	}
	add(groupServers, newCreate(a), newLs(a), newShow(a), newSSH(a), newExec(a), newStart(a),
		newStop(a), newReboot(a), newTerminate(a), newRescue(a), newRestore(a), newClone(a), newMove(a), newPurge(a), newBin(a))
	add(groupServers, newCp(a), newSerial(a), newSSHConfig(a), newResize(a), newRepair(a))
	add(groupServers, newWait(a), newProtect(a), newUnprotect(a), newOpen(a), newClose(a))
	add(groupDisks, newVolume(a), newSnapshot(a), newSnapshots(a), newImage(a))
	add(groupDisks, newPrune(a), newSchedule(a), newBlocks(a))
	add(groupClouds, newContext(a), newCloud(a), newEC2(a), newDoctor(a))
	add(groupClouds, newCost(a), newOrphans(a))
	add(groupServers, newAdopt(a), newRename(a))
	root.AddCommand(newVersion(a), newMan(a), newHelpExitCodes(), newHelpEnvironment())
}

const (
	groupServers = "servers"
	groupDisks   = "disks"
	groupClouds  = "clouds"
)

func (a *App) addGlobalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.flags.context, "context", "", "`NAME` of the cloud to use (see: stead context ls)")
	f.VarP(&a.flags.output, "output", "o", "print as table, json or yaml")
	f.StringVar(&a.flags.template, "format", "", "print by a Go `TEMPLATE` over the fields of -o json, such as '{{.name}} {{.state}}'")
	f.StringSliceVar(&a.flags.columns, "columns", nil, "the `COLUMNS` of a table to print, such as name,state")
	f.BoolVar(&a.flags.noHeader, "no-header", false, "print tables without their heading")
	f.StringVar(&a.flags.dataDir, "data-dir", "", "`FOLDER` of the local cloud")
	f.BoolVarP(&a.flags.quiet, "quiet", "q", false, "no progress on stderr")
	f.BoolVar(&a.flags.debug, "debug", false, "say on stderr what is being done")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "give up after `TIME`, like 90s or 10m; the same command goes on from there")
	f.BoolVar(&a.flags.dryRun, "dry-run", false, "print what would be changed, and change nothing")
	f.Var(&a.flags.explain, "explain", "show on stderr each change as the aws command that makes it; --explain=all: reads too")
	f.Lookup("explain").NoOptDefVal = string(explainChanges)
	_ = root.RegisterFlagCompletionFunc("explain", cobra.FixedCompletions([]string{string(explainChanges), string(explainAll)}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("context", a.completeContexts)
	_ = root.MarkPersistentFlagDirname("data-dir")
}

// group makes cmd a command that only has others: alone it prints its help,
// with an unknown word it fails and suggests.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		e := usage("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			e.Remedy = cmd.CommandPath() + " " + near[0]
		} else {
			e.Remedy = cmd.CommandPath() + " --help"
		}
		return e
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// command makes a verb: run gets the context that --timeout bounds.
func (a *App) command(cmd *cobra.Command, run func(ctx context.Context, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if err := a.checkOutput(); err != nil {
			return err
		}
		if a.flags.timeout < 0 {
			return usage("--timeout %s: want a time like 90s or 10m", a.flags.timeout)
		}
		if a.flags.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, a.flags.timeout)
			defer cancel()
		}
		if a.flags.dryRun {
			return a.dryRun(cmd, func() error { return run(ctx, args) })
		}
		if err := run(ctx, args); err != nil {
			return err
		}
		if movesServers(cmd.Name()) {
			a.refreshSSHConfig(ctx)
		}
		return nil
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	return cmd
}

// exactly demands the arguments that names lists, such as "NAME".
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		e := usage("%s: want %s", cmd.CommandPath(), strings.Join(names, " "))
		if len(names) == 0 {
			e = usage("%s: takes no arguments", cmd.CommandPath())
		}
		e.Remedy = cmd.CommandPath() + " --help"
		return e
	}
}

// atLeastOne demands one argument or more of what name says.
func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return nil
		}
		e := usage("%s: want %s", cmd.CommandPath(), name)
		e.Remedy = cmd.CommandPath() + " --help"
		return e
	}
}

// atMost allows the arguments that names lists, from the first on.
func atMost(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= len(names) {
			return nil
		}
		e := usage("%s: want at most %s", cmd.CommandPath(), strings.Join(names, " "))
		e.Remedy = cmd.CommandPath() + " --help"
		return e
	}
}

// log is where the libraries tell what they do: nowhere, unless --debug.
func (a *App) log() *slog.Logger {
	if !a.flags.debug {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// isTerminal tells whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// exit prints err, if there is one to print, and returns the exit code.
func (a *App) exit(ctx context.Context, cmd *cobra.Command, err error) int {
	var status exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	}
	r := a.report(ctx, cmd, err)
	a.printError(r)
	return r.ExitCode
}
