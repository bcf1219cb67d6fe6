package ec2tools

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rows prints lines as the tools did: what the line tells of, and its fields,
// between tabs.
type rows struct {
	w       io.Writer
	headers bool
	empty   bool // show an empty field as (nil)
	headed  map[string]bool
	err     error // the first one
}

// timeFormat is that of the tools, which had the zone without a colon.
const timeFormat = "2006-01-02T15:04:05-0700"

// row prints a line. columns are the names of the fields, separated by spaces.
func (r *rows) row(kind, columns string, fields ...any) {
	if r.headers && !r.headed[kind] {
		if r.headed == nil {
			r.headed = map[string]bool{}
		}
		r.headed[kind] = true
		r.print(append([]string{"Type"}, strings.Fields(columns)...))
	}
	cells := []string{kind}
	for _, f := range fields {
		s := cell(f)
		if s == "" && r.empty {
			s = "(nil)"
		}
		cells = append(cells, s)
	}
	r.print(cells)
}

func (r *rows) print(cells []string) {
	if r.err == nil {
		_, r.err = fmt.Fprintln(r.w, strings.Join(cells, "\t"))
	}
}

// cell is a field's text: pointers are followed, nil is empty, and what would
// break the line is a space.
func cell(field any) string {
	if t, ok := field.(*time.Time); ok && t != nil {
		return t.UTC().Format(timeFormat)
	}
	v := reflect.ValueOf(field)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return ""
	}
	return strings.NewReplacer("\t", " ", "\n", " ", "\r", " ").Replace(fmt.Sprint(v.Interface()))
}

// tags prints a resource's tags.
func (r *rows) tags(kind string, id *string, tags []types.Tag) {
	for _, t := range tags {
		r.row("TAG", "ResourceType ResourceID Key Value", kind, id, t.Key, t.Value)
	}
}
