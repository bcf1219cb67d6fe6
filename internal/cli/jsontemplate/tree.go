package jsontemplate

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// Tree is a value in JSON's own types (map[string]any, []any, string, bool,
// float64, int64, nil), with the fields too that JSON leaves out when they are
// empty.
func Tree(v any) (any, error) { return tree(reflect.ValueOf(v)) }

func tree(v reflect.Value) (any, error) {
	if !v.IsValid() {
		return nil, nil
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil, nil
		}
	default:
	}
	if x, ok := own(v); ok {
		return x()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return tree(v.Elem())
	case reflect.Struct:
		m := map[string]any{}
		return m, addFields(m, v)
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			x, err := tree(v.MapIndex(k))
			if err != nil {
				return nil, err
			}
			m[k.String()] = x
		}
		return m, nil
	case reflect.Slice, reflect.Array:
		list := make([]any, v.Len())
		for k := range list {
			x, err := tree(v.Index(k))
			if err != nil {
				return nil, err
			}
			list[k] = x
		}
		return list, nil
	case reflect.String:
		return v.String(), nil
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return int64(v.Uint()), nil
	default:
		return plain(v.Interface())
	}
}

// own is how a type writes itself as JSON, if it does.
func own(v reflect.Value) (func() (any, error), bool) {
	if !v.CanInterface() {
		return nil, false
	}
	switch x := v.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler:
		return func() (any, error) { return plain(x) }, true
	}
	return nil, false
}

// plain goes by way of JSON itself.
func plain(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var x any
	err = json.Unmarshal(text, &x)
	return x, err
}

func addFields(m map[string]any, v reflect.Value) error {
	for k := range v.NumField() {
		f := v.Type().Field(k)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			if err := addFields(m, v.Field(k)); err != nil {
				return err
			}
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct:
			if !v.Field(k).IsNil() {
				if err := addFields(m, v.Field(k).Elem()); err != nil {
					return err
				}
			}
			continue
		case name == "":
			name = f.Name
		}
		x, err := tree(v.Field(k))
		if err != nil {
			return err
		}
		m[name] = x
	}
	return nil
}
