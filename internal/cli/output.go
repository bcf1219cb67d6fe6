package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// format is a way to print results; it is a flag's value.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String returns the format's name.
func (f *format) String() string {
	if *f == "" {
		return string(formatTable)
	}
	return string(*f)
}

// Set reads the format's name.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("%q is neither table nor json", s)
}

// Type names the value in help texts.
func (f *format) Type() string { return "FORMAT" }

// print writes value as JSON, or calls table to write it for people.
func (a *App) print(value any, table func(w io.Writer)) error {
	if a.flags.output == formatJSON {
		enc := json.NewEncoder(a.Stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(value); err != nil {
			return fmt.Errorf("print result: %w", err)
		}
		return nil
	}
	w := &errWriter{w: a.Stdout}
	table(w)
	if w.err != nil {
		return fmt.Errorf("print result: %w", w.err)
	}
	return nil
}

// errWriter keeps the first error, so that what prints needn't look at each.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.err = err
	return n, err
}

// table is rows under a heading, columns aligned.
type table struct {
	heading []string
	rows    [][]string
	empty   string // what to say instead when there are no rows
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	if len(t.rows) == 0 && t.empty != "" {
		fmt.Fprintln(w, t.empty)
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.heading}, t.rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = orDash(cell)
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	_ = tw.Flush() // w keeps the error
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// orEmpty makes a nil slice an empty one, so that its JSON is [] and not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// age is how long ago t was, in the largest unit that fits.
func (a *App) age(t time.Time) string {
	d := a.Now().Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
