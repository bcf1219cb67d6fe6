package pages

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// MarkdownFile is the name of a command's page: stead_volume_create.md.
func MarkdownFile(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "_") + ".md"
}

// Markdown writes a command's page.
func Markdown(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, "<!-- Code generated from the command's help by go generate; DO NOT EDIT. -->\n\n# %s\n\n", cmd.CommandPath())
	if cmd.Long != "" && !strings.HasPrefix(cmd.Long, cmd.Short) {
		fmt.Fprintf(w, "%s.\n\n", escape(title(cmd)))
	}
	if cmd.Runnable() {
		fence(w, cmd.UseLine())
	}
	if cmd.Long != "" || !cmd.Runnable() {
		prose(w, description(cmd))
	} else {
		prose(w, title(cmd)+".")
	}
	if cmd.Example != "" {
		fmt.Fprint(w, "## Examples\n\n")
		fence(w, unindent(cmd.Example))
	}
	list := own(cmd)
	if len(list) > 0 {
		heading := "Options"
		if !cmd.HasParent() {
			heading = "Global options"
		}
		fmt.Fprintf(w, "## %s\n\n| option | |\n|---|---|\n", heading)
		for _, o := range list {
			fmt.Fprintf(w, "| `%s` | %s |\n", o.names, cell(o))
		}
		fmt.Fprintln(w)
	}
	commands(w, cmd)
	if cmd.HasParent() {
		fmt.Fprintf(w, "See also [%s](%s) and the [global options](%s#global-options).\n",
			cmd.Parent().CommandPath(), MarkdownFile(cmd.Parent()), MarkdownFile(cmd.Root()))
	}
}

func commands(w io.Writer, cmd *cobra.Command) {
	below := children(cmd)
	if len(below) == 0 {
		return
	}
	fmt.Fprint(w, "## Commands\n\n| command | |\n|---|---|\n")
	for _, c := range below {
		fmt.Fprintf(w, "| [%s](%s) | %s |\n", c.CommandPath(), MarkdownFile(c), escape(title(c)))
	}
	fmt.Fprintln(w)
}

// prose writes a help text; what it has in quotes as a command is code.
func prose(w io.Writer, text string) {
	for _, b := range blocks(text) {
		if b.kept {
			fence(w, unindent(b.text))
			continue
		}
		fmt.Fprintf(w, "%s\n\n", escape(b.text))
	}
}

func fence(w io.Writer, text string) { fmt.Fprintf(w, "```\n%s\n```\n\n", text) }

// unindent takes two spaces off each line.
func unindent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for k := range lines {
		lines[k] = strings.TrimPrefix(lines[k], "  ")
	}
	return strings.Join(lines, "\n")
}

// cell is the right side of an option's row.
func cell(o option) string {
	text := strings.ReplaceAll(escape(o.usage), "\n", " ")
	if o.value != "" {
		text += " (default " + escape(o.value) + ")"
	}
	return strings.ReplaceAll(text, "|", `\|`)
}

var special = strings.NewReplacer(`\`, `\\`, "<", `\<`, ">", `\>`, "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`)

// escape keeps Markdown from reading anything into plain text.
func escape(s string) string { return special.Replace(s) }
