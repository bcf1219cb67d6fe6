// Command termsvg draws what it reads as a terminal's picture, which scrolls at
// the pace that the lines came at. Where nothing moves, it shows the end.
//
//	scripts/demo 2>&1 | go run ./scripts/termsvg >docs/demo.svg
package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	columns    = 104
	rows       = 34
	lineHeight = 17 // pixels, as the next two
	charWidth  = 8
	margin     = 14
	together   = 80 * time.Millisecond // lines that come within it are one step
	rest       = 8 * time.Second       // how long the end stays before it starts again
)

// line is one row of the picture.
type line struct {
	text  string
	class string
	at    time.Duration // since the start
}

func main() {
	lines, err := record(os.Stdin, time.Now)
	if err == nil {
		err = draw(os.Stdout, lines)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "termsvg:", err)
		os.Exit(1)
	}
}

// record reads lines, each with the time of its coming, and cuts those that are
// wider than the picture.
func record(r io.Reader, now func() time.Time) ([]line, error) {
	var lines []line
	start := now()
	in := bufio.NewScanner(r)
	for in.Scan() {
		at, class := now().Sub(start), classOf(in.Text())
		for _, row := range wrap(in.Text()) {
			lines = append(lines, line{row, class, at})
		}
	}
	return lines, in.Err()
}

// wrap cuts a line at spaces as a person would: with a backslash, and indented.
func wrap(text string) []string {
	const indent, end = "    ", ` \`
	var out []string
	for len([]rune(text)) > columns {
		runes := []rune(text)
		cut := strings.LastIndex(string(runes[:columns-len(end)]), " ")
		if cut <= len(indent) {
			break
		}
		out = append(out, text[:cut]+end)
		text = indent + text[cut+1:]
	}
	return append(out, text)
}

func classOf(text string) string {
	switch {
	case strings.HasPrefix(text, "$ "), text == "What happened":
		return "command"
	case strings.HasPrefix(text, "# "):
		return "comment"
	case strings.HasPrefix(text, "ok "):
		return "step"
	case strings.HasPrefix(text, "The same data"):
		return "good"
	case strings.HasPrefix(text, "demo: "), strings.HasPrefix(text, "failed"):
		return "bad"
	}
	return "text"
}

const style = `
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: #c9d1d9 }
  .command { fill: #ffffff; font-weight: bold }
  .comment { fill: #79c0ff }
  .step { fill: #8b949e }
  .good { fill: #56d364 }
  .bad { fill: #ff7b72 }
  @media (prefers-reduced-motion: reduce) { .screen { animation: none !important } }
`

func draw(w io.Writer, lines []line) error {
	out := bufio.NewWriter(w)
	width, height := columns*charWidth+2*margin, rows*lineHeight+2*margin
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="the demo in a terminal">`+"\n", width, height, width, height)
	fmt.Fprintf(out, "<style>%s%s</style>\n", style, scroll(lines))
	fmt.Fprintf(out, `<rect width="100%%" height="100%%" rx="8" fill="#0d1117"/>`+"\n")
	fmt.Fprintf(out, `<svg y="%d" width="%d" height="%d"><g class="screen" transform="translate(0 %d)">`+"\n", margin, width, rows*lineHeight, offset(len(lines)))
	for i, l := range lines {
		if l.text == "" {
			continue
		}
		fmt.Fprintf(out, `<text x="%d" y="%d" class="%s" xml:space="preserve">`, margin, (i+1)*lineHeight-4, l.class)
		if err := xml.EscapeText(out, []byte(l.text)); err != nil {
			return err
		}
		fmt.Fprintln(out, "</text>")
	}
	fmt.Fprintln(out, "</g></svg>\n</svg>")
	return out.Flush()
}

// offset is how far the lines are moved when n of them have come: the newest is
// at the bottom, the rest below it, out of sight.
func offset(n int) int { return (rows - n) * lineHeight }

// scroll is the animation: one step each time that lines came.
func scroll(lines []line) string {
	if len(lines) == 0 {
		return ""
	}
	total := lines[len(lines)-1].at + rest
	var b strings.Builder
	fmt.Fprintf(&b, "  .screen { animation: scroll %.1fs step-end infinite }\n  @keyframes scroll {\n", total.Seconds())
	fmt.Fprintf(&b, "    0%% { transform: translateY(%dpx) }\n", offset(0))
	for i, l := range lines {
		if i+1 < len(lines) && lines[i+1].at-l.at < together {
			continue
		}
		percent := 100 * max(l.at, time.Millisecond).Seconds() / total.Seconds()
		fmt.Fprintf(&b, "    %.3f%% { transform: translateY(%dpx) }\n", percent, offset(i+1))
	}
	b.WriteString("  }\n")
	return b.String()
}
