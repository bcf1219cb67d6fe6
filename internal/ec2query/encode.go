package ec2query

import (
	"encoding/base64"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"sync"
	"time"
)

// Encode writes out, a pointer to an action's Output, as the XML response body
// of action. It writes all of the body at once, and nothing on an error that is
// not the writer's.
func Encode(w io.Writer, action, requestID string, out any) error {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("encode response of %s: %T is not a pointer to an Output", action, out)
	}
	v = v.Elem()
	plan, err := outputPlanOf(v.Type())
	if err != nil {
		return fmt.Errorf("encode response of %s: %w", action, err)
	}
	return writeBody(w, func(b []byte) []byte {
		b = append(append(b, '<'), action...)
		b = append(b, `Response xmlns="`+namespace+`"><requestId>`...)
		b = appendText(b, requestID)
		b = append(b, "</requestId>"...)
		b = plan.appendTop(b, v)
		b = append(append(b, "</"...), action...)
		return append(b, "Response>"...)
	})
}

// encodeFunc appends the content of an element.
type encodeFunc func(b []byte, v reflect.Value) []byte

// outputPlan is how a struct is written.
type outputPlan struct {
	fields []outputField
}

type outputField struct {
	index       int
	open, close string // tags
	empty       string // the element with nothing in it
	list        bool   // a slice that is no blob
	returns     bool   // the <return> of an action that otherwise says nothing
	encode      encodeFunc
}

// outputPlans caches the plans: reflect.Type to *outputPlan.
var outputPlans sync.Map

func outputPlanOf(t reflect.Type) (*outputPlan, error) {
	if p, ok := outputPlans.Load(t); ok {
		return p.(*outputPlan), nil
	}
	made := outputBuilder{}
	plan, err := made.plan(t)
	if err != nil {
		return nil, err
	}
	for t, p := range made {
		outputPlans.LoadOrStore(t, p)
	}
	return plan, nil
}

// outputBuilder makes the plans of a type and of all types in it. It holds those
// it has begun, so that a type may hold itself.
type outputBuilder map[reflect.Type]*outputPlan

func (m outputBuilder) plan(t reflect.Type) (*outputPlan, error) {
	if p, ok := m[t]; ok {
		return p, nil
	}
	plan := &outputPlan{}
	m[t] = plan
	for i := range t.NumField() {
		f := t.Field(i)
		if !onWire(f) {
			continue
		}
		enc, err := m.encoder(f.Type, listItemName(t, f))
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t, f.Name, err)
		}
		n := elementName(t, f)
		plan.fields = append(plan.fields, outputField{
			index: i,
			open:  "<" + n + ">", close: "</" + n + ">", empty: "<" + n + "/>",
			list:    isList(f.Type),
			returns: n == "return" && f.Type == reflect.TypeFor[*bool](),
			encode:  enc,
		})
	}
	return plan, nil
}

// appendTop appends the fields of an Output.
func (p *outputPlan) appendTop(b []byte, v reflect.Value) []byte {
	if len(p.fields) == 0 {
		return append(b, "<return>true</return>"...)
	}
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		switch {
		case f.list && fv.Len() == 0:
			b = append(b, f.empty...)
		case f.returns && fv.IsNil():
			b = append(b, "<return>true</return>"...) // what failed is no response
		default:
			b = f.append(b, fv)
		}
	}
	return b
}

// append appends the fields of a structure below the Output.
func (p *outputPlan) append(b []byte, v reflect.Value) []byte {
	for i := range p.fields {
		b = p.fields[i].append(b, v.Field(p.fields[i].index))
	}
	return b
}

// append appends a field as an element, unless it says nothing.
func (f *outputField) append(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return b
		}
	case reflect.Slice:
		if v.IsNil() {
			return b
		}
		if v.Len() == 0 {
			return append(b, f.empty...)
		}
	case reflect.String: // an enum: the SDK has every other string as a pointer
		if v.Len() == 0 {
			return b
		}
	}
	b = append(b, f.open...)
	b = f.encode(b, v)
	return append(b, f.close...)
}

func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8
}

// encoder returns how a type is written; the items of a list as elements called
// item.
func (m outputBuilder) encoder(t reflect.Type, item string) (encodeFunc, error) {
	if t == timeType {
		return encodeTime, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		enc, err := m.encoder(t.Elem(), item)
		return func(b []byte, v reflect.Value) []byte { return enc(b, v.Elem()) }, err
	case reflect.String:
		return func(b []byte, v reflect.Value) []byte { return appendText(b, v.String()) }, nil
	case reflect.Bool:
		return func(b []byte, v reflect.Value) []byte { return strconv.AppendBool(b, v.Bool()) }, nil
	case reflect.Int32, reflect.Int64:
		return func(b []byte, v reflect.Value) []byte { return strconv.AppendInt(b, v.Int(), 10) }, nil
	case reflect.Float32, reflect.Float64:
		bits := t.Bits()
		return func(b []byte, v reflect.Value) []byte { return strconv.AppendFloat(b, v.Float(), 'f', -1, bits) }, nil
	case reflect.Struct:
		plan, err := m.plan(t)
		return func(b []byte, v reflect.Value) []byte { return plan.append(b, v) }, err
	case reflect.Slice:
		if !isList(t) {
			return encodeBlob, nil
		}
		enc, err := m.encoder(t.Elem(), "item")
		return listEncoder(enc, item), err
	}
	return nil, fmt.Errorf("no XML form for type %s", t)
}

func listEncoder(enc encodeFunc, item string) encodeFunc {
	open, end := "<"+item+">", "</"+item+">"
	return func(b []byte, v reflect.Value) []byte {
		for i := range v.Len() {
			b = append(b, open...)
			b = enc(b, v.Index(i))
			b = append(b, end...)
		}
		return b
	}
}

// encodeTime takes the time by its address, which every value below a pointer
// has: a copy would be one on the heap.
func encodeTime(b []byte, v reflect.Value) []byte {
	return v.Addr().Interface().(*time.Time).UTC().AppendFormat(b, timeFormat)
}

func encodeBlob(b []byte, v reflect.Value) []byte {
	return base64.StdEncoding.AppendEncode(b, v.Bytes())
}
