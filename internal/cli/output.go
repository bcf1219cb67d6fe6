package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/steadcloud/stead/internal/cli/jsontemplate"
)

// format is a way to print results; it is a flag's value.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
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
	case formatTable, formatJSON, formatYAML:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("%q is neither table nor json nor yaml", s)
}

// Type names the value in help texts.
func (f *format) Type() string { return "FORMAT" }

// forPrograms tells whether what is printed is read by programs.
func (f format) forPrograms() bool { return f == formatJSON || f == formatYAML }

// checkOutput tells whether the flags that shape the output agree, before
// anything is done.
func (a *App) checkOutput() error {
	table := len(a.flags.columns) > 0 || a.flags.noHeader
	switch {
	case a.flags.template != "" && (a.flags.output.forPrograms() || table):
		return usage("--format shapes the output by itself: leave -o, --columns and --no-header away")
	case a.flags.output.forPrograms() && table:
		return usage("--columns and --no-header are for tables, not for -o %s", a.flags.output)
	}
	if a.flags.template != "" {
		if _, err := jsontemplate.Parse(a.flags.template); err != nil {
			return usage("--format %q: %v", a.flags.template, err)
		}
	}
	return nil
}

// print writes value as the flags ask for: as JSON, as YAML, by a template, or
// by calling table to write it for people.
func (a *App) print(value any, table func(w io.Writer)) error {
	if a.plan != nil {
		return nil // it is of things that aren't there; the plan is printed in the end
	}
	w := &page{w: a.Stdout, columns: a.flags.columns, bare: a.flags.noHeader}
	switch {
	case a.flags.template != "":
		if err := a.printTemplate(w, value); err != nil {
			return err
		}
	case a.flags.output == formatJSON:
		w.err = writeJSON(w, value)
	case a.flags.output == formatYAML:
		text, err := yaml.Marshal(value)
		if err == nil {
			_, err = w.Write(text)
		}
		w.err = err
	default:
		table(w)
		if w.err == nil && len(a.flags.columns) > 0 && !w.tabled {
			return usage("--columns: what this prints isn't a table")
		}
	}
	var wrong *columnError
	if errors.As(w.err, &wrong) {
		return usage("--columns: %v", wrong)
	}
	if w.err != nil {
		return fmt.Errorf("print result: %w", w.err)
	}
	return nil
}

func writeJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// printTemplate writes a value by --format; a list item by item, a line each.
func (a *App) printTemplate(w *page, value any) error {
	t, err := jsontemplate.Parse(a.flags.template)
	if err != nil {
		return usage("--format %q: %v", a.flags.template, err)
	}
	items := []any{value}
	if v := reflect.ValueOf(value); v.Kind() == reflect.Slice {
		items = nil
		for k := range v.Len() {
			items = append(items, v.Index(k).Interface())
		}
	}
	for _, item := range items {
		dot, err := jsontemplate.Tree(item)
		if err != nil {
			return fmt.Errorf("print result: %w", err)
		}
		var line strings.Builder
		if err := t.Execute(&line, dot); err != nil {
			return usage("--format %q: %v", a.flags.template, err)
		}
		fmt.Fprintln(w, line.String())
	}
	return nil
}

// page is what a result is printed on. It keeps the first error, so that what
// prints needn't look at each, and how tables are to look.
type page struct {
	w       io.Writer
	err     error
	columns []string // which, in which order; none: all
	bare    bool     // no heading
	tabled  bool     // there was a table
}

func (p *page) Write(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.w.Write(b)
	p.err = err
	return n, err
}

// remark says something beside a table, which would disturb who cuts its rows.
func remark(w io.Writer, format string, args ...any) {
	if p, ok := w.(*page); !ok || !p.bare && len(p.columns) == 0 {
		fmt.Fprintf(w, format, args...)
	}
}

// columnError says that a table hasn't got a column.
type columnError struct {
	name string
	have []string
}

func (e *columnError) Error() string {
	return fmt.Sprintf("there is no column %q; there are %s", e.name, strings.ToLower(strings.Join(e.have, ", ")))
}

// table is rows under a heading, columns aligned.
type table struct {
	heading []string
	rows    [][]string
	empty   string // what to say instead when there are no rows
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	p, ok := w.(*page)
	if !ok {
		p = &page{w: w}
	}
	p.tabled = true
	which, err := t.chosen(p.columns)
	if err != nil {
		p.err = err
		return
	}
	if len(t.rows) == 0 && t.empty != "" {
		if !p.bare && len(p.columns) == 0 {
			fmt.Fprintln(p, t.empty)
		}
		return
	}
	rows := t.rows
	if !p.bare {
		rows = append([][]string{t.heading}, rows...)
	}
	tw := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(which))
		for k, column := range which {
			cells[k] = orDash(row[column])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	_ = tw.Flush() // p keeps the error
}

// chosen are the columns to print, by number.
func (t *table) chosen(names []string) ([]int, error) {
	var which []int
	for _, name := range names {
		k := slices.IndexFunc(t.heading, func(h string) bool { return strings.EqualFold(h, strings.TrimSpace(name)) })
		if k < 0 {
			return nil, &columnError{name, t.heading}
		}
		which = append(which, k)
	}
	if len(names) == 0 {
		for k := range t.heading {
			which = append(which, k)
		}
	}
	return which, nil
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
