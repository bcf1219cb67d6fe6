// Bench measures stead against its targets, and against what stands for "as
// good as it gets" on the same machine: QEMU started by hand, the host's own
// file, moto's server. What is compared runs interleaved, A B A B, in one run;
// the tables show medians and their spread, and go into docs/benchmarks.md.
//
//	bench [-stead PATH] [-write FILE] [-rounds N] [-disk MIB] [GROUP...]
//
// A group is disk, latency, boot, api, daemon, records, tool or snapshot; all of
// them unless some are named. Only what was measured anew is replaced in the file. No number
// makes it fail: a missed target is said, and is for people to judge.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// group is a table of the document.
type group struct {
	name  string
	title string
	about string // how it is measured
	run   func(context.Context, *bench) ([]row, error)
}

func groups() []group {
	return []group{
		{"disk", "Disk of a guest", aboutDisk, disk},
		{"latency", "Writes of a guest during snapshots", aboutLatency, latency},
		{"boot", "From a command to ssh", aboutBoot, boot},
		{"api", "API", aboutAPI, api},
		{"daemon", "Daemon", aboutDaemon, daemon},
		{"records", "Many records", aboutRecords, records},
		{"tool", "Tool", aboutTool, tool},
		{"snapshot", "Snapshots", aboutSnapshot, snapshots},
	}
}

// bench is one run.
type bench struct {
	stead   string // the program under test
	dir     string // scratch folder
	rounds  int    // 0: each group's own number
	diskMiB int    // of files on the disk of which snapshots are made
}

// repeats is how often a group measures each side.
func (b *bench) repeats(usual int) int {
	if b.rounds > 0 {
		return b.rounds
	}
	return usual
}

// say tells on stderr how far the run is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := dispatch(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == engineCommand {
		return runEngine(ctx, os.Stdin, os.Stdout)
	}
	return run(ctx, args)
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	stead := flags.String("stead", "bin/stead", "the program to measure")
	write := flags.String("write", "", "the document whose tables to replace")
	rounds := flags.Int("rounds", 0, "repeats of everything (default each group's own)")
	disk := flags.Int("disk", 1536, "MiB of files on the disk of which snapshots are made")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	b := &bench{rounds: *rounds, diskMiB: *disk}
	if b.stead, err = filepath.Abs(*stead); err != nil {
		return err
	}
	if _, err := os.Stat(b.stead); err != nil {
		return fmt.Errorf("the program to measure: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "stead-bench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }() // nothing of worth is in it
	// The daemon of a superuser runs as another user, who must reach it.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	return b.runAll(ctx, chosen, *write)
}

func choose(names []string) ([]group, error) {
	all := groups()
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(g group) bool { return g.name == name }) {
			return nil, fmt.Errorf("no group %q: disk, latency, boot, api, daemon, records, tool or snapshot", name)
		}
	}
	return slices.DeleteFunc(all, func(g group) bool { return !slices.Contains(names, g.name) }), nil
}

// runAll runs one group after another; one that can't be measured here is
// reported and doesn't keep the others from it.
func (b *bench) runAll(ctx context.Context, chosen []group, doc string) error {
	var failed error
	for _, g := range chosen {
		b.say("%s …", g.name)
		start, before := time.Now(), load()
		rows, err := g.run(ctx, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", g.name, err)
			b.say("%v", failed)
			continue
		}
		text := section{
			group: g, rows: rows, date: start, took: time.Since(start),
			host: describeHost(ctx), before: before, after: load(),
		}.String()
		fmt.Println(text)
		if doc != "" {
			if err := replaceSection(doc, g.name, text); err != nil {
				return err
			}
		}
	}
	return failed
}
