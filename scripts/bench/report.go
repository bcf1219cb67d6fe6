package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// section is a group's part of the document.
type section struct {
	group         group
	rows          []row
	date          time.Time
	took          time.Duration
	host          string
	before, after string // the load
}

// String writes the section as Markdown.
func (s section) String() string {
	var w strings.Builder
	fmt.Fprintf(&w, "## %s\n\n%s\n\n", s.group.title, s.group.about)
	w.WriteString("| what | stead | against | ratio | target | |\n|---|---|---|---|---|---|\n")
	for _, r := range s.rows {
		against, ratio := "", ""
		if r.against != "" {
			against = r.against
			if len(r.theirs) > 0 {
				against += ": " + r.theirs.show(r.unit)
				ratio = r.ratio().show(r.ratioUnit())
			}
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours.show(r.unit), against, ratio, r.target.in(r.unit, r.ratioUnit()), r.verdict())
	}
	fmt.Fprintf(&w, "\nMeasured on %s in %s by `make bench BENCH=%s`: %s; load average %s before, %s after.\n",
		s.date.UTC().Format("2006-01-02 15:04 UTC"), s.took.Round(time.Second), s.group.name, s.host, s.before, s.after)
	return w.String()
}

func markers(name string) (begin, end string) {
	return "<!-- bench " + name + ": made by make bench, don't edit -->\n", "<!-- end of bench " + name + " -->\n"
}

// replaceSection puts a section between its markers in the document, or at
// its end when the markers aren't there yet.
func replaceSection(path, name, text string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	doc, err := splice(string(old), name, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(doc), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func splice(doc, name, text string) (string, error) {
	begin, end := markers(name)
	head, rest, found := strings.Cut(doc, begin)
	if !found {
		if doc != "" && !strings.HasSuffix(doc, "\n\n") {
			doc = strings.TrimRight(doc, "\n") + "\n\n"
		}
		return doc + begin + text + end, nil
	}
	_, tail, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("no %q after %q", strings.TrimSpace(end), strings.TrimSpace(begin))
	}
	return head + begin + text + end + tail, nil
}
