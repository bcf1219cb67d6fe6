package ec2query

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"sync"
)

// Decode fills in, a pointer to an action's Input, from the parameters of a
// request. A refused parameter is a *ParamError. Parameters are looked at in
// alphabetical order, and what is missing of a structure after the rest of it,
// so the same request always gets the same error.
func Decode(form url.Values, in any) error {
	v := reflect.ValueOf(in)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("decode request: %T is not a pointer to an Input", in)
	}
	v = v.Elem()
	plan, err := inputPlanOf(v.Type())
	if err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	return plan.decode(params(form), "", v)
}

// decodeFunc sets v from a group of parameters whose common path ends at end.
type decodeFunc func(group []param, end int, v reflect.Value) error

// inputPlan is how a struct is filled.
type inputPlan struct {
	byName   map[string]inputField
	required []inputField
	lost     string // a parameter that is taken and has no field to go to
}

type inputField struct {
	name   string
	index  int
	decode decodeFunc
}

// inputPlans caches the plans: reflect.Type to *inputPlan.
var inputPlans sync.Map

func inputPlanOf(t reflect.Type) (*inputPlan, error) {
	if p, ok := inputPlans.Load(t); ok {
		return p.(*inputPlan), nil
	}
	made := inputBuilder{}
	plan, err := made.plan(t)
	if err != nil {
		return nil, err
	}
	for t, p := range made {
		inputPlans.LoadOrStore(t, p)
	}
	return plan, nil
}

// inputBuilder makes the plans of a type and of all types in it. It holds those
// it has begun, so that a type may hold itself.
type inputBuilder map[reflect.Type]*inputPlan

func (m inputBuilder) plan(t reflect.Type) (*inputPlan, error) {
	if p, ok := m[t]; ok {
		return p, nil
	}
	plan := &inputPlan{byName: make(map[string]inputField, t.NumField()), lost: lostParam(t.Name())}
	m[t] = plan
	for i := range t.NumField() {
		f := t.Field(i)
		if !onWire(f) {
			continue
		}
		d, err := m.decoder(f.Type)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t, f.Name, err)
		}
		field := inputField{paramName(t, f), i, d}
		plan.byName[field.name] = field
		if required(t.Name() + "." + f.Name) {
			plan.required = append(plan.required, field)
		}
	}
	return plan, nil
}

func (m inputBuilder) decoder(t reflect.Type) (decodeFunc, error) {
	if t == timeType {
		return decodeTime, nil
	}
	switch t.Kind() {
	case reflect.String:
		return decodeString, nil
	case reflect.Bool:
		return decodeBool, nil
	case reflect.Int32, reflect.Int64:
		return decodeInt, nil
	case reflect.Float32, reflect.Float64:
		return decodeFloat, nil
	case reflect.Struct:
		plan, err := m.plan(t)
		return plan.decodeGroup, err
	case reflect.Pointer:
		decode, err := m.decoder(t.Elem())
		return pointerDecoder(t.Elem(), decode), err
	case reflect.Slice:
		if !isList(t) {
			return decodeBlob, nil
		}
		decode, err := m.decoder(t.Elem())
		return listDecoder(t, decode), err
	}
	return nil, fmt.Errorf("no parameter form for type %s", t)
}

// decode fills v from the parameters below path.
func (p *inputPlan) decode(ps []param, path string, v reflect.Value) error {
	at := len(path)
	if at > 0 {
		at++ // the dot
	}
	for len(ps) > 0 {
		name, group, rest, end := cut(ps, at)
		ps = rest
		f, ok := p.byName[name]
		if !ok {
			if name == p.lost && name != "" {
				continue
			}
			return unknown(group[0])
		}
		if err := f.decode(group, end, v.Field(f.index)); err != nil {
			return err
		}
	}
	for _, f := range p.required {
		if absent(v.Field(f.index)) {
			name := f.name
			if path != "" {
				name = path + "." + name
			}
			return &ParamError{Kind: ParamMissing, Param: name}
		}
	}
	return nil
}

func absent(v reflect.Value) bool {
	if v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}

// decodeGroup is the decodeFunc of a struct.
func (p *inputPlan) decodeGroup(group []param, end int, v reflect.Value) error {
	self, below := own(group, end)
	if self != nil {
		return invalid(*self, self.values[0], "a structure, which has parameters below it")
	}
	return p.decode(below, group[0].key[:end], v)
}

func pointerDecoder(t reflect.Type, decode decodeFunc) decodeFunc {
	structure := isStructure(t)
	return func(group []param, end int, v reflect.Value) error {
		if structure && emptyMark(group, end) {
			return nil
		}
		e := reflect.New(t)
		if err := decode(group, end, e.Elem()); err != nil {
			return err
		}
		v.Set(e)
		return nil
	}
}

func isStructure(t reflect.Type) bool { return t.Kind() == reflect.Struct && t != timeType }

// emptyMark says whether a group is `Name=` alone, by which some clients write a
// structure with nothing in it.
func emptyMark(group []param, end int) bool {
	self, below := own(group, end)
	return self != nil && len(below) == 0 && len(self.values) == 1 && self.values[0] == ""
}

func listDecoder(t reflect.Type, decode decodeFunc) decodeFunc {
	structures := isStructure(t.Elem())
	return func(group []param, end int, v reflect.Value) error {
		self, below := own(group, end)
		switch {
		case self != nil && len(below) > 0:
			return invalid(*self, self.values[0], "given both with and without a number")
		case self != nil && structures && !emptyMark(group, end):
			return invalid(*self, self.values[0], "a list of structures, whose elements are numbered")
		case self != nil:
			return decodeUnindexed(decode, *self, v)
		}
		items, err := byIndex(below, end+1)
		if err != nil {
			return err
		}
		list := reflect.MakeSlice(t, len(items), len(items))
		for i, it := range items {
			if err := decode(it.group, it.end, list.Index(i)); err != nil {
				return err
			}
		}
		v.Set(list)
		return nil
	}
}

// decodeUnindexed takes a list whose elements are not numbered, one parameter
// each. An empty value is no element: it is how some clients write an empty list.
func decodeUnindexed(decode decodeFunc, p param, v reflect.Value) error {
	list := reflect.MakeSlice(v.Type(), 0, len(p.values))
	for _, s := range p.values {
		if s == "" {
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		if err := decode([]param{{p.key, []string{s}}}, len(p.key), e); err != nil {
			return err
		}
		list = reflect.Append(list, e)
	}
	v.Set(list)
	return nil
}

// item is one numbered element of a list.
type item struct {
	index int
	group []param
	end   int
}

// byIndex splits the parameters of a list into its elements, in the order of
// their numbers, which may start anywhere and have gaps.
func byIndex(ps []param, at int) ([]item, error) {
	var items []item
	for len(ps) > 0 {
		part, group, rest, end := cut(ps, at)
		ps = rest
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || part[0] == '+' {
			return nil, unknown(group[0])
		}
		items = append(items, item{int(n), group, end})
	}
	slices.SortStableFunc(items, func(a, b item) int { return a.index - b.index })
	for i := 1; i < len(items); i++ {
		if items[i].index == items[i-1].index {
			p := items[i].group[0]
			return nil, invalid(p, p.values[0], "its number is given more than once")
		}
	}
	return items, nil
}
