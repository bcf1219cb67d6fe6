// Package pages writes a command's own help as other kinds of page: Markdown
// for docs, and roff for man. There is one text of each command, its help, and
// nothing here adds to it.
package pages

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Tree writes a page for root and each command below it into dir, which must
// exist.
func Tree(root *cobra.Command, dir string, file func(*cobra.Command) string, page func(io.Writer, *cobra.Command)) error {
	for _, cmd := range all(root) {
		var b strings.Builder
		page(&b, cmd)
		path := filepath.Join(dir, file(cmd))
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("write page of %s: %w", cmd.CommandPath(), err)
		}
	}
	return nil
}

// all lists the commands that help shows, a parent before its children.
func all(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, c := range children(cmd) {
		list = append(list, all(c)...)
	}
	return list
}

// children are the commands and topics below one, in the order of its help.
func children(cmd *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, c := range cmd.Commands() {
		if (c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand()) && c.Name() != "help" {
			list = append(list, c)
		}
	}
	return list
}

// block is a part of a help text: a paragraph, or lines to keep as they are.
type block struct {
	text string
	kept bool
}

// blocks takes a help text apart. Paragraphs with an indented line are tables
// or examples, and kept.
func blocks(text string) []block {
	var list []block
	for part := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		if part == "" {
			continue
		}
		lines := strings.Split(part, "\n")
		first := 0
		for first < len(lines) && !strings.HasPrefix(lines[first], "  ") {
			first++
		}
		if first > 0 {
			list = append(list, block{text: strings.Join(lines[:first], "\n")})
		}
		if first < len(lines) {
			list = append(list, block{text: strings.Join(lines[first:], "\n"), kept: true})
		}
	}
	return list
}

// option is a flag as people read it.
type option struct{ names, usage, value string }

// options are a command's own flags, or those that it hands down.
func options(flags *pflag.FlagSet) []option {
	var list []option
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		o := option{names: "--" + f.Name, usage: usage}
		if f.Shorthand != "" {
			o.names = "-" + f.Shorthand + ", " + o.names
		}
		if f.NoOptDefVal != "" && f.Value.Type() != "bool" {
			o.names += "[=" + value + "]"
		} else if value != "" {
			o.names += " " + value
		}
		switch f.DefValue {
		case "", "false", "[]", "0", "0s":
		default:
			o.value = f.DefValue
		}
		list = append(list, o)
	})
	return list
}

// own are the flags of a command alone. The root's are those of all.
func own(cmd *cobra.Command) []option { return options(cmd.NonInheritedFlags()) }

// title is what a command is in a line, without a full stop.
func title(cmd *cobra.Command) string { return strings.TrimSuffix(cmd.Short, ".") }

// description is the long help, or else the short one.
func description(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return cmd.Long
	}
	return cmd.Short + "."
}
