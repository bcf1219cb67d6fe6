package pages

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// ManFile is the name of a command's page: stead-volume-create.1.
func ManFile(cmd *cobra.Command) string { return manName(cmd) + ".1" }

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// Man writes a command's page in roff, for section 1.
func Man(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, ".\\\" Written from the command's own help.\n.TH %q 1 \"\" %q \"User Commands\"\n.nh\n.ad l\n", strings.ToUpper(manName(cmd)), "stead")
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", roff(manName(cmd)), roff(title(cmd)))
	if cmd.Runnable() {
		fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n", roff(cmd.UseLine()))
	}
	fmt.Fprint(w, ".SH DESCRIPTION\n")
	for _, b := range blocks(description(cmd)) {
		if b.kept {
			verbatim(w, b.text)
			continue
		}
		fmt.Fprintf(w, ".PP\n%s\n", roff(b.text))
	}
	if cmd.Example != "" {
		fmt.Fprint(w, ".SH EXAMPLES\n")
		verbatim(w, cmd.Example)
	}
	manOptions(w, "OPTIONS", own(cmd))
	if cmd.HasParent() {
		manOptions(w, "GLOBAL OPTIONS", options(cmd.InheritedFlags()))
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, reference(cmd.Parent()))
	}
	for _, c := range children(cmd) {
		also = append(also, reference(c))
	}
	fmt.Fprintf(w, ".SH SEE ALSO\n%s\n", strings.Join(also, ",\n"))
}

func manOptions(w io.Writer, heading string, list []option) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", heading)
	for _, o := range list {
		fmt.Fprintf(w, ".TP\n.B %s\n%s", roff(o.names), roff(o.usage))
		if o.value != "" {
			fmt.Fprintf(w, " (default %s)", roff(o.value))
		}
		fmt.Fprintln(w)
	}
}

func reference(cmd *cobra.Command) string { return "\\fB" + roff(manName(cmd)) + "\\fP(1)" }

func verbatim(w io.Writer, text string) {
	fmt.Fprintf(w, ".PP\n.nf\n%s\n.fi\n", roff(strings.Trim(text, "\n")))
}

// roff writes plain text so that nothing of it is a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	lines := strings.Split(s, "\n")
	for k, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[k] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
